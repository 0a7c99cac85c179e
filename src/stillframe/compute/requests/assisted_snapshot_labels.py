"""Name, description, metadata and status of a set. Its snapshots keep those they were made with."""

from collections.abc import Mapping
from typing import Any

from stillframe.compute.requests import assisted_snapshots as assisted_snapshot_requests
from stillframe.compute.worker.context import WorkerContext
from stillframe.context import Context
from stillframe.db import assisted_snapshots
from stillframe.errors import Conflict
from stillframe.journal import record


def change(worker: WorkerContext, context: Context, set_id: str, changes: dict[str, Any]) -> None:
    """Changes what is named; ``metadata`` is replaced as a whole. Raises NotFound, and Conflict for a set that is being
    deleted."""
    row = assisted_snapshot_requests.find(worker, context, set_id, None)
    with worker.database.write() as connection:
        fresh = assisted_snapshots.get(connection, row["id"], None)
        if fresh is None or fresh["status"] == "deleting":
            raise Conflict(f"assisted snapshot {row['id']} is being deleted and cannot be changed any more")
        assisted_snapshots.change(connection, row["id"], **changes)


def reset_status(worker: WorkerContext, context: Context, set_id: str, status: str) -> None:
    """``os-reset_status``: an administrator corrects a status. It changes the row and nothing else.

    A set is "available" only if block storage has each of its snapshots, and they are. Raises NotFound, Conflict naming
    those that are not, Busy."""
    row = assisted_snapshot_requests.find(worker, context, set_id, None)
    found = {entry["snapshot_id"]: worker.storage.snapshot(entry["snapshot_id"]) for entry in row["volumes"]}
    seen = {key: document["status"] if document else "gone" for key, document in found.items()}
    bad = [f"snapshot {key} is {state}" for key, state in seen.items() if state != "available"]
    if status == "available" and (bad or not seen):
        why = "; ".join(bad[:20]) or "it has no snapshot"
        raise Conflict(f"assisted snapshot {row['id']} cannot be available: {why}. Put right what is named first")
    with worker.database.write() as connection:
        record.refuse_if_busy(connection, f"set:{row['id']}")
        record.refuse_if_busy(connection, f"server:{row['server_id']}", shared=True)
        assisted_snapshots.change(connection, row["id"], status=status, **(good(row) if status == "available" else {}))


def good(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a set's row says of itself when all of its snapshots are good."""
    entries = [{**entry, "status": "available", "error": None} for entry in row["volumes"]]
    return {"progress": 100, "fault": None, "volumes": entries}
