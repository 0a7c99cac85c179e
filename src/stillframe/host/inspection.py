"""Looks at a file and everything behind it before QEMU does (I6, R5, R6, R8): headers as hostile input, no probing."""

import re
from pathlib import Path

from stillframe.chain.image import Image
from stillframe.errors import BadImage, ChainConflict
from stillframe.host import qcow2

MAX_DEPTH = 200
# A name that begins with a dot is one of ours (.tmp., .trash.); none begins with a dash or holds a slash or a colon.
_NAME = re.compile(r"[A-Za-z0-9.][A-Za-z0-9._-]{0,254}")


def plain_name(name: str) -> str:
    """Returns ``name`` if it is a plain file name, which QEMU cannot take for an option, a path or a protocol (I1)."""
    if not _NAME.fullmatch(name) or name in (".", ".."):
        raise BadImage(f"{name!r} is no plain file name")
    return name


def chain_of(directory: Path, name: str, format_: str) -> tuple[Image, ...]:
    """Returns ``name`` and the files behind it, nearest first: what QEMU will open, all of it looked at.

    Raises BadImage, ChainConflict when a backing file is missing, FileNotFoundError when ``name`` itself is.
    """
    found = [_read(directory, name, format_)]
    while found[-1].backing is not None:
        above = found[-1]
        assert above.backing is not None and above.backing_format is not None
        if len(found) >= MAX_DEPTH or any(image.name == above.backing for image in found):
            raise BadImage(f"the backing chain of {name} does not end")
        try:
            found.append(_read(directory, above.backing, above.backing_format))
        except FileNotFoundError as error:
            raise ChainConflict(f"{above.name} names {above.backing} as its backing file, which does not exist") from error
    return tuple(found)


def alone(directory: Path, name: str, format_: str) -> Image:
    """Looks at one file only, for a verb that opens no other."""
    return _read(directory, name, format_)


def _read(directory: Path, name: str, format_: str) -> Image:
    image = qcow2.read_as(directory, plain_name(name), format_)
    if format_ == "qcow2":
        qcow2.check_tables(directory, name)
    return image
