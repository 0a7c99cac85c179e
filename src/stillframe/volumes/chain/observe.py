"""A volume's tree of files as it is now: the headers from the share, and what the files are needed for from the rows. Only this
module combines the two. When they do not agree, ChainConflict names the file and nothing is planned.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TypedDict

from sqlalchemy import Connection

from stillframe.chain import names, plan
from stillframe.chain.image import Image
from stillframe.chain.tree import Tree, check
from stillframe.db import backups, snapshots, volumes
from stillframe.db.rows import SnapshotRow, VolumeRow
from stillframe.db.values import SnapshotChanges, VolumeChanges
from stillframe.errors import ChainConflict
from stillframe.journal.typed import Value
from stillframe.volumes.storage.drivers.contract import Share
from stillframe.volumes.worker.context import WorkerContext


class Needs(TypedDict):
    """What the rows know of a volume's files: its snapshots that are not being taken; holds and shared as ``Tree`` has them."""

    snapshots: list[SnapshotRow]
    holds: dict[str, str]
    shared: dict[str, tuple[str, ...]]


class SnapshotAfter(Value, frozen=True, kw_only=True):
    """The columns of a snapshot's row that say which files it has."""

    backing: str
    backing_format: str
    overlay: str | None


class After(Value, frozen=True, kw_only=True):
    """What the rows become when a plan is done: stored with the operation, applied in the transaction that ends it. ``removed``
    are snapshots; ``holds`` as ``Tree`` has it."""

    active: str
    format: str
    snapshots: Mapping[str, SnapshotAfter]
    removed: tuple[str, ...]
    holds: Mapping[str, str]


def held_for(backup_id: str) -> str:
    """Why a file is kept for the next incremental backup."""
    return f"backup {backup_id}"


def needs(connection: Connection, volume: VolumeRow) -> Needs:
    """Returns what the rows know of a volume's files."""
    rows = [row for row in snapshots.of_volume(connection, volume["id"]) if not snapshots.being_taken(row)]
    holds = {held_for(row["id"]): row["held_file"] for row in backups.of_volume(connection, volume["id"]) if row["held_file"]}
    if volume["undo_file"]:
        holds[plan.UNDO] = volume["undo_file"]
    shared: dict[str, tuple[str, ...]] = {}
    for clone in volumes.linked_to(connection, volume["id"]):
        assert clone["linked_to"] is not None  # that is what was asked for
        file = clone["linked_to"]["file"]
        shared[file] = (*shared.get(file, ()), clone["id"])
    return {"snapshots": rows, "holds": holds, "shared": shared}


def observe(worker: WorkerContext, volume: VolumeRow) -> Tree:
    """Reads the headers of all of the volume's files and returns the checked tree. Raises ChainConflict, BadImage,
    ShareUnavailable."""
    with worker.database.read() as connection:
        known = needs(connection, volume)
    share = worker.share(volume)
    images = share.images(volume["id"], volume["base_format"])
    active = images.get(volume["active_file"])
    if active is not None and active.format != volume["format"]:
        raise ChainConflict(f"{active.name} is recorded as {volume['format']!r}, its place in the chain says {active.format!r}")
    held = {row["id"]: row["backing"] for row in known["snapshots"] if holds_data(row, images)}
    parent_image = _parent_image(share, volume)
    tree = Tree(volume["id"], images, volume["active_file"], held, known["holds"], known["shared"], parent_image)
    return check(replace(tree, base_file=volume["base_file"]))


def is_still(connection: Connection, volume: VolumeRow, tree: Tree) -> bool:
    """Tells whether the rows need the volume's files for the same as when ``tree`` was observed."""
    known = needs(connection, volume)
    held = {row["id"]: row["backing"] for row in known["snapshots"] if holds_data(row, tree.images)}
    return (held, known["holds"], known["shared"]) == (tree.snapshots, tree.holds, tree.shared)


def holds_data(row: SnapshotRow, images: Mapping[str, Image]) -> bool:
    """A snapshot that failed has no overlay; one whose status was only *set* to error has, and its data must be kept."""
    made = images.get(row["overlay"] or "")
    own = row["backing"] == names.overlay_name(row["volume_id"], row["id"])  # of a volume that has no chain
    return (
        row["status"] != "error" or (own and row["backing"] in images) or (made is not None and made.backing == row["backing"])
    )


def _parent_image(share: Share, volume: VolumeRow) -> Image | None:
    linked = volume["linked_to"]
    return share.image(linked["file"], linked["format"]) if linked else None


def after(before: Tree, planned: Tree) -> After:
    """Returns what the rows become: ``planned`` is the tree that a plan leaves."""
    return After(
        active=planned.active,
        format=planned.images[planned.active].format,
        snapshots={
            key: SnapshotAfter(backing=file, backing_format=planned.images[file].format, overlay=planned.overlay_of(key))
            for key, file in planned.snapshots.items()
        },
        removed=tuple(sorted(set(before.snapshots) - set(planned.snapshots))),
        holds=dict(planned.holds),
    )


def apply_after(connection: Connection, volume_id: str, after: After) -> None:
    """Changes the rows to what ``after`` says."""
    changed: VolumeChanges = {"active_file": after.active, "format": after.format, "undo_file": after.holds.get(plan.UNDO)}
    if after.active == names.base_name(volume_id, volumes.base_file(connection, volume_id)):
        changed["base_format"] = after.format
    volumes.change(connection, volume_id, **changed)
    for snapshot_id, its in after.snapshots.items():
        files: SnapshotChanges = {"backing": its.backing, "backing_format": its.backing_format, "overlay": its.overlay}
        snapshots.change(connection, snapshot_id, **files)
    for snapshot_id in after.removed:
        snapshots.delete(connection, snapshot_id)
    for row in backups.of_volume(connection, volume_id):
        held = after.holds.get(held_for(row["id"]))
        if held != row["held_file"]:
            backups.change(connection, row["id"], held_file=held)
