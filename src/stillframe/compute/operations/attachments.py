"""Attach a volume to a server, detach it: live and for a stopped domain."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from stillframe.compute.libvirt import connector, domain_xml, servers
from stillframe.compute.libvirt.connections import kinds as connections
from stillframe.compute.libvirt.connections.contract import Attachment
from stillframe.compute.libvirt.domain_xml import Description, Disk
from stillframe.compute.libvirt.servers import Server
from stillframe.compute.worker.context import WorkerContext
from stillframe.db import adopted_disks
from stillframe.db.values import NewAdoptedDisk
from stillframe.errors import BadRequest, ChainConflict, Conflict, NotFound, StepFailed, StillframeError
from stillframe.host import hypervisor, inspection, reach, soundness
from stillframe.journal import deadline
from stillframe.journal.deadline import Deadline
from stillframe.journal.operation import Document, Kind, NotYet, Operation, Verb
from stillframe.journal.record import Request
from stillframe.journal.typed import Args, Intent, step

SHORTEST_LOOK_SECONDS, LONGEST_LOOK_SECONDS = 0.1, 1.0  # at a guest that is asked to release a disk: most answer at once
ASK_AGAIN_SECONDS = 5.0  # one that was busy, or had not booted, may not have heard it


class _Change(Intent, frozen=True, kw_only=True):
    """A volume comes to a server or leaves it. ``begin_until`` is there when the request had to wait for others: how long it
    may. Version 2 has that as a deadline that no clock moves."""

    version = 2
    reads = frozenset({1})
    server_id: str
    volume_id: str
    begin_until: Deadline | float | None = None


class AttachVolume(_Change, frozen=True, kw_only=True):
    """``target`` is the name of the new disk: vdb."""

    target: str


class DetachVolume(_Change, frozen=True, kw_only=True):
    """Take a volume's disk out of a server."""


class Turn(Args, frozen=True, kw_only=True):
    """Check a request that had to wait."""

    verb = "turn"


class Reserve(Args, frozen=True, kw_only=True):
    """Make an attachment at block storage."""

    verb = "reserve"


class Connect(Args, frozen=True, kw_only=True):
    """Tell block storage of this host, and learn where the volume lies."""

    verb = "connect"


class Plug(Args, frozen=True, kw_only=True):
    """Give the server the disk."""

    verb = "plug"


class Complete(Args, frozen=True, kw_only=True):
    """Tell block storage that the server has the disk."""

    verb = "complete"


class Unplug(Args, frozen=True, kw_only=True):
    """Take the disk out of the server."""

    verb = "unplug"


class Release(Args, frozen=True, kw_only=True):
    """Delete the attachment at block storage."""

    verb = "release"


def request(asked: AttachVolume | DetachVolume, request_id: str) -> Request:
    """Returns the operation that attaches, or detaches."""
    attaches = isinstance(asked, AttachVolume)
    kind = "attach_volume" if attaches else "detach_volume"
    turn = () if asked.begin_until is None else (Turn(),)
    work = (Reserve(), Connect(), Plug(), Complete()) if attaches else (Unplug(), Release())
    plan = [step(args) for args in (*turn, *work)]
    return Request("compute", kind, asked, plan, [f"server:{asked.server_id}"], request_id)


def _ids(operation: Operation[_Change]) -> tuple[str, str]:
    return operation.intent.server_id, operation.intent.volume_id


def _never(_worker: WorkerContext, _operation: Operation, _args: object) -> None:
    return None


def _turn(worker: WorkerContext, operation: Operation[_Change], _args: Turn) -> Document:
    """Checks a request that had to wait: once, before anything is touched."""
    asked = operation.intent
    with worker.database.read() as connection:
        in_time = asked.begin_until is None or deadline.left(connection, asked.begin_until) > 0
    if not in_time:
        raise Conflict(
            f"volume {asked.volume_id} waited {worker.settings.compute.attach_wait_seconds} s while others were attached to"
            f" or detached from server {asked.server_id}; nothing was changed, repeat the request"
        )
    if isinstance(asked, AttachVolume) and asked.target in servers.look(worker, asked.server_id).targets:
        raise Conflict(
            f"disk {asked.target} of server {asked.server_id} was taken meanwhile; nothing was changed, repeat the request"
        )
    return {}


