"""The assisted snapshot: all volumes of one server at one instant."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace
from sqlalchemy import Connection

from stillframe.compute.libvirt import other_jobs, servers
from stillframe.compute.operations import discard, native, switch
from stillframe.compute.operations.discard import Discard
from stillframe.compute.operations.frozen_native import are_in_window
from stillframe.compute.operations.native import CommitBack, MakeScratch, TakeSnapshots
from stillframe.compute.operations.snapshot_intents import AssistedSnapshot, AwaitServer, SnapshotDisk, Wait, WantedSet
from stillframe.compute.operations.switch import Instant, Overlays, SwitchDisks, Thaw, Verify
from stillframe.compute.quiesce import instant
from stillframe.compute.worker.context import WorkerContext
from stillframe.compute.worker.side_by_side import side_by_side
from stillframe.db import assisted_snapshots
from stillframe.errors import Busy, ChainConflict
from stillframe.journal import deadline, record
from stillframe.journal.operation import Document, Kind, Operation, Verb
from stillframe.journal.record import Request
from stillframe.journal.typed import Args, step


class Record(Args, frozen=True, kw_only=True):
    """Create the snapshots, in "creating", at block storage."""

    verb = "record"


class Finalize(Args, frozen=True, kw_only=True):
    """Tell block storage that the snapshots are taken, and how consistent they are."""

    verb = "finalize"


def plan_of(asked: AssistedSnapshot) -> list[Args]:
    """Returns what is to be done, in its order."""
    token = str(uuid.uuid4()) if asked.natives else None
    taken: list[Args] = [TakeSnapshots(token=token)] if token else []
    window = [Instant(), SwitchDisks(), Thaw(), Verify()]
    before: list[Args] = [Record(), Overlays()]
    if token and are_in_window(asked):
        return [*before, Discard(token=token), Instant(), SwitchDisks(token=token), *window[2:], *taken, Finalize()]
    if asked.scratched:
        return [*before, MakeScratch(), *window, *taken, CommitBack(), Finalize()]
    return [*before, *window, *taken, Finalize()]


def request(asked: AssistedSnapshot, request_id: str) -> Request:
    """Returns the operation that takes the set."""
    plan = [step(args) for args in plan_of(asked)]
    operation_id = asked.operation_id or asked.set_id
    return Request("compute", "assisted_snapshot", asked, plan, [f"server:{asked.server_id}"], request_id, operation_id)


def waiting(server_id: str, wanted: WantedSet, request_id: str) -> Request:
    """Returns the operation that waits for the server's turn and then starts the set."""
    before, name = wanted.operation_id, wanted.set_id
    if before is not None:
        name = str(uuid.uuid5(uuid.UUID(before), "waits again"))
    started = str(uuid.uuid5(uuid.UUID(name), "takes the set"))
    wanted = replace(wanted, operation_id=started)
    asked = AwaitServer(set_id=wanted.set_id, server_id=server_id, asked=wanted.asked, wanted=wanted)
    return Request("compute", "await_server", asked, [step(Wait())], [f"set:{wanted.set_id}"], request_id, name)


def _never(_worker: WorkerContext, _operation: Operation[AssistedSnapshot], _args: object) -> None:
    return None


def _recorded(_worker: WorkerContext, operation: Operation[AssistedSnapshot], _args: Record) -> Document | None:
    """The switch came after it. From then on the server may have jobs of our own, which a second look would take for another
    program's."""
    return {} if "switch" in operation.evidence else None


