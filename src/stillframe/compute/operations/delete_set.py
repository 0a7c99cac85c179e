"""Deletes every snapshot of a set, volume by volume, through block storage."""

import time

from sqlalchemy import Connection

from stillframe.compute.world import World
from stillframe.db import assisted_snapshots
from stillframe.errors import ServiceUnavailable, StepFailed
from stillframe.journal.operation import Document, Kind, Operation, Verb
from stillframe.journal.record import Request

WAIT_SECONDS = 600.0


def request(set_id: str, server_id: str, snapshot_ids: list[str], request_id: str) -> Request:
    plan = [{"verb": "delete", "args": {"snapshot_id": snapshot_id}} for snapshot_id in snapshot_ids]
    intent = {"set_id": set_id, "server_id": server_id}
    return Request("compute", "delete_assisted_snapshot", intent, plan, [f"server:{server_id}", f"set:{set_id}"], request_id)


def _gone(world: World, _operation: Operation, args: Document) -> Document | None:
    return {} if world.storage.snapshot(args["snapshot_id"]) is None else None


def _delete(world: World, _operation: Operation, args: Document) -> Document:
    found = world.storage.snapshot(args["snapshot_id"])
    if found is not None and found["status"] != "deleting":
        world.storage.delete_snapshot(args["snapshot_id"])
    end = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < end:
        found = world.storage.snapshot(args["snapshot_id"])
        if found is None:
            return {}
        if found["status"] != "deleting":
            raise StepFailed(f"snapshot {args['snapshot_id']} was not deleted: {found.get('fault') or found['status']}")
        time.sleep(0.1)
    raise ServiceUnavailable(f"snapshot {args['snapshot_id']} is still being deleted")


def _settle(connection: Connection, operation: Operation, outcome: str, fault: Document | None) -> None:
    set_id = operation.intent["set_id"]
    if outcome == "done":
        assisted_snapshots.delete(connection, set_id)
        return
    assisted_snapshots.change(
        connection, set_id, status="error", fault=f"not all snapshots were deleted: {fault['message'] if fault else ''}"
    )


KIND = Kind({"delete": Verb(_gone, _delete)}, _settle)
