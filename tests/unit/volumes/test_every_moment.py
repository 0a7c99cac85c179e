"""Every offline operation, its worker killed at every moment of it: nothing is lost, nothing lies about.

What an operation makes is whole or gone; what it does not mean to change reads as before.
"""

import pytest

from stillframe.chain.image import Image
from stillframe.chain.names import base_name
from stillframe.db import group_snapshots, volume_types, volumes
from stillframe.db.rows import SnapshotRow
from stillframe.db.values import NewVolumeType
from stillframe.volumes import periodic
from stillframe.volumes.kinds import KINDS
from stillframe.volumes.requests import group_snapshots as group_snapshot_requests
from stillframe.volumes.requests import group_types as group_type_requests
from stillframe.volumes.requests import groups as group_requests
from stillframe.volumes.requests import manageable_volumes as manageable_volume_requests
from stillframe.volumes.requests import new_volumes
from stillframe.volumes.requests import snapshots as snapshot_requests
from stillframe.volumes.requests import volumes as volume_requests
from tests.unit.builders import SERVER
from tests.unit.volumes import fakes
from tests.unit.volumes.memory_share import File
from tests.unit.volumes.site import Site, each_moment

GIB = 1 << 30


def grown(site: Site, weights: tuple[int, ...]) -> tuple[str, list[str]]:
    """A volume with a snapshot after each but the last of ``weights``: so many clusters are written each time."""
    volume_id, taken = site.volume(), []
    for number, weight in enumerate(weights):
        for cluster in range(weight):
            site.write(volume_id, (number * 2 + cluster) % 9, 100 * (number + 1) + cluster)
        if number < len(weights) - 1:
            taken.append(site.snapshot(volume_id))
    return volume_id, taken


class Case:
    """``prepare`` fills the site, ``act`` asks for the operation, ``follow`` lets the model follow it."""

    kind = ""

    def __init__(self, site: Site) -> None:
        self.prepare(site)

    def prepare(self, site: Site) -> None:
        self.volume_id, self.taken = grown(site, (3, 4, 2))

    def act(self, site: Site) -> None:
        raise NotImplementedError

    def after(self, site: Site) -> None:
        operation = site.newest()
        assert operation["kind"] == self.kind
        assert operation["state"] == "done", operation["fault"]
        self.follow(site)
        site.check()
        site.settle()
        site.check()
        self.look(site)

    def follow(self, site: Site) -> None:
        """Changes the model as the operation changed the world."""

    def look(self, site: Site) -> None:
        """More than that everything reads as the model says."""


class CreateVolume(Case):
    kind = "create_volume"

    def prepare(self, site: Site) -> None:
        """Nothing is there yet."""

    def act(self, site: Site) -> None:
        self.made = new_volumes.create(site.worker, site.member, {"size": 1})

    def follow(self, site: Site) -> None:
        site.model[self.made] = {}

    def look(self, site: Site) -> None:
        assert site.row(self.made)["status"] == "available"


class CopySnapshot(Case):
    kind = "copy_volume"

    def act(self, site: Site) -> None:
        self.made = new_volumes.create(site.worker, site.member, {"size": 2, "snapshot_id": self.taken[0]})

    def follow(self, site: Site) -> None:
        site.model[self.made] = site.model[self.taken[0]]

    def look(self, site: Site) -> None:
        assert site.row(self.made)["size"] == 2
        assert site.share.entries[base_name(self.made)].image == Image(base_name(self.made), "qcow2", 2 * GIB)


class CopyVolume(CopySnapshot):
    def act(self, site: Site) -> None:
        self.made = new_volumes.create(site.worker, site.member, {"source_volid": self.volume_id})

    def follow(self, site: Site) -> None:
        site.model[self.made] = site.model[self.volume_id]

    def look(self, site: Site) -> None:
        assert site.row(self.made)["size"] == 1


