"""Opens files on a share as hostile, and publishes files so that a crash leaves the old or the new state, never half of one."""

import errno
import fcntl
import json
import os
import re
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

LONGEST_DOCUMENT = 1 << 20
MOST_ENTRIES = 200_000  # in one record: 200 snapshots with 128 pairs of metadata have 60,000
_TEXT = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
LONGEST_RECORD = 16 << 20  # of a volume with 200 snapshots, each with all that a project may write on it
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
    """Turns the operating system's errors on a share into ShareUnavailable: no answer never means "not there"."""
    try:
        yield
    except OSError as error:
        if error.errno in _GONE:
            raise ShareUnavailable(f"the share {share} does not work: {error.strerror}") from error
        raise


def open_regular(share: Path, name: str, links: bool = False, flags: int = os.O_RDONLY) -> int:
    """Opens a file, by default for reading, without following links or waiting; returns its descriptor.

    What the name leads to is checked before it is opened (O_PATH), so that no pipe or device is opened; then the very inode
    that was checked is opened. Raises BadImage unless it is a regular file with one name (with ``links``: any number of names),
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
    """Tells whether the name still leads to the file that is open as the descriptor."""
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
    """Returns the names in a directory, in order, without that of the working directory. Raises ShareUnavailable."""
    with share_errors(share):
        return sorted(name for name in os.listdir(share) if name != workdir.NAME)


def age_seconds(share: Path, name: str) -> float:
    """Returns the seconds since the file's inode last changed, which a rename does too; 0 for a file that is gone."""
    try:
        return max(0.0, time.time() - os.stat(share / name, follow_symlinks=False).st_ctime)
    except FileNotFoundError:
        return 0.0


def stamp(share: Path, name: str) -> str:
    """Returns a text of the file's inode, its length and when it was last written. ``qemu-img commit -d`` leaves the latter
    unchanged for the file that it commits (qemu 7.2)."""
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
    """Creates an empty file, and gives it mode 0660 before anything is written to it (R11). Raises FileExistsError."""
    os.close(_create(share, name, 0o660))


