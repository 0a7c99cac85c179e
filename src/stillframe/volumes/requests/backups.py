"""Requests about backups, as the worker takes them."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection

from stillframe.chain import names, native, plan
from stillframe.chain.image import Image
from stillframe.chain.plan import Plan
from stillframe.chain.tree import Tree
from stillframe.context import Context
from stillframe.db import backups, snapshots, volumes
from stillframe.db.rows import BackupRow, SnapshotRow, VolumeRow
from stillframe.db.tables import now
from stillframe.db.values import NewBackup
from stillframe.errors import BadRequest, ChainConflict, Conflict
from stillframe.host import staging
from stillframe.journal import record as journal
from stillframe.journal.record import Request
from stillframe.units import GIB
from stillframe.volumes.backups import chain, keys, record, repository
from stillframe.volumes.backups.manifest import Manifest
from stillframe.volumes.chain import observe
from stillframe.volumes.operations import backups as operations
from stillframe.volumes.requests import new_volumes, services
from stillframe.volumes.requests import volumes as volume_requests
from stillframe.volumes.requests.new_volumes import Making
from stillframe.volumes.storage import scheduler
from stillframe.volumes.storage.drivers.contract import Share
from stillframe.volumes.worker import lookup
from stillframe.volumes.worker.context import WorkerContext

DELETABLE = ("available", "error", "error_deleting")


@dataclass(frozen=True)
class Prepared:
    """A backup that may be made: of ``file``, which the volume's tree ``before`` has, on top of ``parent`` where it is an
    incremental one. ``content`` are the bytes the file and all behind it hold, ``stored`` those that may have to be stored,
    without what compression saves."""

    volume: VolumeRow
    snapshot: SnapshotRow | None
    parent: BackupRow | None
    container: str
    before: Tree
    file: str
    content: int
    stored: int

    @property
    def staged(self) -> int:
        """Bytes that lie in the staging directory at once, at most: the object that is stored, and for an incremental backup
        what differs before it is compressed."""
        return 2 * self.stored if self.parent else self.stored

    @property
    def size(self) -> int:
        """GiB that count for the quota."""
        return self.snapshot["size"] if self.snapshot else self.volume["size"]


def prepare(worker: WorkerContext, context: Context, wanted: Mapping[str, Any]) -> Prepared:
    """Checks whether a backup may be made, and of what. Changes nothing. Raises NotFound, BadRequest, Busy, ChainConflict."""
    with worker.database.read() as connection:
        volume = lookup.volume(connection, context, wanted["volume_id"])
        snapshot = lookup.snapshot(connection, context, wanted["snapshot_id"]) if wanted.get("snapshot_id") else None
        rows = _own(connection, volume)
        _check_source(volume, snapshot)
        _refuse_if_busy(connection, volume, rows if wanted.get("incremental") else ())
    container = wanted.get("container") or repository.DEFAULT_CONTAINER
    worker.repository(container)
    file = snapshot["backing"] if snapshot else volume["active_file"]
    try:
        before = observe.observe(worker, volume)
        kept = _kept(worker.share(volume), before, file)
        parent = _parent(rows, kept, before.images[file], container) if wanted.get("incremental") else None
    except (BadRequest, ChainConflict):
        _refuse_if_changed(worker, volume, rows)
        raise
    share = worker.share(volume)
    content = sum(share.visible(file, before.images[file].format))
    stored = share.differing(file, str(parent["held_file"])) if parent else content
    return Prepared(volume, snapshot, parent, container, before, file, content, stored)


def hold(worker: WorkerContext, found: Prepared, backup_id: str) -> Plan | None:
    """Returns the plan that keeps a volume's content from changing during its backup; None when a snapshot does that. Raises
    Conflict for a chain that is too deep, ShareUnavailable where there is no room, on the way or on the share."""
    staging.require_room(worker.settings.staging_dir, found.staged)
    if found.snapshot is not None:
        return None
    name, reason = names.overlay_name(found.volume["id"], str(uuid.uuid4())), observe.held_for(backup_id)
    worker.share(found.volume).probe_for_writing()
    if not worker.share(found.volume).capabilities.chains:
        return native.hold(found.before, reason, name)
    return plan.hold(found.before, reason, name, worker.settings.volumes.max_chain_depth)


def create(worker: WorkerContext, context: Context, wanted: dict[str, Any]) -> str:
    """Backs up a volume nothing is attached to, or one of its snapshots whatever the volume does meanwhile. ``wanted`` holds
    volume_id, snapshot_id, incremental, name, description, container, metadata, availability_zone. Returns the id."""
    with worker.database.read() as connection:
        services.refuse_backups(worker, connection)
    found, backup_id = prepare(worker, context, wanted), str(uuid.uuid4())
    held = hold(worker, found, backup_id)
    row = _row(context, found, wanted, backup_id)
    with worker.database.write() as connection:
        lookup.check_quota(worker, connection, context.project_id, {"backups": 1, "backup_gigabytes": row["size"]})
        _take(connection, found.volume, found.snapshot)
        if found.parent is not None:
            new_volumes.check_backup(connection, found.parent)
        backups.insert(connection, row)
        file = held.after.holds[observe.held_for(backup_id)] if held else found.file
        frozen, made = (found.before, held) if held else None, _made(found, row, file)
        journal.submit(connection, operations.create_request(found.volume, *made, frozen, context.request_id))
    return backup_id


def _made(found: Prepared, row: NewBackup, file: str) -> tuple[operations.NewBackup, operations.Content]:
    """``file`` holds the content, which ``found.file`` has now."""
    image, parent = found.before.images[found.file], found.parent
    made = operations.NewBackup(
        id=row["id"],
        stored_id=row["stored_id"],
        container=row["container"],
        parent_id=row["parent_id"],
        parent_stored_id=parent["stored_id"] if parent else None,
        held_file=file,
        name=row["name"],
        description=row["description"],
        metadata=row["metadata"],
    )
    return made, operations.Content(file, image.format, image.size, parent["held_file"] if parent else None)


def _check_source(volume: VolumeRow, snapshot: SnapshotRow | None) -> None:
    if snapshot is not None:
        if snapshot["volume_id"] != volume["id"]:
            raise BadRequest(f"snapshot {snapshot['id']} is not one of volume {volume['id']}")
        lookup.refuse_unless(snapshot["status"], ("available",), f"snapshot {snapshot['id']}")
    elif volume["status"] != "available":
        raise BadRequest(
            f"Invalid volume: the status of volume {volume['id']} must be available, but it is {volume['status']}; take an"
            " assisted snapshot of its server and back up that (--snapshot)"
        )


def _refuse_if_busy(connection: Any, volume: VolumeRow, rows: Sequence[BackupRow]) -> None:
    """Raises Busy naming the operation before the files are looked at: while a merge or a backup runs they show neither what
    was nor what will be, so that no backup seems to fit. ``rows`` are those an incremental one may have to wait for."""
    lookup.refuse_if_busy(connection, volume["id"], shared=True)
    for row in rows:
        if row["status"] in ("creating", "deleting"):
            journal.refuse_if_busy(connection, f"backup:{row['id']}")


def _refuse_if_changed(worker: WorkerContext, volume: VolumeRow, rows: Sequence[BackupRow]) -> None:
    """What was begun or ended after the first look is the reason, not what was found."""
    with worker.database.read() as connection:
        _refuse_if_busy(connection, volume, rows)
        if _own(connection, volume) != rows:
            raise Conflict(f"the backups of volume {volume['id']} changed meanwhile; repeat the request")


def _own(connection: Connection, volume: VolumeRow) -> list[BackupRow]:
    """The volume's backups of the project it is of now. None builds on those of a project that it was transferred from: either
    project could then keep the other from deleting its backups."""
    return [row for row in backups.of_volume(connection, volume["id"]) if row["project_id"] == volume["project_id"]]


def _take(connection: Any, volume: VolumeRow, snapshot: SnapshotRow | None) -> None:
    """Looked at again inside the transaction."""
    if snapshot is None:
        volume_requests.unchanged(connection, volume)
        volumes.change(connection, volume["id"], status="backing-up")
        return
    journal.refuse_if_busy(connection, f"volume:{volume['id']}", shared=True)
    fresh = snapshots.get(connection, snapshot["id"], None)
    if fresh is None or (fresh["status"], fresh["backing"]) != ("available", snapshot["backing"]):
        raise Conflict(f"snapshot {snapshot['id']} changed meanwhile; repeat the request")


def _kept(share: Share, tree: Tree, file: str) -> list[str]:
    """Returns the files of the volume that a backup of ``file`` can be compared with: those below it, or any other one where
    none is below another."""
    if not share.capabilities.chains:
        return [name for name in tree.images if name != file]
    return [image.name for image in tree.path(file).images][:-1]


def _parent(rows: Sequence[BackupRow], kept: Sequence[str], image: Image, container: str) -> BackupRow:
    """The newest backup whose content is still one of the files ``kept``. Raises BadRequest when there is none."""
    size = -(-image.size // GIB)
    for row in reversed(rows):
        fits = row["held_file"] in kept and row["container"] == container and row["size"] <= size
        if row["status"] == "available" and fits:  # along a chain of backups a disk never shrinks
            _refuse_if_deep(rows, row)
            return row
    raise BadRequest(
        "No backups available to do an incremental backup: none of the volume's backups is one whose content is still kept"
        " below what is to be backed up; make a full backup first"
    )


def _refuse_if_deep(rows: Sequence[BackupRow], parent: BackupRow) -> None:
    """Raises BadRequest where a backup on top of ``parent`` would build on more files than can be read through at once."""
    known = {row["id"]: row for row in rows}
    files, below = 0, known.get(parent["id"])
    while below is not None and files < keys.MAX_LAYERS:
        files += max(1, below["object_count"])
        below = known.get(below["parent_id"] or "")
    if files >= keys.MAX_LAYERS:
        raise BadRequest(
            f"backup {parent['id']} and those it builds on have {files} files, the most that can be read through: another"
            " incremental one on top could not be restored; make a full backup"
        )


def _row(context: Context, found: Prepared, wanted: Mapping[str, Any], backup_id: str) -> NewBackup:
    volume, snapshot = found.volume, found.snapshot
    return {
        "id": backup_id,
        "stored_id": backup_id,
        "project_id": volume["project_id"],
        "user_id": context.user_id,
        "name": wanted.get("name"),
        "description": wanted.get("description"),
        "volume_id": volume["id"],
        "snapshot_id": snapshot["id"] if snapshot else None,
        "parent_id": found.parent["id"] if found.parent else None,
        "status": "creating",
        "size": found.size,
        "object_count": 0,
        "bytes": 0,
        "content_bytes": found.content,
        "container": found.container,
        "metadata": wanted.get("metadata") or {},
        "availability_zone": wanted.get("availability_zone") or volume["availability_zone"],
        "data_timestamp": snapshot["created_at"] if snapshot else now(),
    }


@dataclass(frozen=True)
class Stored:
    """A backup that can be restored, and what the store has of it and of those that it builds on."""

    row: BackupRow
    manifests: tuple[Manifest, ...]
    staged: int  # bytes that are fetched into the staging directory; 0 where the store is a directory

    @property
    def fetched(self) -> int:
        """Bytes of all objects that a restore reads."""
        return sum(each.bytes for found in self.manifests for each in found.objects)


def stored(worker: WorkerContext, context: Context, backup_id: str) -> Stored:
    """Looks at what a restore reads. Raises NotFound, BadRequest for a backup that is not available, BadBackup."""
    with worker.database.read() as connection:
        backup = lookup.backup(connection, context, backup_id)
    lookup.refuse_unless(backup["status"], ("available",), f"backup {backup['id']}")
    store = worker.repository(backup["container"])
    manifests = chain.read_manifests(store, backup["volume_id"], backup["stored_id"])
    chain.check_listed(store, manifests)
    found = Stored(backup, manifests, 0)
    return found if store.folder(backup["volume_id"]) is not None else replace(found, staged=found.fetched)


def restore(worker: WorkerContext, context: Context, backup_id: str, volume_id: str | None, name: str | None) -> dict[str, Any]:
    """Restores a backup into a new volume, or replaces the content of an unattached volume. Returns ``{"backup_id",
    "volume_id", "volume_name"}``."""
    found = stored(worker, context, backup_id)
    backup = found.row
    with worker.database.read() as connection:
        volume = lookup.volume(connection, context, volume_id) if volume_id else None
    staging.require_room(worker.settings.staging_dir, found.staged)
    if volume is None:
        volume_id = _restore_new(worker, context, backup, name or f"restore_backup_{backup['id']}")
        return {"backup_id": backup["id"], "volume_id": volume_id, "volume_name": name or f"restore_backup_{backup['id']}"}
    _restore_over(worker, context, backup, volume)
    return {"backup_id": backup["id"], "volume_id": volume["id"], "volume_name": volume["name"]}


def create_volume(worker: WorkerContext, context: Context, wanted: dict[str, Any]) -> str:
    """``backup_id`` in a volume's request: a new volume from a backup, larger on request."""
    with worker.database.read() as connection:
        backup = lookup.backup(connection, context, wanted["backup_id"])
    lookup.refuse_unless(backup["status"], ("available",), f"backup {backup['id']}")
    return _restore_new(worker, context, backup, wanted.get("name"), wanted)


