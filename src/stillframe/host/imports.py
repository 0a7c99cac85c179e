"""Checks an uploaded file before QEMU opens it: it must be raw or qcow2, and what it was declared to be (R6, R7, R13)."""

import os
from pathlib import Path

from stillframe.chain.image import Image
from stillframe.errors import BadImage
from stillframe.host import files, inspection

_HEAD_BYTES = 1 << 16
_SECTOR = 512
# Offset and mark of each format that QEMU 7.2 knows besides raw (block/*.c, their probe functions).
_MAGICS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"QFI\xfb", "qcow or qcow2"),
    (0, b"KDMV", "VMDK"),
    (0, b"COWD", "VMDK"),
    (0x40, b"\x7f\x10\xda\xbe", "VDI"),
    (0, b"vhdxfile", "VHDX"),
    (0, b"conectix", "VHD"),
    (0, b"QED\0", "QED"),
    (0, b"LUKS\xba\xbe", "LUKS"),
    (0, b"WithoutFreeSpace", "Parallels"),
    (0, b"WithouFreSpacExt", "Parallels"),
    (0, b"Bochs Virtual HD Image", "Bochs"),
    (0, b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop", "cloop"),
)
# Marks near the end of the file: a fixed VHD is known only by its footer, a DMG only by its trailer.
_FOOTERS: tuple[tuple[bytes, str], ...] = ((b"conectix", "VHD"), (b"koly", "DMG"))


def inspect_import(path: Path, declared: str, most_bytes: int) -> Image:
    """Returns what an uploaded file that was declared as ``declared`` is, if it may be converted.

    It accepts qcow2 without a backing file, and raw without the mark of another format: a raw file with such a mark is an
    attempt to have it opened as that format later. ISO 9660 counts as raw: it names no other file, and QEMU has no driver for
    it. The virtual size is at least one byte and at most ``most_bytes``, so no file fills the share, however well it is
    compressed. Raises BadImage.
    """
    directory, name = path.parent, path.name
    try:
        image = _inspect(directory, name, declared)
    except FileNotFoundError as error:
        raise BadImage(f"the image file {name} does not exist") from error
    if image.backing is not None:
        raise BadImage(f"the image names {image.backing!r} as its backing file; only whole images are accepted")
    if not 0 < image.size <= most_bytes:
        raise BadImage(
            f"the image has a virtual size of {image.size} bytes; between 1 and {most_bytes} are accepted", size=image.size
        )
    return image


def _inspect(directory: Path, name: str, declared: str) -> Image:
    # The name was chosen by us, so it is checked as strictly as on a share.
    inspection.plain_name(name)
    if declared == "raw":
        foreign = foreign_format(directory, name)
        if foreign is not None:
            raise BadImage(f"the image is declared raw but has the mark of {foreign}")
    elif declared != "qcow2":
        raise BadImage(f"images of the format {declared!r} are not accepted; raw and qcow2 are")
    return inspection.alone(directory, name, declared)


def foreign_format(directory: Path, name: str, links: bool = False) -> str | None:
    """Returns the format other than raw whose mark the file has, or None. Raises BadImage when it is not a regular file, or
    when it has several names and ``links`` does not allow them."""
    return mark(*ends(directory, name, links))


def ends(directory: Path, name: str, links: bool = False) -> tuple[bytes, bytes]:
    """Returns the first 64 KiB and the last 512 bytes of a file. Raises what ``foreign_format`` raises."""
    handle = files.open_regular(directory, name, links)
    try:
        length = os.fstat(handle).st_size
        head = os.pread(handle, _HEAD_BYTES, 0)
        return head, os.pread(handle, _SECTOR, max(0, length - _SECTOR))
    finally:
        os.close(handle)


def mark(head: bytes, tail: bytes) -> str | None:
    """Returns the format other than raw whose mark is in these first and last bytes of a file, or None."""
    for at, magic, format_ in _MAGICS:
        if head[at : at + len(magic)] == magic:
            return format_
    for magic, format_ in _FOOTERS:
        # VHD footers from before 2004 have 511 bytes, so the mark is one byte later.
        if tail.startswith(magic) or tail[1:].startswith(magic):
            return format_
    return "VMDK" if _describes_vmdk(head) else None


def _describes_vmdk(head: bytes) -> bool:
    """A VMDK descriptor is text: comments and blank lines, then ``version=`` (vmdk_probe, qemu 7.2)."""
    if head.lower().startswith(b"# disk descriptorfile"):
        return True
    for line in head.split(b"\n"):
        text = line.strip(b" \t\r")
        if text and not text.startswith(b"#"):
            return text.lower().startswith(b"version")
    return False
