"""Reads the content of a chain without QEMU: a second opinion, and fast enough to ask after every single fault."""

import hashlib
import os
import struct
import time
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_OFFSET = 0x00FFFFFFFFFFFE00
_COMPRESSED, _ZERO = 1 << 62, 1
_BACKING_FORMAT = 0xE2792ACA
_ZEROS = bytes(1 << 16)


def content(directory: Path, name: str, format_: str) -> bytes:
    """Returns every byte a reader of the chain below ``name`` sees (docs/interop/qcow2.txt; no compression)."""
    data = (directory / name).read_bytes()
    if format_ == "raw":
        return data
    backing_at, backing_length, bits, size = struct.unpack_from(">QIIQ", data, 8)
    entries, table = struct.unpack_from(">IQ", data, 36)
    below = b""
    if backing_at:
        behind = data[backing_at : backing_at + backing_length].decode()
        below = content(directory, behind, _backing_format(data))
    cluster = 1 << bits
    disk = bytearray(below[:size].ljust(size, b"\0"))
    for number in range(entries):
        (at,) = struct.unpack_from(">Q", data, table + 8 * number)
        if at & _OFFSET:
            _fill(disk, data, at & _OFFSET, number * cluster // 8)
    return bytes(disk)


@dataclass(frozen=True)
class _Own:
    """What one file says by itself. An empty digest is zeros that hide what lies below."""

    backing: str
    size: int
    clusters: dict[int, bytes]


class Memory:
    """What files held when they were read last: one that has not changed since is not read again.

    Every write gives a file a new change time, unless it comes within the same tick of the kernel's clock as the one
    before; so only what has been still for a second is remembered."""

    def __init__(self, raw: Collection[str] = ()) -> None:
        """``raw`` are the names of files without a header."""
        self._raw = raw
        self._known: dict[Path, tuple[tuple[int, ...], _Own]] = {}

    def own(self, directory: Path, name: str) -> _Own:
        path, now = directory / name, time.time_ns()
        status = path.stat()
        state = (status.st_ino, status.st_size, status.st_ctime_ns)
        known = self._known.get(path)
        if known is not None and known[0] == state:
            return known[1]
        found = _read_raw(directory, name) if name in self._raw else _read(directory, name)
        if now - status.st_ctime_ns > 1_000_000_000:
            self._known[path] = (state, found)
        return found


def digests(directory: Path, name: str, memory: Memory | None = None) -> dict[int, bytes]:
    """Returns a digest of each cluster of 64 KiB that a reader of the chain below ``name`` finds and that is not all zeros.

    Only what the files hold is read, so it is quick however large the disk. Every file must have such clusters, and ``memory``
    must know those that are raw.

    A file that QEMU has open may be read when the guest has flushed what it wrote."""
    own = memory.own(directory, name) if memory else _read(directory, name)
    found = {**(digests(directory, own.backing, memory) if own.backing else {}), **own.clusters}
    return {place: digest for place, digest in found.items() if digest and place << 16 < own.size}


def _read(directory: Path, name: str) -> _Own:
    with (directory / name).open("rb") as file:
        head = file.read(1 << 16)
        backing_at, backing_length, bits, size = struct.unpack_from(">QIIQ", head, 8)
        entries, table = struct.unpack_from(">IQ", head, 36)
        assert bits == 16, "another size of clusters"
        found: dict[int, bytes] = {}
        ones = struct.unpack(f">{entries}Q", os.pread(file.fileno(), 8 * entries, table))
        for number, one in enumerate(ones):
            if one & _OFFSET:
                _digest(file.fileno(), one & _OFFSET, number << 13, found)
        return _Own(head[backing_at : backing_at + backing_length].decode() if backing_at else "", size, found)


def _read_raw(directory: Path, name: str) -> _Own:
    with (directory / name).open("rb") as file:
        size, place, found = os.fstat(file.fileno()).st_size, 0, dict[int, bytes]()
        while place < size:
            try:
                place = os.lseek(file.fileno(), place, os.SEEK_DATA) >> 16 << 16
            except OSError:
                break  # a hole up to the end
            found[place >> 16] = digest(os.pread(file.fileno(), 1 << 16, place))
            place += 1 << 16
        return _Own("", size, found)


def filled(directory: Path, name: str) -> dict[int, int]:
    """As ``digests``: the byte that each such cluster is filled with; -1 where it holds several."""
    return {place: _filling().get(found, -1) for place, found in digests(directory, name).items()}


@cache
def _filling() -> dict[bytes, int]:
    return {digest(bytes([value]) * (1 << 16)): value for value in range(1, 256)}


def _digest(handle: int, table: int, first: int, found: dict[int, bytes]) -> None:
    """Puts what one second-level table names, which begins at cluster ``first`` of the disk, over what lies below."""
    for index, entry in enumerate(struct.unpack(">8192Q", os.pread(handle, 1 << 16, table))):
        if entry & _ZERO:
            found[first + index] = b""
        elif entry & _OFFSET:
            assert not entry & _COMPRESSED, "compressed clusters are not read here"
            found[first + index] = digest(os.pread(handle, 1 << 16, entry & _OFFSET))


def digest(data: bytes) -> bytes:
    """Returns a digest of one cluster's bytes; empty for zeros."""
    return b"" if data == _ZEROS[: len(data)] else hashlib.sha256(data).digest()[:16]


def _fill(disk: bytearray, data: bytes, table: int, first: int) -> None:
    """Puts the clusters of one second-level table, which begins at cluster ``first`` of the disk, in their places."""
    (bits,) = struct.unpack_from(">I", data, 20)
    cluster, size = 1 << bits, len(disk)
    for index in range(min(cluster // 8, -(-size // cluster) - first)):
        (entry,) = struct.unpack_from(">Q", data, table + 8 * index)
        at, start = entry & _OFFSET, (first + index) * cluster
        length = min(cluster, size - start)
        assert not entry & _COMPRESSED, "compressed clusters are not read here"
        if entry & _ZERO:
            disk[start : start + length] = bytes(length)
        elif at:
            disk[start : start + length] = data[at : at + length].ljust(length, b"\0")


def _backing_format(data: bytes) -> str:
    (place,) = struct.unpack_from(">I", data, 100)
    while True:
        kind, length = struct.unpack_from(">II", data, place)
        if kind == _BACKING_FORMAT:
            return data[place + 8 : place + 8 + length].decode()
        assert kind, "a backing file without its format"
        place += 8 + (length + 7) // 8 * 8