def _restore_new(
    worker: WorkerContext, context: Context, backup: BackupRow, name: str | None, wanted: Mapping[str, Any] | None = None
) -> str:
    given = dict(wanted or {})
    size = given.get("size") or backup["size"]
    if size < backup["size"]:
        raise BadRequest(f"a volume of {size} GiB cannot hold backup {backup['id']}, which has {backup['size']} GiB")
    whole = {**given, "size": size, "name": name, "availability_zone": given.get("availability_zone")}
    type_row = new_volumes.find_type(worker, given)
    pool = scheduler.choose(worker.backends, type_row, size, written(backup))

    def make(row: VolumeRow) -> Request:
        return operations.restore_request(row, backup, size * GIB, None, context.request_id)

    return new_volumes.insert(
        worker, context, whole, type_row, Making(pool, {"status": "restoring-backup"}, make, backup=backup)
    )


def written(backup: BackupRow) -> int:
    """Bytes that a restore must find free: what the backup holds, at least what is stored of it."""
    return int(backup["content_bytes"] or backup["bytes"])


def check_over(worker: WorkerContext, backup: BackupRow, volume: VolumeRow) -> None:
    """Raises BadRequest, ShareUnavailable when a backup cannot take the place of what a volume holds."""
    if volume["status"] != "available":
        raise BadRequest(
            f"Invalid volume: the status of volume {volume['id']} must be available, but it is {volume['status']};"
            " stop its server and detach it, or restore into a new volume"
        )
    if volume["size"] < backup["size"]:
        raise BadRequest(f"volume {volume['id']} of {volume['size']} GiB cannot hold a backup of {backup['size']} GiB")
    scheduler.check_room(worker.backends, volume, 0, written(backup))


