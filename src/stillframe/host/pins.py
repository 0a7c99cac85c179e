"""Gives files to qemu-img as descriptors: it opens the very files that were checked, whatever has their names by then.

Each file of a chain is opened and checked here, and kept open. A directory outside the share, which only this user may enter,
has a link to ``/proc/self/fd/N`` under each file's name, and qemu-img inherits the descriptors. So it works with the names in
the headers and locks the very files (its locks belong to what it opens through the link). It reaches no other file, because the
chain is spelled out for it. Tried with ``convert``, ``commit -b``, ``rebase -b``, ``rebase -u``, ``resize``, ``check -r``,
``map``, ``compare`` and ``amend`` of qemu 7.2.
"""

import atexit
import fcntl
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from stillframe.chain.image import Image
from stillframe.errors import BadImage, ChainConflict
from stillframe.host import image_command, inspection
from stillframe.host.inspection import Opened
from stillframe.host.run import Place

_PREFIX = "stillframe-pins-"
_turn = threading.Lock()
_own: dict[int, tuple[Path, int]] = {}  # by process: its directory, and the descriptor that has it locked


@dataclass(frozen=True)
class Pinned:
    """A chain that is held open, nearest first. ``directory`` has its names; qemu-img may run there."""

    directory: Path
    opened: tuple[Opened, ...]

    @property
    def images(self) -> tuple[Image, ...]:
        return tuple(each.image for each in self.opened)

    @property
    def descriptors(self) -> tuple[int, ...]:
        return tuple(each.handle for each in self.opened)

    @property
    def place(self) -> Place:
        return Place(self.directory, self.descriptors)

    @property
    def word(self) -> str:
        """Names the chain for a program that runs in ``place``."""
        return image_command.chain([(each.name, each.image.format) for each in self.opened])

    @property
    def path(self) -> str:
        """Names the chain for a program that runs elsewhere and inherits ``descriptors``."""
        return image_command.chain([(str(self.directory / each.name), each.image.format) for each in self.opened])

    @property
    def has_parents(self) -> bool:
        """Tells whether the chain ends in parent images that no volume owns."""
        return any(each.image.parents for each in self.opened)

    @property
    def rebasable(self) -> str:
        """Like ``word``, for ``rebase``. That finds nothing by a relative name once a backing file is called otherwise than the
        header above it says (qemu 7.2), as parent images are here. Then the headers name the files, and the program still opens
        none but these (``confinement``)."""
        return self.opened[0].name if self.has_parents else self.word

    def below(self, name: str) -> str:
        """Like ``rebasable``, for an overlay on the chain that was added under this name."""
        if self.has_parents:
            return name
        return image_command.chain([(name, "qcow2"), *((each.name, each.image.format) for each in self.opened)])

    def each_onto(self, base: str) -> list[str]:
        """Names each file above ``base`` as if it lay on ``base`` itself, the lowest first. When the files below one have been
        committed, that is what it reads."""
        place = [each.name for each in self.opened].index(base)
        below = [(each.name, each.image.format) for each in self.opened[place:]]
        return [image_command.chain([(each.name, "qcow2"), *below]) for each in reversed(self.opened[:place])]

    def handle(self, name: str) -> int:
        return next(each.handle for each in self.opened if each.name == name)

    def add(self, name: str, handle: int) -> None:
        """Gives one more file a name here; its descriptor must be passed on with ``descriptors``."""
        os.symlink(f"/proc/self/fd/{handle}", self.directory / name)

    def confirm(self) -> None:
        """Raises ChainConflict when a file was written since it was checked: what was read may then not be what its header
        named. The time of the last write shows it: only a file's owner can set that back, not a user who may just write."""
        for each in self.opened:
            with suppress(BadImage):
                if each.read_again() == each.image and os.fstat(each.handle).st_mtime_ns == each.written_ns:
                    continue
            raise ChainConflict(
                f"{each.name} was written while it was read; nothing that was read was kept. Repeat when nobody writes to it"
            )


@contextmanager
def chain(directory: Path, name: str, format_: str, behind: Path | None = None) -> Iterator[Pinned]:
    """Holds ``name`` and every file behind it. Raises what ``inspection.chain_of`` raises."""
    with inspection.opened(directory, name, format_, behind) as opened, _pinned(opened) as pinned:
        yield pinned


@contextmanager
def alone(directory: Path, name: str, format_: str) -> Iterator[Pinned]:
    """Holds one file without what backs it. Raises what ``inspection.alone`` raises."""
    with inspection.opened_alone(directory, name, format_) as opened, _pinned((opened,)) as pinned:
        yield pinned


@contextmanager
def _pinned(opened: tuple[Opened, ...]) -> Iterator[Pinned]:
    top = Path(tempfile.mkdtemp(dir=_directory()))
    try:
        pinned = Pinned(_inside(top, opened), opened)
        for each in opened:
            pinned.add(each.name, each.handle)
        for path, handle in _relative(pinned.directory, opened):
            path.parent.mkdir(parents=True, exist_ok=True)
            os.symlink(f"/proc/self/fd/{handle}", path)
        yield pinned
    finally:
        shutil.rmtree(top, ignore_errors=True)


def _inside(top: Path, opened: tuple[Opened, ...]) -> Path:
    """Makes a directory so far below ``top`` that no relative name of a parent image leads out of it."""
    names = [parent.backing for each in opened for parent in each.image.parents]
    place = top.joinpath(*["inner"] * sum(name.split("/").count("..") for name in names))
    place.mkdir(parents=True, exist_ok=True)
    return place


def _relative(place: Path, opened: tuple[Opened, ...]) -> Iterator[tuple[Path, int]]:
    """Yields where QEMU looks for parent images that have relative names, when it opens a file of the chain by its name: as
    ``rebase`` does with the new backing file. Those with absolute names are where they are."""
    lowest = next((number for number, each in enumerate(opened) if each.image.parents), None)
    if lowest is None:
        return
    for parent, held in zip(opened[lowest].image.parents, opened[lowest + 1 :], strict=False):
        if parent.backing.startswith(("/", "json:", "file:")):
            return
        path = Path(os.path.normpath(place / parent.backing))
        yield path, held.handle
        place = path.parent


def _directory() -> Path:
    """Returns this process's directory, mode 0700, which is created on first use. That also removes what processes that died
    have left beside it."""
    with _turn:
        found = _own.get(os.getpid())
        if found is None or not _is_still_there(*found):
            _sweep(Path(tempfile.gettempdir()))
            path, handle = _made()
            if found is not None:
                os.close(found[1])
            found = _own[os.getpid()] = (path, handle)
            atexit.register(shutil.rmtree, path, ignore_errors=True)
        return found[0]


def _made() -> tuple[Path, int]:
    """Returns a new directory and the descriptor that locks it. Another process may have swept it before it was locked, as one
    that a dead process left."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        try:
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        fcntl.flock(handle, fcntl.LOCK_EX)
        if _is_still_there(path, handle):
            return path, handle
        os.close(handle)


def _is_still_there(path: Path, handle: int) -> bool:
    """Programs that clean up temporary files remove old directories, and then anybody may create one with the same name."""
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(handle))
    except FileNotFoundError:
        return False


def _sweep(place: Path) -> None:
    """Each process locks its directory for as long as it lives."""
    for entry in os.scandir(place):
        if not entry.name.startswith(_PREFIX):
            continue
        with suppress(OSError):
            handle = os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                found = os.fstat(handle)
                if found.st_uid == os.geteuid():
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(entry.path)
            finally:
                os.close(handle)
