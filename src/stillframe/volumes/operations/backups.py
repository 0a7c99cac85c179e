"""Make, restore and delete backups. A backup's manifest is written last and removed first."""

from typing import Any

from sqlalchemy import Connection

from stillframe.chain.image import Image
from stillframe.chain.plan import Plan
from stillframe.chain.steps import to_documents
from stillframe.chain.tree import Tree
from stillframe.db import backups, volumes
from stillframe.db.rows import Row
from stillframe.db.tables import now
from stillframe.errors import BadBackup
from stillframe.host.copies import Source
from stillframe.journal import record
from stillframe.journal.operation import Document, Kind, Operation, Verb, is_whole, step
from stillframe.journal.record import Request
from stillframe.volumes.backups import chain, keys, manifest
from stillframe.volumes.backups.manifest import Manifest, StoredObject
from stillframe.volumes.chain import observe
from stillframe.volumes.operations import chain_metadata
from stillframe.volumes.operations.chain_rows import follow_abandoned
from stillframe.volumes.operations.executors.offline import CHECK, CREATE_OVERLAY, MERGE, share_of, unmake
from stillframe.volumes.operations.images import staged, unstage
from stillframe.volumes.operations.request import Wanted, request
from stillframe.volumes.operations.snapshots import planned
from stillframe.volumes.operations.volumes import made, settle_create
from stillframe.volumes.worker.context import WorkerContext

File = tuple[str, str]  # a file of the volume and its format


def create_request(volume: Row, backup: Row, file: File, held: tuple[Tree, Plan] | None, request_id: str) -> Request:
    """``file`` is what is backed up. An incremental backup stores in what it differs from the file ``backup["above"]``, which
    lies behind it and reads as the parent. ``held`` is the plan that keeps the backed-up content from changing; None when a
    snapshot does that."""
    stored = {"object": keys.top_name(backup["stored_id"]), "file": file[0], "format": file[1], "backing": None, "above": None}
    if backup["parent_id"]:
        stored |= {"backing": keys.top_name(backup["parent_stored_id"]), "above": backup["above"]}
    kept = ("id", "stored_id", "container", "parent_id", "parent_stored_id", "held_file", "name", "description", "metadata")
    intent: dict[str, Any] = {"backup": {name: backup[name] for name in kept}, "source": volume_facts(volume)}
    steps = [step("store", **stored), step("write_manifest", size=backup["size_bytes"])]
    if held is None:
        return request(volume, Wanted("create_backup", steps, intent, id=None), request_id)
    freeze = [step("check_unused"), *to_documents(held[1].steps)]
    return request(volume, Wanted("create_backup", [*freeze, *steps], {**intent, **planned(*held)}), request_id)


def volume_facts(volume: Row) -> Document:
    return {"name": volume["name"], "description": volume["description"], "metadata": volume["metadata"]}


def _stored(world: WorkerContext, operation: Operation, args: Document) -> Document | None:
    known = operation.evidence.get(args["key"], {})
    if "sha256" not in known:
        return None
    return known if _repository(world, operation).exists(_key(operation, args["object"])) else None


def _key(operation: Operation, name: str) -> str:
    return keys.object_key(operation.intent["volume_id"], name)


def _repository(world: WorkerContext, operation: Operation) -> Any:
    return world.repository(operation.intent["backup"]["container"])


def _store(world: WorkerContext, operation: Operation, args: Document) -> Document:
    repository, share = _repository(world, operation), share_of(world, operation)
    target = staged(world, operation) / "object"
    source = Source(args["file"], args["format"], 0)
    if args["backing"] is None:
        share.copy_out(source, target, "qcow2", compress=True)
    else:
        # A plan of an older release has a step for each file, and each stores what differs from the file below it.
        share.copy_layer_out(source, target, args["backing"], args.get("above"))
    written = repository.put(_key(operation, args["object"]), target)
    unstage(world, operation)
    return {"bytes": written.bytes, "sha256": written.sha256}


def _unstore(world: WorkerContext, operation: Operation, args: Document) -> None:
    unstage(world, operation)
    _repository(world, operation).delete(_key(operation, args["object"]))


def _manifest_key(operation: Operation) -> str:
    return keys.manifest_key(operation.intent["volume_id"], operation.intent["backup"]["stored_id"])


def _manifest_written(world: WorkerContext, operation: Operation, _args: Document) -> Document | None:
    return {} if _repository(world, operation).exists(_manifest_key(operation)) else None


