"""A merge's block job from its start to its end, and the suspension of the guest around what must not be seen half done."""

from collections.abc import Callable
from typing import Any

from stillframe.compute.libvirt import server_lock, servers
from stillframe.compute.libvirt.servers import Server
from stillframe.compute.operations.merge_intents import CommitMerge, MergeVolume, PullMerge
from stillframe.compute.worker.context import WorkerContext
from stillframe.db import operations
from stillframe.errors import (
    Cancelled,
    Conflict,
    HypervisorUnavailable,
    ShareUnavailable,
    StepFailed,
)
from stillframe.host import block_jobs, files, hypervisor, qcow2
from stillframe.journal.failpoints import reached
from stillframe.journal.operation import Document, NotYet, Operation

SHORTEST_LOOK_SECONDS, LONGEST_LOOK_SECONDS = 0.02, 1.0  # a small merge is over within moments
SUSPEND_SECONDS = 10.0
SAVED_LOOK_SECONDS = 5.0
CLOSED_LOOK_SECONDS, CLOSING_SECONDS = 0.1, 10.0
TURN_LOOK_SECONDS = 0.1
_Verbs = tuple[Callable[[Any], None], Callable[[Any], None], Callable[[], bool]]  # start, offline, ended


def suspended(worker: WorkerContext, operation: Operation[MergeVolume], domain: Any, act: Callable[[], None]) -> None:
    """Calls a function while the guest is suspended and everything QEMU held of its disks is written out. The watchdog resumes
    the guest even if this worker dies. Raises HypervisorUnavailable for a guest that is gone: then nothing was written out;
    NotYet during a power action or a change of the definition."""
    server_id = operation.intent.server_id
    with server_lock.at_once(worker, server_id) as ours:
        if not ours:
            raise NotYet(TURN_LOOK_SECONDS, at_work=True)
        reached("merge/suspending")
        worker.guard.resume(server_id)  # otherwise it would look like a guest that somebody paused
        found = hypervisor.view(domain)
        if not found.active:
            raise HypervisorUnavailable(f"server {server_id} stopped before it could be suspended for the end of the merge")
        if not found.running:
            hypervisor.flush(domain)
            act()  # paused by somebody else, and still so
            return
        record = worker.guard.arm_suspend(server_id, operation.id, SUSPEND_SECONDS)
        try:
            hypervisor.suspend(domain)
            reached("merge/suspended")
            act()
            reached("merge/acted")
        finally:
            if worker.guard.try_thaw(record):
                worker.guard.disarm(record)


def run(
    worker: WorkerContext,
    operation: Operation[MergeVolume],
    start: Callable[[Any], None],
    offline: Callable[[Any], None],
    ended: Callable[[], bool],
) -> Document:
    """One look at a merge: starts its job, or finds the one that runs. Returns evidence when the chain shows that it is done.
    A guest that stopped is merged offline; nobody starts it meanwhile, because the operation locks the server.

    Raises NotYet while the job runs, which needs no thread for that; Cancelled, unless the work was done before it could be
    cancelled; ShareUnavailable for a job that ended before its work was done, for instance because the share is full.

    The notes: ``run``, the start of the guest that the job is in, recorded before it begins; ``began``, in which attempt it
    did; ``done`` and ``total``, bytes; ``waited``, seconds."""
    notes = operation.notes()
    try:
        _look(worker, operation, notes, (start, offline, ended))
    except NotYet as waiting:
        raise NotYet(waiting.seconds, {**notes, **waiting.notes}, waiting.why, waiting.at_work) from waiting
    return {"bytes": notes.get("total", 0)}


def _look(worker: WorkerContext, operation: Operation[MergeVolume], notes: Document, verbs: _Verbs) -> None:
    start, offline, ended = verbs
    domain, target = worker.hypervisor.domain(operation.intent.server_id), operation.intent.target
    if not hypervisor.view(domain).active:
        _wait_while_saved(worker, operation, notes)
        reached("merge/offline")
        _wait_closed(operation, notes.get("closing", 0.0))
        offline(domain)
        return
    if _is_unwanted(worker, operation) and _cancel(operation, domain, notes, ended):
        return
    job = _find(domain, target)
    if job is not None:
        notes.update(done=job.done, total=job.total)
    if (job is None or job.is_active_commit) and ended():
        return
    if job is None and hypervisor.view(domain).active:
        _begin(operation, domain, notes, start)
    waited = notes.get("waited", 0.0)
    seconds = min(LONGEST_LOOK_SECONDS, max(SHORTEST_LOOK_SECONDS, waited / 10))
    raise NotYet(seconds, {"waited": waited + seconds}, at_work=True)


