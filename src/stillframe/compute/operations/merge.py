"""One live merge of a running server's disk, as block storage asks for it: a commit down, or a pull into the active file.

The intent holds server_id, volume_id, snapshot_id, target, directory, active (the active file when it was asked for), kind
("commit" or "pull") and bandwidth (bytes a second). A commit has top, base, base_format and above (the file on top of
``top``; None when top is the active file); a pull has backing and backing_format (None: nothing stays behind it) and
old_backing, old_format. ``gone`` are the files nothing may name afterwards; ``closes`` holds those of them that QEMU only
reads, each with its format.

The truth is the chain, never the job (I8). When the guest stops on the way the merge is finished offline.
"""

import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from stillframe.compute.libvirt import definitions, servers
from stillframe.compute.libvirt.domain_xml import Disk
from stillframe.compute.libvirt.servers import Server
from stillframe.compute.operations import merge_job
from stillframe.compute.worker.context import WorkerContext
from stillframe.db.rows import Row
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
from stillframe.journal.operation import Document, Kind, NotYet, Operation, Verb, key
from stillframe.journal.record import Request

DEPTH = 200
NOT_RUNNING = -1
UNSOUND_LOOK_SECONDS = 5.0
SHORTEST_LOOK_SECONDS = 0.01
LOG = logging.getLogger(__name__)


def request(intent: Document, operation_id: str | None, request_id: str) -> Request:
    work = {"pull": "pull", "commit": "commit" if intent.get("above") else "commit_active"}[intent["kind"]]
    plan = [{"verb": verb, "args": {}} for verb in ("look", work, "verify", "report")]
    # One server's merges run one after the other: QEMU 7.2 was seen to crash when two of its jobs ended at about the same time.
    resources = [f"merge:{intent['volume_id']}", f"merges:{intent['server_id']}"]
    shared = (f"server:{intent['server_id']}",)
    return Request("compute", "merge_volume", intent, plan, resources, request_id, operation_id, shared)


def progress(row: Row) -> tuple[int, int]:
    """Returns (bytes done, bytes in all) of a merge as its row tells; zeros before its job was seen."""
    operation = Operation.from_row(row)
    notes: Document = next((known for step in operation.plan if (known := operation.notes(key(step)))), {})
    return notes.get("done", 0), notes.get("total", 0)


def _blames_share(
    act: Callable[[WorkerContext, Operation, Document], Document | None],
) -> Callable[[WorkerContext, Operation, Document], Any]:
    """A failure that the share caused is tried again until it works or the merge is cancelled."""

    def acts(world: WorkerContext, operation: Operation, args: Document) -> Document | None:
        share = _share(operation)
        try:
            return act(world, operation, args)
        except FileNotFoundError as error:
            with files.share_errors(share):
                names = os.listdir(share)
            if any(operation.intent["volume_id"] in name for name in names):
                raise  # one file is missing, and waiting would not bring it back
            missing = f"{os.path.basename(str(error.filename))} of volume {operation.intent['volume_id']}"
            raise ShareUnavailable(f"the share is not there: {missing} cannot be found") from error
        except HostCommandFailed as error:
            if not any(words in error.message for words in (*files.SHARE_WORDS, "Input/output error")):
                raise
            told = f"the share of volume {operation.intent['volume_id']} does not work"
            raise ShareUnavailable(f"{told}: {error.message}") from error
        except OSError:
            with files.share_errors(share):
                raise

    return acts


def _never(_world: WorkerContext, _operation: Operation, _args: Document) -> None:
    return None


def _looked(_world: WorkerContext, operation: Operation, _args: Document) -> Document | None:
    """Once: afterwards the disk is on its way."""
    return operation.evidence.get("look")


