"""Reads a qcow2 header without QEMU: what the file says about itself, or why we refuse it.

The format is docs/interop/qcow2.txt of QEMU 7.2. The limits are those of QEMU's own parser (R15). What our own images never
have (encryption, internal snapshots, an external data file, unknown incompatible features) is refused.
"""

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from stillframe.chain.image import Image, Parent
from stillframe.errors import BadImage, InternalSnapshots, NotSound
from stillframe.host import files, parents

HEADER_BYTES = 1 << 16
FORMATS = ("raw", "qcow2")
_V2 = struct.Struct(">4sIQIIQIIQQIIQ")
_V3 = struct.Struct(">QQQII")
_BACKING_FORMAT = 0xE2792ACA
_DATA_FILE = 0x44415441
_CRYPTO = 0x0537BE77
_REFUSED = {_DATA_FILE: "names an external data file", _CRYPTO: "has an encryption header"}
DIRTY, _CORRUPT, _COMPRESSION = 1, 2, 8
_ZSTD = 1
_MAX_SIZE = 1 << 56
_MAX_L1_BYTES = 32 << 20
_PIECE = 1 << 20
_ENTRY_OFFSET = 0x00FFFFFFFFFFFE00
_ENTRY_COPIED = 1 << 63
Recorded = Callable[[], Sequence[Parent]]  # the parent images that are recorded of a file, asked for only where it names one


@dataclass(frozen=True)
class Tables:
    """The first-level table: the number of entries in use, its offset, and the cluster size in bytes."""

    entries: int
    at: int
    cluster: int


def read(share: Path, name: str) -> Image:
    """Returns what the file's header says. Raises BadImage when QEMU must not open it, FileNotFoundError when it is gone."""
    return read_as(share, name, "qcow2")


def read_as(share: Path, name: str, format_: str) -> Image:
    """Like ``read``, for a file whose recorded format is ``format_``. Of a raw file only the length counts: its content belongs
    to the guest and is never parsed (R3)."""
    handle = files.open_regular(share, name)
    try:
        return read_open(handle, name, format_, partial(parents.recorded, share, name))
    finally:
        os.close(handle)


def read_open(handle: int, name: str, format_: str, recorded: Recorded = tuple) -> Image:
    """Like ``read_as``, for an open file."""
    length = os.fstat(handle).st_size
    if format_ == "qcow2":
        return parse(name, os.pread(handle, HEADER_BYTES, 0), length, recorded)
    if format_ != "raw":
        raise BadImage(f"{name} is recorded as {format_!r}, which is not an image format that Stillframe uses")
    return Image(name, "raw", length)


def parse(name: str, start: bytes, length: int, recorded: Recorded = tuple) -> Image:
    """Parses the first bytes of a qcow2 file of ``length`` bytes; raises BadImage.

    A backing file has a plain name and a format, unless it is the nearest parent image that is ``recorded`` of this file."""
    found = shape(name, start, length)
    known = recorded() if found.backing is not None else ()
    if known and found.backing == known[0].backing.encode() and found.backing_format in (None, known[0].format):
        return Image(name, "qcow2", found.size, parents=tuple(known))
    backing = _plain(name, found.backing)
    if (backing is None) != (found.backing_format is None):
        raise BadImage(f"{name} names a backing file without its format, or a format without a file")
    return Image(name, "qcow2", found.size, backing, found.backing_format)


@dataclass(frozen=True)
class Shape:
    """What a header says, with a name of a backing file that nobody has judged. ``size`` in bytes."""

    size: int
    backing: bytes | None
    backing_format: str | None


