"""A set that was asked for while the server was busy: waits for its turn without a thread, then starts the set.

It does not lock the server, so that what it waits for can continue; it locks its set. Whether the set may begin is decided by
the same check as for a request that does not wait.
"""

import time

from sqlalchemy import Connection

from stillframe.compute.requests import assisted_snapshots as assisted_snapshot_requests
from stillframe.compute.worker.context import WorkerContext
from stillframe.context import Context
from stillframe.db import assisted_snapshots, operations
from stillframe.errors import Busy, Cancelled, Conflict
from stillframe.journal.operation import Document, Kind, NotYet, Operation, Verb

LOOK_SECONDS = 2.0


def _started(world: WorkerContext, operation: Operation, _args: Document) -> Document | None:
    with world.database.read() as connection:
        found = operations.get(connection, operation.intent["wanted"]["operation_id"])
    return {} if found is not None else None


def _wait(world: WorkerContext, operation: Operation, _args: Document) -> Document:
    intent = operation.intent
    with world.database.read() as connection:
        row = assisted_snapshots.get(connection, intent["set_id"], None)
    if row is None or row["status"] != "creating":
        raise Cancelled("the set was deleted while it waited for other work on the server")
    wanted = intent["wanted"]
    try:
        assisted_snapshot_requests.take(world, Context.from_document(wanted["context"]), intent["server_id"], wanted)
    except Busy as busy:
        left = wanted["wait_until"] - time.time()
        if left <= 0:
            raise Conflict(f"the set waited {wanted['wait']} s and was not taken: {busy.message}") from busy
        told = f"it waits, for {wanted['wait']} s at most: {busy.message}"
        if row["fault"] != told:
            with world.database.write() as connection:
                assisted_snapshots.change(connection, intent["set_id"], fault=told)
        raise NotYet(min(LOOK_SECONDS, left), why=busy) from busy
    return {}


def _settle(connection: Connection, operation: Operation, outcome: str, fault: Document | None) -> None:
    if outcome == "done":
        return
    set_id = operation.intent["set_id"]
    row = assisted_snapshots.get(connection, set_id, None)
    if row is not None and row["status"] == "deleting":
        assisted_snapshots.delete(connection, set_id)  # nothing was made
    elif row is not None:
        assisted_snapshots.change(connection, set_id, status="error", fault=fault["message"] if fault else None)


KIND = Kind({"wait": Verb(_started, _wait)}, _settle, afterwards="Nothing was taken. Delete the set and ask again.")
