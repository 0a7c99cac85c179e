"""Everything that changes which files a volume consists of: snapshots, their deletion, reverts, ends of holds."""

from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from stillframe.chain import names
from stillframe.chain.plan import Plan
from stillframe.chain.steps import to_documents
from stillframe.chain.tree import Tree
from stillframe.db import snapshots, volumes
from stillframe.db.rows import Row
from stillframe.errors import Conflict
from stillframe.journal import record
from stillframe.journal.operation import Document, Kind, Operation, Verb, step
from stillframe.journal.record import Request
from stillframe.volumes.chain import observe
from stillframe.volumes.operations import chain_metadata
from stillframe.volumes.operations.chain_rows import follow, follow_abandoned, follow_as_far, is_touched
from stillframe.volumes.operations.executors.executor import Hand, documents
from stillframe.volumes.operations.executors.live import LIVE
from stillframe.volumes.operations.executors.offline import (
    CHECK_CLOSED,
    CHECK_SOUND,
    CREATE_OVERLAY,
    MERGE,
    RESIZE,
    info_document,
    never,
    share_of,
)
from stillframe.volumes.operations.request import Wanted, request
from stillframe.volumes.worker.context import WorkerContext


def planned(before: Tree, plan: Plan) -> dict[str, Any]:
    """Returns the part of an intent that comes from a plan: what ``.info`` said, and what the rows become."""
    overlays = {key: before.overlay_of(key) for key in before.snapshots}
    return {"info_before": info_document(before.active, overlays), "after": observe.after_document(before, plan.after)}


def create_request(volume: Row, snapshot_id: str, before: Tree, plan: Plan, request_id: str) -> Request:
    intent = {"snapshot_ids": [snapshot_id], **planned(before, plan)}
    steps = [step("check_closed"), *to_documents(plan.steps)]
    return request(volume, Wanted("create_snapshot", steps, intent), request_id)


def change_request(kind: str, volume: Row, plans: tuple[Tree, Plan, Hand], options: Document) -> Request:
    """``kind`` is delete_snapshot, revert_volume, undo_revert or let_go; ``plans`` the tree before, the plan and the executor
    that carries it out; ``options`` hold request_id and what else the intent needs (snapshot_ids)."""
    before, plan, hand = plans
    steps = documents(volume, before, plan.steps, hand)
    if kind == "undo_revert":
        steps.insert(1, step("check_empty"))
    rest = {key: value for key, value in options.items() if key != "request_id"}
    wanted = Wanted(kind, steps, {**rest, **planned(before, plan)})
    return request(volume, wanted, options["request_id"])


def _check_empty(world: WorkerContext, operation: Operation, _args: Document) -> Document:
    active = operation.intent["active_before"]
    share = share_of(world, operation)
    if active in share.files(operation.intent["volume_id"]) and share.holds_data(active):
        raise Conflict(f"volume {operation.intent['volume_id']} was written to since the revert: it cannot be undone any more")
    return {}


def _settle_create(connection: Connection, operation: Operation, outcome: str, fault: Document | None) -> None:
    (snapshot_id,) = operation.intent["snapshot_ids"]
    if outcome == "done":
        snapshots.change(connection, snapshot_id, status="available", progress="100%", fault=None)
        follow(connection, operation)
        return
    snapshots.change(connection, snapshot_id, status="error", fault=fault["message"] if fault else None)
    if (
        outcome == "abandoned"
    ):  # the volume still writes to its former file: an overlay that was made is empty, and nobody needs it
        snapshots.change(connection, snapshot_id, overlay=None)
        record.submit(connection, chain_metadata.request(operation.intent["volume_id"], operation.request_id))


