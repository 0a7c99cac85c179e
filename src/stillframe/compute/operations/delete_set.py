"""Deletes every snapshot of a set through block storage, disk by disk, each with its own truth."""

import time

from sqlalchemy import Connection

from stillframe.compute.world import World
from stillframe.db import assisted_snapshots
from stillframe.errors import Busy, ServiceUnavailable, StepFailed, StillframeError
from stillframe.journal.operation import Document, Kind, Operation, Verb
from stillframe.journal.record import Request

POLL_SECONDS = 0.25
PATIENCE_SECONDS = 3600.0  # with an operation that holds a volume, such as the merge of another snapshot


def request(set_id: str, server_id: str, snapshot_ids: list[str], request_id: str) -> Request:
    plan = [{"verb": "delete", "args": {"snapshot_ids": snapshot_ids}}]
    intent = {"set_id": set_id, "server_id": server_id}
    # The merges hold the server; this only waits for them.
    return Request("compute", "delete_assisted_snapshot", intent, plan, [f"set:{set_id}"], request_id)


def _gone(world: World, _operation: Operation, args: Document) -> Document | None:
    left = [each for each in args["snapshot_ids"] if world.storage.snapshot(each) is not None]
    return None if left else {}


def _delete(world: World, operation: Operation, args: Document) -> Document:
    """One after the other; what fails is told at the end and keeps the rest from nothing."""
    failed: dict[str, str] = {}
    waiting: list[str] = []
    for number, snapshot_id in enumerate(args["snapshot_ids"]):
        try:
            why = _delete_one(world, operation, (snapshot_id, number, len(args["snapshot_ids"])))
            waiting += [f"snapshot {snapshot_id}: {why}"] if why else []
        except ServiceUnavailable:
            raise
        except StillframeError as error:
            failed[snapshot_id] = error.message
    if waiting:
        raise ServiceUnavailable("; ".join(waiting))
    if failed:
        raise StepFailed("; ".join(f"snapshot {key}: {why}" for key, why in failed.items()), failed=failed)
    return {}


def _delete_one(world: World, operation: Operation, place: tuple[str, int, int]) -> str | None:
    """Returns what the deletion waits for, for as long as that lasts: then it is looked at again later, and nobody stays for
    it. None: it is gone."""
    snapshot_id, number, of = place
    asked, patience = False, time.monotonic() + PATIENCE_SECONDS
    while True:
        found = world.storage.snapshot(snapshot_id)
        if found is None:
            return None
        if found["status"] != "deleting":
            if asked:
                raise StepFailed(f"it was not deleted: {found.get('fault') or found['status']}")
            asked = _asked(world, snapshot_id, patience)
        elif found.get("fault"):
            return str(found["fault"])
        if world.stopping.is_set():
            raise ServiceUnavailable("this worker stops; the next one goes on with the set")
        _show(world, operation, (number * 100 + _percent(found)) // of)
        time.sleep(POLL_SECONDS)


def _asked(world: World, snapshot_id: str, patience: float) -> bool:
    """False: the volume is busy, and its turn may come yet."""
    try:
        world.storage.delete_snapshot(snapshot_id)
    except Busy:
        if time.monotonic() > patience:
            raise
        return False
    return True


def _percent(found: Document) -> int:
    text = str(found["os-extended-snapshot-attributes:progress"]).rstrip("%")
    return int(text) if found["status"] == "deleting" and text.isdecimal() else 0


def _show(world: World, operation: Operation, percent: int) -> None:
    set_id = operation.intent["set_id"]
    with world.database.read() as connection:
        row = assisted_snapshots.get(connection, set_id, None)
    if row is not None and row["progress"] != percent:
        with world.database.write() as connection:
            assisted_snapshots.change(connection, set_id, progress=percent)


def _settle(connection: Connection, operation: Operation, outcome: str, fault: Document | None) -> None:
    set_id = operation.intent["set_id"]
    if outcome == "done":
        assisted_snapshots.delete(connection, set_id)
        return
    row = assisted_snapshots.get(connection, set_id, None)
    failed = fault["details"].get("failed", {}) if fault else {}
    if row is not None:
        entries = [_entry(entry, failed) for entry in row["volumes"]]
        told = f"not all snapshots were deleted: {fault['message'] if fault else ''}"
        assisted_snapshots.change(connection, set_id, status="error", progress=100, fault=told, volumes=entries)


def _entry(entry: Document, failed: Document) -> Document:
    """Each volume's own outcome: what was not told to have failed is gone."""
    why = failed.get(entry["snapshot_id"])
    return {**entry, "status": "error" if why else "deleted", "error": why}


KIND = Kind({"delete": Verb(_gone, _delete)}, _settle)
