"""A merge's block job from its start to its end, and the suspension of the guest around what must not be seen half done."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stillframe.compute.libvirt import servers
from stillframe.compute.libvirt.servers import Server
from stillframe.compute.worker.context import WorkerContext
from stillframe.errors import (
    Cancelled,
    Conflict,
    HypervisorUnavailable,
    ServiceUnavailable,
    ShareUnavailable,
    StepFailed,
)
from stillframe.host import block_jobs, files, hypervisor, qcow2
from stillframe.journal.failpoints import reached
from stillframe.journal.operation import NotYet, Operation

POLL_SECONDS = 0.1
SHORTEST_POLL_SECONDS = 0.01  # a small merge ends sooner than one pause of the other length
HOLD_SECONDS = 10.0
SAVED_LOOK_SECONDS = 5.0


def held(world: WorkerContext, operation: Operation, domain: Any, act: Callable[[], None]) -> None:
    """Calls a function while the guest is suspended and everything QEMU held of its disks is written out. The watchdog resumes
    the guest even if this worker dies. Raises HypervisorUnavailable for a guest that is gone: then nothing was written out."""
    server_id = operation.intent["server_id"]
    with world.merges.turn(server_id):
        reached("merge/holding")
        world.guard.let_go_on(server_id)  # otherwise it would look like a guest that somebody paused
        found = hypervisor.view(domain)
        if not found.active:
            raise HypervisorUnavailable(f"server {server_id} stopped before it could be suspended for the end of the merge")
        if not found.running:
            hypervisor.flush(domain)
            act()  # paused by somebody else, and still so
            return
        record = world.guard.arm_hold(server_id, operation.id, HOLD_SECONDS)
        try:
            hypervisor.hold(domain)
            reached("merge/held")
            act()
            reached("merge/acted")
        finally:
            if world.guard.try_thaw(record):
                world.guard.disarm(record)


def run(
    world: WorkerContext,
    operation: Operation,
    start: Callable[[Any], None],
    offline: Callable[[Any], None],
    ended: Callable[[], bool],
) -> None:
    """Starts the job, or takes up the one that runs, and returns when the chain shows that it is done. A guest that stopped is
    merged offline; nobody starts it meanwhile, because the operation locks the server. Raises Cancelled, unless the work was
    done before it could be cancelled; ShareUnavailable for a job that ended before its work was done, for instance because the
    share is full."""
    domain = world.hypervisor.domain(operation.intent["server_id"])
    target, began, entered = operation.intent["target"], False, time.monotonic()
    while True:
        if not hypervisor.view(domain).active:
            _wait_while_saved(world, operation)
            reached("merge/offline")
            _wait_closed(operation)
            offline(domain)
            return
        if world.merges.is_unwanted(operation.id) and _give_up(world, operation, domain, began, ended):
            return
        if world.stopping.is_set():
            raise ServiceUnavailable("this worker stops; QEMU continues the merge, and the next worker takes it up")
        job = _find(domain, target)
        if job is not None:
            world.merges.tell(operation.id, job.done, job.total)
        if (job is None or job.is_active_commit) and ended():
            return
        if job is None:
            if not hypervisor.view(domain).active:
                continue
            if began:
                _explain(operation)
            start(domain)
            began = True
        time.sleep(min(POLL_SECONDS, max(SHORTEST_POLL_SECONDS, (time.monotonic() - entered) / 20)))


def _wait_while_saved(world: WorkerContext, operation: Operation) -> None:
    """A guest that is restored from its saved state must find its disks as they were. Raises NotYet: the merge continues live
    when the guest is restored, and offline when it has stopped. Raises Cancelled when somebody cancelled it meanwhile, which
    changes nothing."""
    server = servers.look(world, operation.intent["server_id"])
    told = None if server.view.active else server.condition.why_not(server.id, "offline")
    if told is None:
        return
    if world.merges.is_unwanted(operation.id) and not _is_in_place(operation, server):
        raise _cancelled(world, operation, ran=False)
    raise NotYet(SAVED_LOOK_SECONDS, why=Conflict(f"the merge waits: {told}"))


def _is_in_place(operation: Operation, server: Server) -> bool:
    """Tells whether the chain of a stopped server is merged already: then there is nothing left to cancel."""
    intent = operation.intent
    if intent["kind"] == "commit" and intent["above"] is None:
        disk = server.disk_of(intent["volume_id"])
        return disk is not None and disk.name == intent["base"]
    top, below = ("active", "backing") if intent["kind"] == "pull" else ("above", "base")
    found: str | None = qcow2.read(Path(intent["directory"]), intent[top]).backing
    return found == str(intent[below]) if intent[below] else found is None


def _find(domain: Any, target: str) -> block_jobs.Job | None:
    """A guest that stops between two looks has no job; that is seen at the next look."""
    try:
        return block_jobs.find(domain, target)
    except StepFailed:
        if hypervisor.view(domain).active:
            raise
        return None


def _wait_closed(operation: Operation) -> None:
    """QEMU's locks go with it, but a moment later."""
    end = time.monotonic() + 10
    while files.is_locked(Path(operation.intent["directory"]), operation.intent["active"]):
        if time.monotonic() > end:
            raise Conflict(f"{operation.intent['active']} is still open in a program although its server is stopped")
        time.sleep(POLL_SECONDS)


def _explain(operation: Operation) -> None:
    free = files.free_bytes(Path(operation.intent["directory"]))
    if free < 16 << 20:
        raise ShareUnavailable(
            f"the merge stopped: the share of volume {operation.intent['volume_id']} has {free} bytes free; it continues when"
            " there is more"
        )
    # libvirt 9.0 does not say why a job failed. It is begun again until it succeeds or somebody cancels the merge.
    raise ShareUnavailable(
        f"the block job on disk {operation.intent['target']} ended before its work was done: somebody aborted it, or"
        f" the share of volume {operation.intent['volume_id']} could not be read or written; it is begun again"
    )


def _give_up(world: WorkerContext, operation: Operation, domain: Any, began: bool, ended: Callable[[], bool]) -> bool:
    """Raises Cancelled. Returns True when the job was over before it could be cancelled, and its result was flushed; False when
    the guest is gone with what QEMU had not written out."""
    job = _find(domain, operation.intent["target"])
    if job is not None:
        block_jobs.abort(domain, operation.intent["target"])
    if ended():
        return True
    if not hypervisor.view(domain).active:
        return False
    raise _cancelled(world, operation, began or job is not None)


def _cancelled(world: WorkerContext, operation: Operation, ran: bool) -> Cancelled:
    """``ran`` says whether a job of this merge was seen."""
    world.merges.forget(operation.id)
    earlier = operation.epoch > 1 or operation.attempts > 0  # then a job may have run that we did not see
    merged = operation.intent["kind"] == "commit" and (ran or earlier)
    return Cancelled(
        f"the merge of volume {operation.intent['volume_id']} was cancelled; "
        + (
            f"part of it is in {operation.intent['base']} already, so the snapshot cannot be used any more, only deleted"
            if merged
            else "the snapshot is as it was"
        ),
        merged=merged,
    )
