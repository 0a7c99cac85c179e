"""A volume's tree of files as it is now: the headers from the share, and what the files are needed for from the rows. Only this
module combines the two. When they do not agree, ChainConflict names the file and nothing is planned.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from stillframe.chain import names, plan
from stillframe.chain.image import Image
from stillframe.chain.tree import Tree, check
from stillframe.db import backups, snapshots, volumes
from stillframe.db.rows import Row
from stillframe.volumes.storage.drivers.contract import Share
from stillframe.volumes.worker.context import WorkerContext


def held_for(backup_id: str) -> str:
    """Why a file is kept for the next incremental backup."""
    return f"backup {backup_id}"


def needs(connection: Connection, volume: Row) -> dict[str, Any]:
    """Returns what the rows know of a volume's files: the snapshots' rows; holds and shared as ``Tree`` has them."""
    rows = [row for row in snapshots.of_volume(connection, volume["id"]) if row["status"] != "creating"]
    holds = {held_for(row["id"]): row["held_file"] for row in backups.of_volume(connection, volume["id"]) if row["held_file"]}
    if volume["undo_file"]:
        holds[plan.UNDO] = volume["undo_file"]
    shared: dict[str, tuple[str, ...]] = {}
    for clone in volumes.linked_to(connection, volume["id"]):
        file = clone["linked_to"]["file"]
        shared[file] = (*shared.get(file, ()), clone["id"])
    return {"snapshots": rows, "holds": holds, "shared": shared}


def observe(world: WorkerContext, volume: Row) -> Tree:
    """Reads the headers of all of the volume's files and returns the checked tree. Raises ChainConflict, BadImage,
    ShareUnavailable."""
    with world.database.read() as connection:
        known = needs(connection, volume)
    share = world.share(volume)
    images = share.images(volume["id"], volume["base_format"])
    known["snapshots"] = {row["id"]: row["backing"] for row in known["snapshots"] if _holds_data(row, images)}
    return check(Tree(volume["id"], images, volume["active_file"], **known, foundation=_foundation(share, volume)))


def is_still(connection: Connection, volume: Row, tree: Tree) -> bool:
    """Tells whether the rows need the volume's files for the same as when ``tree`` was observed."""
    known = needs(connection, volume)
    held = {row["id"]: row["backing"] for row in known["snapshots"] if _holds_data(row, tree.images)}
    return (held, known["holds"], known["shared"]) == (tree.snapshots, tree.holds, tree.shared)


def _holds_data(row: Row, images: Mapping[str, Image]) -> bool:
    """A snapshot that failed has no overlay; one whose status was only *set* to error has, and its data must be kept."""
    made = images.get(row["overlay"] or "")
    return row["status"] != "error" or (made is not None and made.backing == row["backing"])


def _foundation(share: Share, volume: Row) -> Image | None:
    linked = volume["linked_to"]
    return share.image(linked["file"], linked["format"]) if linked else None


def after_document(before: Tree, after: Tree) -> dict[str, Any]:
    """Returns what the rows become when a plan is done: stored with the operation, applied in the transaction that ends it."""
    return {
        "active": after.active,
        "format": after.images[after.active].format,
        "snapshots": {
            key: {"backing": file, "backing_format": after.images[file].format, "overlay": after.overlay_of(key)}
            for key, file in after.snapshots.items()
        },
        "removed": sorted(set(before.snapshots) - set(after.snapshots)),
        "holds": dict(after.holds),
    }


def apply_after(connection: Connection, volume_id: str, after: Mapping[str, Any]) -> None:
    """Changes the rows to what ``after_document`` says."""
    volumes.change(
        connection,
        volume_id,
        active_file=after["active"],
        format=after["format"],
        undo_file=after["holds"].get(plan.UNDO),
        **({"base_format": after["format"]} if after["active"] == names.base_name(volume_id) else {}),
    )
    for snapshot_id, values in after["snapshots"].items():
        snapshots.change(connection, snapshot_id, **values)
    for snapshot_id in after["removed"]:
        snapshots.delete(connection, snapshot_id)
    for row in backups.of_volume(connection, volume_id):
        held = after["holds"].get(held_for(row["id"]))
        if held != row["held_file"]:
            backups.change(connection, row["id"], held_file=held)
