"""The steps that a set has for its native volumes: scratch overlays, block storage's own snapshots, and the way back.

The disks of a running guest are switched to scratch overlays in the same transaction as the others. From then on the volumes
stand still, however long block storage takes for their snapshots; afterwards each overlay is committed back live. A guest that
stops meanwhile is committed back offline, before anybody may start it: the operation has the server.
"""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from stillframe.compute.libvirt import domain_xml, servers
from stillframe.compute.libvirt.connections import kinds
from stillframe.compute.libvirt.connections.contract import Attachment
from stillframe.compute.libvirt.servers import Server
from stillframe.compute.operations import switch
from stillframe.compute.operations.frozen_native import TOKEN_KEY, are_in_window, wanted
from stillframe.compute.operations.snapshot_intents import AssistedSnapshot, NativeDisk
from stillframe.compute.worker.context import WorkerContext
from stillframe.compute.worker.side_by_side import side_by_side
from stillframe.errors import (
    Busy,
    Conflict,
    FileInUse,
    NotFound,
    Parked,
    ServiceUnavailable,
    ShareUnavailable,
    StillframeError,
)
from stillframe.host import block_jobs, files, hypervisor, io_errors, scratch
from stillframe.journal.operation import Document, NotYet, Operation, Verb
from stillframe.journal.typed import Args

LOG = logging.getLogger(__name__)
SHORTEST_LOOK_SECONDS, LONGEST_LOOK_SECONDS = 0.05, 1.0
SAVED_LOOK_SECONDS = 5.0
LATE_SECONDS = 60.0
# Of scratch_limit_mib: from there on block storage gets no more time. The rest is for the writes during the way back.
WATERMARK = 0.75
CHANGING = ("extending", "reverting", "restoring-backup", "retyping", "maintenance")
_Asked = Operation[AssistedSnapshot]


class MakeScratch(Args, frozen=True, kw_only=True):
    """Make the scratch overlays."""

    verb = "scratch"


class TakeSnapshots(Args, frozen=True, kw_only=True):
    """Have block storage take the snapshots of the volumes that stand still now. ``token`` is what they are known by when an
    answer was lost: nobody else knows it beforehand, while a client may choose the id of a set."""

    verb = "native"
    token: str


class CommitBack(Args, frozen=True, kw_only=True):
    """Commit each scratch overlay back into its volume, and remove it."""

    verb = "commit_back"


def refuse_if_changing(volumes: Iterable[Mapping[str, Any]]) -> None:
    """Raises Busy for a volume whose size or content block storage changes: it takes no snapshot of it before that has ended,
    and an extension waits in turn for the server."""
    for volume in volumes:
        if volume["status"] in CHANGING:
            raise Busy(f"volume {volume['id']} is {volume['status']}; repeat the request when it is in-use again")


def _scratch_made(_worker: WorkerContext, operation: _Asked, _args: MakeScratch) -> Document | None:
    if switch.is_coming_back(operation):
        return {}
    return {} if all(scratch.is_made(disk.overlay) for disk in operation.intent.scratched) else None


def _make_scratch(worker: WorkerContext, operation: _Asked, _args: MakeScratch) -> Document:
    for disk in operation.intent.scratched:
        scratch.prepare(Path(disk.directory), create=not worker.settings.compute.scratch_dir)
        scratch.make(disk.overlay, worker.settings.compute.scratch_limit_mib << 20)
    return {}


def _unmake_scratch(worker: WorkerContext, operation: _Asked, _args: MakeScratch) -> None:
    for disk in operation.intent.scratched:
        _remove(worker, disk)


def _remove(worker: WorkerContext, disk: NativeDisk) -> None:
    """Raises Parked for an overlay that a description names, FileInUse for one that a program has open."""
    directory = Path(disk.directory)
    if not files.exists(directory, disk.scratch):
        scratch.remove(directory, disk.scratch)
        return
    for server in servers.list_everything(worker, sure=True):
        if server.names_file(disk.path_after):
            raise Parked(f"{disk.scratch} is named by a description of server {server.id}; it is not removed")
    if files.is_locked(directory, disk.scratch):
        raise FileInUse(f"{disk.scratch} is open in a program; it is not removed")
    scratch.remove(directory, disk.scratch)