def _record(worker: WorkerContext, operation: Operation[AssistedSnapshot], _args: Record) -> Document:
    """Creates the snapshot rows, in "creating", at block storage. Their ids are ours, so a repeat is the same call."""
    with switch.waiting_for_its_turn(worker, operation):
        server = servers.look(worker, operation.intent.server_id)
        other_jobs.refuse_if_at_work(worker, server, operation.intent.targets)
    wanted = [disk.volume_id for disk in operation.intent.natives]
    if wanted:
        native.refuse_if_changing(worker.storage.volumes_of(operation.project_id, wanted).values())

    for disk, made in zip(operation.intent.disks, _rows(worker, operation), strict=True):
        if (made["file"]["overlay"], made["file"]["backing"]) != (disk.overlay, disk.active):
            raise ChainConflict(
                f"the active file of volume {disk.volume_id} is {disk.active} in the guest, but"
                f" {made['file']['backing']} in the records of block storage"
            )
    return {}


def _rows(worker: WorkerContext, operation: Operation[AssistedSnapshot]) -> list[Document]:
    """Has block storage make the rows; returns them in the order of the disks."""
    disks = operation.intent.disks
    made = None
    if len(disks) > 1:
        made = worker.storage.create_set_metadata(
            [{**_document(operation, disk), "volume_id": disk.volume_id} for disk in disks]
        )
    if made is not None:
        return made
    return side_by_side(lambda disk: worker.storage.create_snapshot_metadata(disk.volume_id, _document(operation, disk)), disks)


def _document(operation: Operation[AssistedSnapshot], disk: SnapshotDisk) -> Document:
    asked = operation.intent
    return {
        "snapshot_id": disk.snapshot_id,
        "name": asked.name,
        "description": asked.description,
        "metadata": asked.metadata,
        "server_id": asked.server_id,
    }


def _unrecord(worker: WorkerContext, operation: Operation[AssistedSnapshot], _args: Record) -> None:
    for disk in operation.intent.disks:
        worker.storage.snapshot_delete_metadata(disk.snapshot_id)


def _finalize(worker: WorkerContext, operation: Operation[AssistedSnapshot], _args: Finalize) -> Document:
    created_at = instant.of_snapshots(operation.evidence)  # the same for all, whoever finalizes them

    def document_of(disk: SnapshotDisk) -> Document:
        document: Document = {"status": "available", "active_file": disk.overlay}
        outcome = switch.outcome_of(operation, disk.target)
        if outcome is not None:
            document["consistency"] = {**outcome, "set_id": operation.intent.set_id}
        if created_at is not None:
            document["created_at"] = created_at
        return document

    disks, storage = operation.intent.disks, worker.storage
    documents = [{**document_of(disk), "snapshot_id": disk.snapshot_id} for disk in disks]
    if len(disks) < 2 or not storage.finalize_set_metadata(documents):
        side_by_side(lambda disk: storage.finalize_snapshot_metadata(disk.snapshot_id, document_of(disk)), disks)
    native.drop_late(worker, operation)
    return {}


def volume_entries(asked: AssistedSnapshot, status: str, error: str | None = None) -> list[dict[str, Any]]:
    """The set's ``volumes``, as the API shows them; ``consistency`` is the level of that one snapshot, once known. The id of a
    native volume's snapshot is block storage's, and null until it is made."""
    return [
        {
            "volume_id": disk.volume_id,
            "name": disk.name,
            "device": f"/dev/{disk.target}",
            "snapshot_id": disk.snapshot_id if isinstance(disk, SnapshotDisk) else None,
            "method": "assisted" if isinstance(disk, SnapshotDisk) else "native",
            "status": status,
            "error": error,
            "consistency": None,
        }
        for disk in asked.all_disks
    ]


