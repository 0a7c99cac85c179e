"""Create a snapshot, or delete the newest one, with nothing attached: through qemu-img."""

from collections.abc import Sequence

from sqlalchemy import Connection

from stillframe.chain.image import Image
from stillframe.chain.steps import Step, to_document
from stillframe.db import snapshots, volumes
from stillframe.errors import Conflict
from stillframe.journal.operation import Document, Kind, Operation, Verb
from stillframe.journal.record import Request
from stillframe.volumes.operations.chain_record import info_document
from stillframe.volumes.world import World


def request(kind: str, snapshot: Document, steps: Sequence[Step], request_id: str) -> Request:
    """``kind`` is create_snapshot or delete_snapshot; ``snapshot`` its row; ``steps`` a plan of ``chain.plan``."""
    intent = {"snapshot_id": snapshot["id"], "volume_id": snapshot["volume_id"], "active_before": snapshot["active"]}
    plan: list[Document] = [to_document(step) for step in steps]
    if kind == "delete_snapshot":
        plan.insert(0, {"verb": "CheckUnused", "args": {}})
    return Request("volumes", kind, intent, plan, [f"volume:{snapshot['volume_id']}"], request_id)


def _check_unused(world: World, operation: Operation, _args: Document) -> Document:
    volume_id = operation.intent["volume_id"]
    busy, servers = world.driver.in_use(volume_id), world.compute.servers_with(volume_id)
    if busy or servers:
        raise Conflict(f"volume {volume_id} is in use by {', '.join([*servers, *busy])}; detach it first")
    return {}


def _never(_world: World, _operation: Operation, _args: Document) -> None:
    return None


def _overlay_made(world: World, operation: Operation, args: Document) -> Document | None:
    volume_id = operation.intent["volume_id"]
    if args["name"] not in world.driver.files(volume_id):
        return None
    chain = world.driver.chain(volume_id, args["name"])
    return {} if chain.active == _overlay(args) else None


def _overlay(args: Document) -> Image:
    return Image(args["name"], "qcow2", args["size"], args["backing"], args["backing_format"])


def _make_overlay(world: World, operation: Operation, args: Document) -> Document:
    world.driver.create_overlay(operation.intent["volume_id"], _overlay(args), operation.id)
    return {}


def _unmake_overlay(world: World, operation: Operation, args: Document) -> None:
    world.driver.remove_temporary(operation.intent["volume_id"], operation.id)
    world.driver.remove(operation.intent["volume_id"], args["name"])


def _active_wanted(world: World, operation: Operation, active: str) -> dict[str, str]:
    """The ``.info`` document with ``active`` as the active file."""
    with world.database.read() as connection:
        rows = snapshots.of_volume(connection, operation.intent["volume_id"])
    own = operation.intent["snapshot_id"]
    kept = [row for row in rows if row["status"] == "available" or (row["id"] == own and row["overlay"] == active)]
    return info_document(active, kept)


def _active_set(world: World, operation: Operation, args: Document) -> Document | None:
    wanted = _active_wanted(world, operation, args["name"])
    return {} if world.driver.read_info(operation.intent["volume_id"]) == wanted else None


def _set_active(world: World, operation: Operation, args: Document) -> Document:
    world.driver.write_info(operation.intent["volume_id"], _active_wanted(world, operation, args["name"]))
    return {}


def _unset_active(world: World, operation: Operation, _args: Document) -> None:
    before = operation.intent["active_before"]
    world.driver.write_info(operation.intent["volume_id"], _active_wanted(world, operation, before))


def _committed(world: World, operation: Operation, args: Document) -> Document | None:
    gone = args["top"] not in world.driver.files(operation.intent["volume_id"])
    done = gone or "bytes" in operation.evidence.get("Commit", {})
    return {"bytes": args["bytes"]} if done else None


def _commit(world: World, operation: Operation, args: Document) -> Document:
    volume_id = operation.intent["volume_id"]
    depth = world.driver.chain(volume_id, args["top"]).depth
    world.driver.commit(volume_id, args["top"], depth)
    if operation.epoch > 1:
        world.driver.repair_leaks(volume_id, args["base"])  # what the commit that was interrupted left (finding 8)
    return {"bytes": args["bytes"]}


def _trashed(world: World, operation: Operation, args: Document) -> Document | None:
    return None if args["name"] in world.driver.files(operation.intent["volume_id"]) else {}


def _trash(world: World, operation: Operation, args: Document) -> Document:
    world.driver.remove(operation.intent["volume_id"], args["name"])
    return {}


def _settle_create(connection: Connection, operation: Operation, outcome: str, fault: Document | None) -> None:
    snapshot_id, volume_id = operation.intent["snapshot_id"], operation.intent["volume_id"]
    if outcome == "done":
        row = snapshots.get(connection, snapshot_id, None)
        assert row is not None
        snapshots.change(connection, snapshot_id, status="available", progress="100%", fault=None)
        volumes.change(connection, volume_id, active_file=row["overlay"])
        return
    snapshots.change(connection, snapshot_id, status="error", fault=fault["message"] if fault else None)


def _settle_delete(connection: Connection, operation: Operation, outcome: str, fault: Document | None) -> None:
    snapshot_id, volume_id = operation.intent["snapshot_id"], operation.intent["volume_id"]
    if outcome == "done":
        row = snapshots.get(connection, snapshot_id, None)
        assert row is not None
        volumes.change(connection, volume_id, active_file=row["backing"])
        snapshots.delete(connection, snapshot_id)
        return
    status = "available" if outcome == "undone" else "error_deleting"
    snapshots.change(connection, snapshot_id, status=status, fault=fault["message"] if fault else None)


CREATE = Kind(
    {
        "CreateOverlay": Verb(_overlay_made, _make_overlay, _unmake_overlay),
        "SetActive": Verb(_active_set, _set_active, _unset_active),
    },
    _settle_create,
)
DELETE = Kind(
    {
        "CheckUnused": Verb(_never, _check_unused),
        "Commit": Verb(_committed, _commit, no_return="start"),
        "SetActive": Verb(_active_set, _set_active),
        "Trash": Verb(_trashed, _trash),
    },
    _settle_delete,
)