def _reserved(worker: WorkerContext, operation: Operation[AttachVolume], _args: Reserve) -> Document | None:
    server_id, volume_id = _ids(operation)
    known = worker.storage.attachment(volume_id, server_id)
    return {"attachment_id": known["id"]} if known else None


def _reserve(worker: WorkerContext, operation: Operation[AttachVolume], _args: Reserve) -> Document:
    server_id, volume_id = _ids(operation)
    return {"attachment_id": worker.storage.reserve(volume_id, server_id)}


def _release(worker: WorkerContext, operation: Operation[_Change], _args: object) -> None:
    server_id, volume_id = _ids(operation)
    known = worker.storage.attachment(volume_id, server_id)
    if known:
        if (known.get("connection_info") or {}).get("driver_volume_type") in connections.KINDS:
            connections.of(known["connection_info"]).release(worker, known["id"])
        worker.storage.release(known["id"])


def _cancel(worker: WorkerContext, operation: Operation[AttachVolume], args: Reserve) -> None:
    """The request was answered long ago, so the reason is recorded on the volume, before the volume returns to its earlier
    status."""
    server_id, volume_id = _ids(operation)
    if worker.storage.attachment(volume_id, server_id):
        _tell(worker, operation, args)
        _release(worker, operation, args)


def _tell(worker: WorkerContext, operation: Operation[_Change], _args: object) -> None:
    if operation.fault:
        worker.storage.note_fault(operation.intent.volume_id, operation.fault["message"])


def _connected(worker: WorkerContext, operation: Operation[AttachVolume], _args: Connect) -> Document | None:
    """Always sent by us, also for a reservation that somebody else made with its connector: from then on the volume counts as
    in use, so nobody who saw it unused a moment ago releases it."""
    if "connect" not in operation.evidence:
        return None
    server_id, volume_id = _ids(operation)
    known = worker.storage.attachment(volume_id, server_id)
    if not known or not known["connection_info"]:
        return None
    return _source(worker, Attachment(known["id"], volume_id, known["connection_info"]))


def _connect(worker: WorkerContext, operation: Operation[AttachVolume], _args: Connect) -> Document:
    attachment_id = operation.evidence["reserve"]["attachment_id"]
    info = worker.storage.connect(attachment_id, connector.properties(worker.settings, operation.intent.target))
    return _source(worker, Attachment(attachment_id, operation.intent.volume_id, info))


def _source(worker: WorkerContext, attachment: Attachment) -> Document:
    return connections.of(attachment.info).source(worker, attachment)


def _has(description: Description | None, volume_id: str) -> bool:
    return description is not None and description.disk_of(volume_id) is not None


def _plugged(worker: WorkerContext, operation: Operation[AttachVolume], _args: Plug) -> Document | None:
    server_id, volume_id = _ids(operation)
    server = servers.look(worker, server_id)
    return {} if all(_has(each, volume_id) for each in server.descriptions) else None


def _plug(worker: WorkerContext, operation: Operation[AttachVolume], _args: Plug) -> Document:
    server_id, volume_id = _ids(operation)
    source = operation.evidence["connect"]
    connection = connections.of(source)
    repaired = connection.prepare(worker, _attachment(worker, operation), source)
    xml = connection.disk(volume_id, source, operation.intent.target)
    server, domain = servers.look(worker, server_id), worker.hypervisor.domain(server_id)
    server.refuse_unless("attach")
    live = server.view.active and not _has(server.live, volume_id)
    config = server.inactive is not None and not _has(server.inactive, volume_id)
    hypervisor.attach_device(domain, xml, live=live, config=config)
    return {"repaired": repaired} if repaired else {}


def _attachment(worker: WorkerContext, operation: Operation[AttachVolume]) -> Attachment:
    """Block storage is asked again: a password is never in what the journal keeps."""
    server_id, volume_id = _ids(operation)
    known = worker.storage.attachment(volume_id, server_id)
    if known is None or not known["connection_info"]:
        raise StepFailed(f"block storage released volume {volume_id} while it was attached to server {server_id}")
    return Attachment(known["id"], volume_id, known["connection_info"])