def _taken(_worker: WorkerContext, operation: _Asked, _args: TakeSnapshots) -> Document | None:
    """By the record alone: which snapshots there are was decided once, however they are later."""
    return operation.evidence.get("native")


def _take(worker: WorkerContext, operation: _Asked, args: TakeSnapshots) -> Document:
    """Asks for the snapshots, each once, and looks until block storage has made them or not. Raises NotYet meanwhile. Those
    that were asked for while the guest was frozen are only looked at.

    The notes and the evidence hold by volume id the ``snapshots`` that there are, and the ``errors`` of those there are not."""
    notes = {**operation.evidence.get("switch", {}).get("native", {}), **operation.notes()}
    snapshots, errors = dict(notes.get("snapshots", {})), dict(notes.get("errors", {}))
    open_ = [disk for disk in operation.intent.natives if disk.volume_id not in errors]
    waits: list[StillframeError] = []
    answers = side_by_side(lambda disk: _ask(worker, (operation, args), disk, snapshots), open_)
    for disk, answer in zip(open_, answers, strict=True):
        if isinstance(answer, StillframeError) and (answer.may_retry or isinstance(answer, Busy)):
            waits.append(answer)
        elif isinstance(answer, StillframeError):
            errors[disk.volume_id] = answer.message
        else:
            snapshots[disk.volume_id] = answer["id"]
            if answer["status"] == "error":
                errors[disk.volume_id] = str(answer.get("fault") or "block storage could not take the snapshot")
            elif answer["status"] != "available":
                waits.append(ServiceUnavailable(f"block storage takes snapshot {answer['id']} of volume {disk.volume_id}"))
    if waits and (why := _too_long(worker, operation, notes.get("waited", 0.0))) is None:
        seconds = min(LONGEST_LOOK_SECONDS, max(SHORTEST_LOOK_SECONDS, notes.get("waited", 0.0) / 10))
        known = {"snapshots": snapshots, "errors": errors, "waited": notes.get("waited", 0.0) + seconds}
        raise NotYet(seconds, known, why=waits[0])
    if waits:
        errors |= _end_waiting(worker, (operation, args), snapshots, str(why))
    return {"snapshots": snapshots, "errors": errors}


def _ask(
    worker: WorkerContext, place: tuple[_Asked, TakeSnapshots], disk: NativeDisk, known: dict[str, str]
) -> Document | StillframeError:
    """Returns the snapshot, made now unless it was before, or why block storage has none."""
    operation, args = place
    asked = operation.intent
    try:
        if disk.volume_id in known:
            return worker.storage.snapshot(known[disk.volume_id]) or NotFound(f"snapshot {known[disk.volume_id]} is gone")
        found = worker.storage.snapshot_labelled(disk.volume_id, TOKEN_KEY, args.token)
        if found is None and are_in_window(asked):
            return NotFound(
                "no snapshot was taken while the guest was frozen; one that is taken now would be of another instant"
            )
        level = ((operation.evidence.get("switch", {}).get("disks") or {}).get(disk.target) or {}).get("level")
        return found or worker.storage.create_snapshot(disk.volume_id, wanted(asked, args.token, level))
    except StillframeError as error:
        return error


def _too_long(worker: WorkerContext, operation: _Asked, waited: float) -> str | None:
    """Why block storage is waited for no longer; None: it is."""
    options = worker.settings.compute
    if waited > options.native_timeout_seconds:
        return f"block storage did not take the snapshot within {options.native_timeout_seconds} s (native_timeout_seconds)"
    most = (options.scratch_limit_mib << 20) * WATERMARK
    for disk in operation.intent.scratched:
        held = scratch.bytes_in(Path(disk.directory), disk.scratch)
        if held > most:
            return (
                f"the scratch overlay of volume {disk.volume_id} holds {held} bytes, of {options.scratch_limit_mib} MiB"
                " (scratch_limit_mib) that it may hold until it is committed back"
            )
    if stopped := _stopped_disks(worker, operation):
        return (
            f"the guest is stopped until its writes to {', '.join(stopped)} are committed back: the scratch overlay could not"
            " be written, the scratch directory is full or does not work"
        )
    return None


def _stopped_disks(worker: WorkerContext, operation: _Asked) -> list[str]:
    """The disks of the set with scratch overlays whose errors stopped the guest; none for a guest that runs or is gone."""
    try:
        stopped = io_errors.stopped_by(worker.hypervisor.domain(operation.intent.server_id))
    except NotFound:
        return []
    return [disk.target for disk in operation.intent.scratched if disk.target in stopped]