class LinkVolume(CopySnapshot):
    kind = "link_volume"

    def prepare(self, site: Site) -> None:
        super().prepare(site)
        linking(site)

    def act(self, site: Site) -> None:
        self.made = new_volumes.create(site.worker, site.member, {"snapshot_id": self.taken[0], "volume_type": "linked"})

    def look(self, site: Site) -> None:
        assert site.share.entries[base_name(self.made)].image.backing == base_name(self.volume_id)


def linking(site: Site) -> None:
    with site.worker.database.write() as connection:
        specs = {new_volumes.LINKED: "true"}
        row: NewVolumeType = {"id": "linked", "name": "linked", "description": None, "extra_specs": specs, "is_public": True}
        volume_types.insert(connection, row)


class DeleteVolume(Case):
    kind = "delete_volume"

    def act(self, site: Site) -> None:
        volume_requests.delete(site.worker, site.member, self.volume_id, cascade=True)

    def look(self, site: Site) -> None:
        assert site.share.listing() == [".share-id"]


class DeleteLinked(Case):
    """The source keeps a file for its clone; it is merged when the clone is gone."""

    kind = "delete_volume"

    def prepare(self, site: Site) -> None:
        super().prepare(site)
        linking(site)
        self.clone = site.volume(snapshot_id=self.taken[1], volume_type="linked")
        site.write(self.clone, 1, 999)

    def act(self, site: Site) -> None:
        volume_requests.delete(site.worker, site.member, self.clone)


class Extend(Case):
    kind = "extend_volume"

    def act(self, site: Site) -> None:
        volume_requests.extend(site.worker, site.member, self.volume_id, 3)

    def look(self, site: Site) -> None:
        row = site.row(self.volume_id)
        assert (row["size"], row["status"]) == (3, "available")
        assert site.share.entries[row["active_file"]].image.size == 3 * GIB


class Manage(Case):
    kind = "manage_volume"

    def prepare(self, site: Site) -> None:
        site.share.entries["from-elsewhere"] = File(Image("from-elsewhere", "qcow2", 2 * GIB), {1: 5})

    def act(self, site: Site) -> None:
        wanted = {"host": "here@local", "source_name": "from-elsewhere"}
        self.made = manageable_volume_requests.manage(site.worker, site.member, wanted)

    def follow(self, site: Site) -> None:
        site.model[self.made] = {1: 5}

    def look(self, site: Site) -> None:
        assert site.row(self.made)["size"] == 2


class Unmanage(Case):
    kind = "unmanage_volume"

    def prepare(self, site: Site) -> None:
        self.volume_id, self.taken = grown(site, (3,))

    def act(self, site: Site) -> None:
        volume_requests.unmanage(site.worker, site.member, self.volume_id)

    def follow(self, site: Site) -> None:
        given = site.share.entries.pop(f"unmanaged-{self.volume_id}")
        assert given.clusters == site.model[self.volume_id]


class CreateSnapshot(Case):
    kind = "create_snapshot"

    def act(self, site: Site) -> None:
        self.made = snapshot_requests.create(site.worker, site.member, self.volume_id, {})

    def follow(self, site: Site) -> None:
        site.model[self.made] = dict(site.model[self.volume_id])

    def look(self, site: Site) -> None:
        row = site.snapshot_row(self.made)
        assert row is not None
        assert row["status"] == "available"
        site.write(self.volume_id, 0, 7)
        site.check()


