"""A file or directory that existed before is trusted only if nobody but this user and root could have made or changed it.

Whoever may write to a directory may put another file in place of one that lies there, unless the directory is sticky and the
file is another user's (unlink(2), rename(2)). So every directory on the way counts, as in sshd's StrictModes.
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
    """Raises BadConfiguration when another user may put something else in place of ``path``, or change it. Directories that
    do not exist yet are not looked for."""
    for each in _way(path):
        found = _seen(each)
        if found is None:
            return
        if not _is_ours(found):
            raise BadConfiguration(f"{what}: {each} belongs to {_name(found)}; use one that belongs to this user or to root")
        # Only directories above: in a sticky one nobody else may rename or remove what is another user's.
        sticky = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX and each != path
        if found.st_mode & WRITABLE_BY_OTHERS and not sticky and not stat.S_ISLNK(found.st_mode):
            raise BadConfiguration(
                f"{what}: users other than its owner may write to {each} (mode {stat.S_IMODE(found.st_mode):04o});"
                f" look at what lies there, then take their right away with 'chmod go-w {each}'"
            )


def require_place(path: Path, what: str) -> None:
    """Raises BadConfiguration when another user may put another directory in place of ``path``, a share: who may write inside
    is not looked at. Links on the way are followed, those of other users are refused. What does not exist yet is made by us.
    """
    for place in {path.absolute(): None, resolved(path, what): None}:
        for each in reversed(place.parents):
            _require_directory(each, what)
        above, found = _seen(place.parent), _seen(place)
        sticky = above is not None and stat.S_ISDIR(above.st_mode) and above.st_mode & WRITABLE_BY_OTHERS
        if sticky and found is not None and not _is_ours(found):
            raise BadConfiguration(
                f"{what}: {place} belongs to {_name(found)}, and anybody may make it in {place.parent}; choose a share in a"
                " directory that only this user or root may write to"
            )


def _require_directory(path: Path, what: str) -> None:
    found = _seen(path)
    if found is None or stat.S_ISLNK(found.st_mode):
        return
    if not _is_ours(found):
        raise BadConfiguration(
            f"{what}: {path} belongs to {_name(found)}, who could put another directory in place of the share; choose one below"
            " directories that belong to this user or to root"
        )
    if found.st_mode & WRITABLE_BY_OTHERS and not found.st_mode & stat.S_ISVTX:
        raise BadConfiguration(
            f"{what}: users other than its owner may write to {path} (mode {stat.S_IMODE(found.st_mode):04o}) and put another"
            f" directory in place of the share; take their right away with 'chmod go-w {path}', or choose a share elsewhere"
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
                f"{what}: {path} belongs to {_name(found)}: somebody put it there; look at it, then remove it"
            )
        if stat.S_ISLNK(found.st_mode):
            continue
        if found.st_mode & WRITABLE_BY_OTHERS:
            raise BadConfiguration(
                f"{what}: users other than its owner may write to {path} (mode {stat.S_IMODE(found.st_mode):04o});"
                f" look at what it holds, then 'chmod go-w {path}'"
            )
        if stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
            raise BadConfiguration(
                f"{what}: {path} has another name elsewhere (a hard link), so writing to it would change that file; replace it"
                " by a copy"
            )


def _way(path: Path) -> list[Path]:
    """The path and all above it, from the root on."""
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
