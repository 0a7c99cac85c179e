"""The steps that all assisted snapshots share: overlays, the switch, the thaw, the check afterwards."""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from stillframe.chain import names
from stillframe.compute.libvirt import domain_xml, other_jobs, servers
from stillframe.compute.libvirt.domain_xml import Description
from stillframe.compute.libvirt.servers import Server
from stillframe.compute.operations import frozen_native
from stillframe.compute.operations.frozen_native import Snapshots, SwitchWithSnapshots, are_in_window
from stillframe.compute.operations.snapshot_intents import AssistedSnapshot, NativeDisk, ServerSnapshot, SnapshotDisk
from stillframe.compute.quiesce import bounded, instant
from stillframe.compute.quiesce import window as quiesce_window
from stillframe.compute.quiesce.filesystems import Layout
from stillframe.compute.quiesce.outcome import Outcome, crash_only
from stillframe.compute.worker.context import WorkerContext
from stillframe.compute.worker.side_by_side import side_by_side
from stillframe.db import assisted_snapshots
from stillframe.errors import (
    AgentFailed,
    AnotherJob,
    ChainConflict,
    Conflict,
    FileInUse,
    HookFailed,
    NotFound,
    Parked,
    QuiesceRefused,
    ShareUnavailable,
    StepFailed,
    StillframeError,
)
from stillframe.host import files, hypervisor, publish, qcow2, qemu_img, scratch, soundness, trash
from stillframe.journal import deadline
from stillframe.journal.operation import Document, NotYet, Operation, Verb
from stillframe.journal.typed import Args

THAW_SECONDS, THAW_LOOK_SECONDS = 6.0, 0.2
LOG = logging.getLogger(__name__)
COMMIT_BACK = "commit_back"  # the step that brings native disks back; see native
LOOK_SECONDS = 2.0  # between two looks at another program's job
LOST_OUTCOME = "nobody could confirm that the freeze held until the switch: the worker or libvirt failed around it"


class Overlays(Args, frozen=True, kw_only=True):
    """Make every overlay, beside the files that the guest uses."""

    verb = "overlays"


class Instant(Args, frozen=True, kw_only=True):
    """Note a moment before the switch."""

    verb = "instant"


class SwitchDisks(Args, frozen=True, kw_only=True):
    """Switch all disks to their overlays in one call, between freeze and thaw. With a ``token``, block storage takes the
    snapshots of native volumes there too, and that is what they are known by."""

    verb = "switch"
    token: str | None = None


class Thaw(Args, frozen=True, kw_only=True):
    """Make sure that the guest is thawed."""

    verb = "thaw"


class Verify(Args, frozen=True, kw_only=True):
    """Check that the descriptions and the headers name the overlays."""

    verb = "verify"


def _overlays_made(_worker: WorkerContext, operation: Operation[ServerSnapshot], _args: Overlays) -> Document | None:
    for disk in operation.intent.disks:
        share = disk.share
        if not files.exists(share, disk.overlay) or qcow2.read(share, disk.overlay) != disk.image:
            return None
    return {}


def _make_overlays(worker: WorkerContext, operation: Operation[ServerSnapshot], _args: Overlays) -> Document:
    """Every overlay durable and its header read back, before anything refers to it (I3, F4). What becomes a base under a
    stopped server is repaired first, if its writer died; a running QEMU marks it clean when it switches to the overlay."""
    repaired: list[str] = []

    def make(disk: SnapshotDisk) -> None:
        share = disk.share
        if files.free_bytes(share) < disk.chain_limits.minimum_free:
            raise ShareUnavailable(f"the share of volume {disk.volume_id} is full")
        with files.share_errors(share):
            for each in soundness.mend_open(share, [qcow2.read_as(share, disk.active, disk.format)]):
                LOG.warning("volume %s: %s", disk.volume_id, each)
                repaired.append(each)
            publish.publish_overlay(share, disk.image, operation.id, disk.volume_id)

    side_by_side(make, operation.intent.disks)
    return {"repaired": repaired} if repaired else {}


def _unmake_overlays(worker: WorkerContext, operation: Operation[ServerSnapshot], _args: Overlays) -> None:
    """Removes only what neither description names, no program has open and no header refers to (I4)."""
    for disk in operation.intent.disks:
        share = disk.share
        files.remove_temporary(share, names.temporary_name(disk.volume_id, operation.id))
        if not files.exists(share, disk.overlay):
            continue
        _check_unreferenced(worker, operation, disk)
        trash.put(share, disk.overlay, names.trash_name(disk.overlay))


