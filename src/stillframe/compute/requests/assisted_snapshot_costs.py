"""What the deletion of a set would cost: the sum over its volumes, as block storage estimates each."""

from collections.abc import Mapping
from typing import Any

from stillframe.compute.operations.assisted_snapshots import taken
from stillframe.compute.requests import assisted_snapshots as assisted_snapshot_requests
from stillframe.compute.worker.context import WorkerContext
from stillframe.context import Context
from stillframe.errors import Conflict, NotFound
from stillframe.journal import record


def explain_deletion(worker: WorkerContext, context: Context, server_id: str, set_id: str) -> dict[str, Any]:
    """Returns ``{"possible", "method", "bytes", "seconds", "why", "dependants", "volumes"}``; ``volumes`` has what block
    storage tells of each, with ``volume_id`` and ``snapshot_id``. They are merged one after the other. Raises NotFound."""
    row = assisted_snapshot_requests.find(worker, context, set_id, server_id)
    volumes = []
    for entry in taken(row["volumes"]):
        if worker.storage.snapshot_of(row["project_id"], entry["snapshot_id"]) is None:
            continue
        try:
            explained = worker.storage.explain_deletion(entry["snapshot_id"])
        except NotFound:
            continue  # it is gone already
        volumes.append({"volume_id": entry["volume_id"], "snapshot_id": entry["snapshot_id"], **explained})
    refused = [f"volume {each['volume_id']}: {each['why']}" for each in volumes if not each["possible"]]
    held = _held(worker, row)
    refused = [held, *refused] if held else refused
    copied = sum(each["bytes"] for each in volumes)
    return {
        "possible": not refused,
        "method": ", ".join(dict.fromkeys(str(each["method"]) for each in volumes if each["method"])) or None,
        "bytes": copied,
        "seconds": round(sum(each["seconds"] for each in volumes), 1),
        "why": "; ".join(refused) or f"{len(volumes)} snapshots are deleted, one after the other: {copied} bytes are copied",
        "dependants": [found for each in volumes for found in each["dependants"]],
        "volumes": volumes,
    }


def _held(worker: WorkerContext, row: Mapping[str, Any]) -> str | None:
    """Why the set as a whole is not deleted now."""
    if row["status"] in ("creating", "deleting"):
        return f"assisted snapshot {row['id']} is {row['status']}"
    try:
        with worker.database.read() as connection:
            record.refuse_if_busy(connection, f"set:{row['id']}")
            record.refuse_if_busy(connection, f"server:{row['server_id']}", shared=True)
    except Conflict as error:
        return error.message
    return None
