"""Requests for new volumes, as the worker takes them: checks, one transaction, and the operation that follows."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from stillframe.chain import names
from stillframe.context import Context
from stillframe.db import backups, snapshots, volume_groups, volume_types, volumes
from stillframe.db.rows import BackupRow, LinkedFile, SnapshotRow, VolumeRow, VolumeTypeRow
from stillframe.db.tables import now
from stillframe.db.values import VolumeChanges
from stillframe.errors import BadImage, BadRequest, Conflict, NotFound
from stillframe.host.qcow2 import FORMATS
from stillframe.journal import record
from stillframe.journal.record import Request
from stillframe.units import GIB
from stillframe.volumes.chain import observe
from stillframe.volumes.operations import volumes as operations
from stillframe.volumes.requests import messages
from stillframe.volumes.requests import volumes as volume_requests
from stillframe.volumes.storage import scheduler
from stillframe.volumes.storage.backends import Pool
from stillframe.volumes.worker import lookup
from stillframe.volumes.worker.context import WorkerContext

LINKED = "stillframe:linked_clone"  # extra specs of a volume type
FORMAT = "stillframe:volume_format"


@dataclass(frozen=True)
class Making:
    """A new volume as far as it is known: what its source contributes to the row, the pool, the operation that creates it."""

    pool: Pool
    columns: VolumeChanges
    operation: Callable[[VolumeRow], Request]
    source: VolumeRow | None = None  # the volume that is read
    snapshot: SnapshotRow | None = None  # what of it: one of its snapshots, not its active file
    backup: BackupRow | None = None  # the backup that is read
    promises: bool = True  # False: its file is on the share already, with its content


def create(worker: WorkerContext, context: Context, wanted: dict[str, Any]) -> str:
    """Creates a volume: empty, from ``snapshot_id`` or from ``source_volid``. ``wanted`` holds size (GiB; the source's where
    it is missing), name, description, volume_type, metadata and availability_zone. Returns its id.

    Raises BadRequest, NotFound, Conflict, QuotaExceeded, ShareUnavailable; nothing is changed then.
    """
    if wanted.get("snapshot_id") or wanted.get("source_volid"):
        ready = from_source(worker, context, wanted)
        return insert(worker, context, ready.wanted, ready.type_row, ready.making)
    if wanted.get("size") is None:
        raise BadRequest("size is missing: an empty volume needs one")
    type_row = find_type(worker, wanted)
    check_allowed(worker, context, wanted)
    if not worker.backends.of_type(type_row["extra_specs"]):
        return _unplaced(worker, context, wanted, type_row)
    pool = scheduler.choose(worker.backends, type_row, wanted["size"])
    size = wanted["size"] * GIB
    return insert(
        worker,
        context,
        wanted,
        type_row,
        Making(pool, {}, lambda row: operations.create_request(row, size, context.request_id)),
    )


def _unplaced(worker: WorkerContext, context: Context, wanted: Mapping[str, Any], type_row: VolumeTypeRow) -> str:
    """A volume that no backend takes: as in Cinder it is there, in status error, and a message says why."""
    why = f"no enabled backend fits volume type {type_row['name']}: its extra specs ask for another one, or it is disabled"
    row = _row(worker, context, wanted, type_row)
    row |= {"status": "error", "fault": why, "backend": "", "share": "", "format": "qcow2", "base_format": "qcow2"}
    with worker.database.write() as connection:
        lookup.check_new_volume(worker, connection, context.project_id, wanted["size"])
        _check_group(connection, context, wanted, type_row)
        volumes.insert(connection, row)
        made = volumes.get(connection, row["id"], None)
        assert made is not None
        messages.note(connection, context, made, f"schedule allocate volume: {why}")
    return str(row["id"])


def check_allowed(worker: WorkerContext, context: Context, wanted: Mapping[str, Any]) -> None:
    """Raises QuotaExceeded, BadRequest before anything else is looked at: a project that may have no more is told so, whatever
    room the shares have. Asked again in the transaction that takes it."""
    with worker.database.read() as connection:
        lookup.check_new_volume(worker, connection, context.project_id, wanted["size"])


def find_type(worker: WorkerContext, wanted: Mapping[str, Any], default: str | None = None) -> VolumeTypeRow:
    """Returns the volume type asked for, else ``default`` (an id), else the default one. Raises NotFound."""
    name = wanted.get("volume_type") or default
    with worker.database.read() as connection:
        found = volume_types.find(connection, name) if name else volume_types.default(connection)
    if found is None:
        raise NotFound(f"Volume type {name} could not be found.")
    return found


@dataclass(frozen=True)
class Ready:
    """A new volume that was checked as far as that is possible without a transaction."""

    wanted: Mapping[str, Any]
    type_row: VolumeTypeRow
    making: Making


def from_source(worker: WorkerContext, context: Context, wanted: dict[str, Any]) -> Ready:
    """Checks a request for a volume from ``snapshot_id`` or ``source_volid``. Raises as ``create``."""
    return (_from_snapshot if wanted.get("snapshot_id") else _from_volume)(worker, context, wanted)


def insert(worker: WorkerContext, context: Context, wanted: Mapping[str, Any], type_row: VolumeTypeRow, making: Making) -> str:
    """Writes the row and the operation in one transaction, in which quota and source are checked again."""
    return insert_all(worker, context, [Ready(wanted, type_row, making)])[0]


def insert_all(
    worker: WorkerContext, context: Context, every: Sequence[Ready], before: Callable[[Connection], None] | None = None
) -> list[str]:
    """As ``insert``, for several volumes: all or none. ``before`` is called first in that transaction. Returns the ids."""
    most = [scheduler.most_promised(each.making.pool) if each.making.promises else 0 for each in every]
    with worker.database.write() as connection:
        if before is not None:
            before(connection)
        return [_insert(worker, connection, context, each, most[number]) for number, each in enumerate(every)]


def _insert(worker: WorkerContext, connection: Connection, context: Context, ready: Ready, most: int) -> str:
    wanted, making, pool = ready.wanted, ready.making, ready.making.pool
    made_format = _format(pool, ready.type_row)
    place: Any = {"backend": pool.backend, "share": pool.export.export, "format": made_format, "base_format": made_format}
    row: Any = {**_row(worker, context, wanted, ready.type_row), **place, **making.columns}
    volume_id = str(row["id"])
    lookup.check_new_volume(worker, connection, context.project_id, wanted["size"])
    if making.promises:
        scheduler.check_promised(connection, pool, wanted["size"], most)
    _check_group(connection, context, wanted, ready.type_row)
    _check_source(connection, making)
    volumes.insert(connection, row)
    made = volumes.get(connection, volume_id, None)
    assert made is not None
    record.submit(connection, making.operation(made))
    return volume_id


def _check_group(connection: Connection, context: Context, wanted: Mapping[str, Any], type_row: VolumeTypeRow) -> None:
    """Raises NotFound, BadRequest for a group that the new volume may not be in. Called in the transaction that makes it."""
    if wanted.get("group_id") is None:
        return
    group = volume_groups.get(connection, wanted["group_id"], context.project_id)
    if group is None:
        raise NotFound(f"Group {wanted['group_id']} could not be found.")
    if type_row["id"] not in volume_groups.volume_types(connection, [group["id"]])[group["id"]]:
        raise BadRequest(
            f"Invalid volume_type {type_row['name']}: group {group['id']} does not take volumes of it. Name one of the volume"
            " types that the group was made with"
        )
    lookup.refuse_unless(group["status"], ("available", "creating"), f"group {group['id']}")


def _row(worker: WorkerContext, context: Context, wanted: Mapping[str, Any], type_row: VolumeTypeRow) -> Any:
    """What a new volume's row holds, whatever it is made from and wherever it comes to lie."""
    volume_id = str(uuid.uuid4())
    return {
        "id": volume_id,
        "project_id": context.project_id,
        "user_id": context.user_id,
        "name": wanted.get("name"),
        "description": wanted.get("description"),
        "size": wanted["size"],
        "status": "creating",
        "volume_type_id": type_row["id"],
        "availability_zone": wanted.get("availability_zone") or worker.settings.availability_zone,
        "metadata": wanted.get("metadata") or {},
        "active_file": names.base_name(volume_id),
        "bootable": False,
        "group_id": wanted.get("group_id"),
        "created_at": now(),
    }