def _end_waiting(
    worker: WorkerContext, place: tuple[_Asked, TakeSnapshots], snapshots: dict[str, str], why: str
) -> dict[str, str]:
    """A snapshot that comes later would be of another instant: it is deleted where that can be done. Returns the errors."""
    operation, args = place
    errors = {}
    for disk in operation.intent.natives:
        snapshot_id = snapshots.get(disk.volume_id)
        try:
            # An answer that was lost may have named one.
            found = (
                worker.storage.snapshot(snapshot_id)
                if snapshot_id
                else worker.storage.snapshot_labelled(disk.volume_id, TOKEN_KEY, args.token)
            )
            if snapshot_id and found is not None and found["status"] == "available":
                continue
            if found is not None:
                worker.storage.delete_snapshot(found["id"])
        except StillframeError as error:
            LOG.warning(
                "a snapshot of volume %s that came too late for set %s may stay (%s): %s",
                disk.volume_id,
                operation.intent.set_id,
                snapshot_id or "its id is not known",
                error.message,
            )
        errors[disk.volume_id] = why
    return errors


def drop_late(worker: WorkerContext, operation: _Asked) -> None:
    """Deletes the snapshots that came too late for the set. Raises NotYet, for LATE_SECONDS at the most, while one is still
    being made: block storage deletes it then and not before."""
    known, waited = operation.evidence.get("native", {}), operation.notes().get("waited", 0.0)
    late = [found for volume_id, found in known.get("snapshots", {}).items() if volume_id in known["errors"]]
    being_made = [found for found in late if not _is_dropped(worker, found)]
    if being_made and waited < LATE_SECONDS:
        why = ServiceUnavailable(f"block storage still takes snapshot {being_made[0]}, which came too late and is deleted")
        raise NotYet(LONGEST_LOOK_SECONDS, {"waited": waited + LONGEST_LOOK_SECONDS}, why=why)
    for snapshot_id in being_made:
        LOG.warning("snapshot %s, which came too late for set %s, stays: delete it", snapshot_id, operation.intent.set_id)


def _is_dropped(worker: WorkerContext, snapshot_id: str) -> bool:
    try:
        found = worker.storage.snapshot(snapshot_id)
        if found is not None and found["status"] != "deleting":
            worker.storage.delete_snapshot(snapshot_id)
    except NotFound:
        return True
    except StillframeError as error:
        LOG.info("snapshot %s cannot be deleted yet: %s", snapshot_id, error.message)
        return False
    return True


def _is_back(worker: WorkerContext, operation: _Asked, _args: CommitBack) -> Document | None:
    """Every description names the volumes again, no scratch overlay is left, and none keeps the guest stopped."""
    server = _server(worker, operation)
    if server is not None and any(_names_scratch(server, disk) for disk in operation.intent.scratched):
        return None
    left = [disk for disk in operation.intent.scratched if files.exists(Path(disk.directory), disk.scratch)]
    return None if left or _stopped_disks(worker, operation) else {}


def _server(worker: WorkerContext, operation: _Asked) -> Server | None:
    """None for one that is gone, description and all: a transient one that stopped."""
    try:
        return servers.look(worker, operation.intent.server_id)
    except NotFound:
        return None


def _names_scratch(server: Server, disk: NativeDisk) -> bool:
    return any(
        each.target == disk.target and each.place == disk.path_after
        for description in server.descriptions
        for each in description.disks
    )


def _commit_back(worker: WorkerContext, operation: _Asked, _args: CommitBack) -> Document:
    """One look at every overlay: begins its job, ends it, or commits it offline. Raises NotYet until all are back."""
    notes = operation.notes()
    began = dict(notes.get("began", {}))  # by volume id, in which attempt its job was begun
    server = _server(worker, operation)
    back = [_one_back(worker, operation, (server, disk), began) for disk in operation.intent.scratched]
    if not all(back):
        waited = notes.get("waited", 0.0)
        seconds = min(LONGEST_LOOK_SECONDS, max(SHORTEST_LOOK_SECONDS, waited / 10))
        raise NotYet(seconds, {"waited": waited + seconds, "began": began}, at_work=True)
    if server is not None and _stopped_disks(worker, operation):  # what could not be written goes to the volume now (F56)
        io_errors.resume(worker.hypervisor.domain(server.id))
    for disk in operation.intent.scratched:
        _remove(worker, disk)
    return {}


