"""Keeps headers and links from leading root to a file that whoever wrote them may not read.

A service that runs as root reads a disk's parent images for the disk's project. Who may write the disk's header, or put a link
in the way of a name in it, chooses which files these are. So each of these users must be able to read them without us (R24).
"""

import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_MOST_LINKS = 40  # the kernel's limit
_READ, _SEARCH = 4, 1
_TRUSTED_GROUP = 0


@dataclass(frozen=True)
class Writer:
    """A user, a group, or everybody, for whom ``number`` is not used."""

    kind: str
    number: int = 0

    def __str__(self) -> str:
        return "everybody" if self.kind == "everybody" else f"{self.kind} {self.number}"

    def may_read(self, real: Path) -> bool:
        """Tells whether the file's mode and those of the directories above it allow that. ``real`` has no links in it."""
        groups = self._groups()
        return self._may(os.stat(real), _READ, groups) and all(
            self._may(os.stat(each), _SEARCH, groups) for each in real.parents
        )

    def _may(self, found: os.stat_result, right: int, groups: list[int]) -> bool:
        shift = 6 if self == Writer("user", found.st_uid) else 3 if found.st_gid in groups else 0
        return bool(found.st_mode >> shift & right)

    def _groups(self) -> list[int]:
        if self.kind == "group":
            return [self.number]
        with suppress(KeyError):
            if self.kind == "user":
                known = pwd.getpwuid(self.number)
                return os.getgrouplist(known.pw_name, known.pw_gid)
        return []


def of(path: Path) -> set[Writer]:
    """Returns who may change a file or a directory, or replace a link; without root and the service's user. A directory whose
    files only their owners may replace (sticky) is nobody's but its owner's."""
    found = os.lstat(path)
    writers = {Writer("user", found.st_uid)} if found.st_uid not in (0, os.geteuid()) else set()
    if stat.S_ISLNK(found.st_mode) or (stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX):
        return writers
    if found.st_mode & stat.S_IWGRP and found.st_gid != _TRUSTED_GROUP:
        writers.add(Writer("group", found.st_gid))
    if found.st_mode & stat.S_IWOTH:
        writers.add(Writer("everybody"))
    return writers


def of_way(path: Path) -> set[Writer]:
    """Returns who may decide where a path leads: who may change a directory or a link on the way."""
    return {each for place in _passed(path) for each in of(place)}


def _passed(path: Path) -> Iterator[Path]:
    """The directories in which the names along the path are looked up, and the links that are followed."""
    current, rest, links = Path("/"), [*reversed(path.parts[1:])], 0
    while rest:
        part = rest.pop()
        if part == "..":
            current = current.parent
            continue
        yield current
        following = current / part
        if links > _MOST_LINKS or not following.is_symlink():
            current = following
            continue
        yield following
        links += 1
        target = Path(os.readlink(following))
        current = Path("/") if target.is_absolute() else current
        rest += reversed(target.parts[1:] if target.is_absolute() else target.parts)
