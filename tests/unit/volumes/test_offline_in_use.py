"""Whatever a volume's row says: nothing is done offline to files that a program has open or a server's description names."""

from collections.abc import Callable

import pytest

from stillframe.errors import StillframeError
from stillframe.volumes.operations.executors import offline
from stillframe.volumes.requests import new_volumes
from stillframe.volumes.requests import snapshots as snapshot_requests
from stillframe.volumes.requests import volumes as volume_requests
from tests.unit.builders import SERVER
from tests.unit.volumes import fakes
from tests.unit.volumes.site import Site

Ask = Callable[[Site, str, str], object]
OPERATIONS: dict[str, Ask] = {
    "snapshot": lambda site, volume, _: snapshot_requests.create(site.worker, site.member, volume, {}),
    "clone": lambda site, volume, _: new_volumes.create(site.worker, site.member, {"source_volid": volume}),
    "extend": lambda site, volume, _: volume_requests.extend(site.worker, site.member, volume, 5),
    "revert": lambda site, volume, snapshot: volume_requests.revert(site.worker, site.member, volume, snapshot, "keep"),
    "delete the snapshot": lambda site, _, snapshot: snapshot_requests.delete(site.worker, site.member, snapshot),
    "delete": lambda site, volume, _: volume_requests.delete(site.worker, site.member, volume, cascade=True),
}


@pytest.mark.parametrize("user", ["lock", "description", "saved description"])
@pytest.mark.parametrize("what", OPERATIONS)
def test_nothing_is_changed_under_a_guest_that_the_row_knows_nothing_of(
    site: Site, monkeypatch: pytest.MonkeyPatch, what: str, user: str
) -> None:
    monkeypatch.setattr(offline, "PATIENCE_SECONDS", 0.0)
    volume = site.volume()
    snapshot = site.snapshot(volume)
    site.write(volume, 1, 7)
    compute, share, active = fakes.compute(site.worker), site.share, site.row(volume)["active_file"]
    if user == "lock":
        share.opened.add(active)
    elif user == "description":
        compute.servers[volume] = {"id": SERVER, "active": False, "file": active}
    else:
        compute.named[active] = [SERVER]
    before = {name: file.image for name, file in share.entries.items() if file.image}
    try:
        OPERATIONS[what](site, volume, snapshot)
    except StillframeError as error:
        assert error.status == 409, error
    else:
        site.end()
        newest = site.newest()
        assert (newest["state"], newest["fault"]["code"]) == ("undone", "conflict"), newest["fault"]
    assert {name: file.image for name, file in share.entries.items() if file.image} == before
    assert (site.row(volume)["status"], site.row(volume)["active_file"]) == ("available", active)
    assert share.content(active) == site.model[volume]


def test_what_is_open_for_moments_is_waited_for_without_a_thread(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = site.volume()
    active = site.row(volume)["active_file"]
    looks: list[list[str]] = [[], [active], [active], [active]]
    monkeypatch.setattr(site.share, "in_use", lambda _volume_id: looks.pop() if len(looks) > 1 else [])
    snapshot_requests.create(site.worker, site.member, volume, {})
    site.end()
    assert site.newest()["state"] == "done"
    assert site.newest()["evidence"]["check_closed waits"] == {"waited": pytest.approx(0.15)}
