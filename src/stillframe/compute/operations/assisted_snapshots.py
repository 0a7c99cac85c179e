"""The assisted snapshot: all volumes of one server at one instant."""

import time
import uuid
from typing import Any

from sqlalchemy import Connection

from stillframe.compute.libvirt import other_jobs, servers
from stillframe.compute.operations import switch
from stillframe.compute.quiesce import instant
from stillframe.compute.worker.context import WorkerContext
from stillframe.compute.worker.side_by_side import side_by_side
from stillframe.db import assisted_snapshots
from stillframe.errors import Busy, ChainConflict
from stillframe.journal import record
from stillframe.journal.operation import Document, Kind, Operation, Verb
from stillframe.journal.record import Request

STEPS = ("record", "overlays", "instant", "switch", "thaw", "verify", "finalize")


def request(intent: Document, request_id: str) -> Request:
    """``intent`` holds set_id, server_id, active, quiesce, name, description, metadata and disks (see ``switch``)."""
    plan = [{"verb": verb, "args": {}} for verb in STEPS]
    operation_id = intent.get("operation_id") or intent["set_id"]
    return Request("compute", "assisted_snapshot", intent, plan, [f"server:{intent['server_id']}"], request_id, operation_id)


def waiting(server_id: str, wanted: Document, request_id: str) -> Request:
    """An operation that waits for the server's turn and then starts the set (see ``await_server``)."""
    before = wanted.get("operation_id")
    name = str(uuid.uuid5(uuid.UUID(before), "waits again")) if before else wanted["set_id"]
    started = str(uuid.uuid5(uuid.UUID(name), "takes the set"))
    intent = {
        "set_id": wanted["set_id"],
        "server_id": server_id,
        "asked": wanted["asked"],
        "wanted": {**wanted, "operation_id": started},
    }
    plan = [{"verb": "wait", "args": {}}]
    return Request("compute", "await_server", intent, plan, [f"set:{wanted['set_id']}"], request_id, name)


def _never(_world: WorkerContext, _operation: Operation, _args: Document) -> None:
    return None


def _record(world: WorkerContext, operation: Operation, _args: Document) -> Document:
    """Creates the snapshot rows, in "creating", at block storage. Their ids are ours, so a repeat is the same call."""
    with switch.waiting_for_its_turn(world, operation):
        server = servers.look(world, operation.intent["server_id"])
        other_jobs.refuse_if_at_work(world, server, tuple(disk["target"] for disk in operation.intent["disks"]))

    def record(disk: Document) -> None:
        made = world.storage.create_snapshot_metadata(disk["volume_id"], _document(operation, disk))
        if (made["file"]["overlay"], made["file"]["backing"]) != (disk["overlay"], disk["active"]):
            raise ChainConflict(
                f"the active file of volume {disk['volume_id']} is {disk['active']} in the guest, but"
                f" {made['file']['backing']} in the records of block storage"
            )

    side_by_side(record, operation.intent["disks"])
    return {}


def _document(operation: Operation, disk: Document) -> Document:
    intent = operation.intent
    return {
        "snapshot_id": disk["snapshot_id"],
        "name": intent["name"],
        "description": intent["description"],
        "metadata": intent["metadata"],
        "server_id": intent["server_id"],
    }


def _unrecord(world: WorkerContext, operation: Operation, _args: Document) -> None:
    for disk in operation.intent["disks"]:
        world.storage.snapshot_delete_metadata(disk["snapshot_id"])


def _finalize(world: WorkerContext, operation: Operation, _args: Document) -> Document:
    created_at = instant.of_snapshots(operation.evidence)  # the same for all, whoever finalizes them

    def finalize(disk: Document) -> None:
        document: Document = {"status": "available", "active_file": disk["overlay"]}
        outcome = switch.outcome_of(operation, disk["target"])
        if outcome is not None:
            document["consistency"] = {**outcome, "set_id": operation.intent["set_id"]}
        if created_at is not None:
            document["created_at"] = created_at
        world.storage.finalize_snapshot_metadata(disk["snapshot_id"], document)

    side_by_side(finalize, operation.intent["disks"])
    return {}


