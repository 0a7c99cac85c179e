"""Nova's own call, as Cinder's file drivers make it: one volume, whose overlay block storage has made already."""

from sqlalchemy import Connection

from stillframe.compute.operations import switch
from stillframe.compute.operations.snapshot_intents import AssistedVolumeSnapshot
from stillframe.compute.operations.switch import SwitchDisks, Thaw, Verify
from stillframe.compute.worker.context import WorkerContext
from stillframe.journal.operation import Document, Kind, Operation, Verb
from stillframe.journal.record import Request
from stillframe.journal.typed import Args, step


class Announce(Args, frozen=True, kw_only=True):
    """Nothing on the way forward; on the way back, tell block storage of the failure."""

    verb = "announce"


class Report(Args, frozen=True, kw_only=True):
    """Tell block storage that the server's disk is on the overlay."""

    verb = "report"


def request(asked: AssistedVolumeSnapshot, request_id: str) -> Request:
    """Returns the operation that switches the disk."""
    plan = [step(args) for args in (Announce(), SwitchDisks(), Thaw(), Verify(), Report())]
    resources = [f"server:{asked.server_id}"]
    return Request("compute", "assisted_volume_snapshot", asked, plan, resources, request_id)


def _never(_worker: WorkerContext, _operation: Operation[AssistedVolumeSnapshot], _args: object) -> None:
    return None


def _announce(_worker: WorkerContext, _operation: Operation[AssistedVolumeSnapshot], _args: Announce) -> Document:
    return {}


def _report_error(worker: WorkerContext, operation: Operation[AssistedVolumeSnapshot], _args: Announce) -> None:
    """Block storage waits for a report, so a failure is reported too. The overlay remains its responsibility."""
    snapshot_id = operation.intent.disk.snapshot_id
    found = worker.storage.snapshot(snapshot_id)
    if found is None or found["status"] != "creating":
        return  # reported already, or nobody waits any more; Cinder refuses a second error
    worker.storage.report_snapshot(snapshot_id, "error", "90%")


def _report(worker: WorkerContext, operation: Operation[AssistedVolumeSnapshot], _args: Report) -> Document:
    worker.storage.report_snapshot(operation.intent.disk.snapshot_id, "creating", "90%")
    return {}


def _settle(
    _connection: Connection, _operation: Operation[AssistedVolumeSnapshot], _outcome: str, _fault: Document | None
) -> None:
    """Compute keeps no row of it."""


KIND = Kind(
    {
        "announce": Verb(_never, _announce, _report_error, args=Announce),
        "switch": switch.VERBS["switch"],
        "thaw": switch.VERBS["thaw"],
        "verify": switch.VERBS["verify"],
        "report": Verb(_never, _report, args=Report),
    },
    _settle,
    intent=AssistedVolumeSnapshot,
    afterwards="Look with 'stillframe doctor' which file the server's disk is on. Where it is the new overlay, the guest writes"
    " there: do not stop or start the server before the volume's row follows.",
)
