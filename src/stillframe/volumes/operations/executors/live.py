"""The steps that need the server a volume is attached to: merges of open files, another file in a definition, growth."""

import uuid
from collections.abc import Mapping
from typing import Any

from stillframe.db import snapshots
from stillframe.errors import Cancelled, Conflict, Parked, ServiceUnavailable
from stillframe.journal.operation import Document, NotYet, Operation, Verb
from stillframe.journal.typed import Args, Value
from stillframe.volumes.operations.executors.intents import OnVolume, snapshots_of
from stillframe.volumes.operations.executors.offline import (
    CheckStopped,
    ResizeLive,
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


class MergedFiles(Value, frozen=True, kw_only=True):
    """Which files compute merges, as it is asked: a file down into the target, or where there is none, what lies above a file
    up into the active one. ``branches`` are files beside the server's chain that the next steps take off what was merged."""

    file_to_merge: str | None
    merge_target_file: str | None
    branches: tuple[str, ...] = ()


class MergeLive(Args, frozen=True, kw_only=True):
    """Let compute merge files that a running server has open; ``bytes`` is what is copied at most, 0 MiB a second no limit."""

    bytes: int
    bandwidth_mib: int
    info: MergedFiles


class SwitchFile(Args, frozen=True, kw_only=True):
    """Let the definition of a stopped server name another active file, one that is ``to_come`` perhaps. ``committed`` is the
    key of the step that committed the former one."""

    name: str
    format: str
    to_come: bool = False
    committed: str | None = None


def merge_id(operation_id: str, key: str) -> str:
    """Returns the id of a step's merge at compute: the same step again is the same merge."""
    return str(uuid.uuid5(uuid.UUID(operation_id), key))


def _merged(worker: WorkerContext, operation: Operation[OnVolume], args: MergeLive) -> Document | None:
    found = worker.compute.merge_status(merge_id(operation.id, operation.at))
    return {"bytes": args.bytes} if found is not None and found["status"] == "done" else None


def _merge(worker: WorkerContext, operation: Operation[OnVolume], args: MergeLive) -> Document:
    """Requests the merge from compute and checks until it has ended. Compute has verified the chain, so its result is
    believed."""
    wanted = merge_id(operation.id, operation.at)
    notes = operation.notes(operation.at)
    if not notes:
        volume_id = operation.intent.volume_id
        files = {"file_to_merge": args.info.file_to_merge, "merge_target_file": args.info.merge_target_file}
        branches = {"branches": list(args.info.branches)} if args.info.branches else {}
        info = {"volume_id": volume_id, "type": "qcow2", "id": wanted, **files, **branches, "bandwidth_mib": args.bandwidth_mib}
        worker.compute.merge((*snapshots_of(operation.intent), volume_id)[0], info)
    found = worker.compute.merge_status(wanted)
    if found is None:
        raise ServiceUnavailable(f"compute does not know merge {wanted} any more")
    if found["status"] == "done":
        return {"bytes": args.bytes}
    if found["status"] != "running":
        _raise_fault(found, operation.id)
    if found["fault"]:
        wait(worker, operation, found["fault"]["message"])  # compute retries by itself
    waited = notes.get("waited", 0.0)
    seconds = min(LONGEST_LOOK_SECONDS, max(SHORTEST_LOOK_SECONDS, waited / 10))
    shown = _show(worker, operation, found, notes.get("shown", -1))
    raise NotYet(seconds, {"waited": waited + seconds, "shown": shown})


def _raise_fault(found: Document, deletion_id: str) -> None:
    fault = found["fault"] or {"message": "compute did not say why", "details": {}}
    if found["status"] == "parked":
        raise Parked(
            f"merge {found['id']} is parked: {fault['message']}. When it is done, 'stillframe operation retry {deletion_id}'"
            " ends the deletion"
        )
    # Cancelled, or refused before anything was merged: the snapshot's row says what is left.
    details = fault["details"]
    raise Cancelled(fault["message"], merged=bool(details.get("merged") or details.get("begun")))


def _show(worker: WorkerContext, operation: Operation[OnVolume], found: Document, shown: int) -> int:
    total = found["bytes_total"]
    percent = min(99, found["bytes_done"] * 100 // total) if total else 0
    if percent != shown:
        with worker.database.write() as connection:
            for snapshot_id in snapshots_of(operation.intent):
                snapshots.change(connection, snapshot_id, progress=f"{percent}%", fault=None)
    return int(percent)


def _check_stopped(worker: WorkerContext, operation: Operation[OnVolume], _args: CheckStopped) -> Document:
    volume_id = operation.intent.volume_id
    server = worker.compute.server_of(volume_id)
    if server is not None and server["active"]:
        refuse_or_wait(worker, operation, f"server {server['id']} was started meanwhile")
    if server is not None and server.get("refusal"):
        refuse_or_wait(worker, operation, server["refusal"])
    end_links(share_of(worker, operation), operation)
    file_users.refuse_foreign_readers(worker, share_of(worker, operation), volume_id)
    busy = share_of(worker, operation).in_use(volume_id)
    if busy:
        refuse_or_wait(worker, operation, f"volume {volume_id} is in use: a program has {', '.join(busy)} open")
    return made_sound(worker, operation)


def _switched(worker: WorkerContext, operation: Operation[OnVolume], args: SwitchFile) -> Document | None:
    server = worker.compute.server_of(operation.intent.volume_id)
    return {} if server is None or server["file"] == args.name else None


def _switch(worker: WorkerContext, operation: Operation[OnVolume], args: SwitchFile) -> Document:
    """If somebody starts the server without our knowledge, what it writes is committed when it has stopped again."""
    try:
        server = worker.compute.server_of(operation.intent.volume_id)
        if args.committed and server is not None and not server["active"]:
            commit_again(worker, operation, args.committed)
        worker.compute.switch_file(operation.intent.volume_id, args.name, args.format, args.to_come)
    except Conflict as error:
        refuse_or_wait(worker, operation, error.message)
    return {}


def _unswitch(worker: WorkerContext, operation: Operation[OnVolume], _args: SwitchFile) -> None:
    if worker.compute.server_of(operation.intent.volume_id) is not None:
        worker.compute.switch_file(operation.intent.volume_id, operation.intent.active_before, operation.intent.format)


def _resize(worker: WorkerContext, operation: Operation[OnVolume], args: ResizeLive) -> Document:
    refuse_if_gone(worker, operation, args.name)  # the guest still has it open, and would let it grow
    worker.compute.resize(operation.intent.volume_id, args.size)
    return {}


LIVE: Mapping[str, Verb[OnVolume, Any]] = {
    "MergeLive": Verb(_merged, _merge, no_return="start", args=MergeLive),
    "check_stopped": Verb(never, _check_stopped, args=CheckStopped),
    "SwitchFile": built_upon(Verb(_switched, _switch, _unswitch, args=SwitchFile)),
}
RESIZE_LIVE = Verb(resized, _resize, no_return="done", args=ResizeLive)
