"""Everything that changes which files a volume is made of, with nothing attached: snapshots, reverts, ends of holds."""

from typing import Any

from sqlalchemy import Connection

from stillframe.chain.plan import Plan
from stillframe.chain.steps import to_documents
from stillframe.chain.tree import Tree
from stillframe.db import snapshots, volumes
from stillframe.db.rows import Row
from stillframe.errors import Conflict
from stillframe.journal import record
from stillframe.journal.operation import Document, Kind, Operation, Verb
from stillframe.journal.record import Request
from stillframe.volumes import trees
from stillframe.volumes.operations import chain_record
from stillframe.volumes.operations.chain_steps import CHECK, CREATE_OVERLAY, MERGE, info_document, never, share_of
from stillframe.volumes.operations.request import Wanted, request, step
from stillframe.volumes.world import World


def planned(before: Tree, plan: Plan) -> dict[str, Any]:
    """The part of an intent that comes from a plan: what ``.info`` said, and what rows become."""
    overlays = {key: before.overlay_of(key) for key in before.snapshots}
    return {"info_before": info_document(before.active, overlays), "after": trees.after_document(before, plan.after)}


def create_request(volume: Row, snapshot_id: str, before: Tree, plan: Plan, request_id: str) -> Request:
    intent = {"snapshot_ids": [snapshot_id], **planned(before, plan)}
    return request(volume, Wanted("create_snapshot", to_documents(plan.steps), intent), request_id)


def change_request(kind: str, volume: Row, before: Tree, plan: Plan, options: Document) -> Request:
    """``kind`` is delete_snapshot, revert_volume, undo_revert or let_go; ``options`` hold request_id and what else the
    intent needs (snapshot_ids)."""
    looks = [step("check_unused")] + ([step("check_empty")] if kind == "undo_revert" else [])
    rest = {key: value for key, value in options.items() if key != "request_id"}
    wanted = Wanted(kind, [*looks, *to_documents(plan.steps)], {**rest, **planned(before, plan)})
    return request(volume, wanted, options["request_id"])


def _check_empty(world: World, operation: Operation, _args: Document) -> Document:
    active = operation.intent["active_before"]
    share = share_of(world, operation)
    if active in share.files(operation.intent["volume_id"]) and share.holds_data(active):
        raise Conflict(f"volume {operation.intent['volume_id']} was written to since the revert: it cannot be undone any more")
    return {}


def follow(connection: Connection, operation: Operation) -> None:
    """Rows follow a plan that is done; the record beside the volume comes after them."""
    trees.apply_after(connection, operation.intent["volume_id"], operation.intent["after"])
    record.submit(connection, chain_record.request(operation.intent["volume_id"], operation.request_id))


def _settle_create(connection: Connection, operation: Operation, outcome: str, fault: Document | None) -> None:
    (snapshot_id,) = operation.intent["snapshot_ids"]
    if outcome == "done":
        snapshots.change(connection, snapshot_id, status="available", progress="100%", fault=None)
        follow(connection, operation)
        return
    snapshots.change(connection, snapshot_id, status="error", fault=fault["message"] if fault else None)


def _settle_delete(connection: Connection, operation: Operation, outcome: str, fault: Document | None) -> None:
    if outcome == "done":
        follow(connection, operation)
        return
    status = "available" if outcome == "undone" else "error_deleting"
    for snapshot_id in operation.intent["snapshot_ids"]:
        snapshots.change(connection, snapshot_id, status=status, fault=fault["message"] if fault else None)


def _settle_revert(connection: Connection, operation: Operation, outcome: str, fault: Document | None) -> None:
    if outcome == "done":
        follow(connection, operation)
    for snapshot_id in operation.intent["snapshot_ids"]:
        snapshots.move(connection, snapshot_id, ("restoring", "deleting"), "available")
    told = fault["message"] if fault and outcome != "done" else None
    status = "error" if outcome == "parked" else operation.intent["status_before"]
    volumes.move(connection, operation.intent["volume_id"], ("reverting", "error"), status, fault=told)


def _settle_let_go(connection: Connection, operation: Operation, outcome: str, fault: Document | None) -> None:
    if outcome == "done":
        follow(connection, operation)
    elif fault:
        volumes.change(connection, operation.intent["volume_id"], fault=fault["message"])


CREATE = Kind({"CreateOverlay": CREATE_OVERLAY, "Record": MERGE["Record"]}, _settle_create)
DELETE = Kind({"check_unused": CHECK, **MERGE}, _settle_delete)
REVERT = Kind({"check_unused": CHECK, "CreateOverlay": CREATE_OVERLAY, **MERGE}, _settle_revert)
UNDO = Kind({"check_unused": CHECK, "check_empty": Verb(never, _check_empty), **MERGE}, _settle_revert)
LET_GO = Kind({"check_unused": CHECK, **MERGE}, _settle_let_go)
