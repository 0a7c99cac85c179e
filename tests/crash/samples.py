"""A sample of every kind of operation, made by the functions the product plans with: several where plans differ.

The same arrangement is made of real files by the scenarios (``scenarios``): so many clusters are written before each snapshot.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from stillframe.chain import plan, simulate
from stillframe.chain.image import Image
from stillframe.chain.names import base_name, overlay_name
from stillframe.chain.plan import Plan
from stillframe.chain.simulate import Layer, WorkerContext
from stillframe.chain.tree import Tree
from stillframe.compute import kinds as compute_kinds
from stillframe.compute.operations import adopted_disks, assisted_volume_snapshots, attachments, delete_set, merge
from stillframe.compute.operations import assisted_snapshots as assisted_snapshot_operations
from stillframe.compute.operations.adopted_disks import AdoptDisks, ReleaseDisks
from stillframe.compute.operations.attachments import AttachVolume, DetachVolume
from stillframe.compute.operations.delete_set import DeleteAssistedSnapshot
from stillframe.compute.operations.merge_intents import PullMerge
from stillframe.compute.operations.snapshot_intents import AssistedSnapshot, AssistedVolumeSnapshot, NativeDisk
from stillframe.journal.record import Request
from stillframe.volumes import kinds as volumes_kinds
from stillframe.volumes.chain.observe import held_for
from stillframe.volumes.operations import adopted_volumes, backups, chain_metadata, group_snapshots, images, snapshots, volumes
from stillframe.volumes.operations.executors.executor import Executor

VOLUME, OTHER, SERVER, MADE = (f"{number}" * 8 + "-0000-4000-8000-000000000000" for number in (1, 2, 3, 4))
KINDS = {**volumes_kinds.KINDS, **compute_kinds.KINDS}
GIB, CLUSTER, CLUSTERS = 1 << 30, 1 << 16, 9


def written(weights: Sequence[int]) -> list[dict[int, int]]:
    """What is written before each snapshot and after the last: by cluster, a byte it is filled with."""
    return [
        {(number * 2 + cluster) % CLUSTERS: 20 * (number + 1) + cluster for cluster in range(weight)}
        for number, weight in enumerate(weights)
    ]


@dataclass(frozen=True)
class Arranged:
    """A volume in the model: its tree and what a reader of each file finds."""

    tree: Tree
    worker: WorkerContext

    @property
    def row(self) -> Any:
        where = {"id": VOLUME, "backend": "local", "share": "/", "format": "qcow2", "base_format": "qcow2"}
        about: dict[str, Any] = {"name": None, "description": None, "metadata": {}, "project_id": "p", "linked_to": None}
        return {**where, **about, "active_file": self.tree.active, "status": "available"}

    def visible(self, name: str) -> list[int]:
        return [clusters * CLUSTER for clusters in simulate.visible(self.worker, name)]

    def done(self, found: Plan) -> "Arranged":
        worker = self.worker
        for step in found.steps:
            worker = simulate.apply(worker, step)
        return Arranged(found.after, worker)


def snapshot_id(number: int) -> str:
    return f"{number:08d}-1111-4111-8111-000000000000"


def arranged(weights: Sequence[int]) -> Arranged:
    base = Image(base_name(VOLUME), "qcow2", GIB)
    found = Arranged(Tree(VOLUME, {base.name: base}, base.name), WorkerContext({base.name: Layer()}, base.name))
    for number, clusters in enumerate(written(weights)):
        if number:
            found = found.done(plan.snapshot(found.tree, snapshot_id(number - 1), 64))
        for cluster, value in clusters.items():
            found = replace(found, worker=simulate.write(found.worker, cluster, value))
    return found


def reverted(weights: Sequence[int], removed: Sequence[int] = ()) -> Arranged:
    found = arranged(weights)
    overlay, gone = overlay_name(VOLUME, MADE), [snapshot_id(number) for number in removed]
    return found.done(plan.revert(found.tree, snapshot_id(0), overlay, gone, found.visible))


def changed(kind: snapshots.Change, found: Arranged, made: Plan) -> Request:
    return snapshots.change_request(kind, found.row, (found.tree, made, Executor()), [snapshot_id(0)], "r")


def deleted(weights: Sequence[int], gone: Sequence[int]) -> Request:
    found = arranged(weights)
    ids = [snapshot_id(number) for number in gone]
    return changed("delete_snapshot", found, plan.delete(found.tree, ids, found.visible))


def release(weights: Sequence[int], removed: Sequence[int]) -> Request:
    """After a revert, and after housekeeping has merged what went with it."""
    found = reverted(weights, removed)
    cleaned = plan.clean_up(found.tree, found.visible, ends=True)
    found = found.done(cleaned) if cleaned else found
    return changed("release_files", found, plan.release(found.tree, plan.UNDO, found.visible))


def turned_back(weights: Sequence[int], removed: Sequence[int]) -> Request:
    found = arranged(weights)
    overlay, gone = overlay_name(VOLUME, MADE), [snapshot_id(number) for number in removed]
    return changed("revert_volume", found, plan.revert(found.tree, snapshot_id(0), overlay, gone, found.visible))


def _backup() -> Any:
    return {"id": MADE, "stored_id": MADE, "container": "backups", "volume_id": VOLUME, "project_id": "demo"}


def _new_backup(parent: str | None) -> backups.NewBackup:
    return backups.NewBackup(
        id=MADE,
        stored_id=MADE,
        container="backups",
        parent_id=parent,
        parent_stored_id=parent,
        held_file="x",
        name=None,
        description=None,
        metadata={},
    )


def backed_up(incremental: bool) -> Request:
    found = arranged((3,))
    made = plan.hold(found.tree, held_for(MADE), overlay_name(VOLUME, MADE), 64)
    content = backups.Content(found.tree.active, "qcow2", GIB, "y" if incremental else None)
    return backups.create_request(found.row, _new_backup(OTHER if incremental else None), content, (found.tree, made), "r")


def restored_over(weights: Sequence[int]) -> Request:
    found = arranged(weights)
    old = found.tree.images[found.tree.active]
    new = Image(overlay_name(VOLUME, MADE), "qcow2", GIB, old.backing, old.backing_format)
    made = plan.replace_active(found.tree, new, found.visible)
    return backups.restore_request(found.row, _backup(), GIB, (found.tree, made, new), "r")


def _source(exclusive: bool) -> volumes.CopySource:
    return volumes.CopySource(volume_id=OTHER, name=base_name(OTHER), format="qcow2", exclusive=exclusive)


def _image() -> images.CreateImage:
    return images.CreateImage(id=MADE, name="n", disk_format="qcow2", container_format="bare", project_id="p")


def of_a_group(found: Arranged) -> Request:
    """The snapshot of a group of two volumes, one of which has had none yet."""
    base = Image(base_name(OTHER), "qcow2", GIB)
    second, row = Tree(OTHER, {base.name: base}, base.name), {**found.row, "id": OTHER, "active_file": base.name}
    members = [
        group_snapshots.Member(found.row, found.tree, plan.snapshot(found.tree, MADE, 64), MADE),
        group_snapshots.Member(row, second, plan.snapshot(second, SERVER, 64), SERVER),  # type: ignore[arg-type]
    ]
    return group_snapshots.create_request({"id": MADE, "project_id": "p"}, members, "r")  # type: ignore[typeddict-item]


def offline() -> dict[str, Request]:
    """By scenario: what it asks for. A scenario is a kind, or a kind and words where its plans differ."""
    row, two = arranged((3,)).row, arranged((3, 2))
    linked: Any = {**row, "linked_to": {"volume_id": OTHER, "file": base_name(OTHER), "format": "qcow2"}}
    snapshot = plan.snapshot(two.tree, MADE, 64)
    undone = reverted((3, 4, 2))
    extended = replace(undone, tree=plan.extend(undone.tree, 2 * GIB).after)
    return {
        "create_volume": volumes.create_request(row, GIB, "r"),
        "copy_volume of a volume": volumes.copy_request(row, GIB, _source(exclusive=True), "r"),
        "copy_volume of a snapshot": volumes.copy_request(row, GIB, _source(exclusive=False), "r"),
        "link_volume": volumes.link_request(linked, GIB, "r"),
        "delete_volume with snapshots": volumes.delete_request(row, "r"),
        "delete_volume that is linked": volumes.delete_request(row, "r"),
        "extend_volume": volumes.extend_request(row, 2, "r"),
        "manage_volume": volumes.manage_request(row, "x", "r"),
        "unmanage_volume": volumes.unmanage_request(row, "r"),
        "create_snapshot": snapshots.create_request(two.row, MADE, two.tree, snapshot, "r"),
        "create_group_snapshot": of_a_group(two),
        "delete_snapshot down": deleted((6, 2), [0]),
        "delete_snapshot up": deleted((2, 6), [0]),
        "delete_snapshot up below the active file": deleted((3, 2, 6), [1]),
        "delete_snapshot in the middle": deleted((6, 2, 3), [0]),
        "delete_snapshot up in the middle": deleted((3, 2, 6, 1), [1]),
        "delete_snapshot all at once": deleted((2, 3, 6, 2), [0, 1, 2]),
        "delete_snapshot in two places": deleted((6, 2, 1, 2, 6), [0, 2]),
        "revert_volume keep": turned_back((3, 4, 2), []),
        "revert_volume remove": turned_back((3, 4, 2), [1]),
        "undo_revert": changed("undo_revert", undone, plan.undo_revert(undone.tree)),
        "undo_revert of an extended volume": changed("undo_revert", extended, plan.undo_revert(extended.tree)),
        "release_files": release((3, 4, 2), [1]),
        "image_to_volume": images.import_request(row, GIB, MADE, "r"),
        "volume_to_image": images.upload_request(row, _image(), "r"),
        "create_backup": backed_up(incremental=False),
        "create_backup incremental": backed_up(incremental=True),
        "restore_backup into a new volume": backups.restore_request(row, _backup(), GIB, None, "r"),
        "restore_backup over a volume": restored_over((3, 2)),
        "delete_backup": backups.delete_request(_backup() | {"status": "available"}, "r"),
        "record_chain": chain_metadata.request(VOLUME, "r"),
    }


def merged() -> PullMerge:
    base, top = base_name(VOLUME), overlay_name(VOLUME, MADE)
    return PullMerge(
        server_id=SERVER,
        project_id="p",
        volume_id=VOLUME,
        snapshot_id=MADE,
        target="vda",
        directory="/",
        active=top,
        bandwidth=0,
        gone=(base,),
        backing=None,
        backing_format=None,
        old_backing=base,
        old_format="qcow2",
    )


def online() -> dict[str, Request]:
    """What needs a guest. The set is one of files and native volumes: its plan has every step there is. A file that a guest has
    open grows in one step, a volume that is given out in several."""
    switched: dict[str, Any] = {"server_id": SERVER, "active": True, "quiesce": "preferred", "disks": ()}
    native = NativeDisk(volume_id=VOLUME, target="vdb", size=GIB, before="target/1", directory="/", scratch="scratch")
    mixed = AssistedSnapshot(set_id=OTHER, natives=(native,), **switched)
    attach = attachments.request(AttachVolume(server_id=SERVER, volume_id=VOLUME, target="vda"), "r")
    detach = attachments.request(DetachVolume(server_id=SERVER, volume_id=VOLUME), "r")
    in_use: Any = {**arranged((3,)).row, "status": "in-use"}
    return {
        "attach_volume": attach,
        "attach_volume of iSCSI": attach,
        "detach_volume": detach,
        "detach_volume of iSCSI": detach,
        "extend_volume of iSCSI": volumes.extend_request(in_use, 2, "r", exported=True),
        "assisted_snapshot": assisted_snapshot_operations.request(mixed, "r"),
        "assisted_volume_snapshot": assisted_volume_snapshots.request(AssistedVolumeSnapshot(project_id="p", **switched), "r"),
        "delete_assisted_snapshot": delete_set.request(DeleteAssistedSnapshot(set_id=OTHER, server_id=SERVER), [OTHER], "r"),
        "merge_volume": merge.request(merged(), None, "r"),
        "adopt_disks": adopted_disks.adopt_request(AdoptDisks(server_id=SERVER, project_id="p", user_id="u", disks=()), "r"),
        "release_disks": adopted_disks.release_request(
            ReleaseDisks(server_id=SERVER, volume_ids=(VOLUME,), keep_files=False, open_targets=()), True, "r"
        ),
        "release_volume": adopted_volumes.release_request(arranged((3,)).row, "r"),
    }
