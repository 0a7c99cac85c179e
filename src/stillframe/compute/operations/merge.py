"""One live merge of a running server's disk, as block storage asks for it: a commit down, or a pull into the active file.

The truth is the chain, never the job (I8). When the guest stops on the way the merge is finished offline.
"""

import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from sqlalchemy import Connection

from stillframe.chain import names
from stillframe.compute.libvirt import definitions, servers
from stillframe.compute.libvirt.domain_xml import Disk
from stillframe.compute.libvirt.servers import Server
from stillframe.compute.operations import merge_job
from stillframe.compute.operations.merge_intents import (
    Commit,
    CommitActive,
    CommitMerge,
    Look,
    MergeVolume,
    Pull,
    PullMerge,
    Report,
    Verify,
)
from stillframe.compute.worker.context import WorkerContext
from stillframe.db.rows import OperationRow
from stillframe.errors import (
    AccessRefused,
    Conflict,
    HostCommandFailed,
    HypervisorUnavailable,
    NotFound,
    NotSound,
    Parked,
    ShareUnavailable,
    StepFailed,
    StillframeError,
)
from stillframe.host import block_jobs, files, hypervisor, qcow2, qemu_img, soundness
from stillframe.journal.failpoints import reached
from stillframe.journal.operation import Document, Kind, NotYet, Operation, Verb
from stillframe.journal.record import Request
from stillframe.journal.typed import step

DEPTH = 200
NOT_RUNNING = -1
UNSOUND_LOOK_SECONDS = 5.0
SHORTEST_LOOK_SECONDS = 0.01
LOG = logging.getLogger(__name__)
Way = TypeVar("Way", PullMerge, CommitMerge)
Told = TypeVar("Told")


def request(asked: MergeVolume, operation_id: str | None, request_id: str) -> Request:
    """Returns the operation that merges, with that id if one is given."""
    plan = [step(args) for args in (Look(), _work(asked), Verify(), Report())]
    # One server's merges run one after the other: QEMU 7.2 was seen to crash when two of its jobs ended at about the same time.
    resources = [f"merge:{asked.volume_id}", f"merges:{asked.server_id}"]
    shared = (f"server:{asked.server_id}",)
    return Request("compute", "merge_volume", asked, plan, resources, request_id, operation_id, shared)


def _work(asked: MergeVolume) -> Pull | Commit | CommitActive:
    if isinstance(asked, PullMerge):
        return Pull()
    return CommitActive() if asked.above is None else Commit()


def _asked(operation: Operation[MergeVolume], way: type[Way]) -> Way:
    """Raises Parked where a step is not one of the way that was asked for, which no release plans."""
    if not isinstance(operation.intent, way):
        raise Parked(f"step {operation.at} of operation {operation.id} is no part of what was asked; nothing was merged by it")
    return operation.intent


def progress(row: OperationRow) -> tuple[int, int]:
    """Returns (bytes done, bytes in all) of a merge as its row tells; zeros before its job was seen."""
    operation = Operation.from_row(row)
    notes: Document = next((known for step in operation.plan if (known := operation.notes(step.key))), {})
    return notes.get("done", 0), notes.get("total", 0)


def _blames_share(
    act: Callable[[WorkerContext, Operation[MergeVolume], Told], Document | None],
) -> Callable[[WorkerContext, Operation[MergeVolume], Told], Any]:
    """A failure that the share caused is tried again until it works or the merge is cancelled."""

    def acts(worker: WorkerContext, operation: Operation[MergeVolume], args: Told) -> Document | None:
        share = operation.intent.share
        try:
            return act(worker, operation, args)
        except FileNotFoundError as error:
            with files.share_errors(share):
                listed = os.listdir(share)
            if any(operation.intent.volume_id in name for name in listed):
                raise  # one file is missing, and waiting would not bring it back
            missing = f"{os.path.basename(str(error.filename))} of volume {operation.intent.volume_id}"
            raise ShareUnavailable(f"the share is not there: {missing} cannot be found") from error
        except HostCommandFailed as error:
            if not any(words in error.message for words in (*files.SHARE_WORDS, "Input/output error")):
                raise
            message = f"the share of volume {operation.intent.volume_id} does not work"
            raise ShareUnavailable(f"{message}: {error.message}") from error
        except OSError:
            with files.share_errors(share):
                raise

    return acts


def _never(_worker: WorkerContext, _operation: Operation[MergeVolume], _args: object) -> None:
    return None


def _looked(_worker: WorkerContext, operation: Operation[MergeVolume], _args: Look) -> Document | None:
    """Once: afterwards the disk is on its way."""
    return operation.evidence.get("look")


