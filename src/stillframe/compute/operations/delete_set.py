"""Deletes every snapshot of a set through block storage, disk by disk. Each snapshot succeeds or fails by itself."""

import logging
from collections.abc import Callable, Sequence

from sqlalchemy import Connection

from stillframe.compute.worker.context import WorkerContext
from stillframe.db import assisted_snapshots, operations
from stillframe.errors import Busy, ServiceUnavailable, StepFailed, StillframeError
from stillframe.journal.operation import Document, Kind, NotYet, Operation, Verb
from stillframe.journal.record import FEW, Request
from stillframe.journal.typed import Args, Intent, step

LOG = logging.getLogger(__name__)
SHORTEST_LOOK_SECONDS, LONGEST_LOOK_SECONDS = 0.1, 5.0
STUCK_LOOK_SECONDS = 10.0  # at a deletion that says what it waits for
PATIENCE_SECONDS = 3600.0  # with an operation that holds a volume, such as the merge of another snapshot


class DeleteAssistedSnapshot(Intent, frozen=True, kw_only=True):
    """Delete a set."""

    set_id: str
    server_id: str


class Delete(Args, frozen=True, kw_only=True):
    """Delete the snapshots of the set, one after the other."""

    verb = "delete"
    snapshot_ids: tuple[str, ...]


def request(asked: DeleteAssistedSnapshot, snapshot_ids: Sequence[str], request_id: str) -> Request:
    """Returns the operation that deletes the snapshots of a set that are still there, and then the set."""
    plan = [step(Delete(snapshot_ids=tuple(snapshot_ids)))]
    # The merges lock the server; this operation only waits for them.
    return Request("compute", "delete_assisted_snapshot", asked, plan, [f"set:{asked.set_id}"], request_id)


def _gone(worker: WorkerContext, operation: Operation[DeleteAssistedSnapshot], args: Delete) -> Document | None:
    return None if _left(worker, operation, args) else {}


def _delete(worker: WorkerContext, operation: Operation[DeleteAssistedSnapshot], args: Delete) -> Document:
    """Deletes one snapshot after the other. A failure is message at the end and does not stop the others. Waiting takes no
    thread."""
    notes = {"asked": [], "failed": {}, "waited": 0.0, **operation.notes("delete")}
    waiting: list[str] = []
    for number, snapshot_id in enumerate(args.snapshot_ids):
        if snapshot_id in notes["failed"]:
            continue
        try:
            why = _delete_one(worker, operation, notes, (snapshot_id, number, len(args.snapshot_ids)))
            waiting += [f"snapshot {snapshot_id}: {why}"] if why else []
        except ServiceUnavailable:
            raise
        except StillframeError as error:
            notes["failed"][snapshot_id] = error.message
    if waiting:
        raise NotYet(STUCK_LOOK_SECONDS, notes, ServiceUnavailable("; ".join(waiting)))
    failed = notes["failed"]
    if failed:
        message = "; ".join(f"snapshot {key}: {why}" for key, why in failed.items())
        raise StepFailed(message, failed=failed, left=_left(worker, operation, args))
    return {}


def look(worker: WorkerContext, tell: Callable[[str], None]) -> None:
    """From time to time, where so many wait that each is looked at seldom: one question for all of them. Tells the journal of
    those whose snapshot is not being deleted any more."""
    with worker.database.read() as connection:
        rows = operations.unfinished_of(connection, "compute", "delete_assisted_snapshot")
    asked = {row["id"]: Operation.from_row(row).notes("delete").get("asked") for row in rows}
    if sum(map(bool, asked.values())) <= FEW:
        return
    try:
        deleting = worker.storage.snapshots_in_deletion()
    except StillframeError as error:
        LOG.info("block storage does not tell which snapshots are being deleted: %s", error.message)
        return
    for operation_id, snapshot_ids in asked.items():
        if snapshot_ids and snapshot_ids[-1] not in deleting:
            tell(operation_id)


