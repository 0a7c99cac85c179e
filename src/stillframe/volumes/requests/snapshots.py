"""Requests about snapshots, as the worker takes them, the three metadata actions among them."""

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection

from stillframe.chain import names, plan
from stillframe.chain.steps import cost, removed, written
from stillframe.chain.tree import Tree
from stillframe.context import Context
from stillframe.db import operations as journal
from stillframe.db import snapshots, volumes
from stillframe.db.rows import Row
from stillframe.errors import BadRequest, ChainConflict, Conflict, NotSound, ShareUnavailable
from stillframe.journal import record
from stillframe.volumes.chain import explain as chain_explain
from stillframe.volumes.chain import observe
from stillframe.volumes.operations import chain_metadata
from stillframe.volumes.operations import snapshots as operations
from stillframe.volumes.operations.executors import live
from stillframe.volumes.operations.executors.executor import Hand, hand_for
from stillframe.volumes.requests import volumes as volume_requests
from stillframe.volumes.worker import file_users, lookup
from stillframe.volumes.worker.context import WorkerContext

DELETABLE = ("available", "error", "error_deleting")
NOVA_REPORTS = {"creating": ("creating", "available", "error"), "deleting": ("deleting", "error_deleting")}


def _row(context: Context, volume: Row, wanted: dict[str, Any]) -> Row:
    snapshot_id = wanted.get("snapshot_id") or str(uuid.uuid4())
    row = {
        "id": snapshot_id,
        "project_id": volume["project_id"],
        "user_id": context.user_id,
        "name": wanted.get("name"),
        "description": wanted.get("description"),
        "volume_id": volume["id"],
        "size": volume["size"],
        "status": "creating",
        "progress": "0%",
        "metadata": wanted.get("metadata") or {},
        "overlay": names.overlay_name(volume["id"], snapshot_id),
        "backing": volume["active_file"],
        "backing_format": volume["format"],
        "server_id": wanted.get("server_id"),
    }
    if wanted.get("created_at"):
        row["created_at"] = _time(wanted["created_at"])
    return row


