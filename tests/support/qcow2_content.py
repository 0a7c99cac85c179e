"""Reads what a chain holds without QEMU: a second opinion, and quick enough to ask after every single fault."""

import struct
from pathlib import Path

_OFFSET = 0x00FFFFFFFFFFFE00
_COMPRESSED, _ZERO = 1 << 62, 1
_BACKING_FORMAT = 0xE2792ACA


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
