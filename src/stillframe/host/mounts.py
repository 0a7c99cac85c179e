"""Mounts the shares of network file systems, at the place where Nova and Cinder mount them too."""

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
    """Returns where a share belongs: ``base``/md5(export), the rule of Nova (libvirt volume drivers) and Cinder (remotefs).

    The export is taken letter by letter as it stands in the list of shares: a slash more makes another directory.
    """
    return base / hashlib.md5(export.encode(), usedforsecurity=False).hexdigest()


def find(point: Path) -> Mount | None:
    """Returns what is mounted at ``point``, the uppermost one, or None.

    The point itself is never looked at: a share whose server is gone would hold whoever touches it.
    """
    place = str(_resolved(point))
    found = [mount for mount in read_mountinfo(_MOUNTINFO.read_text()) if mount.point == place]
    return found[-1] if found else None


def network_points() -> list[str]:
    """Returns where file systems are mounted that ask a server, and hang while it is away."""
    return [mount.point for mount in read_mountinfo(_MOUNTINFO.read_text()) if _NETWORK.fullmatch(mount.fstype)]


def is_mounted(point: Path, kind: Kind, export: str) -> bool:
    """Tells whether exactly this export is mounted there, by whomever: this service, fstab or systemd."""
    return _is(find(point), kind, export)


def mount(kind: Kind, export: str, point: Path, options: Sequence[str]) -> None:
    """Mounts a share; nothing is done when it is mounted already. Makes ``point`` with mode 0755.

    Needs root, except when the share is mounted already. Ends within 2 * MOUNT_SECONDS: that long another process may
    hold the lock, then mount itself. Raises ShareUnavailable with the words of mount, or when another thing lies there.
    """
    with _one_at_a_time(point.parent):
        present = find(point)
        if present is None:
            _mount(kind, export, point, options)
            present = find(point)
    if not _is(present, kind, export):
        lies_there = f"{present.source} ({present.fstype})" if present else "nothing"
        raise ShareUnavailable(f"the share {export} is not mounted at {point}: {lies_there} lies there")


def unmount(point: Path) -> None:
    """Takes off whatever is mounted at ``point``; fine when nothing is. Raises ShareUnavailable while files are open.

    Never "lazy": a guest that still writes would keep writing where nobody sees it.
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
            unmount(point)  # a client of GlusterFS that found no volume may leave a dead mount behind
        raise


def _run(command: list[str], failure: str) -> None:
    try:
        outcome = attempt(command, cwd=Path("/"), limits=_limits())
    except HostCommandFailed as error:
        raise ShareUnavailable(f"{failure}: {error.message}") from error
    if outcome.code != 0:
        raise ShareUnavailable(f"{failure}: {outcome.complaint or f'{command[0]} failed with exit code {outcome.code}'}")


def _limits() -> Limits:
    """Only time is bound: the client of GlusterFS is a process that stays, with the limits of the mount that started it."""
    names = (resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_NOFILE)
    cpu_seconds, address_space, open_files = (resource.getrlimit(name)[1] for name in names)
    return Limits(MOUNT_SECONDS, cpu_seconds, address_space, open_files)


@contextmanager
def _one_at_a_time(base: Path) -> Iterator[None]:
    """Two workers of one host may want the same share at once; a FUSE file system would be mounted twice."""
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
    """The kernel shows ``host:/path/`` without its last slash."""
    return source.rstrip("/") == export.rstrip("/")


def _resolved(point: Path) -> Path:
    return point.parent.resolve() / point.name


def _unescape(word: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), word)
