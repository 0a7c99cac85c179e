"""Manages the directory of a share that only the service may enter, and directories that are held by a descriptor.

A group may write to a share. Its members can put a link, a pipe or another file in place of any name there, between two of our
calls. So what we make or take apart is in ``.stillframe`` on the share, mode 0700 and ours. A directory is opened once, checked
through its descriptor, and used as ``/proc/self/fd/N`` from then on, so renaming it changes nothing for us.
"""

import errno
import logging
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stillframe.errors import BadConfiguration, BadImage, ShareUnavailable

LOG = logging.getLogger(__name__)
NAME = ".stillframe"
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@contextmanager
def held(directory: Path, *below: str) -> Iterator[Path]:
    """Opens a directory, and from there one after the other of ``below``, without following links. Yields a path that leads to
    the last one, whatever becomes of the names. Raises BadImage when one of ``below`` is not a directory, FileNotFoundError."""
    handle = os.open(directory, _OPEN)
    try:
        for name in below:
            inner = _enter(handle, name)
            os.close(handle)
            handle = inner
        yield Path(f"/proc/self/fd/{handle}")
    finally:
        os.close(handle)


def _enter(handle: int, name: str) -> int:
    try:
        return os.open(name, _OPEN | os.O_NOFOLLOW, dir_fd=handle)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise BadImage(f"{name} is not a directory: something else was put in its place") from error
        raise


@contextmanager
def working(share: Path, make: bool = True) -> Iterator[Path]:
    """Yields a path to the working directory of ``share``, which is created unless ``make`` is False. A share that nobody else
    may enter is its own working directory. Raises ShareUnavailable when somebody else created it or may enter it,
    FileNotFoundError when it is missing and not created."""
    with held(share) as outer:
        if _is_private(outer):
            yield outer
            return
        handle = _open_own(outer, share, make)
        try:
            yield Path(f"/proc/self/fd/{handle}")
        finally:
            os.close(handle)


def remove(share: Path) -> None:
    """Removes the working directory of a share, and what crashes left in it: trash and files that nobody published. May be
    repeated. Raises ShareUnavailable when somebody else made it."""
    with suppress(FileNotFoundError), held(share) as outer:
        if _is_private(outer):
            return
        with working(share, make=False) as place:
            for name in os.listdir(place):
                os.unlink(place / name)
        os.rmdir(outer / NAME)


def _open_own(outer: Path, share: Path, make: bool) -> int:
    if make:
        with suppress(FileExistsError):
            os.mkdir(outer / NAME, 0o700)  # it inherits the setgid bit, so its files get the share's group
    try:
        handle = os.open(outer / NAME, _OPEN | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR, errno.EACCES):
            raise
        raise ShareUnavailable(
            f"{share / NAME} is not a directory of this service's user ({error.strerror}). Find out who made it, and move it"
            " away: the service creates a new one"
        ) from error
    try:
        if _is_private(Path(f"/proc/self/fd/{handle}"), made=True):
            return handle
        found = os.fstat(handle)
        raise ShareUnavailable(
            f"{share / NAME} has mode {stat.S_IMODE(found.st_mode):04o} and belongs to user {found.st_uid}, but only this"
            " service may enter it. Find out who made it, and move it away: the service creates a new one"
        )
    except BaseException:
        os.close(handle)
        raise


def _is_private(directory: Path, made: bool = False) -> bool:
    """Tells whether only this process's user may enter.

    ``made``: we have just created it. With root_squash, what root creates belongs to another user; then the server is asked,
    which says to whom a file belongs that we create there.
    """
    found = os.stat(directory)
    if stat.S_IMODE(found.st_mode) & 0o077:
        return False
    return found.st_uid == os.geteuid() or (made and found.st_uid == _maker(directory))


def make_share(path: Path) -> None:
    """Creates a share's directory, mode 2770, with the working directory in it, unless it exists. Another process finds all of
    it or nothing: a directory that does not have its mode yet looks as if nobody else may enter it."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{NAME}-", dir=path.parent) as scratch:
        made = Path(scratch) / "share"
        made.mkdir()
        made.chmod(0o2770)  # mkdir's mode argument is cut by the umask and loses the setgid bit
        (made / NAME).mkdir(mode=0o700)
        try:
            made.rename(path)
        except OSError as error:  # somebody else was first: their directory is not empty, and is kept
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise


def keep_to_owner(directory: Path) -> None:
    """Takes from everybody but its owner the right to put files into a share: for one whose files another program of root's
    opens by their names, as tgtd does (tgt 1.0.85). A link put in place of a volume's file would give any file of the host to
    whoever attaches the volume. Raises BadConfiguration when it is another user's.
    """
    with held(directory) as place:
        found = os.stat(place)
        mode = stat.S_IMODE(found.st_mode)
        if found.st_uid not in (0, os.geteuid()):
            raise BadConfiguration(
                f"{directory} belongs to user {found.st_uid}, who could put a link in place of a volume's file, and the target"
                " daemon would follow it; give the directory to the service's user"
            )
        if mode & 0o022:
            os.chmod(place, mode & ~0o022)
            LOG.warning("%s had mode %04o; only its owner may put files into it from now on", directory, mode)


def make_private(directory: Path) -> None:
    """Creates a directory outside any share for the service's own files, mode 0700, unless it exists. Raises BadConfiguration
    when it belongs to another user (root is allowed), or when others may replace files in it."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with held(directory) as place:
        found = os.stat(place)
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid not in (0, os.geteuid()) or (mode & 0o022 and not mode & stat.S_ISVTX):
        raise BadConfiguration(
            f"{directory} has mode {mode:04o} and belongs to user {found.st_uid}: others could put files of theirs in place of"
            " the service's. Move it away, or give it to the service's user and chmod 0700 it"
        )


def _maker(directory: Path) -> int:
    name = f".owner.{secrets.token_hex(8)}"
    handle = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        return os.fstat(handle).st_uid
    finally:
        os.close(handle)
        with suppress(FileNotFoundError):
            os.unlink(directory / name)


@contextmanager
def where(share: Path, name: str) -> Iterator[Path]:
    """Returns the working directory when ``name`` is in it, else the share: for a caller that looks the name up later."""
    inside = name in lying(share)
    with working(share, make=False) if inside else held(share) as place:
        yield place


def lying(share: Path) -> list[str]:
    """Returns the names in the working directory; none when there is no such directory."""
    with suppress(FileNotFoundError), working(share, make=False) as inner:
        return os.listdir(inner)
    return []