def _settle_delete(connection: Connection, operation: Operation, outcome: str, fault: Document | None) -> None:
    if outcome == "done":
        follow(connection, operation)
        _mark_untidy(connection, operation)
        return
    _follow_broken_off(connection, operation, outcome, fault)
    # What some of its merges left belongs to no snapshot, and is merged in the background.
    volumes.change(connection, operation.intent["volume_id"], untidy=True)
    merged = bool(fault and fault["details"].get("merged"))
    told = fault["message"] if fault else None
    for snapshot_id in operation.intent["snapshot_ids"]:
        touched = is_touched(operation, snapshot_id) if outcome == "abandoned" else merged or outcome == "parked"
        status = "error_deleting" if touched else "available"
        snapshots.change(connection, snapshot_id, status=status, progress="100%", fault=told)


def _follow_broken_off(connection: Connection, operation: Operation, outcome: str, fault: Document | None) -> None:
    if outcome != "abandoned":
        follow_as_far(connection, operation)
    elif not follow_abandoned(connection, operation, fault):
        told = fault["message"] if fault else None
        volumes.change(connection, operation.intent["volume_id"], status="error", fault=told)


def _mark_untidy(connection: Connection, operation: Operation) -> None:
    """Gives a lone file the volume's own name when nobody has it open any more."""
    after = operation.intent["after"]
    alone = not after["snapshots"] and not after["holds"]
    if alone and after["active"] != names.base_name(operation.intent["volume_id"]):
        volumes.change(connection, operation.intent["volume_id"], untidy=True)


def _settle_revert(connection: Connection, operation: Operation, outcome: str, fault: Document | None) -> None:
    if outcome == "done":
        follow(connection, operation)
        # If newer snapshots were removed by the revert, their files are not needed once it is undone.
        volumes.change(connection, operation.intent["volume_id"], untidy=True)
    if outcome == "abandoned":
        follow_abandoned(connection, operation, fault)
    for snapshot_id in operation.intent["snapshot_ids"]:
        snapshots.move(connection, snapshot_id, ("restoring", "deleting"), "available")
    told = fault["message"] if fault and outcome != "done" else None
    merged = bool(fault and outcome == "undone" and fault["details"].get("merged"))  # cancelled within a merge
    status = "error" if outcome in ("parked", "abandoned") or merged else operation.intent["status_before"]
    volumes.move(connection, operation.intent["volume_id"], ("reverting", "error"), status, fault=told)


def _settle_let_go(connection: Connection, operation: Operation, outcome: str, fault: Document | None) -> None:
    if outcome == "done":
        follow(connection, operation)
        return
    _follow_broken_off(connection, operation, outcome, fault)
    if fault:
        volumes.change(connection, operation.intent["volume_id"], fault=fault["message"])


CREATE = Kind(
    {"check_closed": CHECK_CLOSED, "CreateOverlay": CREATE_OVERLAY, "Record": MERGE["Record"]},
    _settle_create,
    afterwards="The volume's row names the file it had before: nothing was written elsewhere. Delete the snapshot and take"
    " another one.",
)
DELETE = Kind(
    {"check_unused": CHECK_SOUND, **MERGE, **LIVE},
    _settle_delete,
    afterwards="The volume reads as before. A snapshot in error_deleting may be half merged: delete it again, which finishes"
    " that. One that is available was not touched.",
)
_REVERTED = (
    "Compare the volume's row with its files ('stillframe chain show'), and with the definition of its server; when they name"
    " the same active file, reset the status as an administrator, and ask again if it is not the one you want."
)
REVERT = Kind(
    {"check_unused": CHECK_SOUND, "CreateOverlay": CREATE_OVERLAY, **MERGE, **LIVE}, _settle_revert, afterwards=_REVERTED
)
# An undo that is taken back leaves the held file at its new size, which is at most the volume's.
_GROW_HELD = replace(RESIZE, no_return="never")
UNDO = Kind(
    {"check_unused": CHECK_SOUND, "check_empty": Verb(never, _check_empty), "Resize": _GROW_HELD, **MERGE, **LIVE},
    _settle_revert,
    afterwards=_REVERTED,
)
LET_GO = Kind(
    {"check_unused": CHECK_SOUND, **MERGE, **LIVE},
    _settle_let_go,
    afterwards="It merged files that no snapshot needs. The volume reads as before, and block storage tries again by itself.",
)
