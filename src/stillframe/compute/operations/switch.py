"""The steps that all assisted snapshots share: overlays, the switch, the thaw, the check afterwards.

An intent's ``disks`` are ``{"volume_id", "snapshot_id", "target", "directory", "active", "overlay", "size"}``; ``size``
is in bytes. ``active`` says whether the guest ran when the plan was made.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from stillframe.chain import names
from stillframe.chain.image import Image
from stillframe.compute.clients import chain_limits
from stillframe.compute.libvirt import domain_xml, other_jobs, servers
from stillframe.compute.libvirt.domain_xml import Description
from stillframe.compute.libvirt.servers import Server
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
from stillframe.host import files, hypervisor, publish, qcow2, qemu_img, soundness, trash
from stillframe.journal.operation import Document, NotYet, Operation, Verb

THAW_SECONDS, THAW_LOOK_SECONDS = 6.0, 0.2
LOG = logging.getLogger(__name__)
LOOK_SECONDS = 2.0  # between two looks at another program's job
LOST_OUTCOME = "nobody could confirm that the freeze held until the switch: the worker or libvirt failed around it"


def overlay_image(disk: Document) -> Image:
    return Image(disk["overlay"], "qcow2", disk["size"], disk["active"], "qcow2")


def _overlays_made(_world: WorkerContext, operation: Operation, _args: Document) -> Document | None:
    for disk in operation.intent["disks"]:
        share = Path(disk["directory"])
        if not files.exists(share, disk["overlay"]) or qcow2.read(share, disk["overlay"]) != overlay_image(disk):
            return None
    return {}


def _make_overlays(world: WorkerContext, operation: Operation, _args: Document) -> Document:
    """Every overlay durable and its header read back, before anything refers to it (I3, F4). What becomes a base under a
    stopped server is repaired first, if its writer died; a running QEMU marks it clean when it switches to the overlay."""
    repaired: list[str] = []

    def make(disk: Document) -> None:
        share = Path(disk["directory"])
        if files.free_bytes(share) < chain_limits.of(disk).minimum_free:
            raise ShareUnavailable(f"the share of volume {disk['volume_id']} is full")
        with files.share_errors(share):
            for each in soundness.mend_open(share, [qcow2.read(share, disk["active"])]):
                LOG.warning("volume %s: %s", disk["volume_id"], each)
                repaired.append(each)
            publish.publish_overlay(share, overlay_image(disk), operation.id, disk["volume_id"])

    side_by_side(make, operation.intent["disks"])
    return {"repaired": repaired} if repaired else {}


def _unmake_overlays(world: WorkerContext, operation: Operation, _args: Document) -> None:
    """Removes only what neither description names, no program has open and no header refers to (I4)."""
    for disk in operation.intent["disks"]:
        share = Path(disk["directory"])
        files.remove_temporary(share, names.temporary_name(disk["volume_id"], operation.id))
        if not files.exists(share, disk["overlay"]):
            continue
        _check_unreferenced(world, operation, disk)
        trash.put(share, disk["overlay"], names.trash_name(disk["overlay"]))


def _check_unreferenced(world: WorkerContext, operation: Operation, disk: Document) -> None:
    share, overlay = Path(disk["directory"]), disk["overlay"]
    for server in servers.list_everything(world, sure=True):
        if server.names_file(str(share / overlay)):
            raise Parked(f"{overlay} is named by a description of server {server.id}; it is not removed")
    if files.is_locked(share, overlay):
        # The program that locked it may be why the switch was refused; most release it soon.
        raise FileInUse(f"{overlay} is open in a program; it is not removed")
    for name in files.listing(share):
        if names.parse(name) and name != overlay and qemu_img.backing_of(share, name) == overlay:
            raise Parked(f"{overlay} backs {name}; it is not removed")


def _files_now(description: Description, operation: Operation) -> dict[str, str | None]:
    """Volume id -> path the description names on that disk's target."""
    by_target = {disk.target: disk.file for disk in description.disks}
    return {disk["volume_id"]: by_target.get(disk["target"]) for disk in operation.intent["disks"]}


def _switched(world: WorkerContext, operation: Operation, _args: Document) -> Document | None:
    """Live description first, else the inactive one; all disks or none (F14)."""
    try:
        server = servers.look(world, operation.intent["server_id"])
    except NotFound:
        return _switched_without_domain(operation)
    found = _files_now(server.live, operation)
    new = {disk["volume_id"]: os.path.join(disk["directory"], disk["overlay"]) for disk in operation.intent["disks"]}
    old = {disk["volume_id"]: os.path.join(disk["directory"], disk["active"]) for disk in operation.intent["disks"]}
    if found == new:
        return _seen(operation)
    if found == old:
        return None
    told = ", ".join(f"{key}: {os.path.basename(str(path))}" for key, path in sorted(found.items()))
    raise Parked(f"the files of server {server.id} are neither those before the switch nor those after it ({told})")


