"""Nova's own call, as Cinder's file drivers make it: one volume, whose overlay block storage has made already."""

from sqlalchemy import Connection

from stillframe.compute.operations import switch
from stillframe.compute.worker.context import WorkerContext
from stillframe.journal.operation import Document, Kind, Operation, Verb
from stillframe.journal.record import Request

STEPS = ("announce", "switch", "thaw", "verify", "report")


def request(intent: Document, request_id: str) -> Request:
    plan = [{"verb": verb, "args": {}} for verb in STEPS]
    resources = [f"server:{intent['server_id']}"]
    return Request("compute", "assisted_volume_snapshot", intent, plan, resources, request_id)


def _never(_world: WorkerContext, _operation: Operation, _args: Document) -> None:
    return None


def _announce(_world: WorkerContext, _operation: Operation, _args: Document) -> Document:
    return {}


def _report_error(world: WorkerContext, operation: Operation, _args: Document) -> None:
    """Block storage waits for a report, so a failure is reported too. The overlay remains its responsibility."""
    snapshot_id = operation.intent["disks"][0]["snapshot_id"]
    found = world.storage.snapshot(snapshot_id)
    if found is None or found["status"] != "creating":
        return  # reported already, or nobody waits any more; Cinder refuses a second error
    world.storage.report_snapshot(snapshot_id, "error", "90%")


def _report(world: WorkerContext, operation: Operation, _args: Document) -> Document:
    world.storage.report_snapshot(operation.intent["disks"][0]["snapshot_id"], "creating", "90%")
    return {}


def _settle(_connection: Connection, _operation: Operation, _outcome: str, _fault: Document | None) -> None:
    """Compute keeps no row of it."""


KIND = Kind(
    {
        "announce": Verb(_never, _announce, _report_error),
        "switch": switch.VERBS["switch"],
        "thaw": switch.VERBS["thaw"],
        "verify": switch.VERBS["verify"],
        "report": Verb(_never, _report),
    },
    _settle,
    afterwards="Look with 'stillframe doctor' which file the server's disk is on. Where it is the new overlay, the guest writes"
    " there: do not stop or start the server before the volume's row follows.",
)