def _check_unreferenced(worker: WorkerContext, operation: Operation[ServerSnapshot], disk: SnapshotDisk) -> None:
    share, overlay = disk.share, disk.overlay
    for server in servers.list_everything(worker, sure=True):
        if server.names_file(str(share / overlay)):
            raise Parked(f"{overlay} is named by a description of server {server.id}; it is not removed")
    if files.is_locked(share, overlay):
        # The program that locked it may be why the switch was refused; most release it soon.
        raise FileInUse(f"{overlay} is open in a program; it is not removed")
    for name in files.listing(share):
        own_base = name == names.base_name(disk.volume_id)  # below every overlay; a raw one holds what the guest likes (R3)
        if names.parse(name) and name != overlay and not own_base and qemu_img.backing_of(share, name) == overlay:
            raise Parked(f"{overlay} backs {name}; it is not removed")


def _places_now(description: Description, operation: Operation[ServerSnapshot]) -> dict[str, str | None]:
    """By target, what the description names for each disk of the set. Once scratch overlays are committed back, their disks
    tell nothing of the switch any more, and are left out."""
    by_target = {disk.target: disk.place for disk in description.disks}
    counted = [disk.target for disk in operation.intent.disks]
    if not is_coming_back(operation):
        counted += [disk.target for disk in operation.intent.natives]
    return {target: by_target.get(target) for target in counted}


def is_coming_back(operation: Operation[ServerSnapshot]) -> bool:
    """Tells whether scratch overlays may have been committed back already."""
    return any(name.partition(" ")[0] == COMMIT_BACK for name in operation.evidence)


def _switched(worker: WorkerContext, operation: Operation[ServerSnapshot], _args: object) -> Document | None:
    """Live description first, else the inactive one; all disks or none (F14). Where no disk is switched, the record alone
    knows: the snapshots of an attempt that recorded nothing are not of a known instant."""
    if are_in_window(operation.intent) and not operation.intent.disks:
        return operation.evidence.get("switch")
    try:
        server = servers.look(worker, operation.intent.server_id)
    except NotFound:
        return _switched_without_domain(operation)
    found = _places_now(server.live, operation)
    if found == _of(found, operation.intent.places_after):
        return _seen(operation)
    if found == _of(found, operation.intent.places_before):
        return None
    names = ", ".join(f"{key}: {os.path.basename(str(path))}" for key, path in sorted(found.items()))
    raise Parked(f"the files of server {server.id} are neither those before the switch nor those after it ({names})")


def _of(found: Mapping[str, str | None], places: Mapping[str, str]) -> dict[str, str]:
    return {target: places[target] for target in found}


def _switched_without_domain(operation: Operation[ServerSnapshot]) -> Document | None:
    """A transient domain is gone with its description. Overlays with data were in use; with empty ones either answer is
    right."""
    holds = [qcow2.holds_data(disk.share, disk.overlay) for disk in operation.intent.disks]
    holds += [qcow2.holds_data(Path(disk.directory), disk.scratch) for disk in operation.intent.scratched if _is_there(disk)]
    return _seen(operation) if any(holds) or is_coming_back(operation) else None


def _is_there(disk: NativeDisk) -> bool:
    return files.exists(Path(disk.directory), disk.scratch)


def _seen(operation: Operation[ServerSnapshot]) -> Document:
    """Records when the switch was first seen, unless whoever made the call recorded it more exactly."""
    return {"switched": True, **({} if "switch" in operation.evidence else {"not_after": time.time()})}


def _note_instant(worker: WorkerContext, operation: Operation[ServerSnapshot], args: Instant) -> Document:
    """Records a moment before the switch, durably, for the case that the worker dies in the window. It is taken before the
    check, because a call of a dead worker may still be under way."""
    moment, noted = time.time(), operation.evidence.get("instant")
    try:
        if noted and _switched(worker, operation, args) is not None:
            return noted
    except Parked:  # the switch decides what that means: it knows whether it was begun
        return dict(noted or {"not_before": moment})
    return {"not_before": moment}


def _switch(worker: WorkerContext, operation: Operation[ServerSnapshot], args: SwitchDisks) -> Document:
    with waiting_for_its_turn(worker, operation):
        return _switch_now(worker, operation, args.token)


@contextmanager
def waiting_for_its_turn(worker: WorkerContext, operation: Operation[ServerSnapshot]) -> Iterator[None]:
    """Waits for another program's job as long as the request allows (``wait_until``); the set shows it. Raises NotYet, and
    AnotherJob when that time is over."""
    try:
        yield
    except AnotherJob as error:
        asked = operation.intent
        with worker.database.read() as connection:
            left = deadline.left(connection, asked.wait_until)
        if not left:
            raise
        if isinstance(asked, AssistedSnapshot):
            with worker.database.write() as connection:
                message = f"it waits, for {left:.0f} s more at most: {error.message}"
                assisted_snapshots.change(connection, asked.set_id, fault=message)
        raise NotYet(min(LOOK_SECONDS, left), why=error) from error