def shape(name: str, start: bytes, length: int) -> Shape:
    """Parses like ``parse``, but takes any backing file: for a reader of the file's own tables only. Raises BadImage."""
    if len(start) < _V2.size + 32:
        raise BadImage(f"{name} is too short for a qcow2 header ({length} bytes)")
    magic, version, backing_at, backing_len, bits, size, crypt, l1_size, l1_at, ref_at, ref_clusters, inner, _ = (
        _V2.unpack_from(start)
    )
    if magic != b"QFI\xfb" or version not in (2, 3):
        raise BadImage(f"{name} is not a qcow2 file of version 2 or 3")
    header_length = _check_features(name, start) if version == 3 else _V2.size
    if not 9 <= bits <= 21:
        raise BadImage(f"{name} has an absurd cluster size (2^{bits} bytes)")
    _check_inside(name, crypt, inner)
    if size > _MAX_SIZE or l1_size * 8 > _MAX_L1_BYTES or ref_clusters << bits > 8 << 20:
        raise BadImage(f"{name} has tables out of bounds")
    if l1_at + l1_size * 8 > length or ref_at + (ref_clusters << bits) > length:
        raise BadImage(f"{name} is cut off before its tables end")
    if l1_at % (1 << bits) or ref_at % (1 << bits):
        raise BadImage(f"{name} has tables that are not aligned")
    _check_places(name, l1_at, ref_at, size)
    if l1_size < _entries_needed(size, bits):
        raise BadImage(f"{name} has a first-level table too small for its {size} bytes")
    backing_format = _extensions(name, start, header_length, backing_at or 1 << bits)
    return Shape(size, _backing(name, start, backing_at, backing_len), backing_format)


def _check_inside(name: str, crypt: int, inner: int) -> None:
    if crypt:
        raise BadImage(f"{name} is encrypted")
    if inner:
        raise InternalSnapshots(f"{name} holds {inner} internal snapshots, as 'qemu-img snapshot -c' and savevm make them")


def _check_places(name: str, l1_at: int, ref_at: int, size: int) -> None:
    """A table in the first cluster would be the header itself, and writing to it would change what the file names."""
    if ref_at == 0 or (l1_at == 0 and size) or (l1_at and l1_at == ref_at):
        raise BadImage(f"{name} has tables that overlap its header or each other")


def _entries_needed(size: int, bits: int) -> int:
    """Each entry covers one second-level table: one cluster of 8-byte entries, each for one cluster of content."""
    covered = 2 * bits - 3
    return (size + (1 << covered) - 1) >> covered


def _check_features(name: str, start: bytes) -> int:
    incompatible, _, _, order, header_length = _V3.unpack_from(start, _V2.size)
    if incompatible & ~(DIRTY | _CORRUPT | _COMPRESSION) == 0 and incompatible & _CORRUPT:
        raise NotSound(f"{name} has the corrupt bit: QEMU found its tables damaged and refuses to write to it")
    if incompatible & ~(DIRTY | _COMPRESSION):
        raise BadImage(f"{name} has incompatible features {incompatible:#x}: an external data file, corruption or unknown")
    if order > 6:
        raise BadImage(f"{name} has an absurd refcount width")
    if not 104 <= header_length <= 4096 or header_length % 8:
        raise BadImage(f"{name} has an absurd header length ({header_length})")
    compression = start[104] if header_length > 104 and len(start) > 104 else 0
    if compression != (_ZSTD if incompatible & _COMPRESSION else 0):
        raise BadImage(f"{name} has an unknown kind of compression ({compression})")
    return int(header_length)


def _extensions(name: str, start: bytes, at: int, end: int) -> str | None:
    found: str | None = None
    cluster_ends, end = end, min(end, len(start))
    while at + 8 <= end:
        kind, length = struct.unpack_from(">II", start, at)
        if kind == 0:
            return found
        body = start[at + 8 : at + 8 + length]
        if at + 8 + length > end:
            raise BadImage(f"{name} has a header extension that runs past the header")
        if kind in _REFUSED:
            raise BadImage(f"{name} {_REFUSED[kind]}")
        if kind == _BACKING_FORMAT:
            # libvirt believes the first of two, qemu-img the last (libvirt 9.0, qemu 7.2): refuse both.
            if found is not None:
                raise BadImage(f"{name} names two backing formats")
            found = body.decode("ascii", errors="replace")
            if found not in FORMATS:
                raise BadImage(f"{name} names the backing format {found!r}")
        at += 8 + (length + 7) // 8 * 8
    if at + 8 <= cluster_ends and end == HEADER_BYTES:
        raise BadImage(f"{name} has header extensions beyond the first {HEADER_BYTES} bytes, and no more of a header is read")
    return found