def _look(worker: WorkerContext, operation: Operation[MergeVolume], _args: Look) -> Document:
    """Checks that everything is as planned and that nobody else works on the disk. After this step the merge only goes
    forward."""
    asked = operation.intent
    try:
        server, disk = _disk(worker, operation)
    except Parked as error:  # it was removed while the merge waited: nothing has begun
        message = f"server {asked.server_id} has no disk {asked.target} with volume {asked.volume_id} any more"
        raise Conflict(f"{message}; nothing was merged") from error
    if disk.name != asked.active:
        raise Conflict(f"the active file of volume {asked.volume_id} is {disk.name}, not {asked.active}")
    server.refuse_unless("merge" if server.view.active else "offline")
    servers.check_same(server, disk)
    _refuse_while_unknown(worker)
    if server.view.active:
        job = block_jobs.find(worker.hypervisor.domain(server.id), disk.target)
        if job is not None:
            raise Conflict(f"another program runs a block job on disk {disk.target} of server {server.id}; wait for its end")
    if server.view.active:
        require_sound(asked)
    elif isinstance(asked, CommitMerge):
        soundness.refuse_beyond_repair(asked.share, asked.base, asked.base_format)
    return {}


def require_sound(asked: MergeVolume) -> None:
    """Raises NotSound unless a running QEMU may write into the base of a commit, and close what is merged away."""
    if isinstance(asked, CommitMerge):
        soundness.require_for_live(asked.share, asked.base, asked.base_format)
    for name, format_ in asked.closes:
        soundness.require_for_closing(asked.share, name, format_)


def _refuse_while_unknown(worker: WorkerContext) -> None:
    """Raises Conflict when it is not known who might need the files that the merge would remove at its end."""
    try:
        servers.list_everything(worker, sure=True)
    except HypervisorUnavailable as error:
        raise Conflict(f"nothing was merged: {error.message}") from error


def _disk(worker: WorkerContext, operation: Operation[MergeVolume]) -> tuple[Server, Disk]:
    server = servers.look(worker, operation.intent.server_id)
    disk = next((each for each in server.live.disks if each.target == operation.intent.target), None)
    if disk is None or disk.volume_id != operation.intent.volume_id:
        raise Parked(
            f"server {server.id} has no disk {operation.intent.target} with volume {operation.intent.volume_id} any"
            " more. Stop the server (openstack server stop). If its definition has no such disk either, put the disk back into"
            " it with the file that it named last (virsh edit). Then 'stillframe operation retry"
            f" {operation.id}' finishes the merge"
        )
    return server, disk


def _wait_while_unsound(operation: Operation[MergeVolume]) -> None:
    """Checks the files right before a job begins: QEMU may have died since the request, and somebody may have started the
    server again. Raises NotYet: once the server stops they are repaired and the merge is finished offline."""
    try:
        require_sound(operation.intent)
    except NotSound as error:
        server_id = operation.intent.server_id
        message = f"the merge waits for server {server_id} to stop, and is finished then: {error.message}"
        raise NotYet(UNSOUND_LOOK_SECONDS, why=Conflict(message)) from error


def _mended(operation: Operation[MergeVolume], done: list[str]) -> Document:
    """What was repaired before the merge is finished offline, for the journal and the log."""
    for each in done:
        LOG.warning("volume %s: %s", operation.intent.volume_id, each)
    return {"repaired": done} if done else {}


def _mend_base(operation: Operation[MergeVolume], asked: CommitMerge) -> Document:
    """Repairs what a QEMU that died in a commit left in the base. An I/O error in a commit leaves wrong counts without the
    dirty bit. Raises NotSound."""
    done = soundness.repair(asked.share, asked.base, asked.base_format)
    qemu_img.repair_all(asked.share, asked.base, asked.base_format)
    return _mended(operation, done)


# --- commit of a file between base and active file


def _committed(_worker: WorkerContext, operation: Operation[MergeVolume], _args: Commit) -> Document | None:
    """A chain without the committed file is not enough: QEMU opens the base for reading only again when the job ends, which
    writes out its tables, but not a base that it had open for writing before. That is so (qemu 7.2) after a commit of the
    active file into that base was cancelled when everything was copied (F19). Only a flush afterwards makes the commit true;
    that is recorded."""
    return _flushed(operation, "commit")


def _is_off_the_chain(asked: CommitMerge, disk: Disk) -> bool:
    """Tells whether both the header of the file above and libvirt's own chain show the merge."""
    if asked.above is None or qcow2.read(asked.share, asked.above).backing != asked.base:
        return False
    return asked.path(asked.top) not in disk.backing


