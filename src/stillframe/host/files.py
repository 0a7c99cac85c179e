"""Files on a share: opened as hostile, published so that a crash leaves the old or the new state, never a half one."""

import errno
import fcntl
import json
import os
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from stillframe.errors import BadImage, ShareUnavailable

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
TRASH_AT_ONCE = 16 << 20  # bytes of a file that is unlinked with nothing to wait for
TRASH_SECONDS = 3.0
TRASH_PIECE = 64 << 20
TRASH_PAUSE_SECONDS = 0.05
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


def open_regular(share: Path, name: str, links: bool = False) -> int:
    """Opens a file for reading without following links or waiting; returns its descriptor.

    Raises BadImage unless it is a regular file with one name (with ``links``: any number of names), FileNotFoundError when
    it does not exist.
    """
    directory = os.open(share, os.O_RDONLY | os.O_DIRECTORY)
    try:
        handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise BadImage(f"{name} is a symbolic link or a special file") from error
        raise
    finally:
        os.close(directory)
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode) or (found.st_nlink != 1 and not links):
        os.close(handle)
        raise BadImage(f"{name} is not a regular file with one name")
    return handle


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
    with share_errors(share):
        return sorted(os.listdir(share))


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
    handle = os.open(share / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o660)
    try:
        os.fchmod(handle, 0o660)  # whatever the umask took away
    finally:
        os.close(handle)


@contextmanager
def made_durable(share: Path, name: str) -> Iterator[Callable[[], None]]:
    """Fsyncs the file after the block, on a descriptor opened before it.

    The block may call what it is given to have the writing-out begin while it does something else.

    Linux tells a failed write-back to descriptors that were open at that time, once each; qemu-img ends with 0 after
    some of them (finding 2, qemu 7.2), and a descriptor opened afterwards would hear nothing. When the block raises,
    its error is what counts.
    """
    handle = open_regular(share, name)
    begun: list[Future[None]] = []
    try:
        with ThreadPoolExecutor(1, "fsync") as helper:
            yield lambda: begun.append(helper.submit(os.fsync, handle))
        for each in begun:
            each.result()
        os.fsync(handle)
    finally:
        os.close(handle)


def reflink(directory: Path, source_name: str, target: Path) -> bool:
    """Makes ``target``, an existing empty file, share every block of a file: constant time, whatever the size.

    Returns False, with the target untouched, where the file system cannot do that (ext4, NFS before 4.2, another file
    system). Not for a file somebody writes to: what its writer holds in memory is not in the copy.
    """
    source = open_regular(directory, source_name)
    try:
        handle = os.open(target, os.O_WRONLY | os.O_NOFOLLOW)
        try:
            fcntl.ioctl(handle, _FICLONE, source)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno in _NO_REFLINK:
            return False
        raise
    finally:
        os.close(source)
    return True


def rename_over(share: Path, old: str, new: str) -> None:
    """Gives ``old`` the name ``new`` durably, in place of the file that had it. May be repeated: ``old`` gone is done.

    Raises FileNotFoundError when neither name exists.
    """
    try:
        os.rename(share / old, share / new)
    except FileNotFoundError:
        os.stat(share / new, follow_symlinks=False)
    sync_directory(share)


def rename_new(share: Path, old: str, new: str) -> None:
    """Gives ``old`` the name ``new`` durably, where no file has it. May be repeated: ``old`` gone is done.

    link, unlink, fsync: never takes the place of another file. Raises FileExistsError, FileNotFoundError.
    """
    try:
        os.link(share / old, share / new, follow_symlinks=False)
    except FileExistsError:
        if not exists(share, old):
            return
        if not os.path.samefile(share / old, share / new):
            raise
    except FileNotFoundError:
        os.stat(share / new, follow_symlinks=False)
    with suppress(FileNotFoundError):
        os.unlink(share / old)
    sync_directory(share)


def make_share_directory(path: Path) -> None:
    """Makes a share's directory with mode 2770, unless it is there."""
    if not path.exists():
        path.mkdir(parents=True)
        path.chmod(0o2770)  # mkdir's own mode is cut by the umask and loses the setgid bit


