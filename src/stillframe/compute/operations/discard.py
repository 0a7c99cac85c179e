"""The step before a window in which native snapshots are taken: what an earlier attempt was given is of another instant."""

from stillframe.compute.operations import switch
from stillframe.compute.operations.frozen_native import LOOK_SECONDS, TOKEN_KEY
from stillframe.compute.operations.snapshot_intents import AssistedSnapshot, NativeDisk
from stillframe.compute.operations.switch import SwitchDisks
from stillframe.compute.worker.context import WorkerContext
from stillframe.errors import BadRequest, Conflict, NotFound, Parked, ServiceUnavailable
from stillframe.journal.operation import Document, NotYet, Operation, Verb
from stillframe.journal.typed import Args


class Discard(Args, frozen=True, kw_only=True):
    """Delete the native snapshots that an earlier attempt left, by the ``token`` of the set."""

    verb = "discard"
    token: str


def _discarded(worker: WorkerContext, operation: Operation[AssistedSnapshot], _args: Discard) -> Document | None:
    """After the switch what there is belongs to the set."""
    if "switch" in operation.evidence:
        return {}
    try:
        return None if switch.VERBS["switch"].done(worker, operation, SwitchDisks()) is None else {}
    except Parked:  # the switch decides what that means; nothing is deleted until then
        return {}


def _discard(worker: WorkerContext, operation: Operation[AssistedSnapshot], args: Discard) -> Document:
    """Raises NotYet until all are gone, and ServiceUnavailable while block storage does not answer: nothing is frozen then."""
    left = [found for disk in operation.intent.natives for found in _labelled(worker, disk, args.token)]
    for found in left:
        if found["status"] != "deleting":
            _delete(worker, found["id"])
    if left:
        why = ServiceUnavailable(f"block storage deletes snapshot {left[0]['id']} of an earlier attempt")
        raise NotYet(LOOK_SECONDS * 4, why=why)
    return {}


def _labelled(worker: WorkerContext, disk: NativeDisk, token: str) -> list[Document]:
    found = worker.storage.snapshot_labelled(disk.volume_id, TOKEN_KEY, token)
    return [found] if found is not None else []


def _delete(worker: WorkerContext, snapshot_id: str) -> None:
    """One that is still being made cannot be deleted yet: block storage, like Cinder, answers with 400 then."""
    try:
        worker.storage.delete_snapshot(snapshot_id)
    except (BadRequest, Conflict, NotFound):
        return


def _undo(worker: WorkerContext, operation: Operation[AssistedSnapshot], args: Discard) -> None:
    _discard(worker, operation, args)


VERBS = {"discard": Verb(_discarded, _discard, _undo, args=Discard)}
