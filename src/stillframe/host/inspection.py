"""Checks a file and everything behind it before QEMU opens it (I6, R5, R6, R8): headers are hostile input, and nothing is
probed."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from stillframe.chain.image import Image, Parent
from stillframe.errors import BadImage, ChainConflict
from stillframe.host import files, parents, qcow2
from stillframe.host.qcow2 import Recorded

MAX_DEPTH = 200
PARENT = "parent@"
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


def alone(directory: Path, name: str, format_: str, known: Sequence[Parent] | None = None) -> Image:
    """Checks one file only, for a verb that opens no other. ``known``: its parent images, None those that are recorded."""
    with ExitStack() as held:
        return _open(held, directory, name, format_, None if known is None else lambda: known).image


@dataclass(frozen=True)
class Opened:
    """A file that was checked, the descriptor through which it was checked, and when it was last written before that.
    ``recorded``: the parent images by which it was checked."""

    image: Image
    handle: int
    written_ns: int
    recorded: Recorded = tuple

    @property
    def name(self) -> str:
        return self.image.name

    def read_again(self) -> Image:
        """Returns what the header says now. Raises BadImage."""
        return qcow2.read_open(self.handle, self.name, self.image.format, self.recorded)


@contextmanager
def opened_alone(directory: Path, name: str, format_: str) -> Iterator[Opened]:
    """Like ``alone``, but holds the file open: whatever gets its name meanwhile, the descriptor leads to the file that was
    checked."""
    with ExitStack() as held:
        yield _open(held, directory, name, format_)


@contextmanager
def opened(directory: Path, name: str, format_: str, behind: Path | None = None) -> Iterator[tuple[Opened, ...]]:
    """Like ``chain_of``, but holds every file open. ``behind`` is the directory of the files behind ``name``, if it is another
    one. Parent images come last, and their names here are ``parent@1`` and so on: no other file has such a name."""
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
        lowest = found[-1].image
        found += [_open_parent(held, lowest, place) for place in range(len(lowest.parents))]
        yield tuple(found)


def _open(held: ExitStack, directory: Path, name: str, format_: str, recorded: Recorded | None = None) -> Opened:
    handle = files.open_regular(directory, plain_name(name))
    held.callback(os.close, handle)
    return _checked(handle, name, format_, recorded or partial(parents.recorded, directory, name))


def _checked(handle: int, name: str, format_: str, recorded: Recorded) -> Opened:
    written_ns = os.fstat(handle).st_mtime_ns
    image = qcow2.read_open(handle, name, format_, recorded)
    if format_ == "qcow2":
        qcow2.check_tables(handle, name)
    return Opened(image, handle, written_ns, recorded)


def _open_parent(held: ExitStack, base: Image, place: int) -> Opened:
    """Raises ChainConflict for a parent image that is not the file it was when the disk was adopted."""
    parent, below = base.parents[place], base.parents[place + 1 :]
    handle = parents.open_parent(parent, base.name)
    held.callback(os.close, handle)
    found = _checked(handle, f"{PARENT}{place + 1}", parent.format, lambda: below)
    if found.image.backing is not None or found.image.parents != below:
        raise ChainConflict(parents.changed(parent, base.name, "its header names another backing file"))
    return found