def taken(entries: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Returns those of a set's ``volumes`` that have a snapshot: a native one that could not be made has no id."""
    return [entry for entry in entries if entry["snapshot_id"] is not None]


def _entries(operation: Operation[AssistedSnapshot], status: str, error: str | None = None) -> list[dict[str, Any]]:
    """As ``volume_entries``, with what is known of native snapshots."""
    entries = volume_entries(operation.intent, status, error)
    for entry, disk in zip(entries[len(operation.intent.disks) :], operation.intent.natives, strict=True):
        entry["snapshot_id"], failed = native.result_of(operation, disk)
        if failed is not None:
            entry |= {"status": "error", "error": failed}
    return entries


def _held(operation: Operation[AssistedSnapshot], consistency: Document) -> bool:
    """Tells whether everything that must be frozen was. A filesystem that is allowed to stay unfrozen lowers the set's
    consistency; it does not make the set fail."""
    return bool(operation.evidence.get("switch", {}).get("held", consistency["level"] == "filesystem"))


def _progressed(connection: Connection, operation: Operation[AssistedSnapshot]) -> None:
    percent = 100 * operation.step // (len(operation.plan) + 1)
    assisted_snapshots.change(connection, operation.intent.set_id, progress=percent)


def _settle(connection: Connection, operation: Operation[AssistedSnapshot], outcome: str, fault: Document | None) -> None:
    set_id, message = operation.intent.set_id, fault["message"] if fault else None
    if outcome != "done":
        if outcome == "undone" and _waits_again(connection, operation, fault):
            return
        # The state of abandoned work is not known; the snapshots stay as block storage has them.
        unknown = outcome == "abandoned" and bool(fault and fault["details"].get("begun"))
        switched = "switch" in operation.evidence or unknown
        entries = _entries(operation, "creating" if switched else "error", message)
        moment = instant.known(operation.evidence).columns() if switched else {}
        assisted_snapshots.change(connection, set_id, status="error", fault=message, volumes=entries, **moment)
        return
    consistency = switch.outcome_of_set(operation)
    status, message = "available", None
    if operation.intent.quiesce == "required" and consistency and not _held(operation, consistency):
        # After the switch nothing can be taken back: the snapshots stay with their real consistency, and the set is in error.
        status, message = "error", f"quiescing was required but did not hold: {consistency['degraded_reason']}"
    entries = _entries(operation, "available")
    for entry, target in zip(entries, operation.intent.targets, strict=True):
        if entry["status"] == "available":
            entry["consistency"] = (switch.outcome_of(operation, target) or {}).get("level")
    if failed := [entry["volume_id"] for entry in entries if entry["status"] == "error"]:
        status, message = "error", f"no snapshot was taken of volume {', '.join(failed)}; those of the others hold"
    assisted_snapshots.change(
        connection,
        set_id,
        status=status,
        fault=message,
        progress=100,
        consistency=consistency,
        volumes=entries,
        **instant.known(operation.evidence).columns(),
    )


def _waits_again(connection: Connection, operation: Operation[AssistedSnapshot], fault: Document | None) -> bool:
    """A volume became busy between the check and the first step: a set that may wait continues to wait."""
    wanted = operation.intent.wanted
    if wanted is None or not fault or fault["code"] != Busy.code or not deadline.left(connection, wanted.wait_until):
        return False
    assisted_snapshots.change(connection, wanted.set_id, fault=f"it waits: {fault['message']}", progress=0)
    again = waiting(operation.intent.server_id, wanted, operation.request_id)
    record.submit(connection, again.of(operation.project_id))
    return True


KIND = Kind(
    {
        "record": Verb(_recorded, _record, _unrecord, args=Record),
        **switch.VERBS,
        **native.VERBS,
        **discard.VERBS,
        "finalize": Verb(_never, _finalize, args=Finalize),
    },
    _settle,
    _progressed,
    intent=AssistedSnapshot,
    afterwards="Look with 'stillframe doctor' which file the server's disks are on. Where it is an overlay of this set, the"
    " guest writes there and the volume's row has to follow: do not stop or start the server, and delete neither snapshot nor"
    " set before. Where it is the file of before, reset the snapshots to error as an administrator, and delete the set."
    " Where it is a scratch overlay, what the guest wrote to an iSCSI volume since the set lies there alone: keep that file."
    " 'virsh blockcommit SERVER DISK --active --pivot' writes it back while the server runs.",
)
