"""Requests about backups, as the worker takes them."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from stillframe.chain import names, plan
from stillframe.chain.image import Image
from stillframe.chain.plan import Plan
from stillframe.chain.tree import Tree
from stillframe.context import Context
from stillframe.db import backups, snapshots, volumes
from stillframe.db.rows import Row
from stillframe.db.tables import now
from stillframe.errors import BadRequest, ChainConflict, Conflict
from stillframe.host import staging
from stillframe.journal import record as journal
from stillframe.volumes import finding, placing, trees, volume_changing, volume_making
from stillframe.volumes.backups import chain, record, repository
from stillframe.volumes.operations import backups as operations
from stillframe.volumes.volume_making import Making
from stillframe.volumes.world import GIB, World

DELETABLE = ("available", "error", "error_deleting")


def create(world: World, context: Context, wanted: dict[str, Any]) -> str:
    """Backs up a volume nothing is attached to, or one of its snapshots whatever the volume does meanwhile. ``wanted`` holds
    volume_id, snapshot_id, incremental, name, description, container, metadata, availability_zone. Returns the id."""
    with world.database.read() as connection:
        volume = finding.volume(connection, context, wanted["volume_id"])
        snapshot = finding.snapshot(connection, context, wanted["snapshot_id"]) if wanted.get("snapshot_id") else None
        rows = backups.of_volume(connection, volume["id"])
        _check_source(volume, snapshot)
        _refuse_if_busy(connection, volume, rows if wanted.get("incremental") else ())
    container = wanted.get("container") or repository.DEFAULT_CONTAINER
    world.repository(container)
    file = snapshot["backing"] if snapshot else volume["active_file"]
    try:
        before = trees.observe(world, volume)
        parent = _parent(rows, before, file, container) if wanted.get("incremental") else None
    except (BadRequest, ChainConflict):
        _refuse_if_changed(world, volume, rows)
        raise
    backup_id = str(uuid.uuid4())
    staging.require_room(world.settings.staging_dir, _needed(world, volume, before, (file, parent)))
    held = None
    if snapshot is None:
        overlay = names.overlay_name(volume["id"], str(uuid.uuid4()))
        held = plan.hold(before, trees.held_for(backup_id), overlay, world.settings.volumes.max_chain_depth)
        world.share(volume).probe_for_writing()
    row = _row(context, (volume, snapshot, parent), wanted, container)
    row = {**row, "id": backup_id, "stored_id": backup_id}
    with world.database.write() as connection:
        finding.check_quota(world, connection, context.project_id, {"backups": 1, "backup_gigabytes": row["size"]})
        _take(connection, volume, snapshot)
        if parent is not None:
            volume_making.check_backup(connection, parent)
        backups.insert(connection, row)
        image = before.images[file]
        facts = {**row, "held_file": file, "size_bytes": image.size, "parent_stored_id": None, "above": None}
        if parent is not None:
            facts |= {"parent_stored_id": parent["stored_id"], "above": parent["held_file"]}
        frozen = (before, held) if held else None
        journal.submit(connection, operations.create_request(volume, facts, (file, image.format), frozen, context.request_id))
    return backup_id


def _check_source(volume: Row, snapshot: Row | None) -> None:
    if snapshot is not None:
        if snapshot["volume_id"] != volume["id"]:
            raise BadRequest(f"snapshot {snapshot['id']} is not one of volume {volume['id']}")
        placing.refuse_unless(snapshot["status"], ("available",), f"snapshot {snapshot['id']}")
    elif volume["status"] != "available":
        raise BadRequest(
            f"Invalid volume: the status of volume {volume['id']} must be available, but it is {volume['status']}; take an"
            " assisted snapshot of its server and back up that (--snapshot)"
        )


def _refuse_if_busy(connection: Any, volume: Row, rows: Sequence[Row]) -> None:
    """Raises Busy naming the operation before the files are looked at: while a merge or a backup runs they show neither what
    was nor what will be, so that no backup seems to fit. ``rows`` are those an incremental one may have to wait for."""
    finding.refuse_if_busy(connection, volume["id"], shared=True)
    for row in rows:
        if row["status"] in ("creating", "deleting"):
            journal.refuse_if_busy(connection, f"backup:{row['id']}")


def _refuse_if_changed(world: World, volume: Row, rows: Sequence[Row]) -> None:
    """What was begun or ended after the first look is the reason, not what was found."""
    with world.database.read() as connection:
        _refuse_if_busy(connection, volume, rows)
        if backups.of_volume(connection, volume["id"]) != rows:
            raise Conflict(f"the backups of volume {volume['id']} changed meanwhile; repeat the request")


def _take(connection: Any, volume: Row, snapshot: Row | None) -> None:
    """Looked at again inside the transaction."""
    if snapshot is None:
        volume_changing.unchanged(connection, volume)
        volumes.change(connection, volume["id"], status="backing-up")
        return
    journal.refuse_if_busy(connection, f"volume:{volume['id']}", shared=True)
    fresh = snapshots.get(connection, snapshot["id"], None)
    if fresh is None or (fresh["status"], fresh["backing"]) != ("available", snapshot["backing"]):
        raise Conflict(f"snapshot {snapshot['id']} changed meanwhile; repeat the request")


def _parent(rows: Sequence[Row], tree: Tree, file: str, container: str) -> Row:
    """The newest backup whose content is still a file below ``file``. Raises BadRequest when there is none."""
    path = [image.name for image in tree.path(file).images][:-1]
    size = -(-tree.images[file].size // GIB)
    for row in reversed(rows):
        fits = row["held_file"] in path and row["container"] == container and row["size"] <= size
        if row["status"] == "available" and fits:  # along a chain of backups a disk never shrinks
            return row
    raise BadRequest(
        "No backups available to do an incremental backup: none of the volume's backups is one whose content is still kept"
        " below what is to be backed up; make a full backup first"
    )


def _layers(tree: Tree, file: str, parent: Row) -> int:
    """How many files, ``file`` and those behind it, may hold what is not in the parent."""
    path = [image.name for image in tree.path(file).images]
    return len(path) - path.index(parent["held_file"]) - 1


def _needed(world: World, volume: Row, tree: Tree, source: tuple[str, Row | None]) -> int:
    """Bytes that lie in the staging directory at once, at most: the object that is stored, and for an incremental backup what
    differs before it is compressed."""
    file, parent = source
    share, image = world.share(volume), tree.images[file]
    if image.backing is None:
        return share.allocated(file)
    held = share.visible(file, image.format)
    return 2 * sum(held[: _layers(tree, file, parent)]) if parent else sum(held)


def _row(context: Context, sources: tuple[Row, Row | None, Row | None], wanted: dict[str, Any], container: str) -> Row:
    volume, snapshot, parent = sources
    return {
        "project_id": volume["project_id"],
        "user_id": context.user_id,
        "name": wanted.get("name"),
        "description": wanted.get("description"),
        "volume_id": volume["id"],
        "snapshot_id": snapshot["id"] if snapshot else None,
        "parent_id": parent["id"] if parent else None,
        "status": "creating",
        "size": snapshot["size"] if snapshot else volume["size"],
        "object_count": 0,
        "bytes": 0,
        "container": container,
        "metadata": wanted.get("metadata") or {},
        "availability_zone": wanted.get("availability_zone") or volume["availability_zone"],
        "data_timestamp": snapshot["created_at"] if snapshot else now(),
    }


def restore(world: World, context: Context, backup_id: str, volume_id: str | None, name: str | None) -> dict[str, Any]:
    """Restores a backup into a volume of its own, or in the place of what an unattached volume holds. Returns
    ``{"backup_id", "volume_id", "volume_name"}``."""
    with world.database.read() as connection:
        backup = finding.backup(connection, context, backup_id)
        volume = finding.volume(connection, context, volume_id) if volume_id else None
    placing.refuse_unless(backup["status"], ("available",), f"backup {backup['id']}")
    manifests = chain.read_manifests(world.repository(backup["container"]), backup["volume_id"], backup["stored_id"])
    chain.check_listed(world.repository(backup["container"]), manifests)
    staging.require_room(world.settings.staging_dir, sum(each.bytes for found in manifests for each in found.objects))
    if volume is None:
        volume_id = _restore_new(world, context, backup, name or f"restore_backup_{backup['id']}")
        return {"backup_id": backup["id"], "volume_id": volume_id, "volume_name": name or f"restore_backup_{backup['id']}"}
    _restore_over(world, context, backup, volume)
    return {"backup_id": backup["id"], "volume_id": volume["id"], "volume_name": volume["name"]}


def create_volume(world: World, context: Context, wanted: dict[str, Any]) -> str:
    """``backup_id`` in a volume's request: a new volume from a backup, larger on request."""
    with world.database.read() as connection:
        backup = finding.backup(connection, context, wanted["backup_id"])
    placing.refuse_unless(backup["status"], ("available",), f"backup {backup['id']}")
    return _restore_new(world, context, backup, wanted.get("name"), wanted)


