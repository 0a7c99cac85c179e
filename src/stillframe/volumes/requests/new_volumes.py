"""Requests for new volumes, as the worker takes them: checks, one transaction, and the operation that follows."""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from stillframe.chain import names
from stillframe.context import Context
from stillframe.db import backups, snapshots, volume_types, volumes
from stillframe.db.rows import Row
from stillframe.errors import BadImage, BadRequest, Conflict
from stillframe.journal import record
from stillframe.journal.record import Request
from stillframe.units import GIB
from stillframe.volumes.chain import observe
from stillframe.volumes.operations import volumes as operations
from stillframe.volumes.requests import volumes as volume_requests
from stillframe.volumes.storage import scheduler
from stillframe.volumes.storage.backends import Pool
from stillframe.volumes.worker import lookup
from stillframe.volumes.worker.context import WorkerContext

LINKED = "stillframe:linked_clone"  # extra spec of a volume type


@dataclass(frozen=True)
class Making:
    """A new volume as far as it is known: what its source contributes to the row, the pool, the operation that creates it."""

    pool: Pool
    columns: Mapping[str, Any]
    operation: Callable[[Row], Request]
    source: Row | None = None  # the volume that is read
    snapshot: Row | None = None  # what of it: one of its snapshots, not its active file
    backup: Row | None = None  # the backup that is read
    promises: bool = True  # False: its file is on the share already, with its content


def create(world: WorkerContext, context: Context, wanted: dict[str, Any]) -> str:
    """Creates a volume: empty, from ``snapshot_id`` or from ``source_volid``. ``wanted`` holds size (GiB; the source's where
    it is missing), name, description, volume_type, metadata and availability_zone. Returns its id.

    Raises BadRequest, NotFound, Conflict, QuotaExceeded, ShareUnavailable; nothing is changed then.
    """
    if wanted.get("snapshot_id"):
        return _from_snapshot(world, context, wanted)
    if wanted.get("source_volid"):
        return _from_volume(world, context, wanted)
    if wanted.get("size") is None:
        raise BadRequest("size is missing: an empty volume needs one")
    type_row = find_type(world, wanted)
    pool = scheduler.choose(world.backends, type_row, wanted["size"])
    size = wanted["size"] * GIB
    return insert(
        world, context, wanted, type_row, Making(pool, {}, lambda row: operations.create_request(row, size, context.request_id))
    )


def find_type(world: WorkerContext, wanted: Mapping[str, Any], default: str | None = None) -> Row:
    """Returns the volume type asked for, else ``default`` (an id), else the default one. Raises BadRequest."""
    name = wanted.get("volume_type") or default
    with world.database.read() as connection:
        found = volume_types.find(connection, name) if name else volume_types.default(connection)
    if found is None:
        raise BadRequest(f"volume type {name!r} could not be found")
    return found


def insert(world: WorkerContext, context: Context, wanted: Mapping[str, Any], type_row: Row, making: Making) -> str:
    """Writes the row and the operation in one transaction, in which quota and source are checked again."""
    volume_id = str(uuid.uuid4())
    row = {
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
        "format": making.pool.options.volume_format,
        "base_format": making.pool.options.volume_format,
        "backend": making.pool.backend,
        "share": making.pool.export.export,
        "bootable": False,
        **making.columns,
    }
    most = scheduler.most_promised(making.pool) if making.promises else 0
    with world.database.write() as connection:
        lookup.check_size(world, connection, context.project_id, wanted["size"])
        lookup.check_quota(world, connection, context.project_id, {"volumes": 1, "gigabytes": wanted["size"]})
        if making.promises:
            scheduler.check_promised(connection, making.pool, wanted["size"], most)
        _check_source(connection, making)
        volumes.insert(connection, row)
        record.submit(connection, making.operation(row))
    return volume_id


def _check_source(connection: Connection, making: Making) -> None:
    """Raises Conflict unless the source is still as it was when it was checked, and nobody is about to change it."""
    if making.backup is not None:
        check_backup(connection, making.backup)
    if making.source is None:
        return
    if making.snapshot is None:
        volume_requests.unchanged(connection, making.source)
        return
    lookup.refuse_if_busy(connection, making.source["id"], shared=True)
    fresh = snapshots.get(connection, making.snapshot["id"], None)
    if fresh is None or any(fresh[name] != making.snapshot[name] for name in ("status", "backing")):
        raise Conflict(f"snapshot {making.snapshot['id']} changed meanwhile; repeat the request")


def check_backup(connection: Connection, backup: Row) -> None:
    """Raises Conflict for a backup that is deleted or being deleted. Called in the transaction that begins to read it."""
    record.refuse_if_busy(connection, f"backup:{backup['id']}", shared=True)
    fresh = backups.get(connection, backup["id"], None)
    if fresh is None or fresh["status"] != "available":
        raise Conflict(f"backup {backup['id']} changed meanwhile; repeat the request")