def _time(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
        return found.astimezone(UTC).replace(tzinfo=None) if found.tzinfo else found
    except (ValueError, OverflowError) as error:  # of a first day with a zone: UTC would be before it
        raise BadRequest(f"created_at {text[:40]!r} is no ISO 8601 time") from error


def create(world: WorkerContext, context: Context, volume_id: str, wanted: dict[str, Any]) -> str:
    """Takes a snapshot of a volume that nothing is attached to, through qemu-img. Returns the snapshot's id.

    Raises BadRequest for an attached one: its server is asked for an assisted snapshot instead.
    """
    with world.database.read() as connection:
        volume = lookup.volume(connection, context, volume_id)
        lookup.refuse_if_busy(connection, volume["id"])
    if volume["status"] != "available":
        raise BadRequest(
            f"Invalid volume: the status of volume {volume['id']} must be available, but it is {volume['status']};"
            " snapshot an attached volume with 'openstack assisted snapshot create --volume <volume> <server>'"
        )
    world.share(volume).probe_for_writing()
    world.share(volume).check_sound(volume["id"])
    file_users.refuse_if_named(world, world.share(volume), volume["id"])
    row = _row(context, volume, wanted)
    before = observe.observe(world, volume)
    planned = plan.snapshot(before, row["id"], world.settings.volumes.max_chain_depth)
    with world.database.write() as connection:
        fresh = volume_requests.unchanged(connection, volume, before)
        lookup.check_snapshot_quota(world, connection, volume, snapshots.of_volume(connection, volume["id"]))
        snapshots.insert(connection, row)
        record.submit(connection, operations.create_request(fresh, row["id"], before, planned, context.request_id))
    return str(row["id"])


def update(world: WorkerContext, context: Context, snapshot_id: str, changes: dict[str, Any]) -> None:
    with world.database.write() as connection:
        row = lookup.snapshot(connection, context, snapshot_id)
        snapshots.change(connection, row["id"], **changes)
        chain_metadata.submit_once(connection, row["volume_id"], context.request_id)


def set_metadata(
    world: WorkerContext, context: Context, snapshot_id: str, metadata: dict[str, str], replace: bool
) -> dict[str, str]:
    with world.database.write() as connection:
        row = lookup.snapshot(connection, context, snapshot_id)
        merged = metadata if replace else lookup.with_more(context, row["metadata"], metadata)
        snapshots.change(connection, row["id"], metadata=merged)
        chain_metadata.submit_once(connection, row["volume_id"], context.request_id)
    return merged


def delete_metadata_key(world: WorkerContext, context: Context, snapshot_id: str, key: str) -> None:
    with world.database.write() as connection:
        row = lookup.snapshot(connection, context, snapshot_id)
        kept = lookup.without(row["metadata"], key, f"Snapshot {snapshot_id} has no metadata")
        snapshots.change(connection, row["id"], metadata=kept)
        chain_metadata.submit_once(connection, row["volume_id"], context.request_id)


def delete(world: WorkerContext, context: Context, snapshot_id: str, force: bool = False, bandwidth_mib: int = 0) -> None:
    """Deletes a snapshot, under a running server where there is one; a failed one that has no file loses its row.

    ``bandwidth_mib`` limits a live merge to so many MiB a second; 0: as compute is configured.
    """
    delete_several(world, context, [snapshot_id], force, bandwidth_mib)


def delete_several(
    world: WorkerContext, context: Context, snapshot_ids: Sequence[str], force: bool = False, bandwidth_mib: int = 0
) -> None:
    """Deletes snapshots of one volume in one plan, with the least copying. Raises BadRequest, Conflict listing what depends
    on one of them, ShareUnavailable with numbers when there is no room for the merge."""
    with world.database.read() as connection:
        rows = [lookup.snapshot(connection, context, snapshot_id) for snapshot_id in snapshot_ids]
        volume = volumes.get(connection, rows[0]["volume_id"], None)
    assert volume is not None
    _check_deletable(world, volume, rows, force)
    before = observe.observe(world, volume)
    rows = [row for row in rows if not _dropped(world, before, row)]
    if rows:
        _delete(world, context, (volume, before), rows, bandwidth_mib)


def _check_deletable(world: WorkerContext, volume: Row, rows: Sequence[Row], force: bool = False) -> None:
    for row in rows:
        if row["status"] not in DELETABLE and not force:
            raise BadRequest(f"Invalid snapshot: its status must be available or error, but it is {row['status']}")
        if row["volume_id"] != volume["id"]:
            raise BadRequest(f"snapshot {row['id']} is not one of volume {volume['id']}")
    with world.database.read() as connection:
        lookup.refuse_if_busy(connection, volume["id"])


def _holds_nothing(tree: Tree, row: Row) -> bool:
    """Tells whether a snapshot failed and has no data: then only its row is deleted. Raises ChainConflict for one that has lost
    its data."""
    if row["id"] in tree.snapshots:
        return False
    if row["status"] != "error":
        raise ChainConflict(f"the file {row['backing']} of snapshot {row['id']} is missing")
    return True


def _dropped(world: WorkerContext, tree: Tree, row: Row) -> bool:
    if not _holds_nothing(tree, row):
        return False
    with world.database.write() as connection:
        snapshots.delete(connection, row["id"])
    return True


def _delete(world: WorkerContext, context: Context, found: tuple[Row, Tree], rows: Sequence[Row], bandwidth_mib: int) -> None:
    volume, before = found
    hand = hand_for(world, volume, bandwidth_mib)
    ids = [row["id"] for row in rows]
    planned = plan.delete(before, ids, volume_requests.visible(world, volume, before), hand.running)
    _check_sound(world, volume, planned, hand)
    _check_space(world, volume, cost(planned.steps))
    with world.database.write() as connection:
        volume_requests.unchanged(connection, volume, before)
        for row in rows:
            if not snapshots.move(connection, row["id"], (row["status"],), "deleting", progress="0%", fault=None):
                raise Conflict(f"snapshot {row['id']} changed meanwhile; repeat the request")
        options = {"snapshot_ids": ids, "request_id": context.request_id}
        record.submit(connection, operations.change_request("delete_snapshot", volume, (before, planned, hand), options))


def _check_sound(world: WorkerContext, volume: Row, planned: plan.Plan, hand: Hand) -> None:
    """Raises NotSound unless the files may be merged. Offline every file is repaired first. Under a running server none can be
    repaired; files that QEMU only reads may stay as they are, unless it closes them at the end."""
    if hand.running:
        world.share(volume).check_sound(volume["id"], written(planned.steps), removed(planned.steps))
    else:
        world.share(volume).check_sound(volume["id"])


def explain(world: WorkerContext, context: Context, snapshot_id: str) -> dict[str, Any]:
    """As ``explain_several``, for one."""
    return explain_several(world, context, [snapshot_id])


def explain_several(world: WorkerContext, context: Context, snapshot_ids: Sequence[str]) -> dict[str, Any]:
    """Returns what a deletion would do, without doing it: ``{"method", "steps": [{"step", "file", "into", "bytes"}], "bytes",
    "seconds", "why", "dependants", "busy", "possible", "share_free"}``. ``seconds`` is a guess at RATE_MIB a second, or the
    configured limit; ``busy`` the operation that has to end before it is possible."""
    with world.database.read() as connection:
        rows = [lookup.snapshot(connection, context, snapshot_id) for snapshot_id in snapshot_ids]
        volume = volumes.get(connection, rows[0]["volume_id"], None)
    assert volume is not None
    ids = [row["id"] for row in rows]
    try:
        _check_deletable(world, volume, rows)
        hand = hand_for(world, volume)
        before = observe.observe(world, volume)
        rows = [row for row in rows if not _holds_nothing(before, row)]
        if not rows:
            return chain_explain.row_only(ids)
        ids = [row["id"] for row in rows]
        planned = plan.delete(before, ids, volume_requests.visible(world, volume, before), hand.running)
        _check_sound(world, volume, planned, hand)
    except (BadRequest, Conflict, ChainConflict, NotSound) as error:
        with world.database.read() as connection:
            return chain_explain.refused(error, volumes.busy_operation(connection, volume["id"]))
    explained = chain_explain.document(before, planned, ids, hand.running, hand.usual_bandwidth_mib)
    told = {**explained, "share_free": world.share(volume).free()}
    try:
        _check_space(world, volume, told["bytes"])
    except ShareUnavailable as error:
        told |= {"possible": False, "why": error.message}
    return told


def cancel_deletion(world: WorkerContext, context: Context, snapshot_id: str) -> None:
    """Cancels a deletion that merges under a running server. A merge down that has begun leaves the snapshot
    ``error_deleting``: it can only be deleted; a pull leaves it as it was. Raises Conflict when nothing can be cancelled."""
    with world.database.read() as connection:
        row = lookup.snapshot(connection, context, snapshot_id)
        busy = journal.on_resource(connection, f"volume:{row['volume_id']}")
    if busy is None or busy["kind"] != "delete_snapshot" or row["id"] not in busy["intent"]["snapshot_ids"]:
        raise Conflict(f"snapshot {row['id']} is {row['status']}; no deletion of it is under way")
    for each in busy["plan"]:
        wanted = live.merge_id(busy["id"], each.get("key", ""))
        found = world.compute.merge_status(wanted) if each["verb"] == "MergeLive" else None
        if found is not None and found["status"] == "running":
            world.compute.cancel_merge(wanted)
            return
    raise Conflict(f"the deletion of snapshot {row['id']} copies nothing under a running server now; it ends by itself")


def _check_space(world: WorkerContext, volume: Row, needed: int) -> None:
    """Raises ShareUnavailable unless there is room for all that a merge may copy. A deletion that copies nothing works on a
    full share too."""
    share = world.share(volume)
    free = share.free()
    if free < needed:
        raise ShareUnavailable(
            f"the merge may copy {needed} bytes; {free} are free on {volume['share']}", needed=needed, free=free
        )


def reset_status(world: WorkerContext, context: Context, snapshot_id: str, status: str) -> None:
    """``os-reset_status``: an administrator corrects a status. It changes the row and nothing else."""
    with world.database.write() as connection:
        row = lookup.snapshot(connection, context, snapshot_id)
        record.refuse_if_busy(connection, f"volume:{row['volume_id']}")
        snapshots.change(connection, row["id"], status=status, **({"fault": None} if status == "available" else {}))


def create_metadata(world: WorkerContext, context: Context, volume_id: str, wanted: dict[str, Any]) -> str:
    """``os-create_snapshot_metadata``: a row in "creating"; no storage is touched. The same snapshot_id again: the same
    answer. Returns the snapshot's id."""
    if wanted.get("snapshot_id"):
        wanted = {**wanted, "snapshot_id": names.canonical_id(wanted["snapshot_id"], "snapshot_id")}
    with world.database.write() as connection:
        volume = lookup.volume(connection, context, volume_id)
        known = snapshots.get(connection, wanted["snapshot_id"], None) if wanted.get("snapshot_id") else None
        if known is not None:
            if known["volume_id"] != volume["id"]:
                raise Conflict(f"snapshot {known['id']} is one of another volume")
            return str(known["id"])
        _check_may_record(world, connection, volume, wanted)
        row = _row(context, volume, wanted)
        snapshots.insert(connection, row)
    return str(row["id"])


def _check_may_record(world: WorkerContext, connection: Connection, volume: Row, wanted: dict[str, Any]) -> None:
    if volume["status"] != "in-use":
        raise BadRequest(f"Invalid volume: volume {volume['id']} must be in-use, but it is {volume['status']}")
    if wanted.get("size") not in (None, volume["size"]):
        raise BadRequest(f"size {wanted['size']} is not the volume's, {volume['size']} GiB")
    # An operation on the chain was planned with the present active file; the switch would change that while it runs.
    record.refuse_if_busy(connection, f"volume:{volume['id']}", shared=True)
    lookup.check_snapshot_quota(world, connection, volume, lookup.refuse_if_being_taken(connection, volume["id"]))


def finalize_metadata(world: WorkerContext, context: Context, snapshot_id: str, wanted: dict[str, Any]) -> None:
    """``os-finalize_snapshot_metadata``: from "creating" to "available" or "error"; the same call again changes nothing."""
    with world.database.write() as connection:
        row = lookup.snapshot(connection, context, snapshot_id)
        active = wanted.get("active_file") or row["overlay"]
        if active != row["overlay"]:  # for a repeat too: a caller that names another file has not finished this snapshot
            raise BadRequest(f"active_file {active[:120]!r} is not the snapshot's overlay {row['overlay']}")
        if row["status"] == wanted["status"] and _is_repeat(row, wanted):
            return
        if row["status"] != "creating":
            raise Conflict(f"snapshot {row['id']} is {row['status']}; only a creating one can be finalized")
        if wanted["status"] == "error":
            snapshots.change(connection, row["id"], status="error", fault="compute could not take it")
            return
        changes: dict[str, Any] = {"status": "available", "progress": "100%", "consistency": wanted.get("consistency")}
        if wanted.get("created_at"):
            changes["created_at"] = _time(wanted["created_at"])
        snapshots.change(connection, row["id"], **changes)
        volumes.change(connection, row["volume_id"], active_file=active, format="qcow2")
        # The rows are right already; the files beside the volume may be written after the set's other volumes are finalized.
        record.submit(connection, chain_metadata.request(row["volume_id"], context.request_id, chain_metadata.PAUSE_SECONDS))


def _is_repeat(row: Row, wanted: dict[str, Any]) -> bool:
    return wanted["status"] == "error" or wanted.get("consistency") in (None, row["consistency"])


def drop_metadata(world: WorkerContext, context: Context, snapshot_id: str) -> None:
    """``os-snapshot_delete_metadata``: the row goes, storage stays. Refused while a file of the chain carries the snapshot."""
    with world.database.read() as connection:
        row = lookup.snapshot(connection, context, snapshot_id)
        volume = volumes.get(connection, row["volume_id"], None)
    if volume is not None and row["overlay"] in world.share(volume).files(row["volume_id"]):
        raise Conflict(f"the file {row['overlay']} of snapshot {row['id']} is still on the share")
    with world.database.write() as connection:
        snapshots.delete(connection, row["id"])


def update_status(world: WorkerContext, context: Context, snapshot_id: str, status: str, progress: str | None) -> None:
    """``os-update_snapshot_status``: Nova's report; its 90 % may arrive after a higher figure. Raises BadRequest for a
    transition Cinder does not know."""
    with world.database.write() as connection:
        row = lookup.snapshot(connection, context, snapshot_id)
        if status not in NOVA_REPORTS.get(row["status"], ()):
            raise BadRequest(f"Provided snapshot status {status} not allowed for snapshot with status {row['status']}.")
        back = status == row["status"] == "deleting" and _percent(progress) < _percent(row["progress"])
        snapshots.change(connection, row["id"], status=status, **({"progress": progress} if progress and not back else {}))


def _percent(progress: str | None) -> int:
    return int((progress or "0%").removesuffix("%"))