class SnapshotGroup(Case):
    """Both volumes of a group, the second with nothing in it."""

    kind = "create_group_snapshot"

    def prepare(self, site: Site) -> None:
        super().prepare(site)
        self.other = site.volume()
        group_type_requests.create(site.worker, site.member, {"name": "together"})
        wanted = {"group_type": "together", "volume_types": ["default"]}
        self.group_id = group_requests.create(site.worker, site.member, wanted)
        both = {"add_volumes": [self.volume_id, self.other]}
        group_requests.update(site.worker, site.member, self.group_id, both)

    def act(self, site: Site) -> None:
        self.made = group_snapshot_requests.create(site.worker, site.member, self.group_id, None, None)

    def follow(self, site: Site) -> None:
        for row in self._parts(site):
            site.model[row["id"]] = dict(site.model[row["volume_id"]])

    def look(self, site: Site) -> None:
        found = self._parts(site)
        assert [(row["volume_id"], row["status"]) for row in found] == [
            (self.volume_id, "available"),
            (self.other, "available"),
        ]

    def _parts(self, site: Site) -> list[SnapshotRow]:
        with site.worker.database.read() as connection:
            return group_snapshots.members(connection, self.made)


class DeleteSnapshots(Case):
    """``weights`` decide what is copied where; ``gone`` are the snapshots deleted, by number."""

    kind = "delete_snapshot"
    weights: tuple[int, ...] = (3, 4, 2)
    gone: tuple[int, ...] = (0,)

    def prepare(self, site: Site) -> None:
        self.volume_id, self.taken = grown(site, self.weights)

    def act(self, site: Site) -> None:
        snapshot_requests.delete_several(site.worker, site.member, [self.taken[number] for number in self.gone])

    def look(self, site: Site) -> None:
        assert [site.snapshot_row(self.taken[number]) for number in self.gone] == [None] * len(self.gone)
        kept = len(self.taken) - len(self.gone)
        assert len(site.share.files(self.volume_id)) == kept + 1
        if not kept:
            assert site.share.files(self.volume_id) == [base_name(self.volume_id)]


class CommitTheOnly(DeleteSnapshots):
    weights = (6, 2)


class PullTheOnly(DeleteSnapshots):
    weights = (2, 6)


class PullBelowTheActive(DeleteSnapshots):
    """The active file gets the name of the overlay that goes; a snapshot stays below it."""

    weights, gone = (3, 2, 6), (1,)


class RepointAbove(DeleteSnapshots):
    weights = (6, 2, 3)


class PullInTheMiddle(DeleteSnapshots):
    weights, gone = (3, 2, 6, 1), (1,)


class SeveralAtOnce(DeleteSnapshots):
    weights, gone = (2, 3, 6, 2), (0, 1, 2)


class SeveralRuns(DeleteSnapshots):
    """Two runs in one plan; what the first pointed elsewhere the second removes."""

    weights, gone = (6, 2, 1, 2, 6), (0, 2)


def attach(site: Site, volume_id: str, running: bool) -> None:
    """A server has the volume, and a running one every file of its chain open."""
    active = site.row(volume_id)["active_file"]
    fakes.compute(site.worker).servers[volume_id] = {"id": SERVER, "active": running, "file": active}
    if running:
        site.share.opened |= {active, *site.share.below(active)}
    with site.worker.database.write() as connection:
        volumes.change(connection, volume_id, status="in-use")


class Attached(DeleteSnapshots):
    """Deleted under a server, ``running`` or stopped: its definition follows, and what it has open compute merges."""

    running = False

    def prepare(self, site: Site) -> None:
        super().prepare(site)
        attach(site, self.volume_id, self.running)

    def look(self, site: Site) -> None:
        row = site.row(self.volume_id)
        assert row["status"] == "in-use"
        assert fakes.compute(site.worker).servers[self.volume_id]["file"] == row["active_file"]
        site.share.opened.clear()
        del fakes.compute(site.worker).servers[self.volume_id]
        with site.worker.database.write() as connection:
            volumes.change(connection, self.volume_id, status="available")
        site.settle()
        site.check()
        super().look(site)
        attach(site, self.volume_id, self.running)


class CommitUnderAStoppedServer(Attached):
    weights = (6, 2)


class PullUnderAStoppedServer(Attached):
    weights = (2, 6)


class SeveralUnderAStoppedServer(Attached):
    weights, gone = (6, 2, 1, 2, 6), (0, 2)


