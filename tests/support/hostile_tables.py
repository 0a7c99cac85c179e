"""Honest headers with tables that lie. We check first-level tables; QEMU must survive what they name."""

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tests.support.hostile import Fate, Hostile, Place
from tests.support.hostile_headers import file_of, small
from tests.unit.host.headers import CLUSTER

BITMAPS = 0x23852875
_COPIED = 1 << 63
_COMPRESSED = 1 << 62
_L1, _L2, _DATA = 3 * CLUSTER, 4 * CLUSTER, 5 * CLUSTER


@dataclass(frozen=True)
class Image:
    """An image with one second-level table and one data cluster; fields replace what would be honest."""

    l1: int = _COPIED | _L2
    l2: Mapping[int, int] = field(default_factory=lambda: {0: _COPIED | _DATA})
    counts: bytes = struct.pack(">H", 1) * 6
    data: bytes = b"D" * CLUSTER
    header: Mapping[str, Any] = field(default_factory=dict)
    length: int | None = None

    def content(self) -> bytes:
        whole = bytearray(file_of(small(**self.header).start()) + b"\0" * CLUSTER + self.data)
        struct.pack_into(">Q", whole, _L1, self.l1)
        whole[2 * CLUSTER : 2 * CLUSTER + len(self.counts)] = self.counts
        for index, entry in self.l2.items():
            struct.pack_into(">Q", whole, _L2 + 8 * index, entry)
        return bytes(whole[: self.length])

    def build(self, place: Place) -> None:
        place.path.write_bytes(self.content())


def refused(name: str, **changes: Any) -> Hostile:
    return Hostile(f"l1-entry-{name}", Image(**changes).build, header_only=True)


def contained(name: str, **changes: Any) -> Hostile:
    return Hostile(name, Image(**changes).build, Fate.CONTAINED, importable=True)


def cases() -> Iterator[Hostile]:
    yield refused("behind-the-file", l1=_COPIED | 1 << 40)
    yield refused("partly-behind-the-file", l1=_COPIED | _DATA, length=_DATA + 512)
    yield refused("unaligned", l1=_COPIED | _L2 + 512)
    yield refused("reserved-low", l1=_COPIED | _L2 | 1)
    yield refused("reserved-high", l1=_COPIED | _L2 | 1 << 61)
    yield contained("l1-entry-is-the-header", l1=_COPIED)
    yield contained("l1-entry-is-the-l1-table", l1=_COPIED | _L1)
    yield contained("l1-entry-is-the-refcounts", l1=_COPIED | 2 * CLUSTER)
    yield contained("l2-entry-is-the-header", l2={0: _COPIED, 1: 0})
    yield contained("l2-entry-is-the-refcount-table", l2={0: _COPIED | CLUSTER})
    yield contained("l2-entry-is-the-l2-table", l2={0: _COPIED | _L2})
    yield contained("l2-entry-behind-the-file", l2={0: _COPIED | 1 << 40})
    yield contained("l2-entry-unaligned", l2={0: _COPIED | _DATA + 512})
    yield contained("l2-entry-reserved", l2={0: _COPIED | _DATA | 1 << 60})
    yield contained("l2-entries-share-a-cluster", l2=dict.fromkeys(range(64), _COPIED | _DATA))
    yield contained("refcounts-zero", counts=b"\0" * 12)
    yield contained("refcounts-full", counts=b"\xff" * 12)
    yield contained("dirty", header={"incompatible": 1})
    yield contained("compressed-behind-the-file", l2={0: _COMPRESSED | 1 << 40})
    yield contained("compressed-garbage", l2={0: _COMPRESSED | _DATA}, data=b"\xff" * CLUSTER)
    yield _bomb()
    yield contained("bitmaps-that-are-none", header={"extensions": [(BITMAPS, b"\xff" * 24)]})
    yield replace(contained("size-zero", header={"size": 0}, l2={}), importable=False)
    yield from _sparse()


def _bomb() -> Hostile:
    """Every cluster of the disk is the same few compressed bytes."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -12)
    packed = deflate.compress(b"B" * CLUSTER) + deflate.flush()
    entry = _COMPRESSED | _DATA  # one sector of 512 bytes, the rest of the descriptor is zero
    size = 32 << 20
    return contained(
        "compressed-bomb",
        l2=dict.fromkeys(range(size // CLUSTER), entry),
        data=packed.ljust(512, b"\0"),
        header={"size": size},
    )


def _sparse() -> Iterator[Hostile]:
    def long_file(place: Place) -> None:
        Image().build(place)
        with place.path.open("r+b") as file:
            file.truncate(1 << 40)

    def large_disk(place: Place) -> None:
        entries = 1 << 11
        place.path.write_bytes(file_of(small(size=1 << 40, l1_entries=entries).start()))
        with place.path.open("r+b") as file:
            file.truncate(_L1 + entries * 8)

    yield Hostile("a-file-of-1-TiB", long_file, Fate.CONTAINED, importable=True)
    yield Hostile("a-disk-of-1-TiB", large_disk, Fate.CONTAINED)