def _write_manifest(world: WorkerContext, operation: Operation, args: Document) -> Document:
    backup = operation.intent["backup"]
    stored = [each["args"] for each in operation.plan if each["verb"] == "store"]
    found = Manifest(
        backup_id=backup["stored_id"],
        volume_id=operation.intent["volume_id"],
        parent_id=backup["parent_stored_id"],
        created_at=now(),
        size=args["size"],
        source=manifest.Source(**operation.intent["source"]),
        objects=tuple(
            StoredObject(each["object"], operation.evidence[each["key"]]["bytes"], operation.evidence[each["key"]]["sha256"])
            for each in stored
        ),
    )
    _repository(world, operation).put_bytes(_manifest_key(operation), manifest.serialise(found))
    return {}


def _unwrite_manifest(world: WorkerContext, operation: Operation, _args: Document) -> None:
    _repository(world, operation).delete(_manifest_key(operation))


def _settle_create(connection: Connection, operation: Operation, outcome: str, fault: Document | None) -> None:
    backup, volume_id = operation.intent["backup"], operation.intent["volume_id"]
    told = fault["message"] if fault and outcome != "done" else None
    volumes.move(connection, volume_id, ("backing-up",), operation.intent["status_before"])
    if outcome != "done":
        backups.move(connection, backup["id"], ("creating", "error"), "error", fault=told, held_file=None)
        if outcome == "abandoned":  # the document beside the volume may name an overlay that no row needs
            record.submit(connection, chain_metadata.request(volume_id, operation.request_id))
        return
    sizes = [found["bytes"] for key, found in operation.evidence.items() if key.startswith("store")]
    if "after" in operation.intent:
        observe.apply_after(connection, volume_id, operation.intent["after"])
    for other in backups.of_volume(connection, volume_id):
        if other["id"] != backup["id"] and other["held_file"]:  # an incremental one builds on the newest only
            backups.change(connection, other["id"], held_file=None)
    values = {"object_count": len(sizes), "bytes": sum(sizes), "held_file": backup["held_file"], "fault": None}
    backups.move(connection, backup["id"], ("creating", "error"), "available", **values)
    volumes.change(connection, volume_id, untidy=True)
    record.submit(connection, chain_metadata.request(volume_id, operation.request_id))


def restore_request(volume: Row, backup: Row, size: int, replaced: tuple[Tree, Plan, Image] | None, request_id: str) -> Request:
    """Restores onto a new volume (``replaced`` None), or replaces the content of a volume: ``replaced`` is its tree, the plan
    that makes the new file active, and that file."""
    image = replaced[2] if replaced else Image(volume["active_file"], volume["format"], size)
    content = {"name": image.name, "size": image.size, "format": image.format, "backing": image.backing}
    content["backing_format"] = image.backing_format
    intent: dict[str, Any] = {
        "backup": {name: backup[name] for name in ("id", "stored_id", "container")},
        "backup_volume_id": backup["volume_id"],
    }
    restore = step("restore_content", **content)
    if replaced is None:
        return request(volume, Wanted("restore_backup", [restore], intent, reads_backup=backup["id"]), request_id)
    before, plan, _image = replaced
    steps = [step("check_unused"), restore, *to_documents(plan.steps)]
    wanted = Wanted("restore_backup", steps, {**intent, **planned(before, plan)}, reads_backup=backup["id"])
    return request(volume, wanted, request_id)


def _restored(world: WorkerContext, operation: Operation, args: Document) -> Document | None:
    if args["backing"] is None:
        return made(world, operation, args)
    share = share_of(world, operation)
    return {} if args["name"] in share.files(operation.intent["volume_id"]) else None


def _restore(world: WorkerContext, operation: Operation, args: Document) -> Document:
    backup, share = operation.intent["backup"], share_of(world, operation)
    repository, volume_id = _repository(world, operation), operation.intent["backup_volume_id"]
    with chain.opened(repository, volume_id, backup["stored_id"], staged(world, operation)) as (found, confirm):
        if found.manifest.size > args["size"]:
            raise BadBackup(f"backup {backup['id']} holds {found.manifest.size} bytes, more than the volume's {args['size']}")
        image = Image(args["name"], args["format"], args["size"], args["backing"], args["backing_format"])
        source = Source(found.top.name, found.top.format, found.depth, found.directory, confirm)
        share.copy(operation.intent["volume_id"], source, image, operation.id)
    unstage(world, operation)
    return {"bytes": share.allocated(args["name"])}


