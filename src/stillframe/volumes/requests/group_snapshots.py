"""Requests about snapshots of groups, as the worker takes them."""

import uuid
from typing import Any

from sqlalchemy import Connection

from stillframe.chain import names
from stillframe.context import Context
from stillframe.db import attachments, group_snapshots, snapshots, volume_groups, volumes
from stillframe.db.group_rows import GroupSnapshotRow, VolumeGroupRow
from stillframe.db.rows import VolumeRow
from stillframe.errors import BadRequest, Busy, NotFound
from stillframe.journal import record
from stillframe.volumes.operations import group_snapshots as operations
from stillframe.volumes.operations.group_snapshots import Member
from stillframe.volumes.requests import groups, services
from stillframe.volumes.requests import snapshots as snapshot_requests
from stillframe.volumes.requests import volumes as volume_requests
from stillframe.volumes.worker import lookup
from stillframe.volumes.worker.context import WorkerContext

_DELETABLE = ("available", "error", "error_deleting")


def find(connection: Connection, context: Context, group_snapshot_id: str) -> GroupSnapshotRow:
    """Returns the row. Raises NotFound, the same for one that is missing and one of another project."""
    project_id = None if context.sees_all_projects else context.project_id
    row = group_snapshots.get(connection, names.lookup_id(group_snapshot_id), project_id)
    if row is None:
        raise NotFound(f"GroupSnapshot {group_snapshot_id} could not be found.")
    return row


def create(worker: WorkerContext, context: Context, group_id: str, name: str | None, description: str | None) -> str:
    """Takes snapshots of all volumes of a group, in one operation; returns the id of the group snapshot. They are of one
    instant: nothing is attached, and all volumes are held from one transaction on.

    Raises NotFound, BadRequest for a group without volumes, or one of whose volumes is attached: of those, nothing that block
    storage does is of one instant.
    """
    with worker.database.read() as connection:
        group = groups.find(connection, context, group_id)
        held = _snapshotable(connection, group)
        for volume in held:
            services.refuse_frozen(worker, connection, volume["backend"])
            lookup.refuse_if_busy(connection, volume["id"])
    group_snapshot_id = str(uuid.uuid4())
    members, rows = [], []
    for volume in held:
        row, before, plan = snapshot_requests.prepared(worker, context, volume, {"name": name, "description": description})
        members.append(Member(volume, before, plan, row["id"]))
        rows.append(row)
    with worker.database.write() as connection:
        now = _snapshotable(connection, groups.find(connection, context, group_id))
        if [each["id"] for each in now] != [each["id"] for each in held]:
            raise Busy(f"the volumes of group {group['id']} changed meanwhile; repeat the request")
        _insert(connection, context, group, group_snapshot_id, {"name": name, "description": description})
        for member, row in zip(members, rows, strict=True):
            volume_requests.unchanged(connection, member.volume, member.before)
            of_volume = snapshots.of_volume(connection, member.volume["id"])
            lookup.check_snapshot_quota(worker, connection, member.volume, of_volume)
            snapshots.insert(connection, {**row, "group_snapshot_id": group_snapshot_id})
        made = find(connection, context, group_snapshot_id)
        record.submit(connection, operations.create_request(made, members, context.request_id))
    return group_snapshot_id


def _insert(
    connection: Connection, context: Context, group: VolumeGroupRow, group_snapshot_id: str, words: dict[str, Any]
) -> None:
    group_snapshots.insert(
        connection,
        {
            "id": group_snapshot_id,
            "project_id": group["project_id"],
            "user_id": context.user_id,
            "name": words["name"],
            "description": words["description"],
            "status": "creating",
            "group_id": group["id"],
            "group_type_id": group["group_type_id"],
        },
    )


def _snapshotable(connection: Connection, group: VolumeGroupRow) -> list[VolumeRow]:
    """Returns the volumes of a group. Raises BadRequest unless snapshots of them may be taken as the group's."""
    lookup.refuse_unless(group["status"], ("available",), f"group {group['id']}")
    held = volume_groups.members(connection, group["id"])
    if not held:
        raise BadRequest(f"Invalid group: group {group['id']} has no volumes, so there is nothing to take a snapshot of")
    attached = attachments.of_volumes(connection, [volume["id"] for volume in held])
    for volume in held:
        if attached[volume["id"]] or volume["status"] == "in-use":
            raise BadRequest(
                f"Invalid volume: volume {volume['id']} of group {group['id']} is attached to a server. Snapshots of attached"
                " volumes at one instant are taken through their server: 'openstack assisted snapshot create --volume <volume>"
                " <server>', with all its volumes that are in the group"
            )
        lookup.refuse_unless(volume["status"], ("available",), f"volume {volume['id']} of group {group['id']}")
    return held


def delete(worker: WorkerContext, context: Context, group_snapshot_id: str) -> None:
    """Deletes a group snapshot and the snapshots it is made of: all of their deletions begin, or none. It goes with the last
    of them. Raises NotFound, BadRequest, and as the deletion of a snapshot."""
    with worker.database.read() as connection:
        row = find(connection, context, group_snapshot_id)
        lookup.refuse_unless(row["status"], _DELETABLE, f"group snapshot {row['id']}")
        held = group_snapshots.members(connection, row["id"])
        of = volumes.by_ids(connection, [each["volume_id"] for each in held])
    deletions = [snapshot_requests.prepared_deletion(worker, of[each["volume_id"]], [each]) for each in held]
    with worker.database.write() as connection:
        fresh = find(connection, context, group_snapshot_id)
        now = [each["id"] for each in group_snapshots.members(connection, fresh["id"])]
        if fresh["status"] != row["status"] or now != [each["id"] for each in held]:
            raise Busy(f"group snapshot {row['id']} changed meanwhile; repeat the request")
        group_snapshots.change(connection, row["id"], status="deleting")
        for begin in deletions:
            begin(connection, context.request_id)
        group_snapshots.end_deletion(connection, [row["id"]], whole=True)


def reset_status(worker: WorkerContext, context: Context, group_snapshot_id: str, status: str) -> None:
    """An administrator corrects a status. It changes the row and nothing else. Raises NotFound."""
    with worker.database.write() as connection:
        group_snapshots.change(connection, find(connection, context, group_snapshot_id)["id"], status=status)