def _restore_over(worker: WorkerContext, context: Context, backup: BackupRow, volume: VolumeRow) -> None:
    check_over(worker, backup, volume)
    before = observe.observe(worker, volume)
    old = before.images[before.active]
    name = names.overlay_name(volume["id"], str(uuid.uuid4()))
    format_ = "qcow2" if old.backing else old.format
    image = Image(name, format_, old.size, old.backing, old.backing_format)
    found: Plan = plan.replace_active(before, image, volume_requests.visible(worker, volume, before))
    with worker.database.write() as connection:
        volume_requests.unchanged(connection, volume)
        if not backups.move(connection, backup["id"], ("available",), "restoring"):
            raise Conflict(f"backup {backup['id']} changed meanwhile; repeat the request")
        volumes.change(connection, volume["id"], status="restoring-backup")
        replaced = (before, found, image)
        journal.submit(connection, operations.restore_request(volume, backup, old.size, replaced, context.request_id))


def check_deletable(connection: Connection, row: BackupRow, force: bool = False) -> None:
    """Raises Conflict listing the incremental backups that build on it, Busy, BadRequest for a status in which it must stay."""
    children = backups.children(connection, [row["id"]])[row["id"]]
    if children:
        raise Conflict(
            f"Invalid backup: {len(children)} incremental backups build on {row['id']}, the first is {children[0]}",
            dependants=children[:100],
        )
    journal.refuse_if_busy(connection, f"backup:{row['id']}")
    if row["status"] not in DELETABLE and not force:
        raise BadRequest(f"Invalid backup: the status must be available or error, but it is {row['status']}")


