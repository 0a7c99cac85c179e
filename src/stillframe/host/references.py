"""Reads without QEMU which clusters a qcow2 file's own tables refer to, and tells whether two of them claim the same cluster.

A repair of reference counts makes the counts fit the references, even where two tables refer to one cluster, which must not be.
Then the repair succeeds, and what either of them reads is wrong (seen with QEMU 7.2: ``check -r all`` sets the count to 2 and
reports success).
"""

import math
import os
import struct
import sys
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stillframe.errors import HostCommandFailed
from stillframe.host import files, qcow2

_OFFSET = 0x00FFFFFFFFFFFE00
_COMPRESSED = 1 << 62
_SECTOR = 512
_MOST_CLUSTERS = 1 << 30


class _Contradiction(Exception):
    """Never raised out of this module."""


@dataclass
class _Claims:
    """One bit for each cluster of the file: the clusters that one owner claims alone, and those that compressed content
    shares."""

    bits: int
    length: int
    alone: bytearray
    shared: bytearray
    until: float  # on the clock of time.monotonic()

    def check_time(self) -> None:
        """Raises HostCommandFailed, like a program that took too long, when reading the tables has taken too long."""
        if time.monotonic() > self.until:
            raise HostCommandFailed("reading its tables took too long", timed_out=True)

    def claim(self, at: int, what: str) -> None:
        """Raises _Contradiction for an offset that is not aligned, not in the file, or claimed already."""
        if at % (1 << self.bits):
            raise _Contradiction(f"{what} is at {at:#x}, where no cluster begins")
        byte, bit = self._place(at, what)
        if (self.alone[byte] | self.shared[byte]) & bit:
            raise _Contradiction(f"{what} is at {at:#x}, where something else is too")
        self.alone[byte] |= bit

    def share(self, at: int, end: int, what: str) -> None:
        """Claims the clusters from ``at`` to ``end`` for compressed content; one cluster may hold several pieces of it."""
        for place in range(at >> self.bits << self.bits, end, 1 << self.bits):
            byte, bit = self._place(place, what)
            if self.alone[byte] & bit:
                raise _Contradiction(f"{what} is at {at:#x}, where something else is too")
            self.shared[byte] |= bit

    def _place(self, at: int, what: str) -> tuple[int, int]:
        if at >= self.length:
            raise _Contradiction(f"{what} is at {at:#x}, past the end of the file")
        number = at >> self.bits
        return number >> 3, 1 << (number & 7)


def contradiction(share: Path, name: str) -> str | None:
    """Returns the first contradiction that no repair of reference counts mends, None when there is none. Reads every table of
    the file. Raises BadImage."""
    handle = files.open_regular(share, name)
    try:
        return contradiction_of(handle, name)
    finally:
        os.close(handle)


def contradiction_of(handle: int, name: str, until: float = math.inf) -> str | None:
    """Like ``contradiction``, for an open file. Raises HostCommandFailed with ``timed_out`` in its details when
    ``time.monotonic`` passes ``until``."""
    start, found = os.pread(handle, qcow2.HEADER_BYTES, 0), qcow2.tables(handle, name)
    length = os.fstat(handle).st_size
    bits = found.cluster.bit_length() - 1
    if length >> bits >= _MOST_CLUSTERS:
        return f"it has more than {_MOST_CLUSTERS} clusters, too many to check"
    room = (length >> bits + 3) + 1
    try:
        _look(handle, start, found, _Claims(bits, length, bytearray(room), bytearray(room), until))
    except _Contradiction as error:
        return str(error)
    return None


def _look(handle: int, start: bytes, found: qcow2.Tables, claims: _Claims) -> None:
    (counts_at, counts_clusters) = struct.unpack_from(">QI", start, 48)
    claims.claim(0, "the header")
    for at in range(found.at, found.at + max(1, found.entries * 8), found.cluster):
        claims.claim(at, "the first-level table")
    for at in range(counts_at, counts_at + counts_clusters * found.cluster, found.cluster):
        claims.claim(at, "the table of counts")
        for block in _entries(handle, at, found.cluster):
            claims.claim(block & _OFFSET, "a block of counts")
    tables = [entry & _OFFSET for entry in _entries(handle, found.at, found.entries * 8)]
    for table in tables:
        claims.claim(table, "a second-level table")
    for table in tables:
        claims.check_time()
        for entry in _entries(handle, table, found.cluster):
            _content(entry, claims)


def _content(entry: int, claims: _Claims) -> None:
    if entry & _COMPRESSED:
        shift = 62 - (claims.bits - 8)
        at = entry & ((1 << shift) - 1)
        sectors = (entry >> shift & ((1 << claims.bits - 8) - 1)) + 1
        claims.share(at, min(at - at % _SECTOR + sectors * _SECTOR, max(claims.length, at + 1)), "compressed content")
    elif entry & _OFFSET:  # a zero cluster needs no place in the file
        claims.claim(entry & _OFFSET, "content")


def _entries(handle: int, at: int, size: int) -> Iterator[int]:
    """Yields every entry of a table that is not 0."""
    for place in range(at, at + size, 1 << 20):
        piece = os.pread(handle, min(1 << 20, at + size - place), place)
        found = array("Q", piece[: len(piece) // 8 * 8])
        if sys.byteorder == "little":
            found.byteswap()
        yield from filter(None, found)
