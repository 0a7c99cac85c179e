"""Everything that changes which files a volume consists of: snapshots, their deletion, reverts, ends of holds."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, TypedDict

from sqlalchemy import Connection

from stillframe.chain import names
from stillframe.chain.plan import Plan
from stillframe.chain.tree import Tree
from stillframe.db import group_snapshots, snapshots, volumes
from stillframe.db.rows import VolumeRow
from stillframe.errors import Conflict
from stillframe.journal import record
from stillframe.journal.operation import Document, Kind, Operation, Verb
from stillframe.journal.record import Request
from stillframe.journal.typed import Args, numbered, step
from stillframe.volumes.chain import observe
from stillframe.volumes.operations import chain_metadata
from stillframe.volumes.operations.chain_rows import follow, follow_abandoned, follow_as_far, is_touched
from stillframe.volumes.operations.executors.executor import Executor, plan_for
from stillframe.volumes.operations.executors.exported import FOLLOW
from stillframe.volumes.operations.executors.intents import ChangeChain, OnVolume, about_volume
from stillframe.volumes.operations.executors.live import LIVE
from stillframe.volumes.operations.executors.offline import (
    CHECK_CLOSED,
    CHECK_SOUND,
    KEEP,
    MERGE,
    RECORD,
    RESIZE,
    CheckClosed,
    info_document,
    never,
    share_of,
)
from stillframe.volumes.operations.request import Wanted, request
from stillframe.volumes.worker.context import WorkerContext


class CreateSnapshot(ChangeChain, frozen=True, kw_only=True):
    """Take a snapshot of a volume that nothing is attached to."""


class DeleteSnapshot(ChangeChain, frozen=True, kw_only=True):
    """Delete snapshots of one volume."""


class RevertVolume(ChangeChain, frozen=True, kw_only=True):
    """Let the volume's writes start anew from a snapshot; newer ones may be deleted."""


class UndoRevert(ChangeChain, frozen=True, kw_only=True):
    """Go back to the file that was active before the revert."""


class ReleaseFiles(ChangeChain, frozen=True, kw_only=True):
    """Merge or remove files that nobody needs any more."""


class CheckEmpty(Args, frozen=True, kw_only=True):
    """Look whether the volume was written to since the revert."""

    verb = "check_empty"


Change = Literal["delete_snapshot", "revert_volume", "undo_revert", "release_files"]
_INTENTS: Mapping[Change, type[ChangeChain]] = {
    "delete_snapshot": DeleteSnapshot,
    "revert_volume": RevertVolume,
    "undo_revert": UndoRevert,
    "release_files": ReleaseFiles,
}


class Planned(TypedDict):
    """The fields of an intent that come from a plan."""

    info_before: dict[str, str]
    after: observe.After


def planned(before: Tree, plan: Plan) -> Planned:
    """Returns what ``.info`` said, and what the rows become: ``RevertVolume(**planned(before, plan), ...)``."""
    overlays = {key: before.overlay_of(key) for key in before.snapshots}
    return {"info_before": info_document(before.active, overlays), "after": observe.after(before, plan.after)}


def create_request(volume: VolumeRow, snapshot_id: str, before: Tree, plan: Plan, request_id: str) -> Request:
    intent = CreateSnapshot(**about_volume(volume), **planned(before, plan), snapshot_ids=(snapshot_id,))
    # Where the volume continues in the file it has, whoever has that open is not concerned.
    steps = [*([step(CheckClosed())] if plan.after.active != before.active else []), *numbered(plan.steps)]
    return request(volume, Wanted("create_snapshot", intent, steps), request_id)


def change_request(
    kind: Change, volume: VolumeRow, plans: tuple[Tree, Plan, Executor], snapshot_ids: Sequence[str], request_id: str
) -> Request:
    """``plans`` are the tree before, the plan and the executor that carries it out; ``snapshot_ids`` those it is about."""
    before, plan, executor = plans
    steps = plan_for(volume, before, plan.steps, executor)
    if kind == "undo_revert":
        steps.insert(1, step(CheckEmpty()))
    ids = tuple(snapshot_ids)
    intent = _INTENTS[kind](**about_volume(volume), **planned(before, plan), snapshot_ids=ids)
    return request(volume, Wanted(kind, intent, steps), request_id)


def _check_empty(worker: WorkerContext, operation: Operation[OnVolume], _args: CheckEmpty) -> Document:
    active = operation.intent.active_before
    share = share_of(worker, operation)
    if active in share.files(operation.intent.volume_id) and share.holds_data(active):
        raise Conflict(f"volume {operation.intent.volume_id} was written to since the revert: it cannot be undone any more")
    return {}


def settle_create(connection: Connection, operation: Operation[ChangeChain], outcome: str, fault: Document | None) -> None:
    """Lets the rows follow the outcome of taking one snapshot."""
    (snapshot_id,) = operation.intent.snapshot_ids
    if outcome == "done":
        snapshots.change(connection, snapshot_id, status="available", progress="100%", fault=None)
        follow(connection, operation)
        return
    snapshots.change(connection, snapshot_id, status="error", fault=fault["message"] if fault else None)
    if (
        outcome == "abandoned"
    ):  # the volume still writes to its former file: an overlay that was made is empty, and nobody needs it
        snapshots.change(connection, snapshot_id, overlay=None)
        record.submit(connection, chain_metadata.request(operation.intent.volume_id, operation.request_id))


