"""Requests for a group with copies of what another one has, or of what a group snapshot holds, as the worker takes them."""

import uuid
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from stillframe.context import Context
from stillframe.db import group_snapshots, volume_groups, volumes
from stillframe.db.group_rows import GroupSnapshotRow, VolumeGroupRow
from stillframe.db.rows import VolumeRow
from stillframe.errors import BadRequest, Busy
from stillframe.volumes.requests import group_snapshots as group_snapshot_requests
from stillframe.volumes.requests import groups, new_volumes
from stillframe.volumes.worker import lookup
from stillframe.volumes.worker.context import WorkerContext


@dataclass(frozen=True)
class _Source:
    """The group that the new one is like, the volumes that its own are like, and what each of them is made from."""

    group: VolumeGroupRow
    volumes: list[VolumeRow]
    parts: list[dict[str, str]]
    type_ids: list[str]


def create(worker: WorkerContext, context: Context, wanted: dict[str, Any]) -> str:
    """Makes a group with a copy of every volume of ``source_group_id``, or of every snapshot of ``group_snapshot_id``; also
    name and description. All volumes begin in one transaction, or none, and those of a group are held from it on: the copies
    are of one instant. Returns the id of the group, which is available when all of them are.

    Raises NotFound, BadRequest for a source without volumes, or with one that is attached; QuotaExceeded.
    """
    if bool(wanted.get("group_snapshot_id")) == bool(wanted.get("source_group_id")):
        raise BadRequest("Invalid group: name either group_snapshot_id or source_group_id, and not both")
    with worker.database.read() as connection:
        source = _find(connection, context, wanted)
    group_id = str(uuid.uuid4())
    ready = [
        new_volumes.from_source(
            worker,
            context,
            {
                **part,
                "name": volume["name"],
                "volume_type": volume["volume_type_id"],
                "availability_zone": source.group["availability_zone"],
                "group_id": group_id,
            },
        )
        for volume, part in zip(source.volumes, source.parts, strict=True)
    ]

    def insert_group(connection: Connection) -> None:
        if _find(connection, context, wanted).parts != source.parts:
            raise Busy("the source of the new group changed meanwhile; repeat the request")
        lookup.check_quota(worker, connection, context.project_id, {"groups": 1})
        volume_groups.insert(
            connection,
            {
                "id": group_id,
                "project_id": context.project_id,
                "user_id": context.user_id,
                "name": wanted.get("name"),
                "description": wanted.get("description"),
                "status": "creating",
                "group_type_id": source.group["group_type_id"],
                "availability_zone": source.group["availability_zone"],
                "group_snapshot_id": wanted.get("group_snapshot_id"),
                "source_group_id": wanted.get("source_group_id"),
            },
            source.type_ids,
        )

    new_volumes.insert_all(worker, context, ready, insert_group)
    return group_id


def _find(connection: Connection, context: Context, wanted: dict[str, Any]) -> _Source:
    if wanted.get("source_group_id"):
        group = groups.find(connection, context, wanted["source_group_id"])
        lookup.refuse_unless(group["status"], ("available",), f"group {group['id']}")
        held = volume_groups.members(connection, group["id"])
        return _source(connection, group, held, [{"source_volid": each["id"]} for each in held])
    taken = group_snapshot_requests.find(connection, context, wanted["group_snapshot_id"])
    lookup.refuse_unless(taken["status"], ("available",), f"group snapshot {taken['id']}")
    parts = group_snapshots.members(connection, taken["id"])
    of = volumes.by_ids(connection, [each["volume_id"] for each in parts])
    rows = [of[each["volume_id"]] for each in parts]
    return _source(connection, _group_of(connection, taken), rows, [{"snapshot_id": each["id"]} for each in parts])


def _group_of(connection: Connection, taken: GroupSnapshotRow) -> VolumeGroupRow:
    found = volume_groups.get(connection, taken["group_id"], None)
    assert found is not None, "a group was deleted before its snapshots"
    return found


def _source(connection: Connection, group: VolumeGroupRow, held: list[VolumeRow], parts: list[dict[str, str]]) -> _Source:
    """A volume that has left the group since its snapshot was taken may be of a type that the group does not take."""
    if not parts:
        raise BadRequest("Invalid group: the source has no volumes, so no group is made from it")
    types = volume_groups.volume_types(connection, [group["id"]])[group["id"]]
    return _Source(group, held, parts, [*types, *(each["volume_type_id"] for each in held)])