def _look(world: WorkerContext, operation: Operation, _args: Document) -> Document:
    """Checks that everything is as planned and that nobody else works on the disk. After this step the merge only goes
    forward."""
    intent = operation.intent
    try:
        server, disk = _disk(world, operation)
    except Parked as error:  # it was removed while the merge waited: nothing has begun
        told = f"server {intent['server_id']} has no disk {intent['target']} with volume {intent['volume_id']} any more"
        raise Conflict(f"{told}; nothing was merged") from error
    if disk.name != intent["active"]:
        raise Conflict(f"the active file of volume {intent['volume_id']} is {disk.name}, not {intent['active']}")
    server.refuse_unless("merge" if server.view.active else "offline")
    servers.check_same(server, disk)
    _refuse_while_unknown(world)
    if server.view.active:
        job = block_jobs.find(world.hypervisor.domain(server.id), disk.target)
        if job is not None:
            raise Conflict(f"another program runs a block job on disk {disk.target} of server {server.id}; wait for its end")
    if server.view.active:
        require_sound(_share(operation), intent)
    elif intent["kind"] == "commit":
        soundness.refuse_beyond_repair(_share(operation), intent["base"], intent["base_format"])
    return {}


def require_sound(share: Path, intent: Document) -> None:
    """Raises NotSound unless a running QEMU may write into the base of a commit, and close what is merged away."""
    if intent["kind"] == "commit":
        soundness.require_for_live(share, intent["base"], intent["base_format"])
    for name, format_ in intent.get("closes", ()):
        soundness.require_for_closing(share, name, format_)


def _refuse_while_unknown(world: WorkerContext) -> None:
    """Raises Conflict when it is not known who might need the files that the merge would remove at its end."""
    try:
        servers.list_everything(world, sure=True)
    except HypervisorUnavailable as error:
        raise Conflict(f"nothing was merged: {error.message}") from error


def _disk(world: WorkerContext, operation: Operation) -> tuple[Server, Disk]:
    server = servers.look(world, operation.intent["server_id"])
    disk = next((each for each in server.live.disks if each.target == operation.intent["target"]), None)
    if disk is None or disk.volume_id != operation.intent["volume_id"]:
        raise Parked(
            f"server {server.id} has no disk {operation.intent['target']} with volume {operation.intent['volume_id']} any"
            " more. Stop the server (openstack server stop). If its definition has no such disk either, put the disk back into"
            " it with the file that it named last (virsh edit). Then 'stillframe operation retry"
            f" {operation.id}' finishes the merge"
        )
    return server, disk


def _share(operation: Operation) -> Path:
    return Path(operation.intent["directory"])


def _wait_while_unsound(operation: Operation) -> None:
    """Checks the files right before a job begins: QEMU may have died since the request, and somebody may have started the
    server again. Raises NotYet: once the server stops they are repaired and the merge is finished offline."""
    try:
        require_sound(_share(operation), operation.intent)
    except NotSound as error:
        server_id = operation.intent["server_id"]
        told = f"the merge waits for server {server_id} to stop, and is finished then: {error.message}"
        raise NotYet(UNSOUND_LOOK_SECONDS, why=Conflict(told)) from error


def _mended(operation: Operation, done: list[str]) -> Document:
    """What was repaired before the merge is finished offline, for the journal and the log."""
    for each in done:
        LOG.warning("volume %s: %s", operation.intent["volume_id"], each)
    return {"repaired": done} if done else {}


def _mend_base(operation: Operation) -> Document:
    """Repairs what a QEMU that died in a commit left in the base. An I/O error in a commit leaves wrong counts without the
    dirty bit. Raises NotSound."""
    share, base, format_ = _share(operation), operation.intent["base"], operation.intent["base_format"]
    done = soundness.repair(share, base, format_)
    qemu_img.repair_all(share, base, format_)
    return _mended(operation, done)


def _path(operation: Operation, name: str) -> str:
    return os.path.join(operation.intent["directory"], name)


# --- commit of a file between base and active file


def _committed(_world: WorkerContext, operation: Operation, _args: Document) -> Document | None:
    """A chain without the committed file is not enough: QEMU opens the base for reading only again when the job ends, which
    writes out its tables, but not a base that it had open for writing before. That is so (qemu 7.2) after a commit of the
    active file into that base was cancelled when everything was copied (F19). Only a flush afterwards makes the commit true;
    that is recorded."""
    return _flushed(operation, "commit")


def _is_off_the_chain(operation: Operation, disk: Disk) -> bool:
    """Tells whether both the header of the file above and libvirt's own chain show the merge."""
    intent = operation.intent
    if qcow2.read(_share(operation), intent["above"]).backing != intent["base"]:
        return False
    return _path(operation, intent["top"]) not in disk.backing


