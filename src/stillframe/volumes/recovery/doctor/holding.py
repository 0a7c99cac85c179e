"""Locks volumes while they are repaired, as every operation does: other requests are refused meanwhile and name this one."""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection

from stillframe.context import new_request_id
from stillframe.db import attachments, clock, finished, operations
from stillframe.db.engine import Database
from stillframe.db.values import NewOperation
from stillframe.errors import Conflict
from stillframe.journal.record import this_process
from stillframe.volumes.recovery.doctor.looking import SERVICE, mentions

_LEASE_SECONDS = 3600.0
_SERVICES = ("volumes", "compute", SERVICE)


@contextmanager
def held(database: Database, host: str, volume_ids: Sequence[str], intent: Mapping[str, Any]) -> Iterator[None]:
    """Holds the volumes, and the servers they are attached to, while the block runs. Raises Conflict naming an operation,
    also one that waits, that has not ended on any of them.

    A repair is one step: when this process dies in it there is nothing to undo, and the next doctor releases the hold.
    """
    operation_id, owner = str(uuid.uuid4()), str(this_process(host))
    with database.write() as connection:
        resources = _resources(connection, volume_ids)
        until = clock.now(connection) + _LEASE_SECONDS
        operations.insert(connection, _row(operation_id, owner, {**intent, "volumes": list(volume_ids)}, until), resources)
    outcome = "undone"
    try:
        yield
        outcome = "done"
    finally:
        with database.write() as connection:
            operations.change(connection, operation_id, owner, 1, state=outcome, owner=None)
            finished.ended(connection, operation_id)


def release(database: Database, operation_id: str) -> None:
    """Releases the lock of a doctor that does not run any more. May be repeated."""
    with database.write() as connection:
        row = operations.get(connection, operation_id)
        if row is not None and row["service"] == SERVICE and row["state"] == "running":
            operations.change(connection, operation_id, str(row["owner"]), row["epoch"], state="undone", owner=None)
            finished.ended(connection, operation_id)


def _resources(connection: Connection, volume_ids: Sequence[str]) -> list[str]:
    unfinished = [row for service in _SERVICES for row in operations.unfinished(connection, service)]
    attached = [row for rows in attachments.of_volumes(connection, volume_ids).values() for row in rows]
    servers = sorted({row["instance_id"] for row in attached if row["instance_id"]})
    for thing in (*volume_ids, *servers):
        for row in unfinished:
            if mentions(row, thing):
                raise Conflict(f"operation {row['id']} ({row['kind']}) on {thing} is {row['state']}", operation_id=row["id"])
    return [*(f"volume:{volume_id}" for volume_id in dict.fromkeys(volume_ids)), *(f"server:{server}" for server in servers)]


def _row(operation_id: str, owner: str, intent: Mapping[str, Any], lease_until: float) -> NewOperation:
    return {
        "id": operation_id,
        "service": SERVICE,
        "kind": "repair",
        "state": "running",
        "intent": dict(intent),
        "plan": [],
        "step": 0,
        "evidence": {},
        "owner": owner,
        "epoch": 1,
        "lease_until": lease_until,
        "attempts": 0,
        "bytes": 0,
        "request_id": new_request_id(),
        "project_id": "",
    }
