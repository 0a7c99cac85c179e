"""Requests about snapshots, as the worker takes them, the three metadata actions among them."""

import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, cast

from sqlalchemy import Connection

from stillframe.chain import names, native, plan
from stillframe.chain.steps import cost, removed, written
from stillframe.chain.tree import Tree
from stillframe.context import Context
from stillframe.db import operations as journal
from stillframe.db import snapshots, volumes
from stillframe.db.rows import SnapshotRow, VolumeRow
from stillframe.db.values import NewSnapshot, SnapshotChanges
from stillframe.errors import BadRequest, ChainConflict, Conflict, Forbidden, NotSound, ShareUnavailable
from stillframe.journal import record
from stillframe.journal.about import about
from stillframe.journal.operation import Operation
from stillframe.journal.typed import verb_of
from stillframe.volumes.chain import explain as chain_explain
from stillframe.volumes.chain import observe
from stillframe.volumes.operations import chain_metadata
from stillframe.volumes.operations import snapshots as operations
from stillframe.volumes.operations.executors import live
from stillframe.volumes.operations.executors.executor import Executor, executor_for
from stillframe.volumes.requests import recorded, services
from stillframe.volumes.requests import volumes as volume_requests
from stillframe.volumes.requests.recorded import Asker
from stillframe.volumes.worker import file_users, lookup
from stillframe.volumes.worker.context import WorkerContext

DELETABLE = ("available", "error", "error_deleting")
NOVA_REPORTS = {"creating": ("creating", "available", "error"), "deleting": ("deleting", "error_deleting")}


