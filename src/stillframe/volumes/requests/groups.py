"""Requests about volume groups, as the worker takes them."""

import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from stillframe.chain import names
from stillframe.context import Context
from stillframe.db import group_snapshots, volume_groups, volume_types, volumes
from stillframe.db.group_rows import VolumeGroupChanges, VolumeGroupRow
from stillframe.db.rows import VolumeRow
from stillframe.errors import BadRequest, NotFound
from stillframe.volumes.requests import group_types
from stillframe.volumes.requests import volumes as volume_requests
from stillframe.volumes.worker import lookup
from stillframe.volumes.worker.context import WorkerContext

_DELETABLE = ("available", "error", "error_deleting")
_ADDABLE = ("available", "in-use")
_REMOVABLE = ("available", "in-use", "error", "error_deleting")


def find(connection: Connection, context: Context, group_id: str) -> VolumeGroupRow:
    """Returns the group's row. Raises NotFound, the same for one that is missing and one of another project."""
    project_id = None if context.sees_all_projects else context.project_id
    row = volume_groups.get(connection, names.lookup_id(group_id), project_id)
    if row is None:
        raise NotFound(f"Group {group_id} could not be found.")
    return row


def create(worker: WorkerContext, context: Context, wanted: dict[str, Any]) -> str:
    """Makes an empty group; ``wanted`` holds group_type, volume_types (names or ids), name, description and
    availability_zone. Returns its id. Raises NotFound, QuotaExceeded."""
    group_id = str(uuid.uuid4())
    with worker.database.write() as connection:
        kind = group_types.find(connection, wanted["group_type"])
        type_ids = [_volume_type(connection, each) for each in wanted["volume_types"]]
        lookup.check_quota(worker, connection, context.project_id, {"groups": 1})
        volume_groups.insert(
            connection,
            {
                "id": group_id,
                "project_id": context.project_id,
                "user_id": context.user_id,
                "name": wanted.get("name"),
                "description": wanted.get("description"),
                "status": "available",  # a row is all there is of it
                "group_type_id": kind["id"],
                "availability_zone": wanted.get("availability_zone") or worker.settings.availability_zone,
            },
            type_ids,
        )
    return group_id


def _volume_type(connection: Connection, name: str) -> str:
    found = volume_types.find(connection, name)
    if found is None:
        raise NotFound(f"Volume type {name} could not be found.")
    return found["id"]


def update(worker: WorkerContext, context: Context, group_id: str, changes: dict[str, Any]) -> None:
    """Changes name and description, and which volumes are in the group: ``add_volumes`` and ``remove_volumes`` are lists of
    ids. All of that or nothing. Raises NotFound, BadRequest for a volume that may not be added or removed."""
    added, removed = dict.fromkeys(changes.get("add_volumes") or ()), dict.fromkeys(changes.get("remove_volumes") or ())
    both = [volume_id for volume_id in added if volume_id in removed]
    if both:
        raise BadRequest(f"Invalid volume: volume {both[0]} cannot be added and removed at once")
    with worker.database.write() as connection:
        row = find(connection, context, group_id)
        lookup.refuse_unless(row["status"], ("available",), f"group {row['id']}")
        taken = volume_groups.volume_types(connection, [row["id"]])[row["id"]]
        for volume_id in added:
            volumes.change(connection, _addable(connection, row, volume_id, taken)["id"], group_id=row["id"])
        for volume_id in removed:
            volumes.change(connection, _removable(connection, row, volume_id)["id"], group_id=None)
        changed: VolumeGroupChanges = {}
        if changes.get("name") is not None:
            changed["name"] = changes["name"]
        if changes.get("description") is not None:
            changed["description"] = changes["description"]
        if changed:
            volume_groups.change(connection, row["id"], **changed)


def _addable(connection: Connection, group: VolumeGroupRow, volume_id: str, taken: Sequence[str]) -> VolumeRow:
    volume = volumes.get(connection, names.lookup_id(volume_id), group["project_id"])
    if volume is None:
        raise BadRequest(f"Invalid volume: cannot add volume {volume_id} to group {group['id']}: it cannot be found")
    why = None
    if volume["group_id"] is not None:
        why = f"it is in group {volume['group_id']} already"
    elif volume["volume_type_id"] not in taken:
        why = "the group does not take volumes of its type"
    elif volume["status"] not in _ADDABLE:
        why = f"its status must be {' or '.join(_ADDABLE)}, but it is {volume['status']}"
    if why is not None:
        raise BadRequest(f"Invalid volume: cannot add volume {volume['id']} to group {group['id']}: {why}")
    return volume


def _removable(connection: Connection, group: VolumeGroupRow, volume_id: str) -> VolumeRow:
    volume = volumes.get(connection, names.lookup_id(volume_id), group["project_id"])
    if volume is None or volume["group_id"] != group["id"]:
        raise BadRequest(f"Invalid volume: cannot remove volume {volume_id} from group {group['id']}: it is not in it")
    if volume["status"] not in _REMOVABLE:
        raise BadRequest(
            f"Invalid volume: cannot remove volume {volume['id']} from group {group['id']}: its status must be"
            f" {', '.join(_REMOVABLE)}, but it is {volume['status']}"
        )
    return volume


def delete(worker: WorkerContext, context: Context, group_id: str, delete_volumes: bool) -> None:
    """Deletes a group without volumes at once, and with ``delete_volumes`` one with its volumes: all of their deletions begin,
    or none. The group goes with the last of them.

    Raises NotFound, BadRequest for a group with snapshots of its own, or with a volume that is attached or has snapshots.
    """
    with worker.database.read() as connection:
        row = find(connection, context, group_id)
        held = volume_groups.members(connection, row["id"])
    for volume in held:
        volume_requests.refuse_users(worker, volume)
    with worker.database.write() as connection:
        row = find(connection, context, group_id)
        _check_deletable(connection, row, delete_volumes)
        volume_groups.change(connection, row["id"], status="deleting")
        for volume in volume_groups.members(connection, row["id"]):
            volume_requests.begin_deletion(worker, connection, volume, context.request_id)
        volume_groups.end_deletion(connection, row["id"], whole=True)


def _check_deletable(connection: Connection, row: VolumeGroupRow, delete_volumes: bool) -> None:
    held = volume_groups.members(connection, row["id"])
    if held and not delete_volumes:
        raise BadRequest(
            f"Invalid group: group {row['id']} still has {len(held)} volumes, the first is {held[0]['id']}. Remove them from"
            " it, or set 'delete-volumes' to delete them too"
        )
    lookup.refuse_unless(row["status"], _DELETABLE, f"group {row['id']}")
    taken = group_snapshots.of_group(connection, row["id"])
    if taken:
        raise BadRequest(
            f"Invalid group: group {row['id']} still has {len(taken)} group snapshots, the first is {taken[0]['id']};"
            " delete them first"
        )


def reset_status(worker: WorkerContext, context: Context, group_id: str, status: str) -> None:
    """An administrator corrects a status. It changes the row and nothing else. Raises NotFound."""
    with worker.database.write() as connection:
        volume_groups.change(connection, find(connection, context, group_id)["id"], status=status)