def _restore_new(world: World, context: Context, backup: Row, name: str | None, wanted: Mapping[str, Any] | None = None) -> str:
    given = dict(wanted or {})
    size = given.get("size") or backup["size"]
    if size < backup["size"]:
        raise BadRequest(f"a volume of {size} GiB cannot hold backup {backup['id']}, which has {backup['size']} GiB")
    whole = {**given, "size": size, "name": name, "availability_zone": given.get("availability_zone")}
    type_row = volume_making.find_type(world, given)
    pool = placing.choose(world, type_row, size, backup["bytes"])

    def make(row: Row) -> Any:
        return operations.restore_request(row, backup, size * GIB, None, context.request_id)

    return volume_making.insert(
        world, context, whole, type_row, Making(pool, {"status": "restoring-backup"}, make, backup=backup)
    )


def _restore_over(world: World, context: Context, backup: Row, volume: Row) -> None:
    if volume["status"] != "available":
        raise BadRequest(
            f"Invalid volume: the status of volume {volume['id']} must be available, but it is {volume['status']}; detach it"
        )
    if volume["size"] < backup["size"]:
        raise BadRequest(f"volume {volume['id']} of {volume['size']} GiB cannot hold a backup of {backup['size']} GiB")
    placing.check_room(world, volume, 0, backup["bytes"])
    before = trees.observe(world, volume)
    old = before.images[before.active]
    name = names.overlay_name(volume["id"], str(uuid.uuid4()))
    format_ = "qcow2" if old.backing else old.format
    image = Image(name, format_, old.size, old.backing, old.backing_format)
    found: Plan = plan.replace_active(before, image, volume_changing.visible(world, volume, before))
    with world.database.write() as connection:
        volume_changing.unchanged(connection, volume)
        if not backups.move(connection, backup["id"], ("available",), "restoring"):
            raise Conflict(f"backup {backup['id']} changed meanwhile; repeat the request")
        volumes.change(connection, volume["id"], status="restoring-backup")
        replaced = (before, found, image)
        journal.submit(connection, operations.restore_request(volume, backup, old.size, replaced, context.request_id))