def _commit(world: WorkerContext, operation: Operation, _args: Document) -> Document:
    intent, mended = operation.intent, dict[str, Any]()

    def start(domain: Any) -> None:
        _wait_while_unsound(operation)
        top, base = _path(operation, intent["top"]), _path(operation, intent["base"])
        block_jobs.commit(domain, intent["target"], top, base, intent["bandwidth"])

    def offline(_domain: Any) -> None:
        share = _share(operation)
        mended.update(_mend_base(operation))
        qemu_img.commit(share, intent["top"], intent["base"], DEPTH)
        qemu_img.repoint(share, intent["above"], intent["base"], intent["base_format"])

    def ended() -> bool:
        server, disk = _disk(world, operation)
        if not server.view.active or not _is_off_the_chain(operation, disk):
            return False
        reached("merge/committed")
        return _barrier(world, operation)

    return {**merge_job.run(world, operation, start, offline, ended), "flushed": True, **mended}


# --- commit of the active file, and pivot


def _pivoted(world: WorkerContext, operation: Operation, _args: Document) -> Document | None:
    wanted = _path(operation, operation.intent["base"])
    try:
        server, _disk_now = _disk(world, operation)
    except NotFound:
        return None
    named = {each.file for found in server.descriptions if (each := found.disk_of(operation.intent["volume_id"]))}
    return {} if named == {wanted} else None


def _commit_active(world: WorkerContext, operation: Operation, _args: Document) -> Document:
    intent, mended = operation.intent, dict[str, Any]()

    def start(domain: Any) -> None:
        _wait_while_unsound(operation)
        block_jobs.commit(domain, intent["target"], None, _path(operation, intent["base"]), intent["bandwidth"])

    def offline(_domain: Any) -> None:
        share = _share(operation)
        if _pivoted(world, operation, {}) is None:
            mended.update(_mend_base(operation))
            qemu_img.commit(share, intent["active"], intent["base"], DEPTH)
            server = servers.look(world, intent["server_id"])
            path = _path(operation, intent["base"])
            definitions.name_file(world, server, intent["target"], path, intent["base_format"])

    def ended() -> bool:
        _server, disk = _disk(world, operation)
        if disk.mirror_ready:
            _pivot(world, operation)
        return _pivoted(world, operation, {}) is not None

    return {**merge_job.run(world, operation, start, offline, ended), **mended}


def _pivot(world: WorkerContext, operation: Operation) -> None:
    """While the guest is suspended, top and base read the same: whichever libvirt remembers after a crash is right (F15)."""
    domain = world.hypervisor.domain(operation.intent["server_id"])

    merge_job.held(world, operation, domain, lambda: _switch(world, operation, domain))


def _switch(world: WorkerContext, operation: Operation, domain: Any) -> None:
    """Returns when libvirt has the base as the active file, live and in the definition. An error of the call does not mean
    that nothing happened (F13): the description is read until it says one or the other."""
    failed: StillframeError | None = None
    try:
        block_jobs.pivot(domain, operation.intent["target"])
    except (StepFailed, AccessRefused, HypervisorUnavailable) as error:
        failed = error
    end = time.monotonic() + merge_job.HOLD_SECONDS - 2
    while time.monotonic() < end:
        try:
            if _pivoted(world, operation, {}) is not None:
                return
            if failed is not None and _disk(world, operation)[1].mirror is not None:
                raise failed
        except HypervisorUnavailable as error:
            if error is failed:
                raise
        time.sleep(SHORTEST_LOOK_SECONDS)  # the guest is suspended meanwhile: no time for the journal
    raise HypervisorUnavailable(f"libvirt does not show the pivot of disk {operation.intent['target']}")


# --- pull into the active file


def _pulled(_world: WorkerContext, operation: Operation, args: Document) -> Document | None:
    """A header that names the new backing file is not enough: the tables behind it may still be in QEMU's memory when QEMU
    dies (F1). Only a flush afterwards makes it true, and that is recorded."""
    return _flushed(operation, "pull")


def _flushed(operation: Operation, step: str) -> Document | None:
    known = operation.evidence.get(step, {})
    return known if known.get("flushed") else None