def _settle_delete(connection: Connection, operation: Operation[ChangeChain], outcome: str, fault: Document | None) -> None:
    rows = [snapshots.get(connection, snapshot_id, None) for snapshot_id in operation.intent.snapshot_ids]
    parts_of = {row["group_snapshot_id"] for row in rows if row is not None and row["group_snapshot_id"] is not None}
    if outcome == "done":
        follow(connection, operation)
        _mark_for_cleanup(connection, operation)
    else:
        _settle_broken_off(connection, operation, outcome, fault)
    group_snapshots.end_deletion(connection, parts_of, whole=outcome == "done")


def _settle_broken_off(connection: Connection, operation: Operation[ChangeChain], outcome: str, fault: Document | None) -> None:
    _follow_broken_off(connection, operation, outcome, fault)
    # What some of its merges left belongs to no snapshot, and is merged in the background.
    volumes.change(connection, operation.intent.volume_id, needs_cleanup=True)
    merged = bool(fault and fault["details"].get("merged"))
    message = fault["message"] if fault else None
    for snapshot_id in operation.intent.snapshot_ids:
        touched = is_touched(operation, snapshot_id) if outcome == "abandoned" else merged or outcome == "parked"
        status = "error_deleting" if touched else "available"
        snapshots.change(connection, snapshot_id, status=status, progress="100%", fault=message)


def _follow_broken_off(connection: Connection, operation: Operation[ChangeChain], outcome: str, fault: Document | None) -> None:
    if outcome != "abandoned":
        follow_as_far(connection, operation)
    elif not follow_abandoned(connection, operation, fault):
        message = fault["message"] if fault else None
        volumes.change(connection, operation.intent.volume_id, status="error", fault=message)


def _mark_for_cleanup(connection: Connection, operation: Operation[ChangeChain]) -> None:
    """Gives a lone file the volume's own name when nobody has it open any more."""
    after = operation.intent.after
    alone = not after.snapshots and not after.holds
    volume_id = operation.intent.volume_id
    if alone and after.active != names.base_name(volume_id, volumes.base_file(connection, volume_id)):
        volumes.change(connection, volume_id, needs_cleanup=True)


def _settle_revert(connection: Connection, operation: Operation[ChangeChain], outcome: str, fault: Document | None) -> None:
    if outcome == "done":
        follow(connection, operation)
        # If newer snapshots were removed by the revert, their files are not needed once it is undone.
        volumes.change(connection, operation.intent.volume_id, needs_cleanup=True)
    if outcome == "abandoned":
        follow_abandoned(connection, operation, fault)
    for snapshot_id in operation.intent.snapshot_ids:
        snapshots.move(connection, snapshot_id, ("restoring", "deleting"), "available")
    message = fault["message"] if fault and outcome != "done" else None
    merged = bool(fault and outcome == "undone" and fault["details"].get("merged"))  # cancelled within a merge
    status = "error" if outcome in ("parked", "abandoned") or merged else operation.intent.status_before
    volumes.move(connection, operation.intent.volume_id, ("reverting", "error"), status, fault=message)


def _settle_release(connection: Connection, operation: Operation[ChangeChain], outcome: str, fault: Document | None) -> None:
    if outcome == "done":
        follow(connection, operation)
        return
    _follow_broken_off(connection, operation, outcome, fault)
    if fault:
        volumes.change(connection, operation.intent.volume_id, fault=fault["message"])


CREATE = Kind(
    {"check_closed": CHECK_CLOSED, **KEEP, "Record": RECORD},
    settle_create,
    intent=CreateSnapshot,
    afterwards="The volume's row names the file it had before: nothing was written elsewhere. Delete the snapshot and take"
    " another one.",
)
DELETE = Kind(
    {"check_unused": CHECK_SOUND, **MERGE, **LIVE},
    _settle_delete,
    intent=DeleteSnapshot,
    afterwards="The volume reads as before. A snapshot in error_deleting may be half merged: delete it again, which finishes"
    " that. One that is available was not touched.",
)
_REVERTED = (
    "Compare the volume's row with its files ('stillframe chain show'), and with the definition of its server; when they name"
    " the same active file, reset the status as an administrator, and ask again if it is not the one you want."
)
REVERT = Kind(
    {"check_unused": CHECK_SOUND, **KEEP, **MERGE, **LIVE, **FOLLOW}, _settle_revert, intent=RevertVolume, afterwards=_REVERTED
)
# An undo that is taken back leaves the held file at its new size, which is at most the volume's.
_GROW_HELD = replace(RESIZE, no_return="never")
UNDO = Kind(
    {
        "check_unused": CHECK_SOUND,
        "check_empty": Verb(never, _check_empty, args=CheckEmpty),
        "Resize": _GROW_HELD,
        **MERGE,
        **LIVE,
    },
    _settle_revert,
    intent=UndoRevert,
    afterwards=_REVERTED,
)
RELEASE = Kind(
    {"check_unused": CHECK_SOUND, **MERGE, **LIVE},
    _settle_release,
    intent=ReleaseFiles,
    afterwards="It merged files that no snapshot needs. The volume reads as before, and block storage tries again by itself.",
)