def _begin(operation: Operation[MergeVolume], domain: Any, notes: Document, start: Callable[[Any], None]) -> None:
    """Raises ShareUnavailable when the job of this attempt is gone; the next attempt begins another one."""
    if notes.get("began") == operation.attempts:
        _explain(operation)
    now = hypervisor.run_id(domain)
    if notes.get("run") != now:
        raise NotYet(0.0, {"run": now}, at_work=True)  # durable before the job begins: this look ends here
    start(domain)
    notes.update(began=operation.attempts, waited=0.0)


def _is_unwanted(worker: WorkerContext, operation: Operation[MergeVolume]) -> bool:
    with worker.database.read() as connection:
        row = operations.get(connection, operation.id)
    return row is not None and bool(row["cancel_asked"])


def _wait_while_saved(worker: WorkerContext, operation: Operation[MergeVolume], notes: Document) -> None:
    """A guest that is restored from its saved state must find its disks as they were. Raises NotYet: the merge continues live
    when the guest is restored, and offline when it has stopped. Raises Cancelled when somebody cancelled it meanwhile, which
    changes nothing."""
    server = servers.look(worker, operation.intent.server_id)
    reason = None if server.view.active else server.condition.why_not(server.id, "offline")
    if reason is None:
        return
    if _is_unwanted(worker, operation) and not _is_in_place(operation, server):
        raise _cancelled(operation, notes, ran=False)
    raise NotYet(SAVED_LOOK_SECONDS, why=Conflict(f"the merge waits: {reason}"))


def _is_in_place(operation: Operation[MergeVolume], server: Server) -> bool:
    """Tells whether the chain of a stopped server is merged already: then there is nothing left to cancel."""
    asked = operation.intent
    if isinstance(asked, PullMerge):
        return qcow2.read(asked.share, asked.active).backing == asked.backing
    if asked.above is not None:
        return qcow2.read(asked.share, asked.above).backing == asked.base
    disk = server.disk_of(asked.volume_id)
    return disk is not None and disk.name == asked.base


def _find(domain: Any, target: str) -> block_jobs.Job | None:
    """A guest that stops between two looks has no job; that is seen at the next look."""
    try:
        return block_jobs.find(domain, target)
    except StepFailed:
        if hypervisor.view(domain).active:
            raise
        return None


def _wait_closed(operation: Operation[MergeVolume], waited: float) -> None:
    """QEMU's locks go with it, but a moment later. ``waited`` for that, in seconds."""
    if not files.is_locked(operation.intent.share, operation.intent.active):
        return
    if waited >= CLOSING_SECONDS:
        raise Conflict(f"{operation.intent.active} is still open in a program although its server is stopped")
    raise NotYet(CLOSED_LOOK_SECONDS, {"closing": waited + CLOSED_LOOK_SECONDS}, at_work=True)


def _explain(operation: Operation[MergeVolume]) -> None:
    free = files.free_bytes(operation.intent.share)
    if free < 16 << 20:
        raise ShareUnavailable(
            f"the merge stopped: the share of volume {operation.intent.volume_id} has {free} bytes free; it continues when"
            " there is more"
        )
    # libvirt 9.0 does not say why a job failed. It is begun again until it succeeds or somebody cancels the merge.
    raise ShareUnavailable(
        f"the block job on disk {operation.intent.target} ended before its work was done: somebody aborted it, or"
        f" the share of volume {operation.intent.volume_id} could not be read or written; it is begun again"
    )


def _cancel(operation: Operation[MergeVolume], domain: Any, notes: Document, ended: Callable[[], bool]) -> bool:
    """Raises Cancelled. Returns True when the job was over before it could be cancelled, and its result was flushed; False when
    the guest is gone with what QEMU had not written out."""
    job = _find(domain, operation.intent.target)
    if job is not None:
        block_jobs.abort(domain, operation.intent.target)
    if ended():
        return True
    if not hypervisor.view(domain).active:
        return False
    raise _cancelled(operation, notes, job is not None)


def _cancelled(operation: Operation[MergeVolume], notes: Document, ran: bool) -> Cancelled:
    """``ran`` says whether a job of this merge was seen; one that may have begun is noted."""
    asked, left = operation.intent, "the snapshot is as it was"
    merged = isinstance(asked, CommitMerge) and (ran or "run" in notes)
    if isinstance(asked, CommitMerge) and merged:
        left = f"part of it is in {asked.base} already, so the snapshot cannot be used any more, only deleted"
    return Cancelled(f"the merge of volume {asked.volume_id} was cancelled; {left}", merged=merged)