def _pull(world: WorkerContext, operation: Operation, _args: Document) -> Document:
    intent, mended = operation.intent, dict[str, Any]()
    share = _share(operation)

    def start(domain: Any) -> None:
        _wait_while_unsound(operation)
        backing = _path(operation, intent["backing"]) if intent["backing"] else None
        block_jobs.pull(domain, intent["target"], backing, intent["bandwidth"])

    def offline(_domain: Any) -> None:
        mended.update(_mended(operation, soundness.mend_open(share, [qcow2.read(share, intent["active"])])))
        if qcow2.read(share, intent["active"]).backing != intent["old_backing"]:
            qemu_img.repoint(share, intent["active"], intent["old_backing"], intent["old_format"])
        qemu_img.pull(share, intent["active"], intent["backing"], intent["backing_format"], DEPTH)

    def ended() -> bool:
        if qcow2.read(share, intent["active"]).backing != intent["backing"]:
            return False
        server, _disk_now = _disk(world, operation)
        if not server.view.active:
            return False  # finished offline, from the old backing file again
        reached("merge/pulled")
        return _barrier(world, operation)

    return {**merge_job.run(world, operation, start, offline, ended), "flushed": True, **mended}


def _barrier(world: WorkerContext, operation: Operation) -> bool:
    """Flushes after a job by suspending the guest. Only the QEMU that copied can do that. Returns False when it is gone: then
    the merge is made again offline."""
    domain = world.hypervisor.domain(operation.intent["server_id"])
    known, now = operation.notes().get("run"), hypervisor.run_id(domain)
    if now == NOT_RUNNING:
        return False
    if known not in (None, now):
        raise Parked(
            f"server {operation.intent['server_id']} was started again between the end of a merge and its flush: what volume"
            f" {operation.intent['volume_id']} reads may be old. Stop the server (openstack server stop); then"
            f" 'stillframe operation retry {operation.id}' merges it again from"
            f" {operation.intent.get('old_backing') or operation.intent.get('top')}, which is kept"
        )
    merge_job.held(world, operation, domain, lambda: None)
    return True


# --- afterwards


def _verify(world: WorkerContext, operation: Operation, _args: Document) -> Document:
    """Checks that no description and no header names the files that go (I4); then block storage may remove them. Waits while a
    saved state cannot be read, because it may need them."""
    share = _share(operation)
    with suppress(NotFound):
        definitions.forget_chain(world, servers.look(world, operation.intent["server_id"]), operation.intent["target"])
    for server in servers.list_everything(world, sure=True):
        for name in operation.intent["gone"]:
            if server.names_file(_path(operation, name)):
                raise Parked(f"{name} is still named by a description of server {server.id} after the merge, and stays")
    kept = [name for name in files.listing(share) if name not in operation.intent["gone"]]
    for name in kept:
        below = qemu_img.backing_of(share, name) if name.startswith(f"volume-{operation.intent['volume_id']}") else None
        if below in operation.intent["gone"]:
            raise Parked(f"{name} is still backed by {below} after the merge, which stays")
    return {}


def _report(world: WorkerContext, operation: Operation, _args: Document) -> Document:
    """Reports the end of the merge: Cinder waits for it, our own block storage asks."""
    snapshot_id = operation.intent["snapshot_id"]
    found = world.storage.snapshot(snapshot_id) if snapshot_id else None
    if found is not None and found["status"] == "deleting":
        world.storage.report_snapshot(snapshot_id, "deleting", "90%")
    return {}


def _settle(_connection: Connection, _operation: Operation, _outcome: str, _fault: Document | None) -> None:
    """Compute keeps no row of it."""


KIND = Kind(
    {
        "look": Verb(_looked, _look),
        "commit": Verb(_blames_share(_committed), _blames_share(_commit), no_return="start"),
        "commit_active": Verb(_pivoted, _blames_share(_commit_active), no_return="start"),
        "pull": Verb(_pulled, _blames_share(_pull), no_return="start"),
        "verify": Verb(_never, _blames_share(_verify)),
        "report": Verb(_never, _report),
    },
    _settle,
    afterwards="QEMU may still be at it: 'virsh blockjob' shows the job. The deletion that asked for the merge ends with a"
    " fault; if it is parked itself, 'stillframe operation retry' lets it end. Delete the snapshot again when the job is over.",
)
