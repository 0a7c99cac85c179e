"""Finds where two raw files that share blocks may differ, from where the file system has their extents. It reads no content.

Blocks that both files have at the same place hold the same content; all others may differ. FIEMAP, linux/fiemap.h.
"""

import fcntl
import itertools
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stillframe.host import files

_FIEMAP = 0xC020660B  # _IOWR('f', 11, struct fiemap)
_HEAD, _EXTENT = struct.Struct("=QQIIII"), struct.Struct("=QQQQQIIII")
_SYNC, _LAST, _UNKNOWN, _UNWRITTEN = 1, 1, 6, 0x800  # unknown: no place yet, or a meaningless one
_AT_ONCE = 512
_END = (1 << 64) - 1


@dataclass(frozen=True)
class Extent:
    """``start`` and ``end`` in the file, in bytes. ``place`` is the position of its first byte on the disk; None if unknown."""

    start: int
    end: int
    place: int | None

    def cut(self, start: int, end: int) -> "Extent":
        return Extent(start, end, None if self.place is None else self.place + start - self.start)


def bytes_apart(share: Path, one: str, other: str) -> int:
    """Returns how many bytes of the files may differ, at most. Raises FileNotFoundError, BadImage for what is not a file."""
    return _apart(_extents(share, one), _extents(share, other))


def _extents(share: Path, name: str) -> list[Extent]:
    handle = files.open_regular(share, name)
    try:
        return list(_read(handle))
    finally:
        os.close(handle)


def _read(handle: int) -> Iterator[Extent]:
    start, last = 0, False
    while not last:
        buffer = bytearray(_HEAD.pack(start, _END - start, _SYNC, 0, _AT_ONCE, 0) + bytes(_EXTENT.size * _AT_ONCE))
        fcntl.ioctl(handle, _FIEMAP, buffer)
        count = _HEAD.unpack_from(buffer)[3]
        last = count == 0
        for number in range(count):
            logical, place, length, _, _, flags, *_ = _EXTENT.unpack_from(buffer, _HEAD.size + number * _EXTENT.size)
            start, last = logical + length, bool(flags & _LAST)
            if not flags & _UNWRITTEN:  # reads as zeros, like a hole
                yield Extent(logical, start, None if flags & _UNKNOWN else place)


def _apart(one: Sequence[Extent], other: Sequence[Extent]) -> int:
    """Counts the bytes that only one of them has, or that they have at different places."""
    edges = sorted({edge for each in (*one, *other) for edge in (each.start, each.end)})
    found, left, right = 0, 0, 0
    for start, end in itertools.pairwise(edges):
        left, right = _at(one, left, start), _at(other, right, start)
        here = [
            each[at].cut(start, end) for each, at in ((one, left), (other, right)) if at < len(each) and each[at].start <= start
        ]
        same = not here or (len(here) == 2 and here[0].place is not None and here[0] == here[1])
        found += 0 if same else end - start
    return found


def _at(extents: Sequence[Extent], number: int, start: int) -> int:
    while number < len(extents) and extents[number].end <= start:
        number += 1
    return number