def _create(share: Path, name: str, mode: int) -> int:
    handle = os.open(share / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        os.fchmod(handle, mode)  # whatever the umask removed
    except BaseException:
        os.close(handle)
        raise
    return handle


@contextmanager
def made_durable(share: Path, name: str) -> Iterator[Callable[[], None]]:
    """Fsyncs the file after the block, on a descriptor that was opened before it, as ``durable`` does."""
    handle = open_regular(share, name)
    try:
        with durable(handle) as begin:
            yield begin
    finally:
        os.close(handle)


@contextmanager
def durable(handle: int) -> Iterator[Callable[[], None]]:
    """Fsyncs an open file after the block. The block may call the function it gets to start the write-out while it does
    something else.

    Linux reports a failed write-back once to each descriptor that was open at that time. qemu-img exits with 0 after some of
    these failures (F2, qemu 7.2), and a descriptor opened afterwards would not learn of them. When the block raises, its error
    is the one that is raised.
    """
    begun: list[Future[None]] = []
    with ThreadPoolExecutor(1, "fsync") as helper:
        yield lambda: begun.append(helper.submit(os.fsync, handle))
    for each in begun:
        each.result()
    os.fsync(handle)


def open_lock(directory: Path, name: str) -> int:
    """Opens an empty file that is to be locked, mode 0600, and creates it if it is missing. Raises BadImage for what is not a
    file."""
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
    """Makes ``name``, an existing empty file, share every block of an open file, in constant time.

    Returns False and leaves the target untouched where the file system cannot do that (ext4, NFS before 4.2, another file
    system). Not for a file that somebody writes to: the copy lacks what the writer holds in memory.
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
    """Durably gives the file ``old`` the name ``new``, if no file has that name. May be repeated: when ``old`` is gone, it is
    done.

    It links, unlinks and fsyncs. So it never replaces another file, and the name goes to the very file that was checked. Raises
    FileExistsError, FileNotFoundError, BadImage for what is not a regular file.
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
                # With a directory's descriptor Python calls linkat, which follows the link in /proc to the open file.
                os.link(f"/proc/self/fd/{handle}", share / new, src_dir_fd=handle, follow_symlinks=True)
            except FileExistsError:
                if not same_file(handle, share, new):
                    raise
            with suppress(FileNotFoundError, BadImage):  # another file has taken the old name meanwhile and keeps it
                take_out(place, old, handle)
        finally:
            os.close(handle)
    sync_directory(share)


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
    """Gives a finished, verified file its name. Raises FileExistsError if another file has that name.

    The file is in the working directory, where nobody can replace it. The order is fsync(file), link, unlink, fsync(directory):
    link() never overwrites, and GlusterFS has no RENAME_NOREPLACE. On NFS a link that the client repeats may answer EEXIST
    although the first one worked, so the same inode counts as done.
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
    """Replaces a JSON file atomically and durably. Characters are not escaped, so the file is as long as its content."""
    write_bytes(share, name, json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n", mode)


def write_bytes(share: Path, name: str, data: bytes, mode: int = 0o660) -> None:
    """Replaces a small file atomically and durably. Raises BadImage when a directory has the name, FileNotFoundError when
    another process writes the same name at this moment: then that process's content is published."""
    temporary = f".tmp.{name}"
    with workdir.working(share) as place:
        with suppress(FileNotFoundError):
            os.unlink(place / temporary)  # left by an interrupted try
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


def read_json(share: Path, name: str, most: int = LONGEST_DOCUMENT) -> Any:
    """Returns a JSON file's document, or None when the file does not exist. Raises ValueError when the file is not JSON or is
    longer than ``most`` bytes."""
    try:
        start, length = read_start(share, name, most)
    except FileNotFoundError:
        return None
    if length > most:
        raise ValueError(f"it has {length} bytes, and at most {most} are read")
    return document_of(start)


def document_of(text: str | bytes) -> Any:
    """Reads a JSON document that anybody may have written. Raises ValueError when it is not JSON, is nested too deeply, or is
    long and has more entries than any record: brackets take twenty times their length in memory."""
    if len(text) > LONGEST_DOCUMENT:
        outside = _TEXT.sub(b"", text if isinstance(text, bytes) else text.encode())
        if sum(map(outside.count, (b"[", b"{", b","))) > MOST_ENTRIES:
            raise ValueError(f"it has more than {MOST_ENTRIES} entries")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def unlink(place: Path, name: str) -> None:
    """Unlinks a file durably in a directory that nobody else may enter. A file that is gone already is no error. Raises
    BadImage for a directory."""
    try:
        os.unlink(place / name)
    except FileNotFoundError:
        return
    except IsADirectoryError as error:
        raise BadImage(f"{name} is a directory: it is not removed") from error
    sync_directory(place)


@contextmanager
def seen(directory: Path, name: str) -> Iterator[int | None]:
    """Opens whatever has the name, even a link, without its content (O_PATH); what is checked inside the block is exactly what
    ``remove`` may be asked to remove. Yields None when nothing has the name."""
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
    """Removes a file durably; if the name is a link, the link. A file that is gone already is no error.

    ``handle`` is what was checked before, if anything was. Raises BadImage and leaves everything in place when the name leads
    to a directory or to another file than that.
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
    """Unlinks the name of an open file in the working directory. It is moved there first, so that it is this file that is
    unlinked."""
    with workdir.working(share) as place:
        to = trash_name(name)
        move_to(share / name, place / to, handle)
        unlink(place, to)


def remove_temporary(share: Path, name: str) -> None:
    """Durably removes a file that has no name on the share yet. A file that is gone already is no error."""
    if name in workdir.lying(share):
        with workdir.working(share) as place:
            unlink(place, name)
    remove(share, name)  # a file from a release that had no working directory


def move_to(name: Path, to: Path, handle: int) -> None:
    """Moves the open file into a directory that nobody else may enter.

    A user who may write to the share may put another file in its place. That file goes back, and BadImage is raised. Raises
    FileNotFoundError.
    """
    os.rename(name, to)
    found = os.stat(to, follow_symlinks=False)
    if os.path.samestat(found, os.fstat(handle)):
        return
    with suppress(OSError):  # never replaces what has the name now
        if stat.S_ISDIR(found.st_mode):
            os.rename(to, name)
        else:
            os.link(to, name, follow_symlinks=False)
            os.unlink(to)
    raise BadImage(f"another file was put in place of {name.name} while it was removed")


def is_locked(share: Path, name: str) -> bool:
    """Tells whether some program holds a lock on the file, as QEMU does on every image it has open.

    QEMU takes OFD byte locks at 100-203 (qemu 7.2, block/file-posix.c). They vanish with the process that holds them.
    """
    return _holds(share, name, _QEMU_LOCKS)


def is_written(share: Path, name: str) -> bool:
    """Tells whether QEMU has the file open for writing: then byte 101 is locked. An image that only backs others does not have
    that lock."""
    return _holds(share, name, _QEMU_WRITE_LOCK)


def is_written_open(handle: int) -> bool:
    """Like ``is_written``, for an open file."""
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
