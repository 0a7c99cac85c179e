"""Makes qcow2 headers, honest ones and others, after docs/interop/qcow2.txt."""

import struct
from dataclasses import dataclass, field

from tests.unit.builders import GIB

BACKING_FORMAT = 0xE2792ACA
FEATURE_NAMES = 0x6803F857
DATA_FILE = 0x44415441
END = 0
CLUSTER = 1 << 16


def extension(kind: int, body: bytes) -> bytes:
    return struct.pack(">II", kind, len(body)) + body + b"\0" * (-len(body) % 8)


@dataclass
class Header:
    """Every field as ``qemu-img create`` would write it for an empty overlay; a test changes what it is about."""

    magic: bytes = b"QFI\xfb"
    version: int = 3
    backing: bytes = b""
    bits: int = 16
    size: int = GIB
    crypt: int = 0
    l1_entries: int = 2
    l1_at: int = 3 * CLUSTER
    ref_at: int = CLUSTER
    ref_clusters: int = 1
    internal_snapshots: int = 0
    incompatible: int = 0
    refcount_order: int = 4
    header_length: int = 104
    compression: int = 0
    extensions: list[tuple[int, bytes]] = field(default_factory=list)
    backing_at: int | None = None
    backing_length: int | None = None

    def start(self) -> bytes:
        """The first cluster of the file."""
        length = self.header_length if self.version == 3 else 72
        room = b"".join(extension(kind, body) for kind, body in self.extensions) + extension(END, b"")
        natural = length + len(room) if self.backing else 0
        at = natural if self.backing_at is None else self.backing_at
        named = len(self.backing) if self.backing_length is None else self.backing_length
        second = struct.pack(
            ">4sIQIIQIIQQIIQ",
            self.magic,
            self.version,
            at,
            named,
            self.bits,
            self.size,
            self.crypt,
            self.l1_entries,
            self.l1_at,
            self.ref_at,
            self.ref_clusters,
            self.internal_snapshots,
            0,
        )
        third = struct.pack(">QQQII", self.incompatible, 0, 0, self.refcount_order, self.header_length)
        third += bytes([self.compression]) if length > 104 else b""
        fixed = (second + third).ljust(length, b"\0") if self.version == 3 else second
        return (fixed + room + self.backing).ljust(CLUSTER, b"\0")


def overlay(backing: bytes, format_: bytes = b"qcow2") -> Header:
    return Header(backing=backing, extensions=[(BACKING_FORMAT, format_), (FEATURE_NAMES, b"\0" * 48)])
