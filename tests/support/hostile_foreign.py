"""Disks on which a guest wrote the header of another format, and files of other formats called qcow2.

Recorded as raw they are bytes; recorded as qcow2 they are refused; uploaded as raw they are refused by their mark.
"""

import struct
from collections.abc import Callable, Iterator

from tests.support.hostile import Fate, Hostile, Place
from tests.support.hostile_headers import QCOW2, RAW, file_of, small
from tests.unit.host.headers import DATA_FILE

LENGTH = 1 << 20
Content = Callable[[Place], bytes]


def cases() -> Iterator[Hostile]:
    for name, content in _guest_written().items():
        yield Hostile(f"guest-{name}", _builder(content), Fate.BYTES_ONLY, "raw")
    for name, content in _foreign().items():
        yield Hostile(f"{name}-as-raw", _builder(content), Fate.BYTES_ONLY, "raw")
        yield Hostile(f"{name}-as-qcow2", _builder(content))
    yield Hostile("iso-as-raw", _builder(lambda _p: _at(0x8001, b"CD001")), Fate.BYTES_ONLY, "raw", importable=True)
    yield Hostile("iso-as-qcow2", _builder(lambda _p: _at(0x8001, b"CD001")))
    yield Hostile("noise-as-raw", _builder(lambda _p: bytes(range(1, 256)) * 4112), Fate.BYTES_ONLY, "raw", importable=True)


def _builder(content: Content) -> Callable[[Place], None]:
    def build(place: Place) -> None:
        place.path.write_bytes(content(place).ljust(LENGTH, b"\0")[:LENGTH])

    return build


def _guest_written() -> dict[str, Content]:
    """A header of qcow2 at the start of a raw disk (g01-g04 of the vulnerabilities that came by every verb)."""
    return {
        "backing": lambda p: file_of(small(backing=str(p.canary).encode(), extensions=[RAW]).start()),
        "backing-json": lambda p: file_of(
            small(backing=f'json:{{"driver":"file","filename":"{p.canary}"}}'.encode(), extensions=[RAW]).start()
        ),
        "backing-nbd": lambda p: file_of(small(backing=f"nbd:127.0.0.1:{p.port}".encode(), extensions=[RAW]).start()),
        "backing-itself": lambda p: file_of(small(backing=p.name.encode(), extensions=[QCOW2]).start()),
        "data-file": lambda p: file_of(small(incompatible=4, extensions=[(DATA_FILE, str(p.canary).encode())]).start()),
        "larger-inside": lambda p: file_of(small(size=1 << 29).start()),
        "luks-without-header": lambda p: file_of(small(crypt=2).start()),
    }


def _foreign() -> dict[str, Content]:
    return {
        "qcow1": lambda p: (
            _at(0, struct.pack(">4sIQIIQ", b"QFI\xfb", 1, 48, len(str(p.canary)), 0, LENGTH) + bytes(16))
            + str(p.canary).encode()
        ),
        "vmdk-text": lambda p: _vmdk(p, "# Disk DescriptorFile\n"),
        "vmdk-text-plain": lambda p: _vmdk(p, "#\n\n"),
        "vmdk-sparse": lambda p: _at(0, b"KDMV" + struct.pack("<II", 1, 3)) + bytes(500) + _vmdk(p, "# Disk DescriptorFile\n"),
        "vmdk-3": lambda p: _at(0, b"COWD" + struct.pack("<II", 1, 3)),
        "vdi": lambda p: _at(0, b"<<< Oracle VM VirtualBox Disk Image >>>\n".ljust(0x40, b"\0") + b"\x7f\x10\xda\xbe\1\0\1\0"),
        "vhdx": lambda p: _at(0, b"vhdxfile"),
        "vhd": lambda p: _at(0, b"conectix" + struct.pack(">II", 2, 0x10000)),
        "vhd-footer": lambda p: b"\0" * (LENGTH - 512) + b"conectix" + struct.pack(">II", 2, 0x10000),
        "vhd-footer-old": lambda p: b"\0" * (LENGTH - 511) + b"conectix" + struct.pack(">II", 2, 0x10000),
        "dmg": lambda p: b"\0" * (LENGTH - 512) + b"koly" + struct.pack(">II", 4, 512),
        "qed": lambda p: _at(0, b"QED\0" + struct.pack("<IIIQQQQQII", 65536, 4, 1, 1, 0, 0, 65536, LENGTH, 64, 9)),
        "luks": lambda p: _at(0, b"LUKS\xba\xbe\0\1"),
        "parallels": lambda p: _at(0, b"WithoutFreeSpace"),
        "parallels-2": lambda p: _at(0, b"WithouFreSpacExt"),
        "bochs": lambda p: _at(0, b"Bochs Virtual HD Image"),
        "cloop": lambda p: _at(0, b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount"),
        "iso-and-vmdk": lambda p: _vmdk(p, "# Disk DescriptorFile\n").ljust(0x8001, b"\0") + b"CD001",
        "iso-and-vhd": lambda p: _at(0x8001, b"CD001").ljust(LENGTH - 512, b"\0") + b"conectix",
    }


def _at(offset: int, mark: bytes) -> bytes:
    return b"\0" * offset + mark


def _vmdk(place: Place, beginning: str) -> bytes:
    """A descriptor whose one extent is the canary (CVE-2022-47951)."""
    lines = [
        "version=1",
        "CID=12345678",
        "parentCID=ffffffff",
        'createType="monolithicFlat"',
        f'RW 256 FLAT "{place.canary}" 0',
        'ddb.adapterType = "ide"',
    ]
    return (beginning + "\n".join(lines) + "\n").encode()