def _sized(wanted: dict[str, Any], source_size: int, what: str) -> dict[str, Any]:
    size = wanted.get("size") or source_size
    if size < source_size:
        raise BadRequest(f"a volume of {size} GiB cannot hold {what}, which has {source_size} GiB")
    return {**wanted, "size": size}


def _from_snapshot(world: WorkerContext, context: Context, wanted: dict[str, Any]) -> str:
    with world.database.read() as connection:
        snapshot = lookup.snapshot(connection, context, wanted["snapshot_id"])
        source = volumes.get(connection, snapshot["volume_id"], None)
    assert source is not None
    lookup.refuse_unless(snapshot["status"], ("available",), f"snapshot {snapshot['id']}")
    wanted = _sized(wanted, snapshot["size"], f"snapshot {snapshot['id']}")
    type_row = find_type(world, wanted, source["volume_type_id"])
    origin = {"volume_id": source["id"], "name": snapshot["backing"], "format": snapshot["backing_format"], "exclusive": False}
    columns = {"snapshot_id": snapshot["id"], **_inherited(source)}
    if type_row["extra_specs"].get(LINKED, "").lower() in ("true", "<is> true", "1", "yes"):
        return _linked(world, context, wanted, Parts(type_row, source, origin, columns, snapshot))
    making = _copying(world, context, wanted, Parts(type_row, source, origin, columns, snapshot))
    return insert(world, context, wanted, type_row, making)


def _from_volume(world: WorkerContext, context: Context, wanted: dict[str, Any]) -> str:
    with world.database.read() as connection:
        source = lookup.volume(connection, context, wanted["source_volid"])
    lookup.refuse_unless(
        source["status"],
        ("available",),
        f"volume {source['id']} (take a snapshot of an attached one and use that as the source)",
    )
    wanted = _sized(wanted, source["size"], f"volume {source['id']}")
    type_row = find_type(world, wanted, source["volume_type_id"])
    origin = {"volume_id": source["id"], "name": source["active_file"], "format": source["format"], "exclusive": True}
    columns = {"source_volid": source["id"], **_inherited(source)}
    return insert(world, context, wanted, type_row, _copying(world, context, wanted, Parts(type_row, source, origin, columns)))


def _inherited(source: Row) -> dict[str, Any]:
    return {"bootable": source["bootable"], "image_metadata": source["image_metadata"]}


@dataclass(frozen=True)
class Parts:
    """What a copy or a linked clone is made from. ``origin`` names the file that is read, as an operation's argument."""

    type_row: Row
    source: Row
    origin: dict[str, Any]
    columns: dict[str, Any]
    snapshot: Row | None = None


def _same_pool(world: WorkerContext, parts: Parts) -> Pool:
    """Returns the source's share for a copy: nothing is copied between shares."""
    pool, name = world.backends.pool(parts.source), parts.type_row["name"]
    if pool not in world.backends.of_type(parts.type_row["extra_specs"]):
        raise BadRequest(
            f"volume type {name} asks for another backend than {parts.source['backend']}, where its source lies;"
            " upload the source to an image, or back it up and restore it, to move it"
        )
    return pool


def _copying(world: WorkerContext, context: Context, wanted: dict[str, Any], parts: Parts) -> Making:
    origin = parts.origin
    pool, size = _same_pool(world, parts), wanted["size"] * GIB
    try:
        needed = scheduler.content_bytes(pool.share(), origin["name"], origin["format"])
    except FileNotFoundError as error:
        raise BadImage(f"{origin['name']}, the source's file, is missing on the share") from error
    scheduler.check_room(world.backends, parts.source, wanted["size"], needed)

    def operation(row: Row) -> Request:
        return operations.copy_request(row, size, origin, context.request_id)

    return Making(pool, parts.columns, operation, parts.source, parts.snapshot)


def _linked(world: WorkerContext, context: Context, wanted: dict[str, Any], parts: Parts) -> str:
    """A linked clone: an overlay on the snapshot's file, which is pinned by it."""
    pool, size = _same_pool(world, parts), wanted["size"] * GIB
    # Only an overlay is made, so nothing else would inspect the files below before QEMU opens them.
    observe.observe(world, parts.source)
    scheduler.check_room(world.backends, parts.source, wanted["size"])
    linked = {"volume_id": parts.source["id"], "file": parts.origin["name"], "format": parts.origin["format"]}
    made = {**parts.columns, "linked_to": linked, "format": "qcow2", "base_format": "qcow2"}

    def operation(row: Row) -> Request:
        return operations.link_request(row, size, context.request_id)

    return insert(world, context, wanted, parts.type_row, Making(pool, made, operation, parts.source, parts.snapshot))
