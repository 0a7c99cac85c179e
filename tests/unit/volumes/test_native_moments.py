"""Every operation on volumes that stand alone, its worker killed at every moment of it; see ``test_every_moment``."""

from typing import Any

import pytest

from stillframe.chain.names import base_name, is_base, overlay_name
from stillframe.db import group_snapshots as group_snapshot_rows
from stillframe.db import volumes
from stillframe.db.rows import SnapshotRow
from stillframe.errors import BadRequest, Conflict
from stillframe.journal.operation import Operation
from stillframe.volumes.operations.executors import exported
from stillframe.volumes.operations.executors.intents import about_volume
from stillframe.volumes.operations.volumes import ExtendVolume
from stillframe.volumes.requests import group_snapshots, group_types, groups, new_volumes
from stillframe.volumes.requests import snapshots as snapshot_requests
from stillframe.volumes.requests import volumes as volume_requests
from stillframe.volumes.storage.backends import Pool
from stillframe.volumes.storage.drivers import native
from tests.unit.builders import SERVER
from tests.unit.volumes import fakes
from tests.unit.volumes.conftest import NewSite
from tests.unit.volumes.site import Site, each_moment
from tests.unit.volumes.test_every_moment import Case, grown

GIB = 1 << 30


@pytest.fixture
def alone(new_site: NewSite, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A site whose one share has native snapshots; there is no daemon that could give its volumes out."""
    monkeypatch.setattr(Pool, "capabilities", property(lambda _pool: native.CAPABILITIES))
    site = new_site()
    fakes.memory(site.worker).capabilities = native.CAPABILITIES
    return site


def use(site: Site, volume_id: str, status: str) -> None:
    with site.worker.database.write() as connection:
        volumes.change(connection, volume_id, status=status)


class Native(Case):
    """``in_use``: the volume is given out meanwhile."""

    in_use = False

    def prepare(self, site: Site) -> None:
        super().prepare(site)
        if self.in_use:
            use(site, self.volume_id, "in-use")

    def look(self, site: Site) -> None:
        row = site.row(self.volume_id)
        assert row["status"] == ("in-use" if self.in_use else "available")
        assert all(file.image.format == "raw" and not file.image.backing for file in site.share.entries.values())
        self.look_closer(site)
        site.write(self.volume_id, 0, 7)
        site.check()

    def look_closer(self, site: Site) -> None:
        """What this operation changes."""


class Snapshot(Native):
    kind = "create_snapshot"

    def act(self, site: Site) -> None:
        self.made = snapshot_requests.create(site.worker, site.member, self.volume_id, {"force": True})

    def follow(self, site: Site) -> None:
        site.model[self.made] = dict(site.model[self.volume_id])

    def look_closer(self, site: Site) -> None:
        row = site.snapshot_row(self.made)
        assert row is not None
        own = overlay_name(self.volume_id, self.made)
        assert (row["status"], row["overlay"], row["backing"], row["backing_format"]) == ("available", None, own, "raw")
        assert site.row(self.volume_id)["active_file"] == base_name(self.volume_id)


class SnapshotInUse(Snapshot):
    in_use = True


class GroupSnapshot(Native):
    """Two volumes are kept by one operation, each in a file of its own."""

    kind = "create_group_snapshot"

    def prepare(self, site: Site) -> None:
        super().prepare(site)
        self.other, _taken = grown(site, (2,))
        kind = group_types.create(site.worker, site.member, {"name": "together"})
        wanted = {"group_type": kind, "volume_types": ["default"]}
        self.group = groups.create(site.worker, site.member, wanted)
        groups.update(site.worker, site.member, self.group, {"add_volumes": [self.volume_id, self.other]})

    def act(self, site: Site) -> None:
        self.taken_together = group_snapshots.create(site.worker, site.member, self.group, None, None)

    def follow(self, site: Site) -> None:
        for row in self.parts(site):
            site.model[row["id"]] = dict(site.model[row["volume_id"]])

    def parts(self, site: Site) -> list[SnapshotRow]:
        with site.worker.database.read() as connection:
            return group_snapshot_rows.members(connection, self.taken_together)

    def look_closer(self, site: Site) -> None:
        found = self.parts(site)
        assert [row["volume_id"] for row in found] == [self.volume_id, self.other]
        assert {(row["status"], row["overlay"], row["backing_format"]) for row in found} == {("available", None, "raw")}
        assert all(row["backing"] == overlay_name(row["volume_id"], row["id"]) for row in found)


class Delete(Native):
    kind = "delete_snapshot"

    def act(self, site: Site) -> None:
        told = snapshot_requests.explain_several(site.worker, site.member, self.taken)
        assert (told["possible"], told["bytes"], told["method"]) == (True, 0, "remove")
        snapshot_requests.delete_several(site.worker, site.member, self.taken)

    def look_closer(self, site: Site) -> None:
        assert [site.snapshot_row(each) for each in self.taken] == [None, None]
        assert site.share.files(self.volume_id) == [base_name(self.volume_id)]


class DeleteInUse(Delete):
    in_use = True


class Revert(Native):
    kind = "revert_volume"
    newer = "keep"

    def act(self, site: Site) -> None:
        volume_requests.revert(site.worker, site.member, self.volume_id, self.taken[0], self.newer)

    def follow(self, site: Site) -> None:
        site.model[self.volume_id] = dict(site.model[self.taken[0]])

    def look_closer(self, site: Site) -> None:
        assert (site.snapshot_row(self.taken[1]) is None) == (self.newer == "remove")
        assert not is_base(site.row(self.volume_id)["active_file"])
        with pytest.raises(Conflict, match="no revert that can be undone"):
            volume_requests.undo_revert(site.worker, site.member, self.volume_id)


class RevertAndRemove(Revert):
    newer = "remove"


class RevertUnderAStoppedServer(Revert):
    in_use = True


class Copy(Native):
    kind = "copy_volume"

    def act(self, site: Site) -> None:
        self.made = new_volumes.create(site.worker, site.member, {"size": 2, "snapshot_id": self.taken[0]})

    def follow(self, site: Site) -> None:
        site.model[self.made] = dict(site.model[self.taken[0]])

    def look_closer(self, site: Site) -> None:
        assert site.share.entries[base_name(self.made)].image.size == 2 * GIB


class Grow(Native):
    kind = "extend_volume"

    def act(self, site: Site) -> None:
        volume_requests.extend(site.worker, site.member, self.volume_id, 3)

    def look_closer(self, site: Site) -> None:
        assert site.row(self.volume_id)["size"] == 3
        assert site.share.entries[site.row(self.volume_id)["active_file"]].image.size == 3 * GIB


class GrowInUse(Grow):
    in_use = True

    def prepare(self, site: Site) -> None:
        super().prepare(site)
        server = {"id": SERVER, "active": True, "file": site.row(self.volume_id)["active_file"]}
        fakes.compute(site.worker).servers[self.volume_id] = server


def cases(kind: type[Native] = Native) -> list[type[Native]]:
    found = [kind] if kind.kind else []
    return found + [case for below in kind.__subclasses__() for case in cases(below)]


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.__name__)
def test_a_worker_that_dies_anywhere_is_followed_by_one_that_ends_it_well(alone: Site, case: type[Native]) -> None:
    made = case(alone)
    assert each_moment(alone, lambda: made.act(alone), lambda: made.after(alone)) > 5


def test_a_volume_in_use_is_taken_by_force_only_and_not_reverted(alone: Site) -> None:
    volume_id, taken = grown(alone, (1, 1))
    use(alone, volume_id, "in-use")
    before = dict(alone.share.entries)
    with pytest.raises(BadRequest, match='"force": true'):
        snapshot_requests.create(alone.worker, alone.member, volume_id, {})
    with pytest.raises(BadRequest, match="POST /snapshots"):
        snapshot_requests.create_metadata(alone.worker, alone.member, volume_id, {})
    server: dict[str, Any] = {"id": SERVER, "active": True, "file": None, "state": "active"}
    for changes, why in (({}, "which runs"), ({"active": False, "refusal": "it is saved"}, "it is saved")):
        fakes.compute(alone.worker).servers[volume_id] = server | changes
        with pytest.raises(Conflict, match=why):
            volume_requests.revert(alone.worker, alone.member, volume_id, taken[0], "keep")
    assert alone.share.entries == before


def test_a_server_that_has_no_such_volume_is_not_told_of_its_size(alone: Site) -> None:
    volume_id, _taken = grown(alone, (1, 1))
    intent = ExtendVolume(**about_volume(alone.row(volume_id)), size=1)
    operation = Operation("op", "extend_volume", "running", intent, [], 0, {}, 1, 0, "r")
    told = exported.TellServer(name=intent.active_before, format="raw", size=GIB)
    assert exported._tell_server(alone.worker, operation, told) == {}
