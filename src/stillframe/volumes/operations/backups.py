"""Make, restore and delete backups. A backup's manifest is written last and removed first."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection

from stillframe.chain.image import Image
from stillframe.chain.plan import Plan
from stillframe.chain.tree import Tree
from stillframe.db import backups, volumes
from stillframe.db.rows import BackupRow, VolumeRow
from stillframe.db.tables import now
from stillframe.errors import BadBackup
from stillframe.host.copies import Source
from stillframe.journal import record
from stillframe.journal.operation import Document, Kind, Operation, Verb, is_whole
from stillframe.journal.record import Request
from stillframe.journal.typed import Args, Intent, Value, numbered, step
from stillframe.volumes.backups import chain, keys, manifest
from stillframe.volumes.backups.manifest import Manifest, StoredObject
from stillframe.volumes.backups.repository import Repository
from stillframe.volumes.chain import observe
from stillframe.volumes.operations import chain_metadata
from stillframe.volumes.operations.chain_rows import follow_abandoned
from stillframe.volumes.operations.executors.intents import OnChain, about_volume
from stillframe.volumes.operations.executors.offline import (
    CHECK,
    KEEP,
    MERGE,
    RECORD,
    CheckUnused,
    MakeFile,
    share_of,
    unmake,
)
from stillframe.volumes.operations.images import staged, unstage
from stillframe.volumes.operations.request import Wanted, request
from stillframe.volumes.operations.snapshots import planned
from stillframe.volumes.operations.volumes import made, settle_create
from stillframe.volumes.worker.context import WorkerContext


class StoredBackup(Value, frozen=True, kw_only=True):
    """Where a backup lies; ``stored_id`` is its id in the store, which another row may have too."""

    id: str
    stored_id: str
    container: str


class NewBackup(StoredBackup, frozen=True, kw_only=True):
    """A backup that is made; ``held_file`` holds its content on the share. A full one has no parent."""

    parent_id: str | None
    parent_stored_id: str | None
    held_file: str
    name: str | None
    description: str | None
    metadata: Mapping[str, str]


class BackedUp(Value, frozen=True, kw_only=True):
    """What the manifest says of the volume."""

    name: str | None
    description: str | None
    metadata: Mapping[str, str]


class CreateBackup(OnChain, frozen=True, kw_only=True):
    """Make a backup of the volume, or of one of its snapshots: then the chain stays as it is."""

    backup: NewBackup
    source: BackedUp


class RestoreBackup(OnChain, frozen=True, kw_only=True):
    """Make a volume with a backup's content, or replace what a volume holds: then its chain changes."""

    backup: StoredBackup
    backup_volume_id: str


class DeleteBackup(Intent, frozen=True, kw_only=True):
    """Delete a backup of a volume, which may not exist any more."""

    backup: StoredBackup
    volume_id: str
    status_before: str


class Store(Args, frozen=True, kw_only=True):
    """Store the content of a file; if it is to be read on top of the object ``backing``, only in what it differs from the file
    ``above``, which reads as that object. An older release gave no ``above``: then from the file it is backed by."""

    verb = "store"
    object: str
    file: str
    format: str
    backing: str | None = None
    above: str | None = None


class WriteManifest(Args, frozen=True, kw_only=True):
    """Write the document that makes the backup whole; ``size`` is its virtual size in bytes."""

    verb = "write_manifest"
    size: int


class RestoreContent(MakeFile, frozen=True, kw_only=True):
    """Make a file that reads as the backup."""

    verb = "restore_content"
    backing: str | None = None
    backing_format: str | None = None


class RemoveObjects(Args, frozen=True, kw_only=True):
    """Remove everything that is stored of the backup."""

    verb = "remove_objects"


Backup = CreateBackup | RestoreBackup | DeleteBackup


@dataclass(frozen=True)
class Content:
    """What is backed up: a file that reads as a disk of ``size`` bytes. ``above`` lies behind it and reads as the parent; None
    for a full backup."""

    file: str
    format: str
    size: int
    above: str | None = None