def _format(pool: Pool, type_row: VolumeTypeRow) -> str:
    """Returns what a new volume's file is: what the type says, else the backend. Raises BadRequest for a type that says what
    nobody knows."""
    wanted = type_row["extra_specs"].get(FORMAT)
    if wanted is not None and wanted not in FORMATS:
        raise BadRequest(
            f"volume type {type_row['name']} has {FORMAT} = {wanted!r}, which is none of {', '.join(FORMATS)}; an administrator"
            f" corrects it (openstack volume type set --property {FORMAT}=raw {type_row['id']})"
        )
    if wanted == "qcow2" and not pool.capabilities.chains:
        raise BadRequest(
            f"volume type {type_row['name']} has {FORMAT} = 'qcow2', but volumes of backend {pool.backend} are raw"
        )
    return str(wanted or pool.format)


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
    if fresh is None or (fresh["status"], fresh["backing"]) != (making.snapshot["status"], making.snapshot["backing"]):
        raise Conflict(f"snapshot {making.snapshot['id']} changed meanwhile; repeat the request")


def check_backup(connection: Connection, backup: BackupRow) -> None:
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


def _from_snapshot(worker: WorkerContext, context: Context, wanted: dict[str, Any]) -> Ready:
    with worker.database.read() as connection:
        snapshot = lookup.snapshot(connection, context, wanted["snapshot_id"])
        source = volumes.get(connection, snapshot["volume_id"], None)
    assert source is not None
    lookup.refuse_unless(snapshot["status"], ("available",), f"snapshot {snapshot['id']}")
    wanted = _sized(wanted, snapshot["size"], f"snapshot {snapshot['id']}")
    check_allowed(worker, context, wanted)
    type_row = find_type(worker, wanted, source["volume_type_id"])
    origin = _origin(source, snapshot["backing"], snapshot["backing_format"], exclusive=False)
    columns: VolumeChanges = {"snapshot_id": snapshot["id"], **_inherited(source)}
    linked = type_row["extra_specs"].get(LINKED, "").lower() in ("true", "<is> true", "1", "yes")
    if linked and worker.backends.pool(source).capabilities.chains:
        return _linked(worker, context, wanted, Parts(type_row, source, origin, columns, snapshot))
    return Ready(wanted, type_row, _copying(worker, context, wanted, Parts(type_row, source, origin, columns, snapshot)))


