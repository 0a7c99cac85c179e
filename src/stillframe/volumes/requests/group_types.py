"""Requests about group types, as the worker takes them."""

import uuid
from typing import Any

from sqlalchemy import Connection

from stillframe.context import Context
from stillframe.db import group_types
from stillframe.db.group_rows import GroupTypeRow
from stillframe.errors import BadRequest, Conflict, NotFound
from stillframe.volumes.worker.context import WorkerContext

CONSISTENT = "consistent_group_snapshot_enabled"  # a group spec: snapshots of such a group are of one instant


def find(connection: Connection, type_id: str) -> GroupTypeRow:
    """Returns the type's row. Raises NotFound."""
    row = group_types.find(connection, type_id)
    if row is None:
        raise NotFound(f"Group type {type_id} could not be found.")
    return row


def create(worker: WorkerContext, context: Context, wanted: dict[str, Any]) -> str:
    """Makes a group type; ``wanted`` holds name, description, is_public and group_specs. Returns its id. Raises Conflict."""
    type_id = str(uuid.uuid4())
    with worker.database.write() as connection:
        _refuse_taken(connection, type_id, wanted["name"])
        group_types.insert(
            connection,
            {
                "id": type_id,
                "name": wanted["name"],
                "description": wanted.get("description"),
                "is_public": wanted.get("is_public", True),
                "group_specs": wanted.get("group_specs", {}),
            },
        )
    return type_id


def update(worker: WorkerContext, context: Context, type_id: str, changes: dict[str, Any]) -> None:
    """Changes name, description or is_public of a type. Raises NotFound, Conflict."""
    with worker.database.write() as connection:
        row = find(connection, type_id)
        if changes.get("name"):
            _refuse_taken(connection, row["id"], changes["name"])
        group_types.change(connection, row["id"], **changes)


def delete(worker: WorkerContext, context: Context, type_id: str) -> None:
    """Deletes a type. Raises NotFound, BadRequest while a group, or a snapshot of one, is of it."""
    with worker.database.write() as connection:
        row = find(connection, type_id)
        if group_types.is_used(connection, row["id"]):
            raise BadRequest(f"Target group type is still in use: there are groups of type {row['name']}, or snapshots of such")
        group_types.delete(connection, row["id"])


def set_specs(worker: WorkerContext, context: Context, type_id: str, specs: dict[str, str]) -> None:
    """Adds or changes group specs of a type. Raises NotFound."""
    with worker.database.write() as connection:
        row = find(connection, type_id)
        group_types.change(connection, row["id"], group_specs={**row["group_specs"], **specs})


def delete_spec(worker: WorkerContext, context: Context, type_id: str, key: str) -> None:
    """Removes one group spec of a type. Raises NotFound."""
    with worker.database.write() as connection:
        row = find(connection, type_id)
        if key not in row["group_specs"]:
            raise NotFound(f"Group Type {type_id} has no group spec with key {key}.")
        kept = {name: value for name, value in row["group_specs"].items() if name != key}
        group_types.change(connection, row["id"], group_specs=kept)


def _refuse_taken(connection: Connection, type_id: str, name: str) -> None:
    taken = group_types.find(connection, name)
    if taken is not None and taken["id"] != type_id:
        raise Conflict(f"Group Type {name} already exists.")