def _unplug_begun(worker: WorkerContext, operation: Operation[AttachVolume], _args: Plug) -> None:
    try:
        _take_out(worker, operation)
    except NotFound:
        return  # the server is gone, and with it the disk


def _complete(worker: WorkerContext, operation: Operation[AttachVolume], _args: Complete) -> Document:
    worker.storage.complete(operation.evidence["reserve"]["attachment_id"])
    return {}


def _completed(worker: WorkerContext, operation: Operation[AttachVolume], _args: Complete) -> Document | None:
    server_id, volume_id = _ids(operation)
    known = worker.storage.attachment(volume_id, server_id)
    return {} if known and known["status"] == "attached" else None


def _unplugged(worker: WorkerContext, operation: Operation[DetachVolume], _args: Unplug) -> Document | None:
    server_id, volume_id = _ids(operation)
    try:
        server = servers.look(worker, server_id)
    except NotFound:
        return {}
    return None if any(_has(each, volume_id) for each in server.descriptions) else {}


def _unplug(worker: WorkerContext, operation: Operation[DetachVolume], _args: Unplug) -> Document:
    server_id, volume_id = _ids(operation)
    server = servers.look(worker, server_id)
    server.refuse_unless("detach")
    check_closable(server, volume_id)
    _take_out(worker, operation)
    return {}


def _take_out(worker: WorkerContext, operation: Operation[_Change]) -> None:
    """Removes the disk from the running guest first: while the guest has it, the definition must name it too. Raises NotYet
    while the guest has not answered, and StepFailed when that lasts too long."""
    server_id, volume_id = _ids(operation)
    server, domain = servers.look(worker, server_id), worker.hypervisor.domain(server_id)
    live = server.live.disk_of(volume_id)
    if server.view.active and live is not None:
        _take_out_live(worker, domain, server, live, operation.notes())
    disk = server.inactive.disk_of(volume_id) if server.inactive else None
    if disk is not None and server.view.inactive_xml:
        xml = domain_xml.disk_element(server.view.inactive_xml, disk.target)
        hypervisor.detach_from_definition(domain, xml)


def _take_out_live(worker: WorkerContext, domain: object, server: Server, disk: Disk, notes: Document) -> None:
    """The notes: ``waited`` for the guest's answer, and ``asked``, at which moment of that it was asked last, in seconds."""
    waited, asked = notes.get("waited", 0.0), notes.get("asked")
    if asked is None or waited - asked >= ASK_AGAIN_SECONDS:
        _ask_to_go(domain, domain_xml.alias_of(server.view.xml, disk.target))
        asked = waited
    now = servers.look(worker, server.id)
    if not now.view.active or not _has(now.live, str(disk.volume_id)):
        return
    if waited < worker.settings.compute.detach_timeout_seconds:
        seconds = min(LONGEST_LOOK_SECONDS, max(SHORTEST_LOOK_SECONDS, waited / 10))
        raise NotYet(seconds, {"waited": waited + seconds, "asked": asked})
    raise StepFailed(
        f"the guest of server {server.id} did not release disk {disk.target} within"
        f" {worker.settings.compute.detach_timeout_seconds} s; unmount it in the guest and repeat. If the guest"
        " releases it later, at a reset for instance, the volume is detached then"
    )


def _ask_to_go(domain: object, alias: str) -> None:
    try:
        hypervisor.ask_to_release(domain, alias)
    except StepFailed as error:
        # libvirt 9.0 refuses a second request while the first is open; the guest may still answer it.
        if "in the process of unplug" not in error.message and "not found" not in error.message:
            raise


def _released(worker: WorkerContext, operation: Operation[DetachVolume], _args: Release) -> Document | None:
    server_id, volume_id = _ids(operation)
    return None if worker.storage.attachment(volume_id, server_id) else {}


def _do_release(worker: WorkerContext, operation: Operation[DetachVolume], args: Release) -> Document:
    _release(worker, operation, args)
    return {}