def delete(worker: WorkerContext, context: Context, backup_id: str, force: bool = False) -> None:
    """Deletes a backup that no incremental one builds on. Raises as ``check_deletable``."""
    with worker.database.write() as connection:
        row = lookup.backup(connection, context, backup_id)
        check_deletable(connection, row, force)
        if not backups.move(connection, row["id"], (row["status"],), "deleting"):
            raise Conflict(f"backup {row['id']} changed meanwhile; repeat the request")
        journal.submit(connection, operations.delete_request(row, context.request_id))


def update(worker: WorkerContext, context: Context, backup_id: str, changes: dict[str, Any]) -> None:
    """Changes name, description or metadata of a backup's row. Raises NotFound."""
    with worker.database.write() as connection:
        row = lookup.backup(connection, context, backup_id)
        backups.change(connection, row["id"], **changes)


def reset_status(worker: WorkerContext, context: Context, backup_id: str, status: str) -> None:
    """Corrects the status of a backup's row, as an administrator asked. Raises NotFound, Busy."""
    with worker.database.write() as connection:
        row = lookup.backup(connection, context, backup_id)
        journal.refuse_if_busy(connection, f"backup:{row['id']}")
        backups.change(connection, row["id"], status=status, fault=None if status == "available" else row["fault"])


def export_record(worker: WorkerContext, context: Context, backup_id: str) -> dict[str, str]:
    """Returns the record from which ``import_record`` makes the row again, here or elsewhere."""
    with worker.database.read() as connection:
        row = lookup.backup(connection, context, backup_id)
    return record.export_record(row)


