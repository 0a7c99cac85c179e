"""Mounts the shares of network file systems where Nova and Cinder mount them too."""

import fcntl
import hashlib
import os
import re
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stillframe.errors import HostCommandFailed, ShareUnavailable
from stillframe.host.run import Limits, attempt

Kind = Literal["nfs", "glusterfs"]
FAMILIES: dict[Kind, tuple[str, ...]] = {"nfs": ("nfs", "nfs4"), "glusterfs": ("fuse.glusterfs",)}
MOUNT_SECONDS = 30.0
_MOUNTINFO = Path("/proc/self/mountinfo")
_NETWORK = re.compile(r"nfs4?|cifs|smb3?|ceph|9p|afs|gfs2?|ocfs2|lustre|beegfs|fuse\..*|fuse")
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class Mount:
    """One line of /proc/self/mountinfo: what is mounted where, and with which options."""

    point: str
    fstype: str
    source: str
    options: frozenset[str]


def mount_point(base: Path, export: str) -> Path:
    """Returns the mount point of a share: ``base``/md5(export), as in Nova (libvirt volume drivers) and Cinder (remotefs). The
    export counts character by character as the list of shares has it: one more slash makes another directory."""
    return base / hashlib.md5(export.encode(), usedforsecurity=False).hexdigest()


def find(point: Path) -> Mount | None:
    """Returns what is mounted at ``point``, the topmost mount, or None. The point itself is never touched, because a share
    whose server is gone would block the caller."""
    place = str(_resolved(point))
    found = [mount for mount in read_mountinfo(_MOUNTINFO.read_text()) if mount.point == place]
    return found[-1] if found else None


def holding(path: Path) -> Mount | None:
    """Returns the file system that a path is on, by what is mounted above it; the path itself is not looked at."""
    above = {str(each) for each in (path, *path.parents)}
    found = [mount for mount in read_mountinfo(_MOUNTINFO.read_text()) if mount.point in above]
    return max(
        reversed(found), key=lambda mount: len(mount.point), default=None
    )  # of several at one point the last hides the others


def network_points() -> list[str]:
    """Returns the mount points of file systems that ask a server, and so hang while it is away."""
    return [mount.point for mount in read_mountinfo(_MOUNTINFO.read_text()) if _NETWORK.fullmatch(mount.fstype)]


def mount(kind: Kind, export: str, point: Path, options: Sequence[str]) -> None:
    """Mounts a share at ``point``, which is created with mode 0755; does nothing when it is mounted already.

    Needs root, except when the share is mounted already. Takes at most 2 * MOUNT_SECONDS: that long another process may hold
    the lock before this one mounts. Raises ShareUnavailable with the words of mount, or when something else is mounted there.
    """
    with _one_at_a_time(point.parent):
        present = find(point)
        if present is None:
            _mount(kind, export, point, options)
            present = find(point)
    if not _is(present, kind, export):
        mounted = f"{present.source} ({present.fstype})" if present else "nothing"
        raise ShareUnavailable(f"the share {export} is not mounted at {point}: {mounted} is mounted there")


def unmount(point: Path) -> None:
    """Unmounts whatever is mounted at ``point``; no error when nothing is. Raises ShareUnavailable while files are open.

    The unmount is never "lazy": a guest that still writes would continue to write where nobody sees it.
    """
    if find(point) is not None:
        _run(["umount", "--", str(_resolved(point))], f"{point} cannot be unmounted")


def read_mountinfo(text: str) -> list[Mount]:
    """Reads the lines of /proc/<pid>/mountinfo, in the order of mounting. See proc(5)."""
    found = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, (fstype, source, superoptions) = before.split(" "), after.split(" ", 2)
        options = frozenset(fields[5].split(",")) | frozenset(superoptions.split(","))
        found.append(Mount(_unescape(fields[4]), fstype, _unescape(source), options))
    return found


def _mount(kind: Kind, export: str, point: Path, options: Sequence[str]) -> None:
    try:
        point.mkdir(exist_ok=True)
        point.chmod(0o755)
    except OSError as error:
        raise ShareUnavailable(f"the mount point {point} cannot be made: {error.strerror}") from error
    with_options = ["-o", ",".join(options)] if options else []
    try:
        _run(["mount", "-t", kind, *with_options, "--", export, str(point)], f"the share {export} cannot be mounted at {point}")
    except ShareUnavailable:
        with suppress(ShareUnavailable):
            unmount(point)  # a GlusterFS client that found no volume may leave a dead mount behind
        raise


def _run(command: list[str], failure: str) -> None:
    try:
        outcome = attempt(command, cwd=Path("/"), limits=_limits())
    except HostCommandFailed as error:
        raise ShareUnavailable(f"{failure}: {error.message}") from error
    if outcome.code != 0:
        raise ShareUnavailable(f"{failure}: {outcome.complaint or f'{command[0]} failed with exit code {outcome.code}'}")


def _limits() -> Limits:
    """Limits only the time: the GlusterFS client is a process that stays, and it keeps the limits of the mount that started
    it."""
    names = (resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_NOFILE)
    cpu_seconds, address_space, open_files = (resource.getrlimit(name)[1] for name in names)
    return Limits(MOUNT_SECONDS, cpu_seconds, address_space, open_files)


@contextmanager
def _one_at_a_time(base: Path) -> Iterator[None]:
    """Two workers of one host may want the same share at once, and a FUSE file system would then be mounted twice."""
    try:
        base.mkdir(mode=0o755, parents=True, exist_ok=True)
        handle = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ShareUnavailable(f"the directory of mount points {base} cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _is(found: Mount | None, kind: Kind, export: str) -> bool:
    return found is not None and found.fstype in FAMILIES[kind] and _same(found.source, export)


def _same(source: str, export: str) -> bool:
    """Ignores a trailing slash of the export: the kernel shows ``host:/path/`` without it."""
    return source.rstrip("/") == export.rstrip("/")


def _resolved(point: Path) -> Path:
    return point.parent.resolve() / point.name


def _unescape(word: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), word)