def _unrestore(world: WorkerContext, operation: Operation, args: Document) -> None:
    unstage(world, operation)
    unmake(world, operation, args)


def _settle_restore(connection: Connection, operation: Operation, outcome: str, fault: Document | None) -> None:
    backups.move(connection, operation.intent["backup"]["id"], ("restoring",), "available")
    if "after" not in operation.intent:
        volumes.move(connection, operation.intent["volume_id"], ("restoring-backup",), "creating")
        settle_create(connection, operation, outcome, fault)
        return
    volume_id = operation.intent["volume_id"]
    status = "error_restoring" if outcome in ("parked", "abandoned") else operation.intent["status_before"]
    told = fault["message"] if fault and outcome != "done" else None
    volumes.move(connection, volume_id, ("restoring-backup", "error_restoring"), status, fault=told)
    if outcome == "abandoned":
        follow_abandoned(connection, operation, fault)
    if outcome == "done":
        observe.apply_after(connection, volume_id, operation.intent["after"])
        record.submit(connection, chain_metadata.request(volume_id, operation.request_id))


def delete_request(backup: Row, request_id: str) -> Request:
    kept = {name: backup[name] for name in ("id", "stored_id", "container")}
    intent = {"backup": kept, "volume_id": backup["volume_id"], "status_before": backup["status"]}
    plan = [step("remove_objects")]
    made = Request("volumes", "delete_backup", intent, plan, [f"backup:{backup['id']}"], request_id)
    return made.of(backup["project_id"])


def _objects_gone(world: WorkerContext, operation: Operation, _args: Document) -> Document | None:
    backup = operation.intent["backup"]
    with world.database.read() as connection:
        others = backups.with_objects(connection, backup["stored_id"])
    if [other for other in others if other["id"] != backup["id"]]:
        return {}  # imported a second time under another id: the objects are the other row's too
    return None if _objects(world, operation) else {}


def _objects(world: WorkerContext, operation: Operation) -> list[str]:
    """Every key of the backup, the manifest first."""
    volume_id, stored_id = operation.intent["volume_id"], operation.intent["backup"]["stored_id"]
    repository, prefix = _repository(world, operation), keys.folder(volume_id)
    listed = {key for key, _ in repository.list(prefix)} | set(repository.unfinished(prefix))
    mine = [key for key in sorted(listed) if (parsed := keys.parse(key)) and parsed.backup_id == stored_id]
    return sorted(mine, key=lambda key: not key.endswith(".json"))


def _remove_objects(world: WorkerContext, operation: Operation, _args: Document) -> Document:
    repository = _repository(world, operation)
    for key in _objects(world, operation):
        repository.delete(key)
    return {}


def _settle_delete(connection: Connection, operation: Operation, outcome: str, fault: Document | None) -> None:
    backup_id = operation.intent["backup"]["id"]
    if outcome == "done":
        backups.delete(connection, backup_id)
        volumes.change(connection, operation.intent["volume_id"], untidy=True)
        return
    status = operation.intent["status_before"] if is_whole(outcome, fault) else "error_deleting"
    backups.move(connection, backup_id, ("deleting", "error_deleting"), status, fault=fault["message"] if fault else None)


CREATE = Kind(
    {
        "check_unused": CHECK,
        "CreateOverlay": CREATE_OVERLAY,
        "Record": MERGE["Record"],
        "store": Verb(_stored, _store, _unstore),
        "write_manifest": Verb(_manifest_written, _write_manifest, _unwrite_manifest),
    },
    _settle_create,
    afterwards="Delete the backup, which removes what was stored of it, and make another one. The volume reads as before.",
)
RESTORE = Kind(
    {"check_unused": CHECK, "restore_content": Verb(_restored, _restore, _unrestore), **MERGE},
    _settle_restore,
    afterwards="A new volume: delete it and restore again. Onto a volume: compare its row with its files ('stillframe chain"
    " show'), then reset the status as an administrator and restore again. The backup is whole.",
)
DELETE = Kind(
    {"remove_objects": Verb(_objects_gone, _remove_objects, no_return="start")},
    _settle_delete,
    afterwards="Some of its objects may be gone: a backup in error_deleting can only be deleted again.",
)