def create_request(
    volume: VolumeRow, backup: NewBackup, content: Content, held: tuple[Tree, Plan] | None, request_id: str
) -> Request:
    """An incremental backup stores in what it differs from its parent. ``held`` is the plan that keeps the backed-up content
    from changing; None when a snapshot does that."""
    top, parent = keys.top_name(backup.stored_id), backup.parent_stored_id
    on = keys.top_name(parent) if parent is not None else None
    store = Store(object=top, file=content.file, format=content.format, backing=on, above=content.above)
    steps = [step(store), step(WriteManifest(size=content.size))]
    source = BackedUp(name=volume["name"], description=volume["description"], metadata=volume["metadata"])
    about = about_volume(volume)
    if held is None:
        return request(volume, Wanted("create_backup", CreateBackup(**about, backup=backup, source=source), steps), request_id)
    intent = CreateBackup(**about, **planned(*held), backup=backup, source=source)
    freeze = [step(CheckUnused()), *numbered(held[1].steps)]
    return request(volume, Wanted("create_backup", intent, [*freeze, *steps]), request_id)


def _stored(worker: WorkerContext, operation: Operation[CreateBackup], args: Store) -> Document | None:
    known = operation.evidence.get(operation.at, {})
    if "sha256" not in known:
        return None
    return known if _repository(worker, operation).exists(_key(operation, args.object)) else None


def _key(operation: Operation[CreateBackup], name: str) -> str:
    return keys.object_key(operation.intent.volume_id, name)


def _repository(worker: WorkerContext, operation: Operation[Backup]) -> Repository:
    return worker.repository(operation.intent.backup.container)


def _store(worker: WorkerContext, operation: Operation[CreateBackup], args: Store) -> Document:
    repository, share = _repository(worker, operation), share_of(worker, operation)
    target = staged(worker, operation) / "object"
    source = Source(args.file, args.format, 0)
    if args.backing is None:
        share.copy_out(source, target, "qcow2", compress=True)
    else:
        # A plan of an older release has a step for each file, and each stores what differs from the file below it.
        share.copy_layer_out(source, target, args.backing, args.above)
    written = repository.put(_key(operation, args.object), target)
    unstage(worker, operation)
    return {"bytes": written.bytes, "sha256": written.sha256}


def _unstore(worker: WorkerContext, operation: Operation[CreateBackup], args: Store) -> None:
    unstage(worker, operation)
    _repository(worker, operation).delete(_key(operation, args.object))


def _manifest_key(operation: Operation[CreateBackup]) -> str:
    return keys.manifest_key(operation.intent.volume_id, operation.intent.backup.stored_id)


def _manifest_written(worker: WorkerContext, operation: Operation[CreateBackup], _args: WriteManifest) -> Document | None:
    return {} if _repository(worker, operation).exists(_manifest_key(operation)) else None


def _write_manifest(worker: WorkerContext, operation: Operation[CreateBackup], args: WriteManifest) -> Document:
    backup = operation.intent.backup
    stored = [(each.args.object, operation.evidence[each.key]) for each in operation.plan if isinstance(each.args, Store)]
    source = operation.intent.source
    found = Manifest(
        backup_id=backup.stored_id,
        volume_id=operation.intent.volume_id,
        parent_id=backup.parent_stored_id,
        created_at=now(),
        size=args.size,
        source=manifest.Source(source.name, source.description, dict(source.metadata)),
        objects=tuple(StoredObject(name, found["bytes"], found["sha256"]) for name, found in stored),
    )
    _repository(worker, operation).put_bytes(_manifest_key(operation), manifest.serialise(found))
    return {}


def _unwrite_manifest(worker: WorkerContext, operation: Operation[CreateBackup], _args: WriteManifest) -> None:
    _repository(worker, operation).delete(_manifest_key(operation))


