"""Makes private directories for files on their way: downloads, uploads and backups. They are never on a share (R16)."""

import os
import shutil
from collections.abc import Callable, Collection
from pathlib import Path

from stillframe.errors import ShareUnavailable
from stillframe.host import files, workdir


def make(base: Path, name: str) -> Path:
    """Returns a new, empty directory of mode 0700. What an interrupted try left under that name is removed. Raises
    ShareUnavailable when it cannot be created, BadConfiguration when others could replace it."""
    with files.share_errors(base):
        workdir.make_private(base)
        remove(base, name)
        path = base / name
        path.mkdir(mode=0o700)
    return path


def remove(base: Path, name: str) -> None:
    """Removes a directory that ``make`` made, with everything in it. One that is gone already is no error."""
    shutil.rmtree(base / name, ignore_errors=True)


def room(base: Path) -> int:
    """Returns the bytes that are free where ``base`` is or will be."""
    place = base
    while not place.exists():
        place = place.parent
    return files.free_bytes(place)


def require_room(base: Path, needed: int) -> None:
    """Raises ShareUnavailable, with numbers, unless ``needed`` bytes are free where ``base`` is."""
    free = room(base)
    if free < needed:
        raise ShareUnavailable(
            f"{base} has {free} bytes free, but {needed} are needed there meanwhile", free=free, needed=needed
        )


def sweep(base: Path, live: Callable[[], Collection[str]]) -> None:
    """Removes directories of operations that have ended. ``live`` is called after the directory was listed, so that it names
    every operation whose directory is new."""
    found = os.listdir(base) if base.is_dir() else []
    kept = set(live()) if found else set()
    for name in found:
        if name not in kept:
            remove(base, name)
