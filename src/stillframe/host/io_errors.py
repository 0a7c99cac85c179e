"""A guest that QEMU has stopped because a disk could not be written or read: what stopped it, and how it continues."""

from typing import Any

import libvirt

from stillframe.host.hypervisor import translated


def stopped_by(domain: Any) -> frozenset[str]:
    """Returns the disks, by target, whose errors stopped the guest; none for one that runs or was paused otherwise.

    QEMU keeps a disk's mark after the guest was resumed (qemu 7.2, blk_iostatus_reset), so the state alone says whether it is
    stopped now, and a disk that failed before may be among them."""
    with translated(f"server {domain.UUIDString()}"):
        return frozenset(domain.diskErrors(0)) if _is_stopped(domain) else frozenset()


def resume(domain: Any) -> None:
    """Lets a guest that an error stopped try again what it could not write or read; one in another state is left alone. If the
    error lasts, QEMU stops it again."""
    with translated(f"server {domain.UUIDString()}"):
        if _is_stopped(domain):
            domain.resume()


def _is_stopped(domain: Any) -> bool:
    return bool(domain.state() == [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR])
