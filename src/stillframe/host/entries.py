"""Lists a share's directory, entry by entry, without opening anything. Writes small texts beside it, durably."""

import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from stillframe.host import files, workdir


@dataclass(frozen=True)
class Entry:
    """One directory entry; links are not followed. ``mode`` holds the permission bits; ``length`` and ``allocated`` are in
    bytes.

    ``changed`` is the time of the inode's last change, which a rename moves too; ``written`` is that of the content's last
    change. Both are in seconds since the epoch.
    """

    name: str
    mode: int
    regular: bool
    links: int
    length: int
    allocated: int
    changed: float
    written: float = 0.0


def look(directory: Path) -> Mapping[str, Entry]:
    """Returns every entry by name, including those of the working directory. What goes away meanwhile is left out. Raises
    ShareUnavailable."""
    found: dict[str, Entry] = {}
    for name in files.listing(directory):
        _add(found, directory, name)
    with files.share_errors(directory), suppress(FileNotFoundError), workdir.working(directory, make=False) as place:
        for name in os.listdir(place):
            _add(found, place, name)
    return found


def _add(found: dict[str, Entry], directory: Path, name: str) -> None:
    with files.share_errors(directory), suppress(FileNotFoundError):
        found[name] = _entry(name, os.stat(directory / name, follow_symlinks=False))


def _entry(name: str, found: os.stat_result) -> Entry:
    mode, regular = stat.S_IMODE(found.st_mode), stat.S_ISREG(found.st_mode)
    return Entry(name, mode, regular, found.st_nlink, found.st_size, found.st_blocks * 512, found.st_ctime, found.st_mtime)


def directory_mode(directory: Path) -> int:
    """Returns the permission bits of the directory itself. Raises ShareUnavailable."""
    with files.share_errors(directory):
        return stat.S_IMODE(os.stat(directory).st_mode)


def set_mode(directory: Path, name: str, mode: int) -> None:
    """Changes the permission bits of a regular file. Raises BadImage for anything else, FileNotFoundError."""
    handle = files.open_regular(directory, name)
    try:
        os.fchmod(handle, mode)
    finally:
        os.close(handle)


def read_text(directory: Path, name: str) -> str | None:
    """Returns a small text, with what is not UTF-8 escaped; None when there is no such file."""
    try:
        start, _ = files.read_start(directory, name, 1 << 20)
    except FileNotFoundError:
        return None
    return start.decode(errors="surrogateescape")


def write_text(directory: Path, name: str, text: str) -> None:
    """Replaces a small text, as ``read_text`` returned it, atomically and durably. It keeps its mode, as far as that is within
    0660; a new one has 0660."""
    with files.seen(directory, name) as handle:
        mode = 0o660 if handle is None else os.fstat(handle).st_mode & 0o660
    files.write_bytes(directory, name, text.encode(errors="surrogateescape"), mode)


def append_line(path: Path, line: str) -> None:
    """Adds one line to a text file of mode 0600, which is created if it is missing. The line is durable when this returns."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    handle = files.open_regular(path.parent, path.name, flags=os.O_WRONLY | os.O_APPEND)
    try:
        os.write(handle, line.encode() + b"\n")
        os.fsync(handle)
    finally:
        os.close(handle)
    files.sync_directory(path.parent)
