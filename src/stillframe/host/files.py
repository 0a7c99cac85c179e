"""Files on a share: opened as hostile, published so that a crash leaves the old or the new state, never a half one."""

import errno
import fcntl
import json
import os
import stat
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from stillframe.chain.names import trash_name
from stillframe.errors import BadImage, ShareUnavailable
from stillframe.host import workdir

_GONE = (errno.ENOENT, errno.ESTALE, errno.ENOTCONN, errno.EIO, errno.ENOTDIR, errno.ENOSPC, errno.EDQUOT, errno.EROFS)
SHARE_WORDS = (  # what a program says when the share is to blame (strerror of the C locale)
    "No space left on device",
    "Disk quota exceeded",
    "Transport endpoint is not connected",
    "Stale file handle",
)
LOCK_WORDS = ('Failed to get "', 'Failed to get shared "')  # what QEMU 7.2 says when another program has a lock on an image
_FLOCK = struct.Struct("hhqqi4x")
_FICLONE = 0x40049409  # _IOW(0x94, 9, int), linux/fs.h
_NO_REFLINK = (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS)
_QEMU_LOCKS, _QEMU_WRITE_LOCK = (100, 104), (101, 1)


@contextmanager
def share_errors(share: Path) -> Iterator[None]:
    """Turns operating-system errors of a share into ShareUnavailable: no answer never means "not there"."""
    try:
        yield
    except OSError as error:
        if error.errno in _GONE:
            raise ShareUnavailable(f"the share {share} does not work: {error.strerror}") from error
        raise