def _switch_now(worker: WorkerContext, operation: Operation[ServerSnapshot], token: str | None) -> Document:
    asked, times = operation.intent, _times(worker, operation)
    server = servers.look(worker, asked.server_id)
    if server.view.active != asked.active:
        raise Conflict(f"server {server.id} was started or stopped after the snapshot was asked for; repeat the request")
    server.refuse_unless("set")
    _check_unchanged(server, operation)
    domain = worker.hypervisor.domain(server.id)
    moved = {disk.target for disk in (*asked.disks, *asked.scratched)}
    paths = {disk.target: disk.path_after for disk in asked.all_disks if disk.target in moved}
    if (
        not paths and token is None
    ):  # native volumes of a stopped server: nothing writes to them while the operation has the server
        return {"switched": True, "outcome": None, **instant.around(lambda: None)}
    xml = domain_xml.snapshot(paths, [disk.target for disk in server.live.disks])
    moments: Document = {}

    def switch() -> None:
        moments.update(instant.around(lambda: hypervisor.switch_disks(domain, xml) if paths else None))

    overlays = list(paths.values())
    call = bounded.Call(switch, lambda: other_jobs.has_begun(domain, overlays), times.deadline)
    worker.switches.keep(server.id, call)
    other_jobs.refuse_if_at_work(worker, server, asked.targets)
    if not server.view.active:  # the call rewrites the definition under libvirt's lock, so no start can come between
        bounded.patiently(call)
        return {"switched": True, "outcome": None, **moments}
    began = time.monotonic()
    snapshots = _in_window(worker, asked, token)
    outcome = _quiesced(worker, operation, server, _with(snapshots, call, asked, times) if snapshots else call)
    if snapshots and outcome.frozen_ms is None and server.condition.allows("freeze"):
        outcome = replace(outcome, failure=f"{outcome.failure}; {frozen_native.NOT_OF_ONE_INSTANT}")
    switch_ms = round((time.monotonic() - began) * 1000, 1)
    by_target = {target: outcome.for_target(target) for target in asked.targets}
    return {
        "switched": True,
        "outcome": outcome.document(),
        "disks": by_target,
        "held": outcome.held,
        **moments,
        "switch_ms": switch_ms,  # agent and libvirt together, including the flush and the preflight
        **({"native": snapshots.evidence()} if snapshots else {}),
    }


def _in_window(worker: WorkerContext, asked: ServerSnapshot, token: str | None) -> Snapshots | None:
    return Snapshots(worker.storage, asked, token) if token and isinstance(asked, AssistedSnapshot) else None


def _with(snapshots: Snapshots, call: bounded.Call, asked: ServerSnapshot, times: quiesce_window.Times) -> SwitchWithSnapshots:
    return SwitchWithSnapshots(snapshots, call, asked.quiesce == "required", times.deadline)


def _check_unchanged(server: Server, operation: Operation[ServerSnapshot]) -> None:
    for disk in operation.intent.disks:
        share = disk.share
        if server.view.active and not files.is_locked(share, disk.active):
            raise ChainConflict(f"the guest does not have {disk.active} open: the file was replaced")
        if qcow2.read(share, disk.overlay) != disk.image:
            raise ChainConflict(f"the overlay {disk.overlay} was changed before the switch")
    for native in operation.intent.scratched:
        if not scratch.is_made(native.overlay):
            raise ChainConflict(f"the scratch overlay {native.scratch} was changed before the switch")


def _quiesced(
    worker: WorkerContext, operation: Operation[ServerSnapshot], server: Server, switch: Callable[[], None]
) -> Outcome:
    policy, targets = operation.intent.quiesce, operation.intent.targets
    if policy == "never":
        bounded.patiently(switch)
        return crash_only("quiescing was not asked for")
    ready = check_ready(worker, server, targets, operation.intent.allow_unfreezable)
    if ready.unmet is not None and policy == "required":
        raise QuiesceRefused(f"server {server.id} cannot be quiesced: {ready.unmet}")
    if ready.reason is not None:
        bounded.patiently(switch)
        return replace(crash_only(ready.reason), held=ready.unmet is None)
    domain = worker.hypervisor.domain(server.id)
    window = quiesce_window.frozen(worker.guard, domain, operation.id, ready, _times(worker, operation))
    try:
        other_jobs.refuse_if_at_work(worker, server, targets)  # the flush before took its time
    except StillframeError:
        window.cancel()
        raise
    inside = switch.within(lambda: window.seconds_left) if isinstance(switch, SwitchWithSnapshots) else switch
    try:
        return window.around(inside, unfrozen_too=policy == "preferred")
    except AgentFailed as error:
        kind = HookFailed if isinstance(error, HookFailed) else QuiesceRefused  # whose advice is about the hook
        raise kind(f"server {server.id} could not be quiesced: {error.message}") from error


