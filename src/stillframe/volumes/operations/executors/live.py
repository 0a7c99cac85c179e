"""The steps that need the server a volume is attached to: merges of open files, another file in a definition, growth."""

import uuid

from stillframe.db import snapshots
from stillframe.errors import Cancelled, Conflict, Parked, ServiceUnavailable
from stillframe.journal.operation import Document, NotYet, Operation, Verb
from stillframe.volumes.operations.executors.offline import (
    built_upon,
    commit_again,
    end_links,
    made_sound,
    never,
    refuse_if_gone,
    refuse_or_wait,
    resized,
    share_of,
    wait,
)
from stillframe.volumes.worker import file_users
from stillframe.volumes.worker.context import WorkerContext

SHORTEST_LOOK_SECONDS, LONGEST_LOOK_SECONDS = 0.05, 5.0  # a small merge is over within moments


def merge_id(operation_id: str, key: str) -> str:
    """Returns the id of a step's merge at compute: the same step again is the same merge."""
    return str(uuid.uuid5(uuid.UUID(operation_id), key))


def _merged(world: WorkerContext, operation: Operation, args: Document) -> Document | None:
    found = world.compute.merge_status(merge_id(operation.id, args["key"]))
    return {"bytes": args["bytes"]} if found is not None and found["status"] == "done" else None


def _merge(world: WorkerContext, operation: Operation, args: Document) -> Document:
    """Requests the merge from compute and checks until it has ended. Compute has verified the chain, so its result is
    believed."""
    wanted = merge_id(operation.id, args["key"])
    notes = operation.notes(args["key"])
    if not notes:
        ids = operation.intent.get("snapshot_ids") or [operation.intent["volume_id"]]
        info = {"volume_id": operation.intent["volume_id"], "type": "qcow2", "id": wanted, **args["info"]}
        world.compute.merge(ids[0], {**info, "bandwidth_mib": args["bandwidth_mib"]})
    found = world.compute.merge_status(wanted)
    if found is None:
        raise ServiceUnavailable(f"compute does not know merge {wanted} any more")
    if found["status"] == "done":
        return {"bytes": args["bytes"]}
    if found["status"] != "running":
        _told(found, operation.id)
    if found["fault"]:
        wait(world, operation, found["fault"]["message"])  # compute retries by itself
    waited = notes.get("waited", 0.0)
    seconds = min(LONGEST_LOOK_SECONDS, max(SHORTEST_LOOK_SECONDS, waited / 10))
    shown = _show(world, operation, found, notes.get("shown", -1))
    raise NotYet(seconds, {"waited": waited + seconds, "shown": shown})


def _told(found: Document, deletion_id: str) -> None:
    fault = found["fault"] or {"message": "compute did not say why", "details": {}}
    if found["status"] == "parked":
        raise Parked(
            f"merge {found['id']} is parked: {fault['message']}. When it is done, 'stillframe operation retry {deletion_id}'"
            " ends the deletion"
        )
    # Cancelled, or refused before anything was merged: the snapshot's row says what is left.
    details = fault["details"]
    raise Cancelled(fault["message"], merged=bool(details.get("merged") or details.get("begun")))


def _show(world: WorkerContext, operation: Operation, found: Document, shown: int) -> int:
    total = found["bytes_total"]
    percent = min(99, found["bytes_done"] * 100 // total) if total else 0
    if percent != shown:
        with world.database.write() as connection:
            for snapshot_id in operation.intent.get("snapshot_ids", []):
                snapshots.change(connection, snapshot_id, progress=f"{percent}%", fault=None)
    return int(percent)


def _check_stopped(world: WorkerContext, operation: Operation, _args: Document) -> Document:
    volume_id = operation.intent["volume_id"]
    server = world.compute.server_of(volume_id)
    if server is not None and server["active"]:
        refuse_or_wait(world, operation, f"server {server['id']} was started meanwhile")
    if server is not None and server.get("refusal"):
        refuse_or_wait(world, operation, server["refusal"])
    end_links(share_of(world, operation), operation)
    file_users.refuse_foreign_readers(world, share_of(world, operation), volume_id)
    busy = share_of(world, operation).in_use(volume_id)
    if busy:
        refuse_or_wait(world, operation, f"volume {volume_id} is in use: a program has {', '.join(busy)} open")
    return made_sound(world, operation)


def _switched(world: WorkerContext, operation: Operation, args: Document) -> Document | None:
    server = world.compute.server_of(operation.intent["volume_id"])
    return {} if server is None or server["file"] == args["name"] else None


def _switch(world: WorkerContext, operation: Operation, args: Document) -> Document:
    """If somebody starts the server without our knowledge, what it writes is committed when it has stopped again."""
    try:
        server = world.compute.server_of(operation.intent["volume_id"])
        if args.get("committed") and server is not None and not server["active"]:
            commit_again(world, operation, args["committed"])
        world.compute.switch_file(operation.intent["volume_id"], args["name"], args["format"], args.get("to_come", False))
    except Conflict as error:
        refuse_or_wait(world, operation, error.message)
    return {}


def _unswitch(world: WorkerContext, operation: Operation, _args: Document) -> None:
    if world.compute.server_of(operation.intent["volume_id"]) is not None:
        world.compute.switch_file(operation.intent["volume_id"], operation.intent["active_before"], operation.intent["format"])


def _resize(world: WorkerContext, operation: Operation, args: Document) -> Document:
    refuse_if_gone(world, operation, args["name"])  # the guest still has it open, and would let it grow
    world.compute.resize(operation.intent["volume_id"], args["size"])
    return {}


LIVE = {
    "MergeLive": Verb(_merged, _merge, no_return="start"),
    "check_stopped": Verb(never, _check_stopped),
    "SwitchFile": built_upon(Verb(_switched, _switch, _unswitch)),
}
RESIZE_LIVE = Verb(resized, _resize, no_return="done")