def open_regular(share: Path, name: str, links: bool = False, flags: int = os.O_RDONLY) -> int:
    """Opens a file, for reading by default, without following links or waiting; returns its descriptor.

    What it is is looked at before it is opened (O_PATH), so that no pipe or device is, and the very inode that was looked at is
    opened then. Raises BadImage unless it is a regular file with one name (with ``links``: any number of names),
    FileNotFoundError when it does not exist.
    """
    seen = os.open(share / name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(seen)
        if not stat.S_ISREG(found.st_mode):
            raise BadImage(f"{name} is a symbolic link or a special file")
        if found.st_nlink != 1 and not links:
            raise BadImage(f"{name} is not a regular file with one name")
        return os.open(f"/proc/self/fd/{seen}", flags | os.O_NONBLOCK | os.O_CLOEXEC)
    finally:
        os.close(seen)


def same_file(handle: int, share: Path, name: str) -> bool:
    """Tells whether the name still leads to the file of the descriptor."""
    try:
        found = os.stat(share / name, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(handle))


def read_start(share: Path, name: str, length: int) -> tuple[bytes, int]:
    """Returns the first ``length`` bytes and the file's length in bytes."""
    handle = open_regular(share, name)
    try:
        return os.pread(handle, length, 0), os.fstat(handle).st_size
    finally:
        os.close(handle)


def exists(share: Path, name: str) -> bool:
    """Tells whether a directory entry of this name exists, links included. Raises ShareUnavailable if the share is gone."""
    with share_errors(share):
        return name in os.listdir(share)


def listing(share: Path) -> list[str]:
    """Returns the names in a directory but that of the working directory, in order. Raises ShareUnavailable."""
    with share_errors(share):
        return sorted(name for name in os.listdir(share) if name != workdir.NAME)


def age_seconds(share: Path, name: str) -> float:
    """Returns the seconds since the file's inode last changed, as a rename does; 0 for a file that is gone."""
    try:
        return max(0.0, time.time() - os.stat(share / name, follow_symlinks=False).st_ctime)
    except FileNotFoundError:
        return 0.0


def stamp(share: Path, name: str) -> str:
    """Returns which file it is, its length and when it was written last. ``qemu-img commit -d`` leaves that of the file it
    commits as it was (qemu 7.2)."""
    seen = os.stat(share / name, follow_symlinks=False)
    return f"{seen.st_ino} {seen.st_size} {seen.st_mtime_ns}"


def allocated(share: Path, name: str) -> int:
    """Returns the bytes the file occupies."""
    return os.stat(share / name, follow_symlinks=False).st_blocks * 512


def total_bytes(share: Path) -> int:
    with share_errors(share):
        found = os.statvfs(share)
    return found.f_blocks * found.f_frsize


def free_bytes(share: Path) -> int:
    with share_errors(share):
        found = os.statvfs(share)
    return found.f_bavail * found.f_frsize


def create_empty(share: Path, name: str) -> None:
    """Makes a new empty file with mode 0660 before anything is written to it (R11). Raises FileExistsError."""
    os.close(_create(share, name, 0o660))


def _create(share: Path, name: str, mode: int) -> int:
    handle = os.open(share / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        os.fchmod(handle, mode)  # whatever the umask took away
    except BaseException:
        os.close(handle)
        raise
    return handle


@contextmanager
def made_durable(share: Path, name: str) -> Iterator[Callable[[], None]]:
    """Fsyncs the file after the block, on a descriptor opened before it, as ``durable`` does."""
    handle = open_regular(share, name)
    try:
        with durable(handle) as begin:
            yield begin
    finally:
        os.close(handle)


@contextmanager
def durable(handle: int) -> Iterator[Callable[[], None]]:
    """Fsyncs an open file after the block.

    The block may call what it is given to have the writing-out begin while it does something else.

    Linux tells a failed write-back to descriptors that were open at that time, once each; qemu-img ends with 0 after
    some of them (F2, qemu 7.2), and a descriptor opened afterwards would hear nothing. When the block raises,
    its error is what counts.
    """
    begun: list[Future[None]] = []
    with ThreadPoolExecutor(1, "fsync") as helper:
        yield lambda: begun.append(helper.submit(os.fsync, handle))
    for each in begun:
        each.result()
    os.fsync(handle)


def open_lock(directory: Path, name: str) -> int:
    """Opens an empty file to be locked, mode 0600, which is made when it is missing. Raises BadImage for what is no file."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        handle = os.open(directory / name, flags, 0o600)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise BadImage(f"{name} is a symbolic link or a special file") from error
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise BadImage(f"{name} is a special file")
    return handle


def reflink(source: int, directory: Path, name: str) -> bool:
    """Makes ``name``, an existing empty file, share every block of an open file: constant time, whatever the size.

    Returns False, with the target untouched, where the file system cannot do that (ext4, NFS before 4.2, another file
    system). Not for a file somebody writes to: what its writer holds in memory is not in the copy.
    """
    handle = open_regular(directory, name, flags=os.O_WRONLY)
    try:
        fcntl.ioctl(handle, _FICLONE, source)
    except OSError as error:
        if error.errno in _NO_REFLINK:
            return False
        raise
    finally:
        os.close(handle)
    return True


def rename_new(share: Path, old: str, new: str) -> None:
    """Gives the file ``old`` the name ``new`` durably, where no file has it. May be repeated: ``old`` gone is done.

    link, unlink, fsync: never takes the place of another file, and gives the name to the very file that was looked at. Raises
    FileExistsError, FileNotFoundError, BadImage for what is no regular file.
    """
    with workdir.where(share, old) as place:
        try:
            handle = open_regular(place, old, links=True)
        except FileNotFoundError:
            os.stat(share / new, follow_symlinks=False)
            sync_directory(share)
            return
        try:
            try:
                # With a directory's descriptor Python calls linkat, which follows the link to what is open.
                os.link(f"/proc/self/fd/{handle}", share / new, src_dir_fd=handle, follow_symlinks=True)
            except FileExistsError:
                if not same_file(handle, share, new):
                    raise
            with suppress(FileNotFoundError, BadImage):  # another file has the old name by now: it keeps it
                take_out(place, old, handle)
        finally:
            os.close(handle)
    sync_directory(share)


def share_mode(share: Path, name: str) -> None:
    """Gives a new file mode 0660, whatever the program that made it asked for (qemu-img asks for 0644)."""
    handle = open_regular(share, name)
    try:
        os.fchmod(handle, 0o660)
    finally:
        os.close(handle)


def sync_file(share: Path, name: str) -> None:
    handle = open_regular(share, name, links=True)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_directory(share: Path) -> None:
    handle = os.open(share, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def publish(share: Path, temporary: str, name: str) -> None:
    """Gives a finished, verified file its name. Fails with FileExistsError if the name is taken by another file.

    The file lies in the working directory, where nobody puts another one in its place. fsync(file), link, unlink,
    fsync(directory): link() refuses to overwrite, and GlusterFS has no RENAME_NOREPLACE. A retried link on NFS may answer
    EEXIST though the first one worked, so the same inode counts as done.
    """
    with workdir.working(share) as place:
        sync_file(place, temporary)
        try:
            os.link(place / temporary, share / name, follow_symlinks=False)
        except FileExistsError:
            if not os.path.samestat(*(os.stat(each, follow_symlinks=False) for each in (place / temporary, share / name))):
                raise
        os.unlink(place / temporary)
    sync_directory(share)


def write_json(share: Path, name: str, document: Any, mode: int = 0o660) -> None:
    """Replaces a small JSON file atomically and durably."""
    write_bytes(share, name, json.dumps(document, indent=1, sort_keys=True).encode() + b"\n", mode)


def write_bytes(share: Path, name: str, data: bytes, mode: int = 0o660) -> None:
    """Replaces a small file atomically and durably. Raises BadImage when a directory stands in its place, FileNotFoundError
    when another process writes the same name at this moment: what that one writes is published.
    """
    temporary = f".tmp.{name}"
    with workdir.working(share) as place:
        with suppress(FileNotFoundError):
            os.unlink(place / temporary)  # what an interrupted try left
        handle = _create(place, temporary, mode)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(handle, rest) :]
            os.fsync(handle)
            if not same_file(handle, place, temporary):
                raise FileNotFoundError(errno.ENOENT, "another process writes it at this moment", name)
            os.rename(place / temporary, share / name)
        except (IsADirectoryError, NotADirectoryError) as error:
            raise BadImage(f"{name} is a directory: it cannot be written") from error
        finally:
            os.close(handle)
    sync_directory(share)


def read_json(share: Path, name: str) -> Any:
    """Returns a small JSON file's document, or None when the file does not exist. Raises ValueError for what is none."""
    try:
        start, _ = read_start(share, name, 1 << 20)
    except FileNotFoundError:
        return None
    return document_of(start)


def document_of(text: str | bytes) -> Any:
    """Reads a JSON document that anybody may have written. Raises ValueError for what is none, or is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def unlink(place: Path, name: str) -> None:
    """Unlinks a file durably in a directory that nobody else may enter; one that is gone already is fine. Raises BadImage for a
    directory."""
    try:
        os.unlink(place / name)
    except FileNotFoundError:
        return
    except IsADirectoryError as error:
        raise BadImage(f"{name} is a directory: it is not removed") from error
    sync_directory(place)


@contextmanager
def seen(directory: Path, name: str) -> Iterator[int | None]:
    """Holds whatever has the name, a link itself, unopened (O_PATH): what is looked at inside is what ``remove`` may be told to
    remove. None when nothing has it."""
    try:
        handle = os.open(directory / name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    try:
        yield handle
    finally:
        os.close(handle)


def remove(share: Path, name: str, handle: int | None = None) -> None:
    """Removes a file durably, the name itself if it is a link; one that is gone already is fine. ``handle`` is what was looked
    at before, if anything was. Raises BadImage, with everything in its place, for a directory, and for another file than that.
    """
    with seen(share, name) as now:
        if now is None:
            return
        if stat.S_ISDIR(os.fstat(now).st_mode):
            raise BadImage(f"{name} is a directory: it is not removed")
        with suppress(FileNotFoundError):
            take_out(share, name, now if handle is None else handle)
    sync_directory(share)


def take_out(share: Path, name: str, handle: int) -> None:
    """Unlinks the name of an open file in the working directory, where it was moved first: what is unlinked is that file."""
    with workdir.working(share) as place:
        to = trash_name(name)
        move_to(share / name, place / to, handle)
        unlink(place, to)


def remove_temporary(share: Path, name: str) -> None:
    """Removes a file that has no name on the share yet, durably; one that is gone is fine."""
    if name in workdir.lying(share):
        with workdir.working(share) as place:
            unlink(place, name)
    remove(share, name)  # a file made before there was a working directory


def move_to(name: Path, to: Path, handle: int) -> None:
    """Moves the file that is open into a directory nobody else may enter. Whoever may write to the share may put another one in
    its place: that one goes back, and BadImage is raised. Raises FileNotFoundError."""
    os.rename(name, to)
    found = os.stat(to, follow_symlinks=False)
    if os.path.samestat(found, os.fstat(handle)):
        return
    with suppress(OSError):  # not over what has the name now
        if stat.S_ISDIR(found.st_mode):
            os.rename(to, name)
        else:
            os.link(to, name, follow_symlinks=False)
            os.unlink(to)
    raise BadImage(f"another file was put in place of {name.name} while it was removed")


def is_locked(share: Path, name: str) -> bool:
    """Tells whether some program holds a lock on the file, as QEMU does on every image it has open.

    QEMU takes OFD byte locks at 100-203 (qemu 7.2, block/file-posix.c). OFD locks vanish with their process.
    """
    return _holds(share, name, _QEMU_LOCKS)


def is_written(share: Path, name: str) -> bool:
    """Tells whether QEMU has the file open for writing: byte 101, which an image that only backs others does not have."""
    return _holds(share, name, _QEMU_WRITE_LOCK)


def is_written_open(handle: int) -> bool:
    """As ``is_written`` for an open file."""
    return _holds_open(handle, _QEMU_WRITE_LOCK)


def _holds(share: Path, name: str, span: tuple[int, int]) -> bool:
    handle = open_regular(share, name)
    try:
        return _holds_open(handle, span)
    finally:
        os.close(handle)


def _holds_open(handle: int, span: tuple[int, int]) -> bool:
    answer = fcntl.fcntl(handle, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, *span, 0))
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)