def _switched_without_domain(operation: Operation) -> Document | None:
    """A transient domain is gone with its description. Overlays with data were in use; with empty ones either answer is
    right."""
    holds = [qcow2.holds_data(Path(disk["directory"]), disk["overlay"]) for disk in operation.intent["disks"]]
    return _seen(operation) if any(holds) else None


def _seen(operation: Operation) -> Document:
    """Records when the switch was first seen, unless whoever made the call recorded it more exactly."""
    return {"switched": True, **({} if "switch" in operation.evidence else {"not_after": time.time()})}


def _note_instant(world: WorkerContext, operation: Operation, args: Document) -> Document:
    """Records a moment before the switch, durably, for the case that the worker dies in the window. It is taken before the
    check, because a call of a dead worker may still be under way."""
    moment, noted = time.time(), operation.evidence.get("instant")
    try:
        if noted and _switched(world, operation, args) is not None:
            return noted
    except Parked:  # the switch decides what that means: it knows whether it was begun
        return dict(noted or {"not_before": moment})
    return {"not_before": moment}


def _switch(world: WorkerContext, operation: Operation, _args: Document) -> Document:
    with waiting_for_its_turn(world, operation):
        return _switch_now(world, operation)


@contextmanager
def waiting_for_its_turn(world: WorkerContext, operation: Operation) -> Iterator[None]:
    """Waits for another program's job as long as the request allows (``wait_until``, seconds since the epoch); the set shows
    it. Raises NotYet, and AnotherJob when that time is over."""
    try:
        yield
    except AnotherJob as error:
        left = (operation.intent.get("wait_until") or 0.0) - time.time()
        if left <= 0:
            raise
        if operation.intent.get("set_id"):
            with world.database.write() as connection:
                told = f"it waits, for {left:.0f} s more at most: {error.message}"
                assisted_snapshots.change(connection, operation.intent["set_id"], fault=told)
        raise NotYet(min(LOOK_SECONDS, left), why=error) from error


def _switch_now(world: WorkerContext, operation: Operation) -> Document:
    server = servers.look(world, operation.intent["server_id"])
    if server.view.active != operation.intent["active"]:
        raise Conflict(f"server {server.id} was started or stopped after the snapshot was asked for; repeat the request")
    server.refuse_unless("set")
    _check_unchanged(server, operation)
    domain = world.hypervisor.domain(server.id)
    paths = {disk["target"]: os.path.join(disk["directory"], disk["overlay"]) for disk in operation.intent["disks"]}
    xml = domain_xml.snapshot(paths, [disk.target for disk in server.live.disks])
    moments: Document = {}

    def switch() -> None:
        moments.update(instant.around(lambda: hypervisor.switch_disks(domain, xml)))

    disks, times = operation.intent["disks"], _times(world, operation)
    call = bounded.Call(switch, lambda: other_jobs.has_begun(domain, disks), times.deadline)
    world.switches.keep(server.id, call)
    other_jobs.refuse_if_at_work(world, server, tuple(disk["target"] for disk in disks))
    if not server.view.active:  # the call rewrites the definition under libvirt's lock, so no start can come between
        bounded.patiently(call)
        return {"switched": True, "outcome": None, **moments}
    began = time.monotonic()
    outcome = _quiesced(world, operation, server, call)
    switch_ms = round((time.monotonic() - began) * 1000, 1)
    by_target = {disk["target"]: outcome.for_target(disk["target"]) for disk in operation.intent["disks"]}
    return {
        "switched": True,
        "outcome": outcome.document(),
        "disks": by_target,
        "held": outcome.held,
        **moments,
        "switch_ms": switch_ms,  # agent and libvirt together, including the flush and the preflight
    }


def _check_unchanged(server: Server, operation: Operation) -> None:
    for disk in operation.intent["disks"]:
        share = Path(disk["directory"])
        if server.view.active and not files.is_locked(share, disk["active"]):
            raise ChainConflict(f"the guest does not have {disk['active']} open: the file was replaced")
        if qcow2.read(share, disk["overlay"]) != overlay_image(disk):
            raise ChainConflict(f"the overlay {disk['overlay']} was changed before the switch")


def _quiesced(world: WorkerContext, operation: Operation, server: Server, switch: Callable[[], None]) -> Outcome:
    policy = operation.intent["quiesce"]
    targets = tuple(disk["target"] for disk in operation.intent["disks"])
    if policy == "never":
        bounded.patiently(switch)
        return crash_only("quiescing was not asked for")
    ready = check_ready(world, server, targets, operation.intent.get("allow_unfreezable") or ())
    if ready.unmet is not None and policy == "required":
        raise QuiesceRefused(f"server {server.id} cannot be quiesced: {ready.unmet}")
    if ready.reason is not None:
        bounded.patiently(switch)
        return replace(crash_only(ready.reason), held=ready.unmet is None)
    domain = world.hypervisor.domain(server.id)
    window = quiesce_window.frozen(world.guard, domain, operation.id, ready, _times(world, operation))
    try:
        other_jobs.refuse_if_at_work(world, server, targets)  # the flush before took its time
    except StillframeError:
        window.give_up()
        raise
    try:
        return window.around(switch, unfrozen_too=policy == "preferred")
    except AgentFailed as error:
        kind = HookFailed if isinstance(error, HookFailed) else QuiesceRefused  # whose advice is about the hook
        raise kind(f"server {server.id} could not be quiesced: {error.message}") from error


