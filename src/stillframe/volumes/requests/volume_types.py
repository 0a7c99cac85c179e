"""Requests about volume types, as the worker takes them."""

import uuid
from typing import Any

from sqlalchemy import Connection

from stillframe.context import Context
from stillframe.db import volume_groups, volume_types
from stillframe.db.rows import VolumeTypeRow
from stillframe.db.values import NewVolumeType
from stillframe.errors import BadRequest, Conflict, NotFound
from stillframe.volumes.worker.context import WorkerContext


def find(connection: Connection, type_id: str) -> VolumeTypeRow:
    """Returns the type's row. Raises NotFound."""
    row = volume_types.find(connection, type_id)
    if row is None:
        raise NotFound(f"Volume type {type_id} could not be found.")
    return row


def create(worker: WorkerContext, context: Context, wanted: dict[str, Any]) -> str:
    """Makes a volume type; ``wanted`` holds name, description, is_public and extra_specs. Returns its id."""
    row: NewVolumeType = {
        "id": str(uuid.uuid4()),
        "name": wanted["name"],
        "description": wanted.get("description"),
        "is_public": wanted.get("is_public", True),
        "extra_specs": wanted.get("extra_specs", {}),
    }
    with worker.database.write() as connection:
        if volume_types.find(connection, row["name"]) is not None:
            raise Conflict(f"Volume Type {row['name']} already exists.")
        volume_types.insert(connection, row)
    return str(row["id"])


def update(worker: WorkerContext, context: Context, type_id: str, changes: dict[str, Any]) -> None:
    """Changes name, description or is_public of a type. Raises NotFound, Conflict."""
    with worker.database.write() as connection:
        row = find(connection, type_id)
        taken = volume_types.find(connection, changes["name"]) if changes.get("name") else None
        if taken is not None and taken["id"] != row["id"]:
            raise Conflict(f"Volume Type {changes['name']} already exists.")
        volume_types.change(connection, row["id"], **changes)


def delete(worker: WorkerContext, context: Context, type_id: str) -> None:
    """Deletes a type. Raises NotFound, BadRequest while a volume is of it."""
    with worker.database.write() as connection:
        row = find(connection, type_id)
        if volume_types.is_used(connection, row["id"]):
            raise BadRequest(f"Target volume type is still in use: there are volumes of type {row['name']}")
        if volume_groups.take_type(connection, row["id"]):
            raise BadRequest(f"Target volume type is still in use: there are groups that take volumes of type {row['name']}")
        volume_types.delete(connection, row["id"])


def add_access(worker: WorkerContext, context: Context, type_id: str, project_id: str) -> None:
    """Lets a project use a type that is not public. Raises NotFound, BadRequest for a public one, Conflict."""
    with worker.database.write() as connection:
        row = _private(connection, type_id)
        if project_id in volume_types.projects(connection, row["id"]):
            raise Conflict(f"Volume type access for {row['id']} / {project_id} combination already exists.")
        volume_types.allow(connection, row["id"], project_id)


def remove_access(worker: WorkerContext, context: Context, type_id: str, project_id: str) -> None:
    """Lets a project no longer use a type; its volumes keep theirs. Raises NotFound, BadRequest for a public one."""
    with worker.database.write() as connection:
        row = _private(connection, type_id)
        if not volume_types.disallow(connection, row["id"], project_id):
            raise NotFound(f"Volume type access not found for {row['id']} / {project_id} combination.")


def _private(connection: Connection, type_id: str) -> VolumeTypeRow:
    row = find(connection, type_id)
    if row["is_public"]:
        raise BadRequest("Invalid volume type: Type access modification is not applicable to public volume type.")
    return row


def set_extra_specs(worker: WorkerContext, context: Context, type_id: str, specs: dict[str, str]) -> None:
    """Adds or changes extra specs of a type. Raises NotFound."""
    with worker.database.write() as connection:
        row = find(connection, type_id)
        volume_types.change(connection, row["id"], extra_specs={**row["extra_specs"], **specs})


def delete_extra_spec(worker: WorkerContext, context: Context, type_id: str, key: str) -> None:
    """Removes one extra spec of a type. Raises NotFound."""
    with worker.database.write() as connection:
        row = find(connection, type_id)
        if key not in row["extra_specs"]:
            raise NotFound(f"Volume Type {type_id} has no extra specs with key {key}.")
        kept = {name: value for name, value in row["extra_specs"].items() if name != key}
        volume_types.change(connection, row["id"], extra_specs=kept)