def _backing(name: str, start: bytes, at: int, length: int) -> bytes | None:
    if at == 0:
        return None
    if not 0 < length <= 1023 or at + length > len(start):
        raise BadImage(f"{name} has a backing file name out of bounds")
    return start[at : at + length]


def _plain(name: str, backing: bytes | None) -> str | None:
    if backing is None:
        return None
    text = backing.decode("ascii", errors="replace")
    if not all(c.isascii() and (c.isalnum() or c in "-_.") for c in text) or not text[:1].isalnum():
        raise BadImage(f"{name} names {text!r} as its backing file, which is not a plain file name")
    return text


def extension(start: bytes, wanted: int) -> bytes | None:
    """Returns the body of a header extension of a version 3 file, None when it has none. The header was parsed before."""
    (at,) = struct.unpack_from(">I", start, 100)
    while at + 8 <= len(start):
        kind, length = struct.unpack_from(">II", start, at)
        if kind == wanted:
            return start[at + 8 : at + 8 + length]
        if kind == 0:
            return None
        at += 8 + (length + 7) // 8 * 8
    return None


def clusters(share: Path, name: str) -> int:
    """Returns how many clusters long the file is, because the time to read its tables grows with that. Raises BadImage."""
    start, length = files.read_start(share, name, HEADER_BYTES)
    shape(name, start, length)
    (bits,) = struct.unpack_from(">I", start, 20)
    return length >> int(bits)


def tables(handle: int, name: str) -> Tables:
    """Returns where the first-level table is. Raises BadImage as ``read`` does."""
    start = os.pread(handle, HEADER_BYTES, 0)
    size = shape(name, start, os.fstat(handle).st_size).size
    (bits,) = struct.unpack_from(">I", start, 20)
    (at,) = struct.unpack_from(">Q", start, 40)
    return Tables(_entries_needed(size, bits), at, 1 << bits)


def holds_data(share: Path, name: str) -> bool:
    """Tells whether anything was ever written to the image: whether its first-level table names any second-level table.
    Raises BadImage as ``read`` does."""
    handle = files.open_regular(share, name)
    try:
        read_open(handle, name, "qcow2", partial(parents.recorded, share, name))
        return any(any(piece) for piece in _first_level(handle, tables(handle, name)))
    finally:
        os.close(handle)


def check_tables(handle: int, name: str) -> None:
    """Raises BadImage when the first-level table of an open file names anything but a second-level table inside the file. QEMU
    reads a table past the end of its file as zeros, so content would vanish without an error (qemu 7.2)."""
    found = tables(handle, name)
    for piece in _first_level(handle, found):
        length = os.fstat(handle).st_size  # read after the table, because a file in use only grows
        for (entry,) in struct.iter_unpack(">Q", piece):
            if entry and not _is_table(entry, found.cluster, length):
                raise BadImage(f"{name} has a table entry {entry:#x} that lies outside it")


def _is_table(entry: int, cluster: int, length: int) -> bool:
    at = entry & _ENTRY_OFFSET
    if entry & ~(_ENTRY_OFFSET | _ENTRY_COPIED) or at % cluster:
        return False
    return at == 0 or cluster <= at <= length - cluster


def _first_level(handle: int, found: Tables) -> Iterator[bytes]:
    """Yields the first-level table in pieces of at most 1 MiB."""
    for at in range(found.at, found.at + found.entries * 8, _PIECE):
        yield os.pread(handle, min(_PIECE, found.at + found.entries * 8 - at), at)
