"""Reads a qcow2 header without QEMU: what it says about itself, or why we do not touch it.

The format is docs/interop/qcow2.txt of QEMU 7.2. Bounds are those of QEMU's own parser (R15); whatever our own images
never have (encryption, internal snapshots, an external data file, unknown incompatible features) is refused.
"""

import os
import struct
from pathlib import Path

from stillframe.chain.image import Image
from stillframe.errors import BadImage
from stillframe.host import files

HEADER_BYTES = 1 << 16
_V2 = struct.Struct(">4sIQIIQIIQQIIQ")
_V3 = struct.Struct(">QQQII")
_BACKING_FORMAT = 0xE2792ACA
_DATA_FILE = 0x44415441
_DIRTY = 1
_MAX_SIZE = 1 << 56
FORMATS = ("raw", "qcow2")


def read(share: Path, name: str) -> Image:
    """Returns what the file's header says. Raises BadImage when QEMU must not see it, FileNotFoundError when it is gone."""
    start, length = files.read_start(share, name, HEADER_BYTES)
    return parse(name, start, length)


def parse(name: str, start: bytes, length: int) -> Image:
    """Parses the first bytes of a qcow2 file of ``length`` bytes; raises BadImage."""
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
    if crypt or inner:
        raise BadImage(f"{name} is encrypted or has internal snapshots")
    if size > _MAX_SIZE or l1_size * 8 > 32 << 20 or ref_clusters << bits > 8 << 20:
        raise BadImage(f"{name} has tables out of bounds")
    if l1_at + l1_size * 8 > length or ref_at + (ref_clusters << bits) > length:
        raise BadImage(f"{name} is cut off before its tables end")
    if l1_at % (1 << bits) or ref_at % (1 << bits):
        raise BadImage(f"{name} has tables that are not aligned")
    backing_format = _extensions(name, start, header_length, backing_at or 1 << bits)
    backing = _backing(name, start, backing_at, backing_len)
    if (backing is None) != (backing_format is None):
        raise BadImage(f"{name} names a backing file without its format, or a format without a file (I6)")
    return Image(name, "qcow2", size, backing, backing_format)


def _check_features(name: str, start: bytes) -> int:
    incompatible, _, _, order, header_length = _V3.unpack_from(start, _V2.size)
    if incompatible & ~_DIRTY:
        raise BadImage(f"{name} has incompatible features {incompatible:#x}: an external data file, corruption or unknown")
    if order > 6:
        raise BadImage(f"{name} has an absurd refcount width")
    if not 104 <= header_length <= 4096:
        raise BadImage(f"{name} has an absurd header length ({header_length})")
    return int(header_length)


def _extensions(name: str, start: bytes, at: int, end: int) -> str | None:
    found: str | None = None
    end = min(end, len(start))
    while at + 8 <= end:
        kind, length = struct.unpack_from(">II", start, at)
        if kind == 0:
            return found
        body = start[at + 8 : at + 8 + length]
        if at + 8 + length > end:
            raise BadImage(f"{name} has a header extension that runs past the header")
        if kind == _DATA_FILE:
            raise BadImage(f"{name} names an external data file")
        if kind == _BACKING_FORMAT:
            # libvirt believes the first of two, qemu-img the last (libvirt 9.0, qemu 7.2): refuse both.
            if found is not None:
                raise BadImage(f"{name} names two backing formats")
            found = body.decode("ascii", errors="replace")
            if found not in FORMATS:
                raise BadImage(f"{name} names the backing format {found!r}")
        at += 8 + (length + 7) // 8 * 8
    return found


def _backing(name: str, start: bytes, at: int, length: int) -> str | None:
    if at == 0:
        return None
    if not 0 < length <= 1023 or at + length > len(start):
        raise BadImage(f"{name} has a backing file name out of bounds")
    text = start[at : at + length].decode("ascii", errors="replace")
    if not all(c.isascii() and (c.isalnum() or c in "-_.") for c in text) or not text[:1].isalnum():
        raise BadImage(f"{name} names {text!r} as its backing file, which is no plain file name (R8)")
    return text


def holds_data(share: Path, name: str) -> bool:
    """Tells whether anything was ever written to the image: whether its first-level table names a table."""
    start, length = files.read_start(share, name, HEADER_BYTES)
    parse(name, start, length)
    l1_size, l1_at = struct.unpack_from(">IQ", start, 36)
    handle = files.open_regular(share, name)
    try:
        table = os.pread(handle, min(l1_size * 8, 32 << 20), l1_at)
    finally:
        os.close(handle)
    return any(table)