def delete(world: World, context: Context, backup_id: str, force: bool = False) -> None:
    """Deletes a backup that no incremental one builds on. Raises Conflict listing those that do."""
    with world.database.write() as connection:
        row = finding.backup(connection, context, backup_id)
        children = backups.children(connection, [row["id"]])[row["id"]]
        if children:
            raise Conflict(
                f"Invalid backup: {len(children)} incremental backups build on {row['id']}, the first is {children[0]}",
                dependants=children[:100],
            )
        journal.refuse_if_busy(connection, f"backup:{row['id']}")
        allowed = (row["status"],) if force else DELETABLE
        if not backups.move(connection, row["id"], allowed, "deleting"):
            raise BadRequest(f"Invalid backup: the status must be available or error, but it is {row['status']}")
        journal.submit(connection, operations.delete_request(row, context.request_id))


def update(world: World, context: Context, backup_id: str, changes: dict[str, Any]) -> None:
    with world.database.write() as connection:
        row = finding.backup(connection, context, backup_id)
        backups.change(connection, row["id"], **changes)


def reset_status(world: World, context: Context, backup_id: str, status: str) -> None:
    with world.database.write() as connection:
        row = finding.backup(connection, context, backup_id)
        journal.refuse_if_busy(connection, f"backup:{row['id']}")
        backups.change(connection, row["id"], status=status, **({"fault": None} if status == "available" else {}))


def export_record(world: World, context: Context, backup_id: str) -> dict[str, str]:
    """Returns what ``import_record`` makes the row of again, here or elsewhere."""
    with world.database.read() as connection:
        row = finding.backup(connection, context, backup_id)
    return record.export_record(row)


def import_record(world: World, context: Context, backup_service: str, backup_url: str) -> str:
    """Makes the row of a backup again from its record. What the store holds is looked at first, and believed before it."""
    found = record.import_record(backup_service, backup_url)
    manifests = chain.read_manifests(world.repository(found.container), found.volume_id, found.stored_id)
    own = manifests[-1]
    stored = {
        "object_count": len(own.objects),
        "bytes": sum(each.bytes for each in own.objects),
        "size": -(-own.size // GIB),
    }
    row = {name: getattr(found, name) for name in record.Record.__dataclass_fields__}
    with world.database.write() as connection:
        if backups.get(connection, found.id, None) is not None:
            raise BadRequest(f"backup {found.id} exists already")
        finding.check_quota(world, connection, context.project_id, {"backups": 1, "backup_gigabytes": stored["size"]})
        owned = {"project_id": context.project_id, "user_id": context.user_id, "status": "available"}
        zone = {"availability_zone": world.settings.availability_zone, "metadata": dict(found.metadata)}
        backups.insert(connection, {**row, **zone, **owned, **stored})
    return found.id


METHODS: Mapping[str, Any] = {
    "create_backup": create,
    "restore_backup": restore,
    "delete_backup": delete,
    "update_backup": update,
    "reset_backup_status": reset_status,
    "export_backup": export_record,
    "import_backup": import_record,
    "create_volume_from_backup": create_volume,
}
