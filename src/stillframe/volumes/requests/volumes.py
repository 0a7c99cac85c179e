"""Requests about volumes that exist, as the worker takes them: rename, extend, revert, delete, reset, unmanage."""

import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import Connection

from stillframe.chain import names, native, plan
from stillframe.chain.tree import Tree
from stillframe.context import Context
from stillframe.db import attachments, snapshots, volumes
from stillframe.db.rows import AttachmentRow, SnapshotRow, VolumeRow
from stillframe.db.values import VolumeChanges
from stillframe.errors import BadConfiguration, BadRequest, Busy, Conflict, ServiceUnavailable, ShareUnavailable
from stillframe.journal import record
from stillframe.volumes.chain import observe
from stillframe.volumes.operations import adopted_volumes
from stillframe.volumes.operations import snapshots as chain_operations
from stillframe.volumes.operations import volumes as operations
from stillframe.volumes.operations.executors.executor import executor_for
from stillframe.volumes.operations.executors.exported import refuse_if_in_set, refuse_if_open
from stillframe.volumes.requests import recorded, services
from stillframe.volumes.requests.recorded import Asker
from stillframe.volumes.storage import scheduler
from stillframe.volumes.worker import file_users, lookup
from stillframe.volumes.worker.context import WorkerContext

DELETABLE = ("available", "error", "error_deleting", "error_restoring", "error_extending")
RESETTABLE = ("available", "error", "creating", "deleting", "error_deleting", "in-use", "maintenance", "attaching", "detaching")


def update(worker: WorkerContext, context: Context, volume_id: str, changes: dict[str, Any]) -> None:
    """Changes name, description or metadata. Raises NotFound."""
    recorded.change(Asker(worker, context), recorded.VOLUME, volume_id, lambda _row: cast("VolumeChanges", changes))


def set_metadata(
    worker: WorkerContext, context: Context, volume_id: str, metadata: dict[str, str], replace: bool
) -> dict[str, str]:
    """As ``recorded.set_metadata``, of a volume."""
    return recorded.set_metadata(Asker(worker, context), recorded.VOLUME, volume_id, metadata, replace)


def delete_metadata_key(worker: WorkerContext, context: Context, volume_id: str, key: str) -> None:
    """As ``recorded.delete_metadata_key``, of a volume."""
    recorded.delete_metadata_key(Asker(worker, context), recorded.VOLUME, volume_id, key)


def set_bootable(worker: WorkerContext, context: Context, volume_id: str, bootable: bool) -> None:
    """Says whether a server may start from the volume. Raises NotFound."""
    recorded.change(Asker(worker, context), recorded.VOLUME, volume_id, lambda _row: {"bootable": bootable})


def set_image_metadata(worker: WorkerContext, context: Context, volume_id: str, metadata: dict[str, str]) -> dict[str, str]:
    """Adds or changes keys of the image's metadata; returns all of it. Raises NotFound."""
    found: dict[str, str] = {}

    def merged(row: VolumeRow) -> VolumeChanges:
        found.update(lookup.with_more(context, row["image_metadata"], metadata))
        return {"image_metadata": found}

    recorded.change(Asker(worker, context), recorded.VOLUME, volume_id, merged)
    return found


def unset_image_metadata(worker: WorkerContext, context: Context, volume_id: str, key: str) -> None:
    """Removes one key of the image's metadata. Raises NotFound, also when there is no such key."""

    def kept(row: VolumeRow) -> VolumeChanges:
        return {
            "image_metadata": lookup.without(row["image_metadata"], key, f"Volume {volume_id} has no image metadata") or None
        }

    recorded.change(Asker(worker, context), recorded.VOLUME, volume_id, kept)


def delete(worker: WorkerContext, context: Context, volume_id: str, cascade: bool = False, force: bool = False) -> None:
    """Deletes a volume that nothing is attached to. With ``cascade`` its snapshots are deleted too; ``force`` is for
    administrators and deletes a volume in any status. Raises BadRequest, Conflict listing what depends on it, Busy naming the
    set that it is being taken into."""
    with worker.database.read() as connection:
        refuse_users(worker, lookup.volume(connection, context, volume_id))
    with worker.database.write() as connection:
        row = lookup.volume(connection, context, volume_id)
        refuse_if_grouped(row)
        begin_deletion(worker, connection, row, context.request_id, Deletion(cascade, force))


@dataclass(frozen=True)
class Deletion:
    """``cascade``: with the volume's snapshots; ``force``: in any status."""

    cascade: bool = False
    force: bool = False


