"""Trusts an existing file or directory only if nobody but this user and root could have made or changed it.

A user who may write to a directory may replace any file in it, unless the directory is sticky and the file belongs to somebody
else (unlink(2), rename(2)). So every directory above the file counts, as in sshd's StrictModes.
"""

import os
import stat
from pathlib import Path

from stillframe.errors import BadConfiguration

WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def resolved(path: Path, what: str) -> Path:
    """Returns the path without symbolic links. Raises BadConfiguration for a link on the way that another user made."""
    for each in _way(path.absolute()):
        found = _seen(each)
        if found is not None and stat.S_ISLNK(found.st_mode) and not _is_ours(found):
            raise BadConfiguration(f"{what}: {each} is a symbolic link of {_name(found)}; name a path without it")
    return path.resolve()


def require_way(path: Path, what: str) -> None:
    """Raises BadConfiguration when another user may replace ``path`` or change it. The check ends at the first directory that
    does not exist yet."""
    for each in _way(path):
        found = _seen(each)
        if found is None:
            return
        if not _is_ours(found):
            raise BadConfiguration(f"{what}: {each} belongs to {_name(found)}; use one that belongs to this user or to root")
        # Only for directories above: in a sticky one nobody may rename or remove what belongs to another user.
        sticky = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX and each != path
        if found.st_mode & WRITABLE_BY_OTHERS and not sticky and not stat.S_ISLNK(found.st_mode):
            raise BadConfiguration(
                f"{what}: users other than its owner may write to {each} (mode {stat.S_IMODE(found.st_mode):04o});"
                f" check what is there, then remove that right with 'chmod go-w {each}'"
            )


def require_place(path: Path, what: str) -> None:
    """Raises BadConfiguration when another user may replace the directory ``path``, a share. Who may write inside it is not
    checked. Symbolic links above it are followed; those of other users are refused. What does not exist yet is no fault,
    because we create it."""
    for place in {path.absolute(): None, resolved(path, what): None}:
        for each in reversed(place.parents):
            _require_directory(each, what)
        above, found = _seen(place.parent), _seen(place)
        sticky = above is not None and stat.S_ISDIR(above.st_mode) and above.st_mode & WRITABLE_BY_OTHERS
        if sticky and found is not None and not _is_ours(found):
            raise BadConfiguration(
                f"{what}: {place} belongs to {_name(found)}, and others may create it in {place.parent}; choose one in a"
                " directory that only this user or root may write to"
            )


def require_base(base: Path, what: str) -> None:
    """Raises BadConfiguration when another user may replace a directory in ``base``, such as a mount point, even before it
    exists: nobody else may write to ``base``. What is in it is not checked, because looking at a share whose server is away
    blocks. What does not exist yet is no fault, because we create it."""
    for place in {base.absolute(): None, resolved(base, what): None}:
        for each in _way(place):
            _require_directory(each, what)
        found = _seen(place)
        if found is not None and stat.S_ISDIR(found.st_mode) and found.st_mode & WRITABLE_BY_OTHERS:
            raise BadConfiguration(
                f"{what}: users other than its owner may make directories in {place} (mode {stat.S_IMODE(found.st_mode):04o})"
                " where shares are mounted; choose a directory that only this user or root may write to"
            )


def _require_directory(path: Path, what: str) -> None:
    found = _seen(path)
    if found is None or stat.S_ISLNK(found.st_mode):
        return
    if not _is_ours(found):
        raise BadConfiguration(
            f"{what}: {path} belongs to {_name(found)}, who could put another directory in its place; choose one below"
            " directories that belong to this user or to root"
        )
    if found.st_mode & WRITABLE_BY_OTHERS and not found.st_mode & stat.S_ISVTX:
        raise BadConfiguration(
            f"{what}: users other than its owner may write to {path} (mode {stat.S_IMODE(found.st_mode):04o}) and put another"
            f" directory in its place; remove that right with 'chmod go-w {path}', or choose one elsewhere"
        )


def require_contents(directory: Path, what: str, but: tuple[str, ...] = ()) -> None:
    """Raises BadConfiguration for an entry that another user owns or may write to, or that has a second name elsewhere;
    ``but`` are entries with rules of their own."""
    for entry in sorted(os.scandir(directory), key=lambda each: each.name):
        if entry.name in but:
            continue
        try:
            found = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        path = Path(entry.path)
        if not _is_ours(found):
            raise BadConfiguration(
                f"{what}: {path} belongs to {_name(found)}, who is neither this user nor root; check it, then remove it"
            )
        if stat.S_ISLNK(found.st_mode):
            continue
        if found.st_mode & WRITABLE_BY_OTHERS:
            raise BadConfiguration(
                f"{what}: users other than its owner may write to {path} (mode {stat.S_IMODE(found.st_mode):04o});"
                f" check what it holds, then run 'chmod go-w {path}'"
            )
        if stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
            raise BadConfiguration(
                f"{what}: {path} has another name elsewhere (a hard link), so writing to it would change that file; replace it"
                " with a copy"
            )


def _way(path: Path) -> list[Path]:
    """The path and every directory above it, from the root down."""
    return [*reversed(path.parents), path]


def _seen(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _is_ours(found: os.stat_result) -> bool:
    return found.st_uid in (0, os.geteuid())


def _name(found: os.stat_result) -> str:
    return f"user {found.st_uid}"