def _left(worker: WorkerContext, operation: Operation[DeleteAssistedSnapshot], args: Delete) -> dict[str, str]:
    """Returns the status of every snapshot that still exists and is the project's."""
    found = {each: worker.storage.snapshot_of(operation.project_id, each) for each in args.snapshot_ids}
    return {each: document["status"] for each, document in found.items() if document is not None}


def _delete_one(
    worker: WorkerContext, operation: Operation[DeleteAssistedSnapshot], notes: Document, place: tuple[str, int, int]
) -> str | None:
    """Returns what the deletion of one snapshot waits for, so that the next snapshot can be requested meanwhile; None when the
    snapshot is gone. Raises NotYet while it is being deleted, and while its volume is busy with something else."""
    snapshot_id, number, of = place
    found = worker.storage.snapshot_of(operation.project_id, snapshot_id)
    if found is None:
        return None
    if found["status"] != "deleting":
        if snapshot_id in notes["asked"]:
            raise StepFailed(f"it was not deleted: {found.get('fault') or found['status']}")
        busy = _ask(worker, snapshot_id, notes)
        raise _later(notes, busy)
    if found.get("fault"):
        return str(found["fault"])
    _show(worker, operation, (number * 100 + _percent(found)) // of)
    raise _later(notes)


def _ask(worker: WorkerContext, snapshot_id: str, notes: Document) -> Busy | None:
    """Returns why the volume cannot take the request now, if waiting may help. Raises Busy when it has waited too long."""
    try:
        worker.storage.delete_snapshot(snapshot_id)
    except Busy as busy:
        if notes["waited"] > PATIENCE_SECONDS:
            raise
        return busy
    notes["asked"].append(snapshot_id)
    notes["waited"] = 0.0  # the time limit starts anew for each snapshot
    return None


def _later(notes: Document, why: StillframeError | None = None) -> NotYet:
    """Seconds until the next check: short at first, because a small merge ends quickly, then longer."""
    seconds = min(LONGEST_LOOK_SECONDS, max(SHORTEST_LOOK_SECONDS, notes["waited"] / 10))
    return NotYet(seconds, {**notes, "waited": notes["waited"] + seconds}, why)


def _percent(found: Document) -> int:
    text = str(found["os-extended-snapshot-attributes:progress"]).rstrip("%")
    return int(text) if found["status"] == "deleting" and text.isdecimal() else 0


def _show(worker: WorkerContext, operation: Operation[DeleteAssistedSnapshot], percent: int) -> None:
    set_id = operation.intent.set_id
    with worker.database.read() as connection:
        row = assisted_snapshots.get(connection, set_id, None)
    if row is not None and row["progress"] != percent:
        with worker.database.write() as connection:
            assisted_snapshots.change(connection, set_id, progress=percent)


def _settle(connection: Connection, operation: Operation[DeleteAssistedSnapshot], outcome: str, fault: Document | None) -> None:
    set_id = operation.intent.set_id
    if outcome == "done":
        assisted_snapshots.delete(connection, set_id)
        return
    row = assisted_snapshots.get(connection, set_id, None)
    details = fault["details"] if fault else {}
    if row is not None:
        entries = [_entry(entry, details) for entry in row["volumes"]]
        whole = "left" in details and all(entry["status"] == "available" for entry in entries)
        message = f"{'no snapshot was' if whole else 'not all snapshots were'} deleted: {fault['message'] if fault else ''}"
        status = "available" if whole else "error"
        assisted_snapshots.change(connection, set_id, status=status, progress=100, fault=message, volumes=entries)


def _entry(entry: Document, details: Document) -> Document:
    """The outcome of each volume as it was seen at the end; a volume that was not seen keeps its earlier entry."""
    snapshot_id = entry["snapshot_id"]
    if "left" not in details:
        return entry
    status = details["left"].get(snapshot_id, "deleted")
    shown = status if status in ("available", "deleted") else "error"
    return {**entry, "status": shown, "error": details["failed"].get(snapshot_id)}


KIND = Kind(
    {"delete": Verb(_gone, _delete, args=Delete)},
    _settle,
    intent=DeleteAssistedSnapshot,
    afterwards="Each snapshot's own deletion continues or has ended: look at them, then delete the set again.",
)