def _one_back(worker: WorkerContext, operation: _Asked, place: tuple[Server | None, NativeDisk], began: dict[str, int]) -> bool:
    """Returns whether the disk is back. Raises ShareUnavailable for a job that ended before its work was done; the next attempt
    begins another one."""
    server, disk = place
    if server is None:
        return _without_server(worker, operation.intent.server_id, disk)
    if not _names_scratch(server, disk):
        return True
    domain = worker.hypervisor.domain(server.id)
    if not server.view.active:
        return _offline(worker, server, disk)
    live = next((each for each in server.live.disks if each.target == disk.target), None)
    if live is None or live.place != disk.path_after:
        raise Parked(
            f"server {server.id} runs without the scratch overlay {disk.scratch} of volume {disk.volume_id}, which its"
            f" definition names: look at disk {disk.target} in both descriptions (virsh dumpxml, with --inactive and without)"
        )
    if block_jobs.find(domain, disk.target) is None:
        if began.get(disk.volume_id) == operation.attempts:
            raise ShareUnavailable(
                f"the block job that commits {disk.scratch} back into volume {disk.volume_id} ended before its work was done:"
                " somebody aborted it, or the volume could not be written; it is begun again"
            )
        block_jobs.commit(domain, disk.target, None, None, 0)
        began[disk.volume_id] = operation.attempts
    elif live.mirror_ready:
        block_jobs.pivot(domain, disk.target)
        return not _names_scratch(servers.look(worker, server.id), disk)
    return False


def _without_server(worker: WorkerContext, server_id: str, disk: NativeDisk) -> bool:
    """A transient server went with its description; its QEMU may still be closing its files."""
    directory = Path(disk.directory)
    if not files.exists(directory, disk.scratch):
        return True
    if files.is_locked(directory, disk.scratch):
        return False
    _write_back(worker, server_id, disk)
    return True


def _offline(worker: WorkerContext, server: Server, disk: NativeDisk) -> bool:
    """The guest stopped, or QEMU died: what it wrote is in the overlay. Nobody starts it meanwhile. Returns False while a
    program, a QEMU that ends, has it open. Raises NotYet for a guest that was saved: it must find the overlay again."""
    if not server.condition.allows("offline"):
        why = f"server {server.id} is {server.condition.means}; its disk {disk.target} is on {disk.scratch} until it runs, or"
        raise NotYet(SAVED_LOOK_SECONDS, why=Conflict(f"{why} its saved state is removed"), at_work=True)
    if files.is_locked(Path(disk.directory), disk.scratch):
        return False
    _write_back(worker, server.id, disk)
    xml = server.view.inactive_xml or server.view.xml
    hypervisor.update_definition(worker.hypervisor.domain(server.id), domain_xml.without_scratch(xml, disk.target))
    return True


def _write_back(worker: WorkerContext, server_id: str, disk: NativeDisk) -> None:
    found = worker.storage.attachment(disk.volume_id, server_id)
    if found is None or not found["connection_info"]:
        raise ShareUnavailable(
            f"what server {server_id} wrote to volume {disk.volume_id} lies in {disk.scratch} and cannot be written back: block"
            " storage has no attachment with a connection for it"
        )
    attachment = Attachment(found["id"], disk.volume_id, found["connection_info"])
    kinds.of(found["connection_info"]).commit_scratch(worker, attachment, disk.overlay)


def result_of(operation: _Asked, disk: NativeDisk) -> tuple[str | None, str | None]:
    """Returns the id of a native volume's snapshot, once it is known, and why there is none that holds."""
    known: dict[str, Any] = operation.evidence.get("native") or operation.notes("native")
    return known.get("snapshots", {}).get(disk.volume_id), known.get("errors", {}).get(disk.volume_id)


VERBS: Mapping[str, Verb[AssistedSnapshot, Any]] = {
    "scratch": Verb(_scratch_made, _make_scratch, _unmake_scratch, args=MakeScratch),
    "native": Verb(_taken, _take, args=TakeSnapshots),
    "commit_back": Verb(_is_back, _commit_back, no_return="start", args=CommitBack),
}
