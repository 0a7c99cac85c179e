"""libvirt's block jobs, one function per verb. Facts were seen with libvirt 9.0 and qemu 7.2.

A job that has vanished does not say how it ended (I8): the caller reads the description and the headers.
"""

from dataclasses import dataclass
from typing import Any

import libvirt

from stillframe.host.hypervisor import translated


@dataclass(frozen=True)
class Job:
    """A running job: bytes done and bytes in all; ``kind`` is libvirt's VIR_DOMAIN_BLOCK_JOB_TYPE_*."""

    kind: int
    done: int
    total: int

    @property
    def is_active_commit(self) -> bool:
        return bool(self.kind == libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT)


def find(domain: Any, target: str) -> Job | None:
    """Returns the job on a disk, or None: there is none, or it just ended."""
    with translated(f"server {domain.UUIDString()}"):
        found = domain.blockJobInfo(target, 0)
    return Job(found["type"], found["cur"], found["end"]) if found else None


def commit(domain: Any, target: str, top: str | None, base: str | None, bandwidth: int) -> None:
    """Starts to commit (``base``, ``top``] down into ``base``; ``top`` None is the active file, ``base`` None the lowest
    layer. Paths as the description has
    them; ``bandwidth`` in bytes a second, 0 for no limit. Backing names stay relative."""
    flags = libvirt.VIR_DOMAIN_BLOCK_COMMIT_BANDWIDTH_BYTES
    # An active commit changes no backing name, and libvirt refuses RELATIVE with it.
    flags |= libvirt.VIR_DOMAIN_BLOCK_COMMIT_RELATIVE if top else libvirt.VIR_DOMAIN_BLOCK_COMMIT_ACTIVE
    with translated(f"server {domain.UUIDString()}"):
        domain.blockCommit(target, base, top, bandwidth, flags)


def pull(domain: Any, target: str, backing: str | None, bandwidth: int) -> None:
    """Starts to pull everything above ``backing`` into the active file; None: the whole chain."""
    flags = libvirt.VIR_DOMAIN_BLOCK_REBASE_BANDWIDTH_BYTES
    with translated(f"server {domain.UUIDString()}"):
        if backing is None:
            domain.blockPull(target, bandwidth, libvirt.VIR_DOMAIN_BLOCK_PULL_BANDWIDTH_BYTES)
        else:
            domain.blockRebase(target, backing, bandwidth, flags | libvirt.VIR_DOMAIN_BLOCK_REBASE_RELATIVE)


def pivot(domain: Any, target: str) -> None:
    """Ends an active commit that is ready: the base becomes the active file, live and in the definition."""
    with translated(f"server {domain.UUIDString()}"):
        domain.blockJobAbort(target, libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)


def abort(domain: Any, target: str) -> None:
    """Cancels a job; what it copied stays copied."""
    with translated(f"server {domain.UUIDString()}"):
        domain.blockJobAbort(target, 0)


def size(domain: Any, target: str) -> int:
    """Returns the size in bytes that QEMU sees of a running guest's disk."""
    with translated(f"server {domain.UUIDString()}"):
        return int(domain.blockInfo(target)[0])


def resize(domain: Any, target: str, size: int) -> None:
    """Grows a running guest's disk to ``size`` bytes: the header of its active file and what the guest sees. A disk in the
    network must have been extended before: QEMU only asks its target anew (F44)."""
    with translated(f"server {domain.UUIDString()}"):
        domain.blockResize(target, size, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)