def import_record(worker: WorkerContext, context: Context, backup_service: str, backup_url: str) -> str:
    """Makes the row of a backup again from its record. The store is checked first, and believed rather than the record."""
    found = record.import_record(backup_service, backup_url)
    manifests = chain.read_manifests(worker.repository(found.container), found.volume_id, found.stored_id)
    own = manifests[-1]
    row: NewBackup = {
        "id": found.id,
        "stored_id": found.stored_id,
        "project_id": context.project_id,
        "user_id": context.user_id,
        "name": found.name,
        "description": found.description,
        "volume_id": found.volume_id,
        "parent_id": found.parent_id,
        "container": found.container,
        "data_timestamp": found.data_timestamp,
        "created_at": found.created_at,
        "status": "available",
        "object_count": len(own.objects),
        "bytes": sum(each.bytes for each in own.objects),
        "size": -(-own.size // GIB),
        "metadata": dict(found.metadata),
        "availability_zone": worker.settings.availability_zone,
    }
    with worker.database.write() as connection:
        if backups.get(connection, found.id, None) is not None:
            raise BadRequest(f"backup {found.id} exists already")
        lookup.check_quota(worker, connection, context.project_id, {"backups": 1, "backup_gigabytes": row["size"]})
        backups.insert(connection, row)
    return found.id