def share_mode(share: Path, name: str) -> None:
    """Gives a new file mode 0660, whatever the program that made it asked for (qemu-img asks for 0644)."""
    handle = os.open(share / name, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fchmod(handle, 0o660)
    finally:
        os.close(handle)


def sync_file(share: Path, name: str) -> None:
    handle = os.open(share / name, os.O_RDONLY | os.O_NOFOLLOW)
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

    fsync(file), link, unlink, fsync(directory): link() refuses to overwrite, and GlusterFS has no RENAME_NOREPLACE.
    A retried link on NFS may answer EEXIST though the first one worked, so the same inode counts as done.
    """
    sync_file(share, temporary)
    try:
        os.link(share / temporary, share / name, follow_symlinks=False)
    except FileExistsError:
        if not os.path.samefile(share / temporary, share / name):
            raise
    os.unlink(share / temporary)
    sync_directory(share)


def write_json(share: Path, name: str, document: Any, mode: int = 0o660) -> None:
    """Replaces a small JSON file atomically and durably."""
    temporary = share / f".tmp.{name}"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
    try:
        os.fchmod(handle, mode)
        os.write(handle, json.dumps(document, indent=1, sort_keys=True).encode() + b"\n")
        os.fsync(handle)
    finally:
        os.close(handle)
    os.rename(temporary, share / name)
    sync_directory(share)


def read_json(share: Path, name: str) -> Any:
    """Returns a small JSON file's document, or None when the file does not exist."""
    try:
        start, _ = read_start(share, name, 1 << 20)
    except FileNotFoundError:
        return None
    return json.loads(start)


def remove(share: Path, name: str) -> None:
    """Unlinks a file durably; a file that is gone already is fine."""
    try:
        os.unlink(share / name)
    except FileNotFoundError:
        return
    sync_directory(share)


def trash(share: Path, name: str, trash_name: str) -> None:
    """Renames, fsyncs the directory, then unlinks: a crash in between leaves a name nothing refers to.

    A large file is unlinked a little later, behind the caller's back and in pieces: with the rename it is gone for everybody.
    Freeing its blocks keeps the disk busy, 0.75 ms a MiB were seen (ext4 mounted with ``discard``, Linux 6.18), and whoever
    waits for that disk just then, a guest or the journal, waits for all of it. Where little is free, room matters more.
    """
    try:
        os.rename(share / name, share / trash_name)
        later = allocated(share, trash_name) > TRASH_AT_ONCE and free_bytes(share) > total_bytes(share) // 10
    except FileNotFoundError:
        later = False
    sync_directory(share)
    if later:
        timer = threading.Timer(TRASH_SECONDS, unlink_in_pieces, (share, trash_name))
        timer.name, timer.daemon = "trash", True
        timer.start()
    else:
        remove(share, trash_name)


def unlink_in_pieces(share: Path, name: str) -> None:
    """Frees a file that nobody needs from its end, with pauses for others who use the disk. What it leaves is swept."""
    with suppress(OSError):
        size = os.stat(share / name, follow_symlinks=False).st_size
        while size > TRASH_PIECE:
            size -= TRASH_PIECE
            os.truncate(share / name, size)
            time.sleep(TRASH_PAUSE_SECONDS)
        remove(share, name)


def is_locked(share: Path, name: str) -> bool:
    """Tells whether some program holds a lock on the file, as QEMU does on every image it has open.

    QEMU takes OFD byte locks at 100-203 (qemu 7.2, block/file-posix.c). OFD locks vanish with their process.
    """
    return _holds(share, name, _QEMU_LOCKS)


def is_written(share: Path, name: str) -> bool:
    """Tells whether QEMU has the file open for writing: byte 101, which an image that only backs others does not have."""
    return _holds(share, name, _QEMU_WRITE_LOCK)


def _holds(share: Path, name: str, span: tuple[int, int]) -> bool:
    handle = open_regular(share, name)
    try:
        probe = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, *span, 0)
        answer = fcntl.fcntl(handle, fcntl.F_OFD_GETLK, probe)
    finally:
        os.close(handle)
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)
