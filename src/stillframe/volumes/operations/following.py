"""How rows follow a chain's plan: one that is done, and one that stopped between two of its merges."""

from collections.abc import Sequence

from sqlalchemy import Connection

from stillframe.chain import names, plan
from stillframe.db import backups, snapshots, volumes
from stillframe.db.rows import Row
from stillframe.journal import record
from stillframe.journal.operation import Document, Operation
from stillframe.volumes import trees
from stillframe.volumes.operations import chain_record

_CHANGES = ("Trash", "Commit", "Pull", "MergeLive")


def follow(connection: Connection, operation: Operation) -> None:
    """Rows follow a plan that is done; the record beside the volume comes after them."""
    trees.apply_after(connection, operation.intent["volume_id"], operation.intent["after"])
    record.submit(connection, chain_record.request(operation.intent["volume_id"], operation.request_id))


def follow_as_far(connection: Connection, operation: Operation) -> None:
    """A plan of several merges that stopped between two: rows follow what was recorded last."""
    ended = operation.plan[: operation.step]  # what was taken back is no more among them
    volume = volumes.get(connection, operation.intent["volume_id"], None)
    made = [each["args"] for each in ended if each["verb"] == "Record"]
    if volume is None or not made or not any(each["verb"] in _CHANGES for each in ended):
        return
    last, lost = made[-1], _lost_files(ended)
    base_format = _base_format(volume, ended)
    format_ = _format(volume, last["active"], base_format)
    volumes.change(connection, volume["id"], active_file=last["active"], format=format_, base_format=base_format)
    for snapshot_id, file in last["snapshots"].items():
        values = {"backing": file, "backing_format": _format(volume, file, base_format)}
        snapshots.change(connection, snapshot_id, overlay=last["overlays"][snapshot_id], **values)
    for snapshot_id in operation.intent["snapshot_ids"]:
        row = snapshots.get(connection, snapshot_id, None)
        if row is not None and row["backing"] in lost:
            snapshots.delete(connection, snapshot_id)
    _move_holds(connection, volume, lost, operation.intent["after"]["holds"])
    chain_record.submit_once(connection, volume["id"], operation.request_id)


def _lost_files(ended: Sequence[Document]) -> set[str]:
    """Files whose former content is no more under their name: removed, or merged into before the last record."""
    newest = max(number for number, each in enumerate(ended) if each["verb"] == "Record")
    lost = {each["args"]["name"] for each in ended if each["verb"] == "Trash"}
    lost |= {each["args"]["base"] for each in ended[:newest] if each["verb"] == "Commit"}
    live = [each["args"]["info"]["merge_target_file"] for each in ended[:newest] if each["verb"] == "MergeLive"]
    return lost | {name for name in live if name is not None}


def _move_holds(connection: Connection, volume: Row, lost: set[str], holds: Document) -> None:
    """What is held in a file that was merged away is held in the one it went to: a plan moves a hold once at most."""
    if volume["undo_file"] in lost:
        volumes.change(connection, volume["id"], undo_file=holds.get(plan.UNDO))
    for row in backups.of_volume(connection, volume["id"]):
        if row["held_file"] in lost:
            backups.change(connection, row["id"], held_file=holds.get(trees.held_for(row["id"])))


def _base_format(volume: Row, ended: Sequence[Document]) -> str:
    base = names.base_name(volume["id"])
    renamed = any(each["verb"] == "Rename" and each["args"]["to"] == base for each in ended)
    return "qcow2" if renamed else str(volume["base_format"])


def _format(volume: Row, file: str, base_format: str) -> str:
    return base_format if file == names.base_name(volume["id"]) else "qcow2"