def _settle_attach(connection: Connection, operation: Operation[AttachVolume], outcome: str, _fault: Document | None) -> None:
    """Compute keeps no row of an attachment: libvirt and block storage know. Only the name of an adopted volume's base is not
    to be seen in either of its server's descriptions once the volume has a snapshot."""
    source = operation.evidence.get("connect", {})
    if outcome != "done" or not source.get("base_file"):
        return
    asked = operation.intent
    file = f"{source['directory']}/{source['base_file']}"
    row: NewAdoptedDisk = {
        "server_id": asked.server_id,
        "target": asked.target,
        "file": file,
        "volume_id": asked.volume_id,
        "ends_chain": False,
    }
    adopted_disks.put(connection, row)


def _settle_detach(connection: Connection, operation: Operation[DetachVolume], outcome: str, _fault: Document | None) -> None:
    if outcome == "done":
        adopted_disks.forget(connection, operation.intent.volume_id)


def check_attachable(server: Server, volume: Document, device: str | None, promised: set[str]) -> str:
    """Returns the target for a new disk; ``promised`` are those of disks that are being attached. Raises BadRequest when the
    volume or the device name is taken."""
    if server.disk_of(volume["id"]) is not None:
        raise BadRequest(f"Volume {volume['id']} is already attached to server {server.id}")
    if volume["status"] != "available":
        raise BadRequest(
            f"Invalid volume: volume {volume['id']} must be available, but it is {volume['status']}"
            + (f", attached to server {volume['attachments'][0]['server_id']}" if volume["attachments"] else "")
        )
    if device is None:
        return domain_xml.free_target(server.targets | promised)
    target = device.removeprefix("/dev/")
    if target in server.targets | promised:
        raise BadRequest(f"The supplied device path ({device}) is in use.")
    if len(target) != 3 or not target.startswith("vd") or target[2] not in "abcdefghijklmnopqrstuvwxyz":
        raise BadRequest(f"The supplied device path ({device[:40]!r}) is invalid; use /dev/vda to /dev/vdz")
    return target


def check_closable(server: Server, volume_id: str) -> None:
    """Raises NotSound when QEMU would crash as it closes the files of a running server's disk. What cannot be read now does not
    keep a volume at its server: it may be on a share that is away."""
    disk = server.live.disk_of(volume_id) if server.view.active else None
    if disk is None or disk.directory is None or reach.followed(disk.directory) is None:
        return
    share = Path(disk.directory)
    try:
        chain = inspection.chain_of(share, str(disk.name), disk.format)
    except (StillframeError, OSError):
        return
    with suppress(OSError):
        for each in chain:
            soundness.require_for_closing(share, each.name, each.format)


def check_consistent(server: Server, volume_id: str) -> None:
    """Raises NotFound when the volume is not the server's, ChainConflict when its descriptions differ."""
    disk = server.disk_of(volume_id)
    if disk is None:
        raise NotFound(f"volume_id not found: {volume_id}")
    if disk.place is not None and server.live.disk_of(volume_id) and server.inactive:
        other = server.inactive.disk_of(volume_id)
        if other is not None and other.place != disk.place:
            raise ChainConflict(
                f"volume {volume_id} is {disk.words} in the guest and {disk.beside(other)} in the definition of its server"
            )


_COMPARE = (
    "Compare the server's disks with 'openstack volume attachment list': 'stillframe doctor' tells each that is on one side"
    " only, and what to do."
)
ATTACH = Kind(
    {
        "turn": Verb(_never, _turn, _tell, args=Turn),
        "reserve": Verb(_reserved, _reserve, _cancel, args=Reserve),
        "connect": Verb(_connected, _connect, args=Connect),
        "plug": Verb(_plugged, _plug, _unplug_begun, args=Plug),
        "complete": Verb(_completed, _complete, args=Complete),
    },
    _settle_attach,
    intent=AttachVolume,
    afterwards=_COMPARE,
)
DETACH = Kind(
    {
        "turn": Verb(_never, _turn, _tell, args=Turn),
        "unplug": Verb(_unplugged, _unplug, _tell, args=Unplug),
        "release": Verb(_released, _do_release, args=Release),
    },
    _settle_detach,
    intent=DetachVolume,
    afterwards=_COMPARE,
)
KINDS: Mapping[str, Kind[Any]] = {"attach_volume": ATTACH, "detach_volume": DETACH}