def _row(context: Context, volume: VolumeRow, wanted: dict[str, Any]) -> NewSnapshot:
    snapshot_id = wanted.get("snapshot_id") or str(uuid.uuid4())
    row: NewSnapshot = {
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


def create(worker: WorkerContext, context: Context, volume_id: str, wanted: dict[str, Any]) -> str:
    """Takes a snapshot of a volume that nothing is attached to, with ``force`` also of an attached one where its share has
    snapshots of its own. Returns the snapshot's id.

    Raises BadRequest for an attached one otherwise: its server is asked for an assisted snapshot instead.
    """
    with worker.database.read() as connection:
        volume = lookup.volume(connection, context, volume_id)
        lookup.check_snapshot_quota(worker, connection, volume, snapshots.of_volume(connection, volume["id"]))
        services.refuse_frozen(worker, connection, volume["backend"])
        lookup.refuse_if_busy(connection, volume["id"])
    row, before, planned = prepared(worker, context, volume, wanted)
    with worker.database.write() as connection:
        fresh = volume_requests.unchanged(connection, volume, before)
        lookup.check_snapshot_quota(worker, connection, volume, snapshots.of_volume(connection, volume["id"]))
        snapshots.insert(connection, row)
        record.submit(connection, operations.create_request(fresh, row["id"], before, planned, context.request_id))
    return str(row["id"])


def prepared(
    worker: WorkerContext, context: Context, volume: VolumeRow, wanted: dict[str, Any]
) -> tuple[NewSnapshot, Tree, plan.Plan]:
    """Returns the row of a snapshot that is to be taken, the volume's tree and the plan, without changing anything. Raises
    BadRequest, ChainConflict, BadImage, NotSound, FileInUse, ShareUnavailable."""
    share = worker.share(volume)
    alone = not share.capabilities.chains
    _refuse_in_use(volume, alone, bool(wanted.get("force")))
    share.probe_for_writing()
    share.check_sound(volume["id"])
    if not alone:
        file_users.refuse_if_named(worker, share, volume["id"])
    row = _row(context, volume, wanted)
    before = observe.observe(worker, volume)
    if alone:
        row["overlay"], row["backing"] = None, names.overlay_name(volume["id"], row["id"])
        return row, before, native.snapshot(before, row["id"])
    return row, before, plan.snapshot(before, row["id"], worker.settings.volumes.max_chain_depth)


def _refuse_in_use(volume: VolumeRow, native: bool, force: bool) -> None:
    if volume["status"] == "available" or (volume["status"] == "in-use" and native and force):
        return
    instead = (
        'give "force": true to take what is on its disk at one instant'
        if native
        else ("snapshot an attached volume with 'openstack assisted snapshot create --volume <volume> <server>'")
    )
    raise BadRequest(
        f"Invalid volume: the status of volume {volume['id']} must be available, but it is {volume['status']}; {instead}"
    )


def update(worker: WorkerContext, context: Context, snapshot_id: str, changes: dict[str, Any]) -> None:
    """Changes name or description. Raises NotFound."""
    recorded.change(Asker(worker, context), recorded.SNAPSHOT, snapshot_id, lambda _row: cast("SnapshotChanges", changes))


def set_metadata(
    worker: WorkerContext, context: Context, snapshot_id: str, metadata: dict[str, str], replace: bool
) -> dict[str, str]:
    """As ``recorded.set_metadata``, of a snapshot."""
    return recorded.set_metadata(Asker(worker, context), recorded.SNAPSHOT, snapshot_id, metadata, replace)


def delete_metadata_key(worker: WorkerContext, context: Context, snapshot_id: str, key: str) -> None:
    """As ``recorded.delete_metadata_key``, of a snapshot."""
    recorded.delete_metadata_key(Asker(worker, context), recorded.SNAPSHOT, snapshot_id, key)


def delete(worker: WorkerContext, context: Context, snapshot_id: str, force: bool = False, bandwidth_mib: int = 0) -> None:
    """Deletes a snapshot, under a running server where there is one; a failed one that has no file loses its row.

    ``bandwidth_mib`` limits a live merge to so many MiB a second; 0: as compute is configured.
    """
    delete_several(worker, context, [snapshot_id], force, bandwidth_mib)


def delete_several(
    worker: WorkerContext, context: Context, snapshot_ids: Sequence[str], force: bool = False, bandwidth_mib: int = 0
) -> None:
    """Deletes snapshots of one volume in one plan, with the least copying. Raises BadRequest, Conflict listing what depends
    on one of them, ShareUnavailable with numbers when there is no room for the merge."""
    with worker.database.read() as connection:
        rows = [lookup.snapshot(connection, context, snapshot_id) for snapshot_id in snapshot_ids]
        volume = volumes.get(connection, rows[0]["volume_id"], None)
    assert volume is not None
    volume_requests.refuse_parts(rows)
    begin = prepared_deletion(worker, volume, rows, force, bandwidth_mib)
    with worker.database.write() as connection:
        begin(connection, context.request_id)


def prepared_deletion(
    worker: WorkerContext, volume: VolumeRow, rows: Sequence[SnapshotRow], force: bool = False, bandwidth_mib: int = 0
) -> Callable[[Connection, str], None]:
    """Plans the deletion of snapshots of one volume, without changing anything. Returns what begins it in a transaction, told
    the id of the request. Raises as ``delete_several``."""
    _check_deletable(worker, volume, rows, force)
    before = observe.observe(worker, volume)
    empty = [row["id"] for row in rows if _holds_nothing(before, row)]
    ids = [row["id"] for row in rows if row["id"] not in empty]
    if not ids:
        return lambda connection, _request_id: _drop(connection, empty)
    executor = executor_for(worker, volume, bandwidth_mib)
    planned = plan.delete(before, ids, volume_requests.visible(worker, volume, before), executor.running)
    _check_sound(worker, volume, planned, executor)
    _check_space(worker, volume, cost(planned.steps))
    status = {row["id"]: row["status"] for row in rows}

    def begin(connection: Connection, request_id: str) -> None:
        _drop(connection, empty)
        volume_requests.unchanged(connection, volume, before)
        for snapshot_id in ids:
            if not snapshots.move(connection, snapshot_id, (status[snapshot_id],), "deleting", progress="0%", fault=None):
                raise Conflict(f"snapshot {snapshot_id} changed meanwhile; repeat the request")
        plans = (before, planned, executor)
        record.submit(connection, operations.change_request("delete_snapshot", volume, plans, ids, request_id))

    return begin


def _drop(connection: Connection, snapshot_ids: Sequence[str]) -> None:
    for snapshot_id in snapshot_ids:
        snapshots.delete(connection, snapshot_id)


def _check_deletable(worker: WorkerContext, volume: VolumeRow, rows: Sequence[SnapshotRow], force: bool = False) -> None:
    for row in rows:
        if row["status"] not in DELETABLE and not force:
            raise BadRequest(f"Invalid snapshot: its status must be available or error, but it is {row['status']}")
        if row["volume_id"] != volume["id"]:
            raise BadRequest(f"snapshot {row['id']} is not one of volume {volume['id']}")
    with worker.database.read() as connection:
        lookup.refuse_if_busy(connection, volume["id"])


def _holds_nothing(tree: Tree, row: SnapshotRow) -> bool:
    """Tells whether a snapshot failed and has no data: then only its row is deleted. Raises ChainConflict for one that has lost
    its data."""
    if row["id"] in tree.snapshots:
        return False
    if row["status"] != "error":
        raise ChainConflict(f"the file {row['backing']} of snapshot {row['id']} is missing")
    return True


def _check_sound(worker: WorkerContext, volume: VolumeRow, planned: plan.Plan, executor: Executor) -> None:
    """Raises NotSound unless the files may be merged. Offline every file is repaired first. Under a running server none can be
    repaired; files that QEMU only reads may stay as they are, unless it closes them at the end."""
    if executor.running:
        worker.share(volume).check_sound(volume["id"], written(planned.steps), removed(planned.steps))
    else:
        worker.share(volume).check_sound(volume["id"])


def explain(worker: WorkerContext, context: Context, snapshot_id: str) -> dict[str, Any]:
    """As ``explain_several``, for one."""
    return explain_several(worker, context, [snapshot_id])


def explain_several(worker: WorkerContext, context: Context, snapshot_ids: Sequence[str]) -> dict[str, Any]:
    """Returns what a deletion would do, without doing it: ``{"method", "steps": [{"step", "file", "into", "bytes"}], "bytes",
    "seconds", "why", "dependants", "busy", "possible", "share_free"}``. ``seconds`` is a guess at RATE_MIB a second, or the
    configured limit; ``busy`` the operation that has to end before it is possible."""
    with worker.database.read() as connection:
        rows = [lookup.snapshot(connection, context, snapshot_id) for snapshot_id in snapshot_ids]
        volume = volumes.get(connection, rows[0]["volume_id"], None)
    assert volume is not None
    ids = [row["id"] for row in rows]
    try:
        _check_deletable(worker, volume, rows)
        executor = executor_for(worker, volume)
        before = observe.observe(worker, volume)
        rows = [row for row in rows if not _holds_nothing(before, row)]
        if not rows:
            return chain_explain.row_only(ids)
        ids = [row["id"] for row in rows]
        planned = plan.delete(before, ids, volume_requests.visible(worker, volume, before), executor.running)
        _check_sound(worker, volume, planned, executor)
    except (BadRequest, Conflict, ChainConflict, NotSound) as error:
        with worker.database.read() as connection:
            return chain_explain.refused(error, volumes.busy_operation(connection, volume["id"]))
    explained = chain_explain.document(before, planned, ids, executor.running, executor.usual_bandwidth_mib)
    answer = {**explained, "share_free": worker.share(volume).free()}
    try:
        _check_space(worker, volume, answer["bytes"])
    except ShareUnavailable as error:
        answer |= {"possible": False, "why": error.message}
    return answer


def cancel_deletion(worker: WorkerContext, context: Context, snapshot_id: str) -> None:
    """Cancels a deletion that merges under a running server. A merge down that has begun leaves the snapshot
    ``error_deleting``: it can only be deleted; a pull leaves it as it was. Raises Conflict when nothing can be cancelled."""
    with worker.database.read() as connection:
        row = lookup.snapshot(connection, context, snapshot_id)
        busy = journal.on_resource(connection, f"volume:{row['volume_id']}")
    if busy is None or busy["kind"] != "delete_snapshot" or row["id"] not in about(busy["intent"]).snapshot_ids:
        raise Conflict(f"snapshot {row['id']} is {row['status']}; no deletion of it is under way")
    for step in Operation.from_row(busy, operations.DELETE).plan:
        wanted = live.merge_id(busy["id"], step.key)
        found = worker.compute.merge_status(wanted) if step.verb == verb_of(live.MergeLive) else None
        if found is not None and found["status"] == "running":
            worker.compute.cancel_merge(wanted)
            return
    raise Conflict(f"the deletion of snapshot {row['id']} copies nothing under a running server now; it ends by itself")


def _check_space(worker: WorkerContext, volume: VolumeRow, needed: int) -> None:
    """Raises ShareUnavailable unless there is room for all that a merge may copy. A deletion that copies nothing works on a
    full share too."""
    share = worker.share(volume)
    free = share.free()
    if free < needed:
        raise ShareUnavailable(
            f"the merge may copy {needed} bytes; {free} are free on {volume['share']}", needed=needed, free=free
        )


def reset_status(worker: WorkerContext, context: Context, snapshot_id: str, status: str) -> None:
    """``os-reset_status``: an administrator corrects a status. It changes the row and nothing else."""
    with worker.database.write() as connection:
        row = lookup.snapshot(connection, context, snapshot_id)
        record.refuse_if_busy(connection, f"volume:{row['volume_id']}")
        fault = None if status == "available" else row["fault"]
        if status == "creating" and not snapshots.being_taken(row):
            fault = "an administrator set the status; nobody takes this snapshot"
        snapshots.change(connection, row["id"], status=status, fault=fault)


def create_metadata(worker: WorkerContext, context: Context, volume_id: str, wanted: dict[str, Any]) -> str:
    """``os-create_snapshot_metadata``: a row in "creating"; no storage is touched. The same snapshot_id again: the same
    answer. Returns the snapshot's id."""
    (snapshot_id,) = create_set_metadata(worker, context, [{**wanted, "volume_id": volume_id}])
    return snapshot_id


def create_set_metadata(worker: WorkerContext, context: Context, asked: Sequence[dict[str, Any]]) -> list[str]:
    """As ``create_metadata`` for the snapshots of a set, in one transaction: all rows or none. Each of ``asked`` has its
    ``volume_id``. Returns the ids in that order."""
    with worker.database.write() as connection:
        return [_record_one(worker, connection, context, each) for each in asked]


def _record_one(worker: WorkerContext, connection: Connection, context: Context, wanted: dict[str, Any]) -> str:
    if wanted.get("snapshot_id"):
        wanted = {**wanted, "snapshot_id": names.canonical_id(wanted["snapshot_id"], "snapshot_id")}
    volume = lookup.volume(connection, context, wanted["volume_id"])
    _refuse_native(worker, volume)
    known = snapshots.get(connection, wanted["snapshot_id"], None) if wanted.get("snapshot_id") else None
    if known is not None:
        if known["volume_id"] != volume["id"]:
            raise Conflict(f"snapshot {known['id']} is one of another volume")
        return str(known["id"])
    _check_may_record(worker, connection, volume, wanted)
    row = _row(context, volume, wanted)
    snapshots.insert(connection, row)
    return str(row["id"])


def _refuse_native(worker: WorkerContext, volume: VolumeRow) -> None:
    if not worker.backends.pool(volume).capabilities.chains:
        raise BadRequest(
            f"Invalid volume: volume {volume['id']} has snapshots of its own and gets no overlay; take one with POST /snapshots"
        )


def _check_may_record(worker: WorkerContext, connection: Connection, volume: VolumeRow, wanted: dict[str, Any]) -> None:
    if volume["status"] != "in-use":
        raise BadRequest(f"Invalid volume: volume {volume['id']} must be in-use, but it is {volume['status']}")
    if wanted.get("size") not in (None, volume["size"]):
        raise BadRequest(f"size {wanted['size']} is not the volume's, {volume['size']} GiB")
    # An operation on the chain was planned with the present active file; the switch would change that while it runs.
    record.refuse_if_busy(connection, f"volume:{volume['id']}", shared=True)
    lookup.check_snapshot_quota(worker, connection, volume, lookup.refuse_if_being_taken(connection, volume["id"]))


def finalize_metadata(worker: WorkerContext, context: Context, snapshot_id: str, wanted: dict[str, Any]) -> None:
    """``os-finalize_snapshot_metadata``: from "creating" to "available" or "error"; the same call again changes nothing."""
    finalize_set_metadata(worker, context, [{**wanted, "snapshot_id": snapshot_id}])


def finalize_set_metadata(worker: WorkerContext, context: Context, asked: Sequence[dict[str, Any]]) -> None:
    """As ``finalize_metadata`` for the snapshots of a set, in one transaction: all rows or none. Each of ``asked`` has its
    ``snapshot_id``."""
    with worker.database.write() as connection:
        for each in asked:
            _finalize_one(connection, context, lookup.snapshot(connection, context, each["snapshot_id"]), each)


def _finalize_one(connection: Connection, context: Context, row: SnapshotRow, wanted: dict[str, Any]) -> None:
    active = wanted.get("active_file") or row["overlay"]
    if (
        active is None or active != row["overlay"]
    ):  # for a repeat too: a caller that names another file has not finished this snapshot
        raise BadRequest(f"active_file {str(active)[:120]!r} is not the snapshot's overlay {row['overlay']}")
    if row["status"] == wanted["status"] and _is_repeat(row, wanted):
        return
    if row["status"] != "creating":
        raise Conflict(f"snapshot {row['id']} is {row['status']}; only a creating one can be finalized")
    if wanted["status"] == "error":
        snapshots.change(connection, row["id"], status="error", fault="compute could not take it")
        return
    changes: SnapshotChanges = {"status": "available", "progress": "100%", "consistency": wanted.get("consistency")}
    if wanted.get("created_at"):
        changes["created_at"] = _time(wanted["created_at"])
    snapshots.change(connection, row["id"], **changes)
    volumes.change(connection, row["volume_id"], active_file=active, format="qcow2")
    # The rows are right already; the files beside the volume may be written after the set's other volumes are finalized.
    record.submit(connection, chain_metadata.request(row["volume_id"], context.request_id, chain_metadata.PAUSE_SECONDS))


def _is_repeat(row: SnapshotRow, wanted: dict[str, Any]) -> bool:
    return wanted["status"] == "error" or wanted.get("consistency") in (None, row["consistency"])


def drop_metadata(worker: WorkerContext, context: Context, snapshot_id: str) -> None:
    """``os-snapshot_delete_metadata``: the row goes, storage stays. Refused while a file of the chain carries the snapshot."""
    with worker.database.read() as connection:
        row = lookup.snapshot(connection, context, snapshot_id)
        volume = volumes.get(connection, row["volume_id"], None)
    if volume is not None and row["overlay"] in worker.share(volume).files(row["volume_id"]):
        raise Conflict(f"the file {row['overlay']} of snapshot {row['id']} is still on the share")
    with worker.database.write() as connection:
        snapshots.delete(connection, row["id"])


def update_status(worker: WorkerContext, context: Context, snapshot_id: str, status: str, progress: str | None) -> None:
    """``os-update_snapshot_status``: Nova's report; its 90 % may arrive after a higher figure. Raises BadRequest for a
    transition Cinder does not know, Forbidden for anybody else's report on a snapshot that is being taken."""
    with worker.database.write() as connection:
        row = lookup.snapshot(connection, context, snapshot_id)
        if snapshots.being_taken(row) and not (context.has_service_identity or context.is_admin):
            raise Forbidden(f"snapshot {row['id']} is being taken; only who takes it says how far that is")
        if status not in NOVA_REPORTS.get(row["status"], ()):
            raise BadRequest(f"Provided snapshot status {status} not allowed for snapshot with status {row['status']}.")
        back = status == row["status"] == "deleting" and _percent(progress) < _percent(row["progress"])
        newer = progress if progress and not back else row["progress"]
        fault = None if status == "available" else row["fault"]
        snapshots.change(connection, row["id"], status=status, progress=newer, fault=fault)


def _percent(progress: str | None) -> int:
    return int((progress or "0%").removesuffix("%"))
