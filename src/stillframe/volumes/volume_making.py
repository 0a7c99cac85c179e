"""Requests about volumes, as the worker takes them: checks, one transaction, and the operation that follows."""

import uuid
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from stillframe.chain import names
from stillframe.context import Context
from stillframe.db import quotas, snapshots, volume_types, volumes
from stillframe.db.rows import Row
from stillframe.errors import BadRequest, Conflict, NotFound, QuotaExceeded
from stillframe.journal import record
from stillframe.volumes.operations import volumes as operations
from stillframe.volumes.world import GIB, World

DELETABLE = ("available", "error", "error_deleting")


def seen(connection: Connection, context: Context, volume_id: str) -> Row:
    """Returns the volume's row. Raises NotFound, the same for a volume that is missing and one of another project."""
    project = None if context.sees_all_projects else context.project_id
    row = volumes.get(connection, names.canonical_id(volume_id, "volume id"), project)
    if row is None:
        raise NotFound(f"Volume {volume_id} could not be found.")
    return row


def limits(world: World, connection: Connection, project_id: str) -> dict[str, int]:
    """Returns the project's limits; -1 is unlimited."""
    options = world.settings.volumes
    return {
        "volumes": options.quota_volumes,
        "snapshots": options.quota_snapshots,
        "gigabytes": options.quota_gigabytes,
        "per_volume_gigabytes": options.per_volume_gigabytes,
        **quotas.limits(connection, project_id),
    }


def create(world: World, context: Context, wanted: dict[str, Any]) -> str:
    """Creates an empty qcow2 volume; ``wanted`` holds size (GiB), name, description, volume_type, metadata and
    availability_zone. Returns its id. Raises BadRequest, QuotaExceeded, ShareUnavailable."""
    world.driver.probe_for_writing()
    volume_id = str(uuid.uuid4())
    with world.database.write() as connection:
        type_row = volume_types.find(connection, wanted.get("volume_type") or volume_types.DEFAULT)
        if type_row is None:
            raise BadRequest(f"volume type {wanted['volume_type']!r} could not be found")
        _check_quota(world, connection, context.project_id, wanted["size"])
        volumes.insert(
            connection,
            {
                "id": volume_id,
                "project_id": context.project_id,
                "user_id": context.user_id,
                "name": wanted.get("name"),
                "description": wanted.get("description"),
                "size": wanted["size"],
                "status": "creating",
                "volume_type_id": type_row["id"],
                "availability_zone": wanted.get("availability_zone") or world.settings.availability_zone,
                "metadata": wanted.get("metadata") or {},
                "active_file": names.base_name(volume_id),
                "format": "qcow2",
            },
        )
        record.submit(connection, operations.create_request(volume_id, wanted["size"] * GIB, context.request_id))
    return volume_id


def _check_quota(world: World, connection: Connection, project_id: str, size: int) -> None:
    allowed = limits(world, connection, project_id)
    count, gigabytes = volumes.usage(connection, project_id)
    if size > allowed["per_volume_gigabytes"]:
        raise BadRequest(f"a volume of {size} GiB is larger than the allowed {allowed['per_volume_gigabytes']} GiB")
    for resource, used, more in (("volumes", count, 1), ("gigabytes", gigabytes, size)):
        if 0 <= allowed[resource] < used + more:
            raise QuotaExceeded(f"quota exceeded for {resource}: {used} used, {more} asked, {allowed[resource]} allowed")


def update(world: World, context: Context, volume_id: str, changes: dict[str, Any]) -> None:
    """Changes name, description or metadata."""
    with world.database.write() as connection:
        row = seen(connection, context, volume_id)
        volumes.change(connection, row["id"], **changes)


def set_metadata(world: World, context: Context, volume_id: str, metadata: dict[str, str], replace: bool) -> dict[str, str]:
    with world.database.write() as connection:
        row = seen(connection, context, volume_id)
        merged = metadata if replace else {**row["metadata"], **metadata}
        volumes.change(connection, row["id"], metadata=merged)
    return merged


def delete_metadata_key(world: World, context: Context, volume_id: str, key: str) -> None:
    with world.database.write() as connection:
        row = seen(connection, context, volume_id)
        if key not in row["metadata"]:
            raise NotFound(f"Volume {volume_id} has no metadata with key {key!r}.")
        kept = {name: value for name, value in row["metadata"].items() if name != key}
        volumes.change(connection, row["id"], metadata=kept)


def delete(world: World, context: Context, volume_id: str) -> None:
    """Deletes a volume that nothing is attached to and that has no snapshots. Raises BadRequest, Conflict."""
    with world.database.write() as connection:
        row = seen(connection, context, volume_id)
        dependants = [snapshot["id"] for snapshot in snapshots.of_volume(connection, row["id"])]
        if dependants:
            raise BadRequest(
                f"Invalid volume: volume {row['id']} still has {len(dependants)} snapshots, the first is {dependants[0]};"
                " delete them first",
                snapshots=dependants[:100],
            )
        record.refuse_if_busy(connection, f"volume:{row['id']}")
        if not volumes.move(connection, row["id"], DELETABLE, "deleting"):
            raise BadRequest(
                f"Invalid volume: the status of volume {row['id']} must be available or error, but it is {row['status']}"
            )
        request = operations.delete_request(row["id"], context.request_id)
        request.intent["status_before"] = row["status"]
        record.submit(connection, request)


def set_quotas(world: World, context: Context, project_id: str, wanted: dict[str, int]) -> None:
    with world.database.write() as connection:
        quotas.set_limits(connection, project_id, wanted)


def clear_quotas(world: World, context: Context, project_id: str) -> None:
    with world.database.write() as connection:
        quotas.clear(connection, project_id)


def refuse_if_busy(connection: Connection, volume_id: str) -> None:
    """Raises Conflict naming the operation that holds the volume."""
    busy = volumes.busy_operation(connection, volume_id)
    if busy:
        raise Conflict(f"volume {volume_id} is busy with operation {busy}", operation_id=busy)


METHODS: Mapping[str, Any] = {
    "create_volume": create,
    "update_volume": update,
    "set_volume_metadata": set_metadata,
    "delete_volume_metadata_key": delete_metadata_key,
    "delete_volume": delete,
    "set_quotas": set_quotas,
    "clear_quotas": clear_quotas,
}