def _settle_create(connection: Connection, operation: Operation[CreateBackup], outcome: str, fault: Document | None) -> None:
    backup, volume_id = operation.intent.backup, operation.intent.volume_id
    message = fault["message"] if fault and outcome != "done" else None
    volumes.move(connection, volume_id, ("backing-up",), operation.intent.status_before)
    if outcome != "done":
        backups.move(connection, backup.id, ("creating", "error"), "error", fault=message, held_file=None)
        if outcome == "abandoned":  # the document beside the volume may name an overlay that no row needs
            record.submit(connection, chain_metadata.request(volume_id, operation.request_id))
        return
    sizes = [found["bytes"] for key, found in operation.evidence.items() if key.startswith("store")]
    if operation.intent.after is not None:
        observe.apply_after(connection, volume_id, operation.intent.after)
    for other in backups.of_volume(connection, volume_id):
        if other["id"] != backup.id and other["held_file"]:  # an incremental one builds on the newest only
            backups.change(connection, other["id"], held_file=None)
    values = {"object_count": len(sizes), "bytes": sum(sizes), "held_file": backup.held_file, "fault": None}
    backups.move(connection, backup.id, ("creating", "error"), "available", **values)
    volumes.change(connection, volume_id, needs_cleanup=True)
    record.submit(connection, chain_metadata.request(volume_id, operation.request_id))


def restore_request(
    volume: VolumeRow, backup: BackupRow, size: int, replaced: tuple[Tree, Plan, Image] | None, request_id: str
) -> Request:
    """Restores onto a new volume (``replaced`` None), or replaces the content of a volume: ``replaced`` is its tree, the plan
    that makes the new file active, and that file."""
    image = replaced[2] if replaced else Image(volume["active_file"], volume["format"], size)
    content = RestoreContent(
        name=image.name, size=image.size, format=image.format, backing=image.backing, backing_format=image.backing_format
    )
    restore = step(content)
    read, about = _stored_backup(backup), about_volume(volume)
    if replaced is None:
        intent = RestoreBackup(**about, backup=read, backup_volume_id=backup["volume_id"])
        return request(volume, Wanted("restore_backup", intent, [restore], reads_backup=read.id), request_id)
    before, plan, _image = replaced
    intent = RestoreBackup(**about, **planned(before, plan), backup=read, backup_volume_id=backup["volume_id"])
    steps = [step(CheckUnused()), restore, *numbered(plan.steps)]
    return request(volume, Wanted("restore_backup", intent, steps, reads_backup=read.id), request_id)


def _stored_backup(backup: BackupRow) -> StoredBackup:
    return StoredBackup(id=backup["id"], stored_id=backup["stored_id"], container=backup["container"])


def _restored(worker: WorkerContext, operation: Operation[RestoreBackup], args: RestoreContent) -> Document | None:
    if args.backing is None:
        return made(worker, operation, args)
    share = share_of(worker, operation)
    return {} if args.name in share.files(operation.intent.volume_id) else None


def _restore(worker: WorkerContext, operation: Operation[RestoreBackup], args: RestoreContent) -> Document:
    backup, share = operation.intent.backup, share_of(worker, operation)
    repository, volume_id = _repository(worker, operation), operation.intent.backup_volume_id
    with chain.opened(repository, volume_id, backup.stored_id, staged(worker, operation)) as (found, confirm):
        if found.manifest.size > args.size:
            raise BadBackup(f"backup {backup.id} holds {found.manifest.size} bytes, more than the volume's {args.size}")
        image = Image(args.name, args.format, args.size, args.backing, args.backing_format)
        source = Source(found.top.name, found.top.format, found.depth, found.directory, confirm)
        share.copy(operation.intent.volume_id, source, image, operation.id)
    unstage(worker, operation)
    return {"bytes": share.allocated(args.name)}


def _unrestore(worker: WorkerContext, operation: Operation[RestoreBackup], args: RestoreContent) -> None:
    unstage(worker, operation)
    unmake(worker, operation, args)