def _times(world: WorkerContext, operation: Operation) -> quiesce_window.Times:
    hooks = operation.intent.get("hook_timeout") or world.settings.compute.hook_timeout_seconds
    return replace(world.times, hooks=hooks)


def check_ready(
    world: WorkerContext, server: Server, targets: tuple[str, ...], allowed: Sequence[str]
) -> quiesce_window.Preflight:
    """Tells whether the guest can be quiesced now, and if not, why; filesystems that are ``allowed`` need not be frozen."""
    if not server.condition.allows("freeze"):
        return quiesce_window.not_ready(f"the server is {server.condition.means}, so its guest agent cannot answer")
    if not server.live.has_agent_channel:
        return quiesce_window.not_ready("the server has no guest agent channel (org.qemu.guest_agent.0)")
    with world.database.read() as connection:
        newest = assisted_snapshots.newest_of_server(connection, server.id)
    experience = frozenset(((newest or {}).get("consistency") or {}).get("not_frozen") or ())
    wanted = Layout(targets, allowed=tuple(allowed), experience=experience)
    return quiesce_window.preflight(world.hypervisor.domain(server.id), wanted, world.times)


def _thaw(world: WorkerContext, operation: Operation, _args: Document) -> Document:
    """Raises NotYet while the guest may be frozen, for a few seconds. A guest whose agent does not answer is left to the
    watchdog, which keeps trying."""
    record, waited = world.guard.pending(operation.intent["server_id"]), operation.notes().get("waited", 0.0)
    if record is None or world.guard.try_thaw(record):
        return {}
    if waited < THAW_SECONDS:
        raise NotYet(THAW_LOOK_SECONDS, {"waited": waited + THAW_LOOK_SECONDS})
    return {"left_to_watchdog": True}


def _undo_switch(world: WorkerContext, operation: Operation, args: Document) -> None:
    """Keeps the overlays while the call has not returned: it may still be carried out, and then the guest writes into them."""
    if operation.intent["active"]:
        _thaw(world, operation, args)
    world.switches.refuse_while_pending(operation.intent["server_id"])


def _not_yet(_world: WorkerContext, _operation: Operation, _args: Document) -> None:
    return None


def _verify(world: WorkerContext, operation: Operation, _args: Document) -> Document:
    """Checks that the live description, the inactive description and the headers name the overlays (R18)."""
    for disk in operation.intent["disks"]:
        found = qcow2.read(Path(disk["directory"]), disk["overlay"])
        if found != overlay_image(disk):
            raise Parked(f"the header of an overlay is not as it was made: {found}, not {overlay_image(disk)}")
    try:
        server = servers.look(world, operation.intent["server_id"])
    except NotFound:
        return {}
    for description in server.descriptions:
        paths = _files_now(description, operation)
        for disk in operation.intent["disks"]:
            if paths[disk["volume_id"]] != os.path.join(disk["directory"], disk["overlay"]):
                raise Parked(
                    f"a description of server {server.id} names {os.path.basename(str(paths[disk['volume_id']]))} for"
                    f" {disk['target']}, but the guest writes to {disk['overlay']}. Do not stop or start the server before the"
                    " description is right (virsh edit)"
                )
    return {}


def outcome_of(operation: Operation, target: str) -> Document | None:
    """Returns the consistency document of one disk's snapshot; None for a server that did not run: exact."""
    if not operation.intent["active"]:
        return None
    found = operation.evidence.get("switch", {})
    if "disks" in found:
        known: Document = found["disks"][target]
        return known
    return crash_only(LOST_OUTCOME).for_target(target)


def outcome_of_set(operation: Operation) -> Document | None:
    if not operation.intent["active"]:
        return None
    found: Document | None = operation.evidence.get("switch", {}).get("outcome")
    return found or crash_only(LOST_OUTCOME).document()


VERBS = {
    "instant": Verb(_not_yet, _note_instant),
    "overlays": Verb(_overlays_made, _make_overlays, _unmake_overlays),
    "switch": Verb(_switched, _switch, _undo_switch, no_return="done"),
    "thaw": Verb(_not_yet, _thaw),
    "verify": Verb(_not_yet, _verify),
}


def check_overlay_exists(disk: Document) -> None:
    """For Nova's call, where block storage made the overlay. Raises StepFailed when it is not the one expected."""
    try:
        found = qcow2.read(Path(disk["directory"]), disk["overlay"])
    except FileNotFoundError as error:
        raise StepFailed(f"{disk['overlay']} does not exist on the share of volume {disk['volume_id']}") from error
    if found != overlay_image(disk):
        raise StepFailed(f"the overlay is {found}, not {overlay_image(disk)}")