class CommitUnderARunningServer(CommitUnderAStoppedServer):
    running = True


class PullUnderARunningServer(PullUnderAStoppedServer):
    running = True


class SeveralUnderARunningServer(SeveralUnderAStoppedServer):
    running = True


class KeepNewer(Case):
    kind = "revert_volume"
    newer = "keep"

    def act(self, site: Site) -> None:
        volume_requests.revert(site.worker, site.member, self.volume_id, self.taken[0], self.newer)

    def follow(self, site: Site) -> None:
        site.model[self.volume_id] = site.model[self.taken[0]]

    def look(self, site: Site) -> None:
        assert site.row(self.volume_id)["undo_file"]
        self.look_newer(site)
        site.write(self.volume_id, 0, 7)
        site.settle()
        assert site.row(self.volume_id)["undo_file"] is None
        site.check()

    def look_newer(self, site: Site) -> None:
        row = site.snapshot_row(self.taken[1])
        assert row is not None
        assert row["status"] == "available"


class RemoveNewer(KeepNewer):
    newer = "remove"

    def look_newer(self, site: Site) -> None:
        assert site.snapshot_row(self.taken[1]) is None


class RevertAgain(KeepNewer):
    """The undo of the revert before ends with it."""

    def prepare(self, site: Site) -> None:
        super().prepare(site)
        site.revert(self.volume_id, self.taken[1], "keep")
        site.write(self.volume_id, 4, 44)


class UndoRevert(Case):
    kind = "undo_revert"
    newer = "keep"

    def prepare(self, site: Site) -> None:
        super().prepare(site)
        self.before = dict(site.model[self.volume_id])
        site.revert(self.volume_id, self.taken[0], self.newer)

    def act(self, site: Site) -> None:
        volume_requests.undo_revert(site.worker, site.member, self.volume_id)

    def follow(self, site: Site) -> None:
        site.model[self.volume_id] = self.before

    def look(self, site: Site) -> None:
        row = site.row(self.volume_id)
        assert (row["status"], row["undo_file"]) == ("available", None)


class UndoRevertThatRemoved(UndoRevert):
    newer = "remove"


class UndoRevertOfAnExtendedVolume(UndoRevert):
    """The file that was held is of the size the volume had then."""

    def prepare(self, site: Site) -> None:
        super().prepare(site)
        volume_requests.extend(site.worker, site.member, self.volume_id, 3)
        site.end()

    def look(self, site: Site) -> None:
        super().look(site)
        row = site.row(self.volume_id)
        assert row["size"] == 3
        assert site.share.entries[row["active_file"]].image.size == 3 * GIB


class Release(Case):
    kind = "release_files"

    def prepare(self, site: Site) -> None:
        super().prepare(site)
        site.revert(self.volume_id, self.taken[0], "remove")
        site.write(self.volume_id, 0, 7)

    def act(self, site: Site) -> None:
        periodic.look(site.worker)

    def after(self, site: Site) -> None:
        site.settle()
        site.check()
        assert site.row(self.volume_id)["undo_file"] is None
        assert len(site.share.files(self.volume_id)) == 2


def cases(kind: type[Case] = Case) -> list[type[Case]]:
    found = [kind] if kind.kind else []
    return found + [case for below in kind.__subclasses__() for case in cases(below)]


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.__name__)
def test_a_worker_that_dies_anywhere_is_followed_by_one_that_ends_it_well(site: Site, case: type[Case]) -> None:
    made = case(site)
    assert each_moment(site, lambda: made.act(site), lambda: made.after(site)) > 5


def test_every_offline_kind_is_among_them() -> None:
    elsewhere = {"record_chain", "image_to_volume", "volume_to_image", "create_backup", "restore_backup", "delete_backup"}
    online = {"release_volume"}  # its volumes are attached: see tests/crash/test_adoption
    assert {case.kind for case in cases()} == set(KINDS) - elsewhere - online