def begin_deletion(
    worker: WorkerContext, connection: Connection, row: VolumeRow, request_id: str, wanted: Deletion | None = None
) -> None:
    """As ``delete``, in the caller's transaction, whether the volume is in a group or not."""
    wanted = wanted or Deletion()
    refuse_if_attached(connection, row)
    if row["share"]:
        services.refuse_frozen(worker, connection, row["backend"])
    dependants = [snapshot["id"] for snapshot in snapshots.of_volume(connection, row["id"])]
    if dependants and not wanted.cascade:
        raise Conflict(
            f"Invalid volume: volume {row['id']} still has {len(dependants)} snapshots, the first is {dependants[0]};"
            " delete them first",
            snapshots=dependants[:100],
        )
    refuse_parts(snapshots.of_volume(connection, row["id"]))
    refuse_if_linked(connection, row)
    record.refuse_if_busy(connection, f"volume:{row['id']}")
    if not row["share"] and row["status"] in DELETABLE:  # no backend ever took it: it is a row and nothing else
        volumes.delete(connection, row["id"])
        return
    allowed: Sequence[str] = (row["status"],) if wanted.force else DELETABLE
    if not volumes.move(connection, row["id"], allowed, "deleting"):
        raise BadRequest(
            f"Invalid volume: the status of volume {row['id']} must be available or error, but it is {row['status']}"
        )
    for snapshot_id in dependants:
        snapshots.change(connection, snapshot_id, status="deleting")
    record.submit(connection, operations.delete_request(row, request_id))


def refuse_users(worker: WorkerContext, row: VolumeRow) -> None:
    """Raises FileInUse when a file on the share that is not ours reads one of the volume, Busy while it is taken into a set."""
    with suppress(ShareUnavailable, BadConfiguration):  # checked again before anything is removed
        if row["share"]:
            share = worker.share(row)
            file_users.refuse_foreign_readers(worker, share, row["id"])
            if row["status"] == "in-use" and share.capabilities.exported:
                with suppress(ServiceUnavailable):  # it is refused in any case, and told to whom it is attached
                    refuse_if_in_set(worker, row["id"])


def refuse_parts(rows: Sequence[SnapshotRow]) -> None:
    """Raises BadRequest for a snapshot that goes with the snapshot of its group only."""
    for row in rows:
        if row["group_snapshot_id"] is not None:
            raise BadRequest(
                f"Invalid snapshot: snapshot {row['id']} is a part of group snapshot {row['group_snapshot_id']}; delete that:"
                " 'openstack volume group snapshot delete'"
            )


def refuse_if_grouped(row: VolumeRow) -> None:
    """Raises BadRequest for a volume in a group: it is deleted, and given away, with its group only."""
    if row["group_id"] is not None:
        raise BadRequest(
            f"Invalid volume: volume {row['id']} belongs to group {row['group_id']}; remove it from the group first"
        )


def refuse_if_attached(connection: Connection, row: VolumeRow) -> None:
    """Raises BadRequest naming the server, whatever the volume's status says: that may have been set by hand."""
    for held in attachments.of_volumes(connection, [row["id"]])[row["id"]]:
        raise BadRequest(
            f"Invalid volume: volume {row['id']} is {row['status']} and attached to server {held['instance_id']} (attachment"
            f" {held['id']}); detach it first. If the server does not exist any more, an administrator deletes the attachment"
        )


def refuse_if_linked(connection: Connection, row: VolumeRow) -> None:
    """Raises Conflict listing the linked clones that read a file of the volume."""
    linked = [clone["id"] for clone in volumes.linked_to(connection, row["id"])]
    if linked:
        raise Conflict(
            f"volume {row['id']} is read by {len(linked)} linked volumes, the first is {linked[0]}; it stays"
            " as long as they do. A full copy ('openstack volume create --source') does not need it",
            dependants=linked[:100],
        )


