"""A set that was asked for while the server was busy: waits for its turn without a thread, then starts the set.

It does not lock the server, so that what it waits for can continue; it locks its set. Whether the set may begin is decided by
the same check as for a request that does not wait.
"""

from sqlalchemy import Connection

from stillframe.compute.operations.snapshot_intents import AwaitServer, Wait
from stillframe.compute.requests import assisted_snapshots as assisted_snapshot_requests
from stillframe.compute.worker.context import WorkerContext
from stillframe.db import assisted_snapshots, operations
from stillframe.errors import Busy, Cancelled, Conflict
from stillframe.journal import deadline
from stillframe.journal.operation import Document, Kind, NotYet, Operation, Verb

LOOK_SECONDS = 2.0


def _started(worker: WorkerContext, operation: Operation[AwaitServer], _args: Wait) -> Document | None:
    takes = operation.intent.wanted.operation_id
    with worker.database.read() as connection:
        found = operations.get(connection, takes) if takes is not None else None
    return {} if found is not None else None


def _wait(worker: WorkerContext, operation: Operation[AwaitServer], _args: Wait) -> Document:
    asked, wanted = operation.intent, operation.intent.wanted
    with worker.database.read() as connection:
        row = assisted_snapshots.get(connection, asked.set_id, None)
    if row is None or row["status"] != "creating":
        raise Cancelled("the set was deleted while it waited for other work on the server")
    if wanted.context is None:
        raise Conflict("nothing tells for whom the set waited, so it was not taken; ask for it again")
    try:
        assisted_snapshot_requests.take(worker, wanted.context.to_context(), asked.server_id, wanted)
    except Busy as busy:
        with worker.database.read() as connection:
            left = deadline.left(connection, wanted.wait_until)
        if not left:
            raise Conflict(f"the set waited {wanted.wait} s and was not taken: {busy.message}") from busy
        message = f"it waits, for {wanted.wait} s at most: {busy.message}"
        if row["fault"] != message:
            with worker.database.write() as connection:
                assisted_snapshots.change(connection, asked.set_id, fault=message)
        raise NotYet(min(LOOK_SECONDS, left), why=busy) from busy
    return {}


def _settle(connection: Connection, operation: Operation[AwaitServer], outcome: str, fault: Document | None) -> None:
    if outcome == "done":
        return
    set_id = operation.intent.set_id
    row = assisted_snapshots.get(connection, set_id, None)
    if row is not None and row["status"] == "deleting":
        assisted_snapshots.delete(connection, set_id)  # nothing was made
    elif row is not None:
        assisted_snapshots.change(connection, set_id, status="error", fault=fault["message"] if fault else None)


KIND = Kind(
    {"wait": Verb(_started, _wait, args=Wait)},
    _settle,
    intent=AwaitServer,
    afterwards="Nothing was taken. Delete the set and ask again.",
)