def _settle_restore(connection: Connection, operation: Operation[RestoreBackup], outcome: str, fault: Document | None) -> None:
    backups.move(connection, operation.intent.backup.id, ("restoring",), "available")
    after = operation.intent.after
    if after is None:
        volumes.move(connection, operation.intent.volume_id, ("restoring-backup",), "creating")
        settle_create(connection, operation, outcome, fault)
        return
    volume_id = operation.intent.volume_id
    status = "error_restoring" if outcome in ("parked", "abandoned") else operation.intent.status_before
    message = fault["message"] if fault and outcome != "done" else None
    volumes.move(connection, volume_id, ("restoring-backup", "error_restoring"), status, fault=message)
    if outcome == "abandoned":
        follow_abandoned(connection, operation, fault)
    if outcome == "done":
        observe.apply_after(connection, volume_id, after)
        record.submit(connection, chain_metadata.request(volume_id, operation.request_id))


def delete_request(backup: BackupRow, request_id: str) -> Request:
    intent = DeleteBackup(backup=_stored_backup(backup), volume_id=backup["volume_id"], status_before=backup["status"])
    plan = [step(RemoveObjects())]
    made = Request("volumes", "delete_backup", intent, plan, [f"backup:{backup['id']}"], request_id)
    return made.of(backup["project_id"])


def _objects_gone(worker: WorkerContext, operation: Operation[DeleteBackup], _args: RemoveObjects) -> Document | None:
    backup = operation.intent.backup
    with worker.database.read() as connection:
        others = backups.with_objects(connection, backup.stored_id)
    if [other for other in others if other["id"] != backup.id]:
        return {}  # imported a second time under another id: the objects are the other row's too
    return None if _objects(worker, operation) else {}


def _objects(worker: WorkerContext, operation: Operation[DeleteBackup]) -> list[str]:
    """Every key of the backup, the manifest first."""
    volume_id, stored_id = operation.intent.volume_id, operation.intent.backup.stored_id
    repository, prefix = _repository(worker, operation), keys.folder(volume_id)
    listed = {key for key, _ in repository.list(prefix)} | set(repository.unfinished(prefix))
    mine = [key for key in sorted(listed) if (parsed := keys.parse(key)) and parsed.backup_id == stored_id]
    return sorted(mine, key=lambda key: not key.endswith(".json"))


def _remove_objects(worker: WorkerContext, operation: Operation[DeleteBackup], _args: RemoveObjects) -> Document:
    repository = _repository(worker, operation)
    for key in _objects(worker, operation):
        repository.delete(key)
    return {}


def _settle_delete(connection: Connection, operation: Operation[DeleteBackup], outcome: str, fault: Document | None) -> None:
    backup_id = operation.intent.backup.id
    if outcome == "done":
        backups.delete(connection, backup_id)
        volumes.change(connection, operation.intent.volume_id, needs_cleanup=True)
        return
    status = operation.intent.status_before if is_whole(outcome, fault) else "error_deleting"
    backups.move(connection, backup_id, ("deleting", "error_deleting"), status, fault=fault["message"] if fault else None)


CREATE = Kind(
    {
        "check_unused": CHECK,
        **KEEP,
        "Record": RECORD,
        "store": Verb(_stored, _store, _unstore, args=Store),
        "write_manifest": Verb(_manifest_written, _write_manifest, _unwrite_manifest, args=WriteManifest),
    },
    _settle_create,
    intent=CreateBackup,
    afterwards="Delete the backup, which removes what was stored of it, and make another one. The volume reads as before.",
)
RESTORE = Kind(
    {"check_unused": CHECK, "restore_content": Verb(_restored, _restore, _unrestore, args=RestoreContent), **MERGE},
    _settle_restore,
    intent=RestoreBackup,
    afterwards="A new volume: delete it and restore again. Onto a volume: compare its row with its files ('stillframe chain"
    " show'), then reset the status as an administrator and restore again. The backup is whole.",
)
DELETE = Kind(
    {"remove_objects": Verb(_objects_gone, _remove_objects, no_return="start", args=RemoveObjects)},
    _settle_delete,
    intent=DeleteBackup,
    afterwards="Some of its objects may be gone: a backup in error_deleting can only be deleted again.",
)