def _from_volume(worker: WorkerContext, context: Context, wanted: dict[str, Any]) -> Ready:
    with worker.database.read() as connection:
        source = lookup.volume(connection, context, wanted["source_volid"])
    lookup.refuse_unless(
        source["status"],
        ("available",),
        f"volume {source['id']} (take a snapshot of an attached one and use that as the source)",
    )
    wanted = _sized(wanted, source["size"], f"volume {source['id']}")
    check_allowed(worker, context, wanted)
    type_row = find_type(worker, wanted, source["volume_type_id"])
    origin = _origin(source, source["active_file"], source["format"], exclusive=True)
    columns: VolumeChanges = {"source_volid": source["id"], **_inherited(source)}
    return Ready(wanted, type_row, _copying(worker, context, wanted, Parts(type_row, source, origin, columns)))


def _origin(source: VolumeRow, name: str, format_: str, exclusive: bool) -> operations.CopySource:
    """What a copy reads, as an operation's argument."""
    backend, share = source["backend"], source["share"]
    return operations.CopySource(
        volume_id=source["id"], backend=backend, share=share, name=name, format=format_, exclusive=exclusive
    )


def _inherited(source: VolumeRow) -> VolumeChanges:
    return {"bootable": source["bootable"], "image_metadata": source["image_metadata"]}


@dataclass(frozen=True)
class Parts:
    """What a copy or a linked clone is made from. ``origin`` names the file that is read, as an operation's argument."""

    type_row: VolumeTypeRow
    source: VolumeRow
    origin: operations.CopySource
    columns: VolumeChanges
    snapshot: SnapshotRow | None = None


def _may_stay(worker: WorkerContext, parts: Parts) -> bool:
    """Tells whether the volume type allows the share that the source lies on."""
    return worker.backends.pool(parts.source) in worker.backends.of_type(parts.type_row["extra_specs"])


def _copying(worker: WorkerContext, context: Context, wanted: dict[str, Any], parts: Parts) -> Making:
    """A copy beside its source, or on another share where the type asks for one."""
    origin, size = parts.origin, wanted["size"] * GIB
    stays, near = _may_stay(worker, parts), worker.backends.pool(parts.source)
    shares_blocks = stays and near.capabilities.native_snapshots
    needed = 0 if shares_blocks else _content_bytes(near, origin)
    if stays:
        scheduler.check_room(worker.backends, parts.source, wanted["size"], needed)
    pool = near if stays else scheduler.choose(worker.backends, parts.type_row, wanted["size"], needed)

    def operation(row: VolumeRow) -> Request:
        return operations.copy_request(row, size, origin, context.request_id)

    return Making(pool, parts.columns, operation, parts.source, parts.snapshot)


def _content_bytes(pool: Pool, origin: operations.CopySource) -> int:
    try:
        return scheduler.content_bytes(pool.share(), origin.name, origin.format)
    except FileNotFoundError as error:
        raise BadImage(f"{origin.name}, the source's file, is missing on the share") from error


def _linked(worker: WorkerContext, context: Context, wanted: dict[str, Any], parts: Parts) -> Ready:
    """A linked clone: an overlay on the snapshot's file, which is pinned by it."""
    if not _may_stay(worker, parts):
        raise BadRequest(
            f"volume type {parts.type_row['name']} asks for linked clones on another backend than {parts.source['backend']},"
            " where the source lies; a linked clone is based on a file of its own share. Name a type without linked clones"
        )
    pool, size = worker.backends.pool(parts.source), wanted["size"] * GIB
    # Only an overlay is made, so nothing else would inspect the files below before QEMU opens them.
    observe.observe(worker, parts.source)
    scheduler.check_room(worker.backends, parts.source, wanted["size"])
    linked: LinkedFile = {"volume_id": parts.source["id"], "file": parts.origin.name, "format": parts.origin.format}
    made: VolumeChanges = {**parts.columns, "linked_to": linked, "format": "qcow2", "base_format": "qcow2"}

    def operation(row: VolumeRow) -> Request:
        return operations.link_request(row, size, context.request_id)

    return Ready(wanted, parts.type_row, Making(pool, made, operation, parts.source, parts.snapshot))
