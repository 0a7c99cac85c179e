"""Requests about volume types, as the worker takes them."""

import uuid
from typing import Any

from sqlalchemy import Connection

from stillframe.context import Context
from stillframe.db import volume_types
from stillframe.db.rows import Row
from stillframe.errors import BadRequest, Conflict, NotFound
from stillframe.volumes.worker.context import WorkerContext


def find(connection: Connection, type_id: str) -> Row:
    """Returns the type's row. Raises NotFound."""
    row = volume_types.find(connection, type_id)
    if row is None:
        raise NotFound(f"Volume type {type_id} could not be found.")
    return row


def create(world: WorkerContext, context: Context, wanted: dict[str, Any]) -> str:
    """Makes a volume type; ``wanted`` holds name, description, is_public and extra_specs. Returns its id."""
    row = {"id": str(uuid.uuid4()), "description": None, "is_public": True, "extra_specs": {}, **wanted}
    with world.database.write() as connection:
        if volume_types.find(connection, row["name"]) is not None:
            raise Conflict(f"Volume Type {row['name']} already exists.")
        volume_types.insert(connection, row)
    return str(row["id"])


def update(world: WorkerContext, context: Context, type_id: str, changes: dict[str, Any]) -> None:
    with world.database.write() as connection:
        row = find(connection, type_id)
        taken = volume_types.find(connection, changes["name"]) if changes.get("name") else None
        if taken is not None and taken["id"] != row["id"]:
            raise Conflict(f"Volume Type {changes['name']} already exists.")
        volume_types.change(connection, row["id"], **changes)


def delete(world: WorkerContext, context: Context, type_id: str) -> None:
    with world.database.write() as connection:
        row = find(connection, type_id)
        if volume_types.is_used(connection, row["id"]):
            raise BadRequest(f"Target volume type is still in use: there are volumes of type {row['name']}")
        volume_types.delete(connection, row["id"])


def set_extra_specs(world: WorkerContext, context: Context, type_id: str, specs: dict[str, str]) -> None:
    with world.database.write() as connection:
        row = find(connection, type_id)
        volume_types.change(connection, row["id"], extra_specs={**row["extra_specs"], **specs})


def delete_extra_spec(world: WorkerContext, context: Context, type_id: str, key: str) -> None:
    with world.database.write() as connection:
        row = find(connection, type_id)
        if key not in row["extra_specs"]:
            raise NotFound(f"Volume Type {type_id} has no extra specs with key {key}.")
        kept = {name: value for name, value in row["extra_specs"].items() if name != key}
        volume_types.change(connection, row["id"], extra_specs=kept)
