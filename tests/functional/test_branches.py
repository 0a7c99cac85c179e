"""Merges under a running guest where a branch beside its chain is backed by what is merged. Content is compared by byte."""

from collections.abc import Iterator

import pytest

from stillframe.host import hypervisor
from tests.support.site import Site, journal_is_empty, open_site
from tests.support.stack import wait_for


@pytest.fixture
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with open_site(tmp_path_factory.mktemp("branches"), 1) as opened:
        yield opened


def test_snapshots_are_deleted_while_a_revert_can_be_undone(site: Site) -> None:
    """What was active before the revert is backed by a file that the deletions merge away, and is undone to afterwards."""
    (disk,), api = site.disks, site.lab.api
    before = []
    for start in (1, 4, 7):
        site.write(disk, start, 2, 64 + start)
        before += site.take(disk)
    site.write(disk, 20, 3, 90)
    newest = dict(disk.pattern.clusters)
    hypervisor.power(site.lab.guest.domain, "destroy")
    action, revert = f"/volumes/{disk.id}/action", {"snapshot_id": before[2], "newer_snapshots": "keep"}
    api.ok("volume", "POST", action, {"revert": revert})
    wait_for(lambda: journal_is_empty(site.lab.stack), "the revert")
    for place in (20, 21, 22):
        del disk.pattern.clusters[place]
    site.restart_guest()
    api.ok("volume", "POST", action, {"os-delete_snapshots": {"snapshot_ids": before[1:]}})
    for snapshot_id in before[1:]:
        site.gone(snapshot_id)
    wait_for(lambda: journal_is_empty(site.lab.stack), "the deletions")
    site.look()
    hypervisor.power(site.lab.guest.domain, "destroy")
    api.ok("volume", "POST", action, {"os-undo_revert": {}})
    wait_for(lambda: journal_is_empty(site.lab.stack), "the undo")
    disk.pattern.clusters.clear()
    disk.pattern.clusters.update(newest)
    site.look()  # the guest is stopped