def _commit(worker: WorkerContext, operation: Operation[MergeVolume], _args: Commit) -> Document:
    asked, mended = _asked(operation, CommitMerge), dict[str, Any]()

    def start(domain: Any) -> None:
        _wait_while_unsound(operation)
        block_jobs.commit(domain, asked.target, asked.path(asked.top), asked.path(asked.base), asked.bandwidth)

    def offline(_domain: Any) -> None:
        mended.update(_mend_base(operation, asked))
        qemu_img.commit(asked.share, asked.top, asked.base, DEPTH)
        if asked.above is not None:
            qemu_img.repoint(asked.share, asked.above, asked.base, asked.base_format)

    def ended() -> bool:
        server, disk = _disk(worker, operation)
        if not server.view.active or not _is_off_the_chain(asked, disk):
            return False
        reached("merge/committed")
        return _barrier(worker, operation)

    return {**merge_job.run(worker, operation, start, offline, ended), "flushed": True, **mended}


# --- commit of the active file, and pivot


def _pivoted(worker: WorkerContext, operation: Operation[MergeVolume], _args: object) -> Document | None:
    asked = _asked(operation, CommitMerge)
    try:
        server, _disk_now = _disk(worker, operation)
    except NotFound:
        return None
    named = {each.file for found in server.descriptions if (each := found.disk_of(asked.volume_id))}
    return {} if named == {asked.path(asked.base)} else None


def _commit_active(worker: WorkerContext, operation: Operation[MergeVolume], args: CommitActive) -> Document:
    asked, mended = _asked(operation, CommitMerge), dict[str, Any]()

    def start(domain: Any) -> None:
        _wait_while_unsound(operation)
        block_jobs.commit(domain, asked.target, None, asked.path(asked.base), asked.bandwidth)

    def offline(_domain: Any) -> None:
        if _pivoted(worker, operation, args) is None:
            mended.update(_mend_base(operation, asked))
            qemu_img.commit(asked.share, asked.active, asked.base, DEPTH)
            server = servers.look(worker, asked.server_id)
            definitions.name_file(worker, server, asked.target, asked.path(asked.base), asked.base_format)

    def ended() -> bool:
        _server, disk = _disk(worker, operation)
        if disk.mirror_ready:
            _pivot(worker, operation)
        return _pivoted(worker, operation, args) is not None

    return {**merge_job.run(worker, operation, start, offline, ended), **mended}


def _pivot(worker: WorkerContext, operation: Operation[MergeVolume]) -> None:
    """While the guest is suspended, top and base read the same: whichever libvirt remembers after a crash is right (F15)."""
    domain = worker.hypervisor.domain(operation.intent.server_id)

    merge_job.suspended(worker, operation, domain, lambda: _switch(worker, operation, domain))


def _switch(worker: WorkerContext, operation: Operation[MergeVolume], domain: Any) -> None:
    """Returns when libvirt has the base as the active file, live and in the definition. An error of the call does not mean
    that nothing happened (F13): the description is read until it says one or the other."""
    failed: StillframeError | None = None
    try:
        block_jobs.pivot(domain, operation.intent.target)
    except (StepFailed, AccessRefused, HypervisorUnavailable) as error:
        failed = error
    end = time.monotonic() + merge_job.SUSPEND_SECONDS - 2
    while time.monotonic() < end:
        try:
            if _pivoted(worker, operation, None) is not None:
                return
            if failed is not None and _disk(worker, operation)[1].mirror is not None:
                raise failed
        except HypervisorUnavailable as error:
            if error is failed:
                raise
        time.sleep(SHORTEST_LOOK_SECONDS)  # the guest is suspended meanwhile: no time for the journal
    raise HypervisorUnavailable(f"libvirt does not show the pivot of disk {operation.intent.target}")


# --- pull into the active file


def _pulled(_worker: WorkerContext, operation: Operation[MergeVolume], _args: Pull) -> Document | None:
    """A header that names the new backing file is not enough: the tables behind it may still be in QEMU's memory when QEMU
    dies (F1). Only a flush afterwards makes it true, and that is recorded."""
    return _flushed(operation, "pull")


def _flushed(operation: Operation[MergeVolume], step: str) -> Document | None:
    known = operation.evidence.get(step, {})
    return known if known.get("flushed") else None


