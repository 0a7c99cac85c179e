"""Requests that delete sets: what cannot be deleted is told before anything of the set changes."""

from collections.abc import Sequence

from sqlalchemy import Connection

from stillframe.compute.libvirt import servers
from stillframe.compute.operations import delete_set
from stillframe.compute.operations.assisted_snapshots import taken
from stillframe.compute.operations.delete_set import DeleteAssistedSnapshot
from stillframe.compute.requests import assisted_snapshots as assisted_snapshot_requests
from stillframe.compute.snapshot_policies import retention
from stillframe.compute.worker.context import WorkerContext
from stillframe.compute.worker.side_by_side import side_by_side
from stillframe.context import Context
from stillframe.db import assisted_snapshots, operations
from stillframe.db.tables import now
from stillframe.errors import Busy, Conflict, HostCommandFailed, NotFound, ServiceFailed, ServiceUnavailable, StepFailed
from stillframe.journal import record


def delete(worker: WorkerContext, context: Context, server_id: str, set_id: str, policy_id: str | None = None) -> None:
    """Starts to delete every snapshot of a set; under a running server they are merged live. Raises Conflict.

    With ``policy_id`` in that policy's name: a set that it did not make, or that is labelled ``keep`` by now, is a Conflict.
    """
    row = assisted_snapshot_requests.find(worker, context, set_id, server_id)
    if row["status"] == "creating" and _cancel(worker, row["id"]):
        return
    if row["status"] in ("creating", "deleting"):
        raise Conflict(f"assisted snapshot {row['id']} is {row['status']}")
    held = [each for each in taken(row["volumes"]) if worker.storage.snapshot_of(row["project_id"], each["snapshot_id"])]
    _refuse_if_kept(worker, [entry["volume_id"] for entry in held])
    present = [entry["snapshot_id"] for entry in held]
    _refuse_what_stays(worker, row["id"], present)
    with worker.database.write() as connection:
        record.refuse_if_busy(connection, f"set:{row['id']}")
        record.refuse_if_busy(connection, f"server:{row['server_id']}", shared=True)
        if policy_id is not None:
            _retire(connection, row["id"], policy_id)
        assisted_snapshots.change(connection, row["id"], status="deleting")
        asked = DeleteAssistedSnapshot(set_id=row["id"], server_id=row["server_id"])
        record.submit(connection, delete_set.request(asked, present, context.request_id).of(row["project_id"]))


def _cancel(worker: WorkerContext, set_id: str) -> bool:
    """Cancels a set that waits for its turn. Returns False for one that does not wait."""
    with worker.database.write() as connection:
        waiting = operations.on_resource(connection, f"set:{set_id}")
        if waiting is None or waiting["kind"] != "await_server":
            return False
        return assisted_snapshots.swap_status(connection, set_id, "creating", "deleting")


def _refuse_if_kept(worker: WorkerContext, volume_ids: Sequence[str]) -> None:
    """Raises Conflict when the files of one of the volumes must be left alone in the state its server is in."""
    for server in servers.list_everything(worker):
        if any(server.disk_of(volume_id) for volume_id in volume_ids):
            server.refuse_unless("merge" if server.view.active else "offline")


def _refuse_what_stays(worker: WorkerContext, set_id: str, snapshot_ids: Sequence[str]) -> None:
    """Raises Conflict naming the snapshots that cannot be deleted, before anything of the set changes."""
    reasons = side_by_side(lambda each: _why_it_stays(worker, each), snapshot_ids)
    stays = {key: why for key, why in zip(snapshot_ids, reasons, strict=True) if why}
    if stays:
        named = "; ".join(f"snapshot {key}: {why}" for key, why in stays.items())
        raise Conflict(f"assisted snapshot {set_id} cannot be deleted, and nothing of it was changed: {named}", failed=stays)


def _why_it_stays(worker: WorkerContext, snapshot_id: str) -> str | None:
    """None also where it may be deleted later: an operation has to end first, or room to be made (then there is a method)."""
    try:
        found = worker.storage.explain_deletion(snapshot_id)
    except Conflict as error:
        return None if isinstance(error, Busy) else error.message
    except (NotFound, ServiceUnavailable, ServiceFailed, StepFailed, HostCommandFailed):
        return None  # gone meanwhile, or not known now: the deletion waits and finds out
    return None if found["possible"] or found["busy"] or found["method"] else str(found["why"])


def _retire(connection: Connection, set_id: str, policy_id: str) -> None:
    """Checked in the transaction that decides, so that a label that was just set counts."""
    row = assisted_snapshots.get(connection, set_id, None)
    if row is None or row["policy_id"] != policy_id or retention.is_labelled(row["metadata"]):
        raise Conflict(f"assisted snapshot {set_id} is not for policy {policy_id} to delete: it is labelled, gone or another's")
    assisted_snapshots.change(connection, set_id, retired_at=row["retired_at"] or now())