def _times(worker: WorkerContext, operation: Operation[ServerSnapshot]) -> quiesce_window.Times:
    asked, usual = operation.intent.hook_timeout, worker.settings.compute.hook_timeout_seconds
    return replace(worker.times, hooks=usual if asked is None else asked)


def check_ready(
    worker: WorkerContext, server: Server, targets: tuple[str, ...], allowed: Sequence[str]
) -> quiesce_window.Preflight:
    """Tells whether the guest can be quiesced now, and if not, why; filesystems that are ``allowed`` need not be frozen."""
    if not server.condition.allows("freeze"):
        return quiesce_window.not_ready(f"the server is {server.condition.means}, so its guest agent cannot answer")
    if not server.live.has_agent_channel:
        return quiesce_window.not_ready("the server has no guest agent channel (org.qemu.guest_agent.0)")
    with worker.database.read() as connection:
        newest = assisted_snapshots.newest_of_server(connection, server.id)
    consistency = (newest["consistency"] if newest is not None else None) or {}
    experience = frozenset(consistency.get("not_frozen") or ())
    wanted = Layout(targets, allowed=tuple(allowed), experience=experience)
    return quiesce_window.preflight(worker.hypervisor.domain(server.id), wanted, worker.times)


def _thaw(worker: WorkerContext, operation: Operation[ServerSnapshot], _args: object) -> Document:
    """Raises NotYet while the guest may be frozen, for a few seconds. A guest whose agent does not answer is left to the
    watchdog, which keeps trying."""
    record, waited = worker.guard.pending(operation.intent.server_id), operation.notes().get("waited", 0.0)
    if record is None or worker.guard.try_thaw(record):
        return {}
    if waited < THAW_SECONDS:
        raise NotYet(THAW_LOOK_SECONDS, {"waited": waited + THAW_LOOK_SECONDS})
    return {"left_to_watchdog": True}


def _undo_switch(worker: WorkerContext, operation: Operation[ServerSnapshot], args: SwitchDisks) -> None:
    """Keeps the overlays while the call has not returned: it may still be carried out, and then the guest writes into them."""
    if operation.intent.active:
        _thaw(worker, operation, args)
    worker.switches.refuse_while_pending(operation.intent.server_id)


def _not_yet(_worker: WorkerContext, _operation: Operation[ServerSnapshot], _args: object) -> None:
    return None


def _verify(worker: WorkerContext, operation: Operation[ServerSnapshot], _args: Verify) -> Document:
    """Checks that the live description, the inactive description and the headers name the overlays (R18)."""
    for disk in operation.intent.disks:
        found = qcow2.read(disk.share, disk.overlay)
        if found != disk.image:
            raise Parked(f"the header of an overlay is not as it was made: {found}, not {disk.image}")
    try:
        server = servers.look(worker, operation.intent.server_id)
    except NotFound:
        return {}
    for description in server.descriptions:
        places = _places_now(description, operation)
        for target, wanted in _of(places, operation.intent.places_after).items():
            if places[target] != wanted:
                raise Parked(
                    f"a description of server {server.id} names {os.path.basename(str(places[target]))} for {target}, but the"
                    f" guest writes to {os.path.basename(wanted)}. Do not stop or start the server before the description is"
                    " right (virsh edit)"
                )
    return {}


def outcome_of(operation: Operation[ServerSnapshot], target: str) -> Document | None:
    """Returns the consistency document of one disk's snapshot; None for a server that did not run: exact."""
    if not operation.intent.active:
        return None
    found = operation.evidence.get("switch", {})
    if "disks" in found:
        known: Document = found["disks"][target]
        return known
    return crash_only(LOST_OUTCOME).for_target(target)


def outcome_of_set(operation: Operation[ServerSnapshot]) -> Document | None:
    if not operation.intent.active:
        return None
    found: Document | None = operation.evidence.get("switch", {}).get("outcome")
    return found or crash_only(LOST_OUTCOME).document()


VERBS: Mapping[str, Verb[ServerSnapshot, Any]] = {
    "instant": Verb(_not_yet, _note_instant, args=Instant),
    "overlays": Verb(_overlays_made, _make_overlays, _unmake_overlays, args=Overlays),
    "switch": Verb(_switched, _switch, _undo_switch, no_return="done", args=SwitchDisks),
    "thaw": Verb(_not_yet, _thaw, args=Thaw),
    "verify": Verb(_not_yet, _verify, args=Verify),
}


def check_overlay_exists(disk: SnapshotDisk) -> None:
    """For Nova's call, where block storage made the overlay. Raises StepFailed when it is not the one expected."""
    try:
        found = qcow2.read(disk.share, disk.overlay)
    except FileNotFoundError as error:
        raise StepFailed(f"{disk.overlay} does not exist on the share of volume {disk.volume_id}") from error
    if found != disk.image:
        raise StepFailed(f"the overlay is {found}, not {disk.image}")