def _pull(worker: WorkerContext, operation: Operation[MergeVolume], _args: Pull) -> Document:
    asked, mended = _asked(operation, PullMerge), dict[str, Any]()
    share = asked.share

    def start(domain: Any) -> None:
        _wait_while_unsound(operation)
        backing = asked.path(asked.backing) if asked.backing else None
        block_jobs.pull(domain, asked.target, backing, asked.bandwidth)

    def offline(_domain: Any) -> None:
        mended.update(_mended(operation, soundness.mend_open(share, [qcow2.read(share, asked.active)])))
        if qcow2.read(share, asked.active).backing != asked.old_backing:
            qemu_img.repoint(share, asked.active, asked.old_backing, asked.old_format)
        qemu_img.pull(share, asked.active, asked.backing, asked.backing_format, DEPTH)

    def ended() -> bool:
        if qcow2.read(share, asked.active).backing != asked.backing:
            return False
        server, _disk_now = _disk(worker, operation)
        if not server.view.active:
            return False  # finished offline, from the old backing file again
        reached("merge/pulled")
        return _barrier(worker, operation)

    return {**merge_job.run(worker, operation, start, offline, ended), "flushed": True, **mended}


def _copied_from(asked: MergeVolume) -> str:
    return asked.old_backing if isinstance(asked, PullMerge) else asked.top


def _barrier(worker: WorkerContext, operation: Operation[MergeVolume]) -> bool:
    """Flushes after a job by suspending the guest. Only the QEMU that copied can do that. Returns False when it is gone: then
    the merge is made again offline."""
    domain = worker.hypervisor.domain(operation.intent.server_id)
    known, now = operation.notes().get("run"), hypervisor.run_id(domain)
    if now == NOT_RUNNING:
        return False
    if known not in (None, now):
        raise Parked(
            f"server {operation.intent.server_id} was started again between the end of a merge and its flush: what volume"
            f" {operation.intent.volume_id} reads may be old. Stop the server (openstack server stop); then"
            f" 'stillframe operation retry {operation.id}' merges it again from"
            f" {_copied_from(operation.intent)}, which is kept"
        )
    merge_job.suspended(worker, operation, domain, lambda: None)
    return True


# --- afterwards


def _verify(worker: WorkerContext, operation: Operation[MergeVolume], _args: Verify) -> Document:
    """Checks that no description and no header names the files that go (I4); then block storage may remove them. Waits while a
    saved state cannot be read, because it may need them."""
    share = operation.intent.share
    with suppress(NotFound):
        definitions.forget_chain(worker, servers.look(worker, operation.intent.server_id), operation.intent.target)
    for server in servers.list_everything(worker, sure=True):
        for name in operation.intent.gone:
            if server.names_file(operation.intent.path(name)):
                raise Parked(f"{name} is still named by a description of server {server.id} after the merge, and stays")
    kept = [name for name in files.listing(share) if name not in (*operation.intent.gone, *operation.intent.branches)]
    for name in kept:
        # No file of a volume is below its base; a raw one holds what the guest likes, and is never read as a header (R3).
        volume_id, overlay = names.parse(name) or (None, None)
        below = qemu_img.backing_of(share, name) if volume_id == operation.intent.volume_id and overlay else None
        if below in operation.intent.gone:
            raise Parked(f"{name} is still backed by {below} after the merge, which stays")
    return {}


def _report(worker: WorkerContext, operation: Operation[MergeVolume], _args: Report) -> Document:
    """Reports the end of the merge: Cinder waits for it, our own block storage asks."""
    snapshot_id = operation.intent.snapshot_id
    found = worker.storage.snapshot(snapshot_id)
    if found is not None and found["status"] == "deleting":
        worker.storage.report_snapshot(snapshot_id, "deleting", "90%")
    return {}


def _settle(_connection: Connection, _operation: Operation[MergeVolume], _outcome: str, _fault: Document | None) -> None:
    """Compute keeps no row of it."""


KIND = Kind(
    {
        "look": Verb(_looked, _look, args=Look),
        "commit": Verb(_blames_share(_committed), _blames_share(_commit), no_return="start", args=Commit),
        "commit_active": Verb(_pivoted, _blames_share(_commit_active), no_return="start", args=CommitActive),
        "pull": Verb(_pulled, _blames_share(_pull), no_return="start", args=Pull),
        "verify": Verb(_never, _blames_share(_verify), args=Verify),
        "report": Verb(_never, _report, args=Report),
    },
    _settle,
    intent=MergeVolume,
    afterwards="QEMU may still be at it: 'virsh blockjob' shows the job. The deletion that asked for the merge ends with a"
    " fault; if it is parked itself, 'stillframe operation retry' lets it end. Delete the snapshot again when the job is over.",
)
