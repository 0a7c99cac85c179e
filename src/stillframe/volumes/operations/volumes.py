"""Create and delete a volume."""

from sqlalchemy import Connection

from stillframe.chain.names import base_name
from stillframe.db import volumes
from stillframe.errors import BadImage, Conflict
from stillframe.journal.operation import Document, Kind, Operation, Verb
from stillframe.journal.record import Request
from stillframe.volumes.world import World


def create_request(volume_id: str, size: int, request_id: str) -> Request:
    """``size`` is in bytes."""
    args = {"volume_id": volume_id, "size": size}
    plan = [{"verb": "publish_base", "args": args}]
    return Request("volumes", "create_volume", args, plan, [f"volume:{volume_id}"], request_id)


def delete_request(volume_id: str, request_id: str) -> Request:
    args = {"volume_id": volume_id}
    plan = [{"verb": "check_unused", "args": args}, {"verb": "remove_files", "args": args}]
    return Request("volumes", "delete_volume", args, plan, [f"volume:{volume_id}"], request_id)


def _base_made(world: World, _operation: Operation, args: Document) -> Document | None:
    if base_name(args["volume_id"]) not in world.driver.files(args["volume_id"]):
        return None
    found = world.driver.chain(args["volume_id"], base_name(args["volume_id"]))
    if found.active.size != args["size"]:
        raise BadImage(f"{found.active.name} exists with {found.active.size} bytes, not {args['size']}")
    return {}


def _make_base(world: World, operation: Operation, args: Document) -> Document:
    world.driver.create(args["volume_id"], args["size"], operation.id)
    return {}


def _unmake_base(world: World, operation: Operation, args: Document) -> None:
    world.driver.remove_temporary(args["volume_id"], operation.id)
    world.driver.remove(args["volume_id"], base_name(args["volume_id"]))


def _settle_create(connection: Connection, operation: Operation, outcome: str, fault: Document | None) -> None:
    status = "available" if outcome == "done" else "error"
    volumes.move(
        connection,
        operation.intent["volume_id"],
        ("creating", "error"),
        status,
        fault=fault["message"] if fault else None,
    )


def _never(_world: World, _operation: Operation, _args: Document) -> None:
    return None


def _check_unused(world: World, _operation: Operation, args: Document) -> Document:
    volume_id = args["volume_id"]
    busy = world.driver.in_use(volume_id)
    if busy:
        raise Conflict(f"volume {volume_id} is in use: a program has {', '.join(busy)} open")
    servers = world.compute.servers_with(volume_id)
    if servers:
        raise Conflict(f"volume {volume_id} is named by the description of server {', '.join(servers)} (I4)")
    return {}


def _files_gone(world: World, _operation: Operation, args: Document) -> Document | None:
    gone = not world.driver.files(args["volume_id"]) and not world.driver.read_info(args["volume_id"])
    return {} if gone else None


def _remove_files(world: World, _operation: Operation, args: Document) -> Document:
    # Overlays before what backs them: remove() refuses a file that a header still names.
    for name in sorted(world.driver.files(args["volume_id"]), reverse=True):
        world.driver.remove(args["volume_id"], name)
    world.driver.write_info(args["volume_id"], {})
    return {}


def _settle_delete(connection: Connection, operation: Operation, outcome: str, fault: Document | None) -> None:
    volume_id = operation.intent["volume_id"]
    if outcome == "done":
        volumes.delete(connection, volume_id)
        return
    status = operation.intent.get("status_before", "available") if outcome == "undone" else "error_deleting"
    volumes.move(connection, volume_id, ("deleting", "error_deleting"), status, fault=fault["message"] if fault else None)


CREATE = Kind({"publish_base": Verb(_base_made, _make_base, _unmake_base)}, _settle_create)
DELETE = Kind(
    {
        "check_unused": Verb(_never, _check_unused),
        "remove_files": Verb(_files_gone, _remove_files, no_return="start"),
    },
    _settle_delete,
)