def extend(worker: WorkerContext, context: Context, volume_id: str, new_size: int) -> None:
    """Grows a volume to ``new_size`` GiB; one that is attached grows under its server, which sees it at once."""
    with worker.database.read() as connection:
        row = lookup.volume(connection, context, volume_id)
    lookup.refuse_unless(row["status"], ("available", "in-use"), f"volume {row['id']}")
    if new_size <= row["size"]:
        raise BadRequest(f"new_size {new_size} must be more than the {row['size']} GiB volume {row['id']} has")
    with worker.database.read() as connection:
        lookup.check_growth(worker, connection, row, new_size)
        services.refuse_frozen(worker, connection, row["backend"])
    scheduler.check_room(worker.backends, row, new_size - row["size"])
    executor = executor_for(worker, row)
    if executor.exported:
        refuse_if_in_set(worker, row["id"])
    worker.share(row).check_sound(row["id"])
    plan.extend(observe.observe(worker, row), new_size << 30)
    pool = worker.backends.pool(row)
    most = scheduler.most_promised(pool)
    with worker.database.write() as connection:
        fresh = unchanged(connection, row)
        scheduler.check_promised(connection, pool, new_size - row["size"], most)
        lookup.check_growth(worker, connection, row, new_size)
        volumes.change(connection, row["id"], status="extending")
        record.submit(connection, operations.extend_request(fresh, new_size, context.request_id, executor.exported))


def unchanged(connection: Connection, row: VolumeRow, before: Tree | None = None) -> VolumeRow:
    """Returns the row as it is now. Raises Conflict when the row, or what its files are needed for, has changed since the plan
    was made, or an operation holds it. Called inside the transaction, because an attach, a linked clone or another operation
    may have happened in between."""
    record.refuse_if_busy(connection, f"volume:{row['id']}")
    lookup.refuse_if_being_taken(connection, row["id"])
    fresh = volumes.get(connection, row["id"], None)
    if (
        fresh is None
        or _facts(fresh) != _facts(row)
        or (before is not None and not observe.is_still(connection, fresh, before))
    ):
        raise Busy(f"volume {row['id']} changed meanwhile; repeat the request")
    return fresh


def revert(worker: WorkerContext, context: Context, volume_id: str, snapshot_id: str, newer: str | None) -> None:
    """Reverts the volume to a snapshot: its writes start anew from there. ``newer`` says what becomes of newer snapshots,
    "keep" or "remove"; without it only the newest snapshot, of the volume's size, is taken, as Cinder has it."""
    with worker.database.read() as connection:
        row = lookup.volume(connection, context, volume_id)
        snapshot = lookup.snapshot(connection, context, snapshot_id)
        rows = snapshots.of_volume(connection, row["id"])
    if snapshot["volume_id"] != row["id"]:
        raise BadRequest(f"snapshot {snapshot['id']} is not one of volume {row['id']}")
    lookup.refuse_unless(snapshot["status"], ("available",), f"snapshot {snapshot['id']}")
    executor = executor_for(worker, row)
    if executor.exported:
        refuse_if_in_set(worker, row["id"])
        refuse_if_open(worker, row["id"])
    elif executor.running:
        raise Conflict(
            f"volume {row['id']} is open in server {executor.server['id'] if executor.server else ''}, which runs; stop the"
            " server (openstack server stop) and repeat: a stopped server's volume is reverted where it is"
        )
    later = [other["id"] for other in rows if other["seq"] > snapshot["seq"]]
    _check_standard_revert(row, snapshot, later, newer)
    worker.share(row).check_sound(row["id"])
    before = observe.observe(worker, row)
    removed = [each for each in later if each in before.snapshots] if newer == "remove" else []
    refuse_parts([other for other in rows if other["id"] in removed])
    overlay = names.overlay_name(row["id"], str(uuid.uuid4()))
    if worker.share(row).capabilities.chains:
        planned = plan.revert(before, snapshot["id"], overlay, removed, visible(worker, row, before))
    else:
        planned = native.revert(before, snapshot["id"], overlay, removed)
    worker.share(row).probe_for_writing()
    with worker.database.write() as connection:
        unchanged(connection, row, before)
        volumes.change(connection, row["id"], status="reverting")
        snapshots.change(connection, snapshot["id"], status="restoring")
        for removed_id in removed:
            snapshots.change(connection, removed_id, status="deleting")
        plans = (before, planned, executor)
        ids = [snapshot["id"], *removed]
        record.submit(connection, chain_operations.change_request("revert_volume", row, plans, ids, context.request_id))


def _check_standard_revert(row: VolumeRow, snapshot: SnapshotRow, later: Sequence[str], newer: str | None) -> None:
    if newer is None and later:
        raise BadRequest(
            f"snapshot {snapshot['id']} is not the newest of volume {row['id']}; say what becomes of {len(later)} newer ones:"
            ' {"revert": {"snapshot_id": ..., "newer_snapshots": "keep" or "remove"}}',
            newer=list(later)[:100],
        )
    if newer is None and snapshot["size"] != row["size"]:
        raise BadRequest(
            f"volume {row['id']} has {row['size']} GiB, snapshot {snapshot['id']} {snapshot['size']}; with newer_snapshots"
            " given the volume keeps its size"
        )


