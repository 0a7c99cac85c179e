"""Checks a file and everything behind it before QEMU opens it (I6, R5, R6, R8): headers are hostile input, and nothing is
probed."""

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from stillframe.chain.image import Image
from stillframe.errors import BadImage, ChainConflict
from stillframe.host import files, qcow2

MAX_DEPTH = 200
# Our own names may begin with a dot (.tmp., .trash.); no name begins with a dash or has a slash or a colon.
_NAME = re.compile(r"[A-Za-z0-9.][A-Za-z0-9._-]{0,254}")


def plain_name(name: str) -> str:
    """Returns ``name`` if it is a plain file name, which QEMU cannot take for an option, a path or a protocol (I1). Raises
    BadImage."""
    if not _NAME.fullmatch(name) or name in (".", ".."):
        raise BadImage(f"{name!r} is not a plain file name")
    return name


def chain_of(directory: Path, name: str, format_: str) -> tuple[Image, ...]:
    """Returns ``name`` and the files behind it, nearest first: all that QEMU will open, and all of it checked.

    Raises BadImage, ChainConflict when a backing file is missing, FileNotFoundError when ``name`` itself is.
    """
    with opened(directory, name, format_) as found:
        return tuple(each.image for each in found)


def alone(directory: Path, name: str, format_: str) -> Image:
    """Checks one file only, for a verb that opens no other."""
    with opened_alone(directory, name, format_) as found:
        return found.image


@dataclass(frozen=True)
class Opened:
    """A file that was checked, the descriptor through which it was checked, and when it was last written before that."""

    image: Image
    handle: int
    written_ns: int

    @property
    def name(self) -> str:
        return self.image.name


@contextmanager
def opened_alone(directory: Path, name: str, format_: str) -> Iterator[Opened]:
    """Like ``alone``, but holds the file open: whatever gets its name meanwhile, the descriptor leads to the file that was
    checked."""
    with ExitStack() as held:
        yield _open(held, directory, name, format_)


@contextmanager
def opened(directory: Path, name: str, format_: str, behind: Path | None = None) -> Iterator[tuple[Opened, ...]]:
    """Like ``chain_of``, but holds every file open. ``behind`` is the directory of the files behind ``name``, if it is another
    one."""
    with ExitStack() as held:
        found = [_open(held, directory, name, format_)]
        while found[-1].image.backing is not None:
            above = found[-1].image
            assert above.backing is not None and above.backing_format is not None
            if len(found) >= MAX_DEPTH or any(each.name == above.backing for each in found):
                raise BadImage(f"the backing chain of {name} does not end")
            try:
                found.append(_open(held, behind or directory, above.backing, above.backing_format))
            except FileNotFoundError as error:
                raise ChainConflict(f"{above.name} names {above.backing} as its backing file, which does not exist") from error
        yield tuple(found)


def _open(held: ExitStack, directory: Path, name: str, format_: str) -> Opened:
    handle = files.open_regular(directory, plain_name(name))
    held.callback(os.close, handle)
    written_ns = os.fstat(handle).st_mtime_ns
    image = qcow2.read_open(handle, name, format_)
    if format_ == "qcow2":
        qcow2.check_tables(handle, name)
    return Opened(image, handle, written_ns)