def volume_entries(intent: Document, status: str, error: str | None = None) -> list[dict[str, Any]]:
    """The set's ``volumes``, as the API shows them; ``consistency`` is the level of that one snapshot, once known."""
    return [
        {
            "volume_id": disk["volume_id"],
            "name": disk.get("name"),
            "device": f"/dev/{disk['target']}",
            "snapshot_id": disk["snapshot_id"],
            "method": "assisted",
            "status": status,
            "error": error,
            "consistency": None,
        }
        for disk in intent["disks"]
    ]


def _held(operation: Operation, consistency: Document) -> bool:
    """Tells whether everything that must be frozen was. A filesystem that is allowed to stay unfrozen lowers the set's
    consistency; it does not make the set fail."""
    return bool(operation.evidence.get("switch", {}).get("held", consistency["level"] == "filesystem"))


def _progressed(connection: Connection, operation: Operation) -> None:
    percent = 100 * operation.step // (len(operation.plan) + 1)
    assisted_snapshots.change(connection, operation.intent["set_id"], progress=percent)


def _settle(connection: Connection, operation: Operation, outcome: str, fault: Document | None) -> None:
    set_id, message = operation.intent["set_id"], fault["message"] if fault else None
    if outcome != "done":
        if outcome == "undone" and _waits_again(connection, operation, fault):
            return
        # The state of abandoned work is not known; the snapshots stay as block storage has them.
        unknown = outcome == "abandoned" and bool(fault and fault["details"].get("begun"))
        switched = "switch" in operation.evidence or unknown
        entries = volume_entries(operation.intent, "creating" if switched else "error", message)
        moment = instant.known(operation.evidence).columns() if switched else {}
        assisted_snapshots.change(connection, set_id, status="error", fault=message, volumes=entries, **moment)
        return
    consistency = switch.outcome_of_set(operation)
    status, told = "available", None
    if operation.intent["quiesce"] == "required" and consistency and not _held(operation, consistency):
        # After the switch nothing can be taken back: the snapshots stay with their real consistency, and the set is in error.
        status, told = "error", f"quiescing was required but did not hold: {consistency['degraded_reason']}"
    entries = volume_entries(operation.intent, "available")
    for entry, disk in zip(entries, operation.intent["disks"], strict=True):
        entry["consistency"] = (switch.outcome_of(operation, disk["target"]) or {}).get("level")
    assisted_snapshots.change(
        connection,
        set_id,
        status=status,
        fault=told,
        progress=100,
        consistency=consistency,
        volumes=entries,
        **instant.known(operation.evidence).columns(),
    )


def _waits_again(connection: Connection, operation: Operation, fault: Document | None) -> bool:
    """A volume became busy between the check and the first step: a set that may wait continues to wait."""
    wanted = operation.intent.get("wanted")
    if not wanted or not fault or fault["code"] != Busy.code or wanted["wait_until"] <= time.time():
        return False
    assisted_snapshots.change(connection, wanted["set_id"], fault=f"it waits: {fault['message']}", progress=0)
    again = waiting(operation.intent["server_id"], wanted, operation.request_id)
    record.submit(connection, again.of(operation.project_id))
    return True


KIND = Kind(
    {
        "record": Verb(_never, _record, _unrecord),
        **switch.VERBS,
        "finalize": Verb(_never, _finalize),
    },
    _settle,
    _progressed,
    afterwards="Look with 'stillframe doctor' which file the server's disks are on. Where it is an overlay of this set, the"
    " guest writes there and the volume's row has to follow: do not stop or start the server, and delete neither snapshot nor"
    " set before. Where it is the file of before, reset the snapshots to error as an administrator, and delete the set.",
)