def visible(worker: WorkerContext, row: VolumeRow, tree: Tree) -> plan.Visible:
    """Returns the function by which a plan weighs files: bytes that a reader finds in a file and in those below it."""
    share, shared = worker.share(row), row["status"] == "in-use"
    return lambda name: share.visible(name, tree.images[name].format, shared)


def undo_revert(worker: WorkerContext, context: Context, volume_id: str) -> None:
    """Undoes the last revert, as long as nothing was written since. Raises Conflict when there is nothing to undo."""
    with worker.database.read() as connection:
        row = lookup.volume(connection, context, volume_id)
    if not worker.share(row).capabilities.undo_revert:
        raise Conflict(
            f"volume {row['id']} has no revert that can be undone: its share removes what the volume held before. A snapshot"
            " that is taken before a revert keeps it"
        )
    executor = executor_for(worker, row)
    if executor.running:
        raise Conflict(f"volume {row['id']} is open in a running server; stop it first")
    worker.share(row).check_sound(row["id"])
    before = observe.observe(worker, row)
    planned = plan.undo_revert(before)
    if worker.share(row).holds_data(row["active_file"]):
        raise Conflict(f"volume {row['id']} was written to since the revert: it cannot be undone any more")
    with worker.database.write() as connection:
        unchanged(connection, row, before)
        volumes.change(connection, row["id"], status="reverting")
        plans = (before, planned, executor)
        record.submit(connection, chain_operations.change_request("undo_revert", row, plans, [], context.request_id))


def reset_status(worker: WorkerContext, context: Context, volume_id: str, status: str) -> None:
    """``os-reset_status``: an administrator corrects a status. It changes the row and nothing else."""
    with worker.database.write() as connection:
        row = lookup.volume(connection, context, volume_id)
        record.refuse_if_busy(connection, f"volume:{row['id']}")
        attached = attachments.of_volumes(connection, [row["id"]])[row["id"]]
        if (status == "in-use") != bool(attached) and status in ("in-use", "available"):
            raise BadRequest(_why_not_status(row, attached, status))
        changes: VolumeChanges = {"status": status, "fault": None if status == "available" else row["fault"]}
        volumes.change(connection, row["id"], **changes)


def _facts(row: VolumeRow) -> tuple[object, ...]:
    """What a plan was made from."""
    return row["status"], row["active_file"], row["format"], row["size"], row["undo_file"]


def _refuse_unless_alone(connection: Connection, row: VolumeRow) -> None:
    """Raises BadRequest for a volume of which one file alone, under the volume's own name, does not hold everything."""
    held, linked, active = len(snapshots.of_volume(connection, row["id"])), row["linked_to"], row["active_file"]
    why = None
    if held:
        why = f"it has {held} snapshots; delete them first"
    elif linked:
        copy = "unmanage a full copy of it instead ('openstack volume create --source')"
        why = f"it reads {linked['file']} of another volume; {copy}"
    elif active != names.base_name(row["id"], row["base_file"]):
        why = f"{active} is above one that is kept, or is renamed some seconds after its last use; see 'stillframe chain show'"
    if why is not None:
        raise BadRequest(f"volume {row['id']} is made of several files: {why}")


def _why_not_status(row: VolumeRow, attached: Sequence[AttachmentRow], status: str) -> str:
    if not attached:
        return f"volume {row['id']} is not attached, so its status cannot be {status}"
    held = attached[0]
    return (
        f"volume {row['id']} is attached to server {held['instance_id']}, so its status cannot be {status}; detach it, or if"
        f" the server does not exist any more, delete attachment {held['id']} as an administrator"
    )


def unmanage(worker: WorkerContext, context: Context, volume_id: str) -> None:
    """Unmanages a volume: its file stays on the share, the row is deleted. The file gets another name unless it was adopted,
    which leaves it the one it has always had."""
    with worker.database.write() as connection:
        row = lookup.volume(connection, context, volume_id)
        refuse_if_grouped(row)
        _refuse_unless_alone(connection, row)
        refuse_if_attached(connection, row)
        refuse_if_linked(connection, row)
        record.refuse_if_busy(connection, f"volume:{row['id']}")
        if not volumes.move(connection, row["id"], ("available",), "unmanaging"):
            raise BadRequest(f"Invalid volume: the status of volume {row['id']} must be available, but it is {row['status']}")
        unmanage_request = adopted_volumes.release_request if row["base_file"] else operations.unmanage_request
        record.submit(connection, unmanage_request(row, context.request_id))
