"""A share that fills up while a merge runs and has room again later: a small file system of its own, on a loop device."""

from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from stillframe.errors import AgentFailed
from stillframe.host import hypervisor
from tests.support.guest.domain import Guest
from tests.support.site import Site, open_site
from tests.support.small_share import fill, small_share
from tests.support.stack import wait_for

SIZE_MIB = 256
TWELVE_HUNDRED = f"fill {{}} 1200 16 {ord('D')}"


@pytest.fixture
def share(tmp_path: Path) -> Iterator[Path]:
    """Where the services of ``tmp_path`` keep their volumes."""
    with small_share(tmp_path, SIZE_MIB) as mounted:
        yield mounted


@pytest.fixture
def site(tmp_path: Path, share: Path) -> Iterator[Site]:
    with open_site(tmp_path, 1, "[volumes]\nminimum_free_mib = 1\n") as opened:
        yield opened


def needs_room(guest: Guest, command: str) -> bool:
    """Lets the guest write what needs new blocks; False when its own file system needed some before, and it is paused."""
    try:
        guest.execute(command, wait=False)
    except AgentFailed:
        assert guest.domain.state() == [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR]
        return False
    return True


def fills_up(site: Site, share: Path) -> tuple[str, Path]:
    """A merge whose share has become full; returns the snapshot that goes, and what to remove for room."""
    (disk,) = site.disks
    site.write(disk, 0, 96, 65)
    site.take(disk)
    site.write(disk, 90, 224, 66)
    (doomed,) = site.take(disk)
    site.write(disk, 400, 240, 67)  # 15 MiB at 1 MiB/s
    site.delete(doomed, "?bandwidth_mib=1")
    site.wait_jobs(disk)
    filler = fill(share)
    wait_for(lambda: site.merge()["attempts"] > 0, "the job to fail")
    wait_for(lambda: site.merge_says("share_unavailable"), "the fault of the job")
    wait_for(lambda: "waits" in site.lab.api.snapshot(doomed).get("fault", ""), "the snapshot to say so")
    return doomed, filler


def test_a_share_fills_up_in_the_job(site: Site, share: Path) -> None:
    """The guest runs until it needs room itself, and is paused then; the deletion ends by itself when there is room again."""
    (disk,) = site.disks
    doomed, filler = fills_up(site, share)
    assert site.lab.guest.domain.isActive()
    site.look(skipped=doomed)
    wrote = needs_room(site.lab.guest, TWELVE_HUNDRED.format(disk.pattern.device))
    paused = [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR]
    wait_for(lambda: site.lab.guest.domain.state() == paused, "QEMU to pause the guest, which has no room to write")
    site.look(skipped=doomed)
    assert site.lab.api.snapshot(doomed)["status"] == "deleting"
    filler.unlink()
    site.lab.api.ok("compute", "POST", f"/servers/{site.lab.guest.id}/action", {"unpause": None})
    if not wrote:  # whether it wrote after all, nobody was told: now it has
        site.lab.guest.execute(TWELVE_HUNDRED.format(disk.pattern.device))
    disk.pattern.clusters.update(dict.fromkeys(range(1200, 1216), ord("D")))
    site.lab.guest.execute("sync")
    site.gone(doomed, 90)
    site.lab.guest.still_writes()
    site.look()
    site.check()


def test_the_guest_stops_while_its_share_is_full(site: Site, share: Path) -> None:
    """What is left is merged offline, which waits for room as well."""
    doomed, filler = fills_up(site, share)
    hypervisor.power(site.lab.guest.domain, "destroy")
    wait_for(lambda: site.merge_says("No space left on device"), "qemu-img to need room")
    assert site.merge()["state"] == "running"
    filler.unlink()
    site.gone(doomed, 90)
    site.check()
