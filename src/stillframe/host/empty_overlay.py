"""The bytes of a QCOW2 overlay that holds nothing yet, as ``qemu-img create`` of QEMU 7.2 writes them.

A program that is started for each of a set's overlays costs more than all else that is done for them: some 10 ms of a core
each, which the guest needs too. An empty overlay is a header, a table of reference counts with one block of them, and a
first-level table of zeros (docs/interop/qcow2.txt of QEMU). A test compares it with qemu-img's, byte by byte.
"""

import os
import struct
from collections.abc import Sequence
from pathlib import Path

from stillframe.chain.image import Image
from stillframe.errors import BadImage
from stillframe.host import files

CLUSTER_BITS = 16
_CLUSTER = 1 << CLUSTER_BITS
_TABLE, _BLOCK, _FIRST_LEVEL = _CLUSTER, 2 * _CLUSTER, 3 * _CLUSTER
_COVERED_BITS = 2 * CLUSTER_BITS - 3  # of the disk, by an entry of the first-level table
_MOST = 1 << 50  # bytes: the first-level table takes 16 MiB then, of 32 that QEMU reads
_HEADER = struct.Struct(">4sIQIIQIIQQIIQQQQII8x")
_SIXTEEN_BITS = 4  # the width of a reference count, as a power of two
_BACKING_FORMAT, _FEATURE_NAMES = 0xE2792ACA, 0x6803F857
_FEATURES = (  # kind (incompatible, compatible, autoclear), bit, name: for messages of programs that do not know a bit
    (0, 0, b"dirty bit"),
    (0, 1, b"corrupt bit"),
    (0, 2, b"external data file"),
    (0, 3, b"compression type"),
    (0, 4, b"extended L2 entries"),
    (1, 0, b"lazy refcounts"),
    (2, 0, b"bitmaps"),
    (2, 1, b"raw external data"),
)
Piece = tuple[int, bytes]


def pieces(image: Image) -> tuple[list[Piece], int]:
    """Returns what is written where, and the length of the file; the rest of it is a hole. Raises BadImage for what is no
    overlay, and for a size QEMU would not accept."""
    if image.format != "qcow2" or image.backing is None or image.backing_format is None:
        raise BadImage(f"{image.name} is not an overlay")
    if not 0 < image.size <= _MOST or image.size % 512:
        raise BadImage(f"an overlay of {image.size} bytes cannot be made: whole sectors of 512 bytes, at most {_MOST}")
    entries = -(-image.size // (1 << _COVERED_BITS))
    clusters = 3 + -(-entries * 8 // _CLUSTER)
    counts = struct.pack(">H", 1) * clusters
    return [(0, _start(image, entries)), (_TABLE, struct.pack(">Q", _BLOCK)), (_BLOCK, counts)], _FIRST_LEVEL + entries * 8


def write(share: Path, name: str, what: Sequence[Piece], length: int) -> None:
    """Writes the pieces into an empty file and makes it ``length`` bytes long. Not durable yet. Raises BadImage as
    ``files.open_regular``."""
    handle = files.open_regular(share, name, flags=os.O_WRONLY)
    try:
        for place, data in what:
            at, rest = place, memoryview(data)
            while rest:
                done = os.pwrite(handle, rest, at)
                at, rest = at + done, rest[done:]
        os.ftruncate(handle, length)
    finally:
        os.close(handle)


def _start(image: Image, entries: int) -> bytes:
    """The header, its extensions, and the name of the backing file behind them."""
    assert image.backing is not None and image.backing_format is not None
    names = b"".join(struct.pack(">BB46s", *feature) for feature in _FEATURES)
    extensions = _extension(_BACKING_FORMAT, image.backing_format.encode()) + _extension(_FEATURE_NAMES, names)
    extensions += _extension(0, b"")
    backing = image.backing.encode()
    if not 0 < len(backing) < 1024:
        raise BadImage(f"the name of the backing file {image.backing[:80]} is too long for a header")
    header = _HEADER.pack(
        b"QFI\xfb",
        3,
        _HEADER.size + len(extensions),
        len(backing),
        CLUSTER_BITS,
        image.size,
        0,
        entries,
        _FIRST_LEVEL,
        _TABLE,
        1,
        0,
        0,
        0,
        0,
        0,
        _SIXTEEN_BITS,
        _HEADER.size,
    )
    return header + extensions + backing


def _extension(kind: int, body: bytes) -> bytes:
    return struct.pack(">II", kind, len(body)) + body.ljust(-(-len(body) // 8) * 8, b"\0")
