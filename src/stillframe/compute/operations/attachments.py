"""Attach a volume to a server, detach it: live and for a stopped domain."""

import time
from contextlib import suppress
from pathlib import Path

from sqlalchemy import Connection

from stillframe.chain import image
from stillframe.compute.libvirt import domain_xml, servers
from stillframe.compute.libvirt.domain_xml import Description, Disk
from stillframe.compute.libvirt.servers import Server
from stillframe.compute.libvirt.shares import share_directory
from stillframe.compute.worker.context import WorkerContext
from stillframe.errors import BadRequest, ChainConflict, Conflict, NotFound, StepFailed, StillframeError
from stillframe.host import hypervisor, inspection, qemu_img, reach, soundness
from stillframe.journal.operation import Document, Kind, NotYet, Operation, Verb
from stillframe.journal.record import Request

SHORTEST_LOOK_SECONDS, LONGEST_LOOK_SECONDS = 0.1, 1.0  # at a guest that is asked to release a disk: most answer at once
ASK_AGAIN_SECONDS = 5.0  # one that was busy, or had not booted, may not have heard it


def request(kind: str, intent: Document, request_id: str) -> Request:
    """``kind`` is attach_volume (intent: server_id, volume_id, target) or detach_volume (server_id, volume_id)."""
    verbs = {"attach_volume": ("reserve", "connect", "plug", "complete"), "detach_volume": ("unplug", "release")}[kind]
    turn = ("turn",) if intent.get("begin_until") else ()
    plan = [{"verb": verb, "args": {}} for verb in (*turn, *verbs)]
    return Request("compute", kind, intent, plan, [f"server:{intent['server_id']}"], request_id)


def _ids(operation: Operation) -> tuple[str, str]:
    return operation.intent["server_id"], operation.intent["volume_id"]


def _never(_world: WorkerContext, _operation: Operation, _args: Document) -> None:
    return None


def _turn(world: WorkerContext, operation: Operation, _args: Document) -> Document:
    """Checks a request that had to wait: once, before anything is touched."""
    intent = operation.intent
    if time.time() > intent["begin_until"]:
        raise Conflict(
            f"volume {intent['volume_id']} waited {world.settings.compute.attach_wait_seconds} s while others were attached to"
            f" or detached from server {intent['server_id']}; nothing was changed, repeat the request"
        )
    if intent.get("target") in servers.look(world, intent["server_id"]).targets:
        raise Conflict(
            f"disk {intent['target']} of server {intent['server_id']} was taken meanwhile; nothing was changed, repeat the"
            " request"
        )
    return {}


def _reserved(world: WorkerContext, operation: Operation, _args: Document) -> Document | None:
    server_id, volume_id = _ids(operation)
    known = world.storage.attachment(volume_id, server_id)
    return {"attachment_id": known["id"]} if known else None


def _reserve(world: WorkerContext, operation: Operation, _args: Document) -> Document:
    server_id, volume_id = _ids(operation)
    return {"attachment_id": world.storage.reserve(volume_id, server_id)}


def _release(world: WorkerContext, operation: Operation, _args: Document) -> None:
    server_id, volume_id = _ids(operation)
    known = world.storage.attachment(volume_id, server_id)
    if known:
        world.storage.release(known["id"])


def _give_up(world: WorkerContext, operation: Operation, args: Document) -> None:
    """The request was answered long ago, so the reason is recorded on the volume, before the volume returns to its earlier
    status."""
    server_id, volume_id = _ids(operation)
    if world.storage.attachment(volume_id, server_id):
        _tell(world, operation, args)
        _release(world, operation, args)


def _tell(world: WorkerContext, operation: Operation, _args: Document) -> None:
    if operation.fault:
        world.storage.note_fault(operation.intent["volume_id"], operation.fault["message"])


def _connected(world: WorkerContext, operation: Operation, _args: Document) -> Document | None:
    """Always sent by us, also for a reservation that somebody else made with its connector: from then on the volume counts as
    in use, so nobody who saw it unused a moment ago releases it."""
    if "connect" not in operation.evidence:
        return None
    server_id, volume_id = _ids(operation)
    known = world.storage.attachment(volume_id, server_id)
    return _source(world, known["connection_info"]) if known and known["connection_info"] else None


def _connect(world: WorkerContext, operation: Operation, _args: Document) -> Document:
    connector = {
        "host": world.settings.host,
        "platform": "x86_64",
        "os_type": "linux",
        "multipath": False,
        "mountpoint": f"/dev/{operation.intent['target']}",
    }
    return _source(world, world.storage.connect(operation.evidence["reserve"]["attachment_id"], connector))


def _source(world: WorkerContext, info: Document) -> Document:
    """Returns the path of the active file on this host, where its share is mounted."""
    directory = str(share_directory(world.settings, info))
    return {"directory": directory, "name": info["name"], "format": info["format"], "foundation": info.get("foundation")}


def _has(description: Description | None, volume_id: str) -> bool:
    return description is not None and description.disk_of(volume_id) is not None


def _plugged(world: WorkerContext, operation: Operation, _args: Document) -> Document | None:
    server_id, volume_id = _ids(operation)
    server = servers.look(world, server_id)
    return {} if all(_has(each, volume_id) for each in server.descriptions) else None


def _plug(world: WorkerContext, operation: Operation, _args: Document) -> Document:
    server_id, volume_id = _ids(operation)
    source = operation.evidence["connect"]
    share = Path(source["directory"])
    # The whole chain is inspected before QEMU opens it (I6).
    foundation = source.get("foundation")
    chain = qemu_img.read_chain(share, volume_id, source["name"], source["format"], foundation)
    image.check(chain, foundation)
    repaired = soundness.mend_open(share, chain.images)
    xml = domain_xml.volume_disk(volume_id, str(share / source["name"]), source["format"], operation.intent["target"])
    server, domain = servers.look(world, server_id), world.hypervisor.domain(server_id)
    server.refuse_unless("attach")
    live = server.view.active and not _has(server.live, volume_id)
    config = server.inactive is not None and not _has(server.inactive, volume_id)
    hypervisor.attach_device(domain, xml, live=live, config=config)
    return {"repaired": repaired} if repaired else {}


def _unplug_begun(world: WorkerContext, operation: Operation, args: Document) -> None:
    try:
        _take_out(world, operation)
    except NotFound:
        return  # the server is gone, and with it the disk


def _complete(world: WorkerContext, operation: Operation, _args: Document) -> Document:
    world.storage.complete(operation.evidence["reserve"]["attachment_id"])
    return {}


def _completed(world: WorkerContext, operation: Operation, _args: Document) -> Document | None:
    server_id, volume_id = _ids(operation)
    known = world.storage.attachment(volume_id, server_id)
    return {} if known and known["status"] == "attached" else None


def _unplugged(world: WorkerContext, operation: Operation, _args: Document) -> Document | None:
    server_id, volume_id = _ids(operation)
    try:
        server = servers.look(world, server_id)
    except NotFound:
        return {}
    return None if any(_has(each, volume_id) for each in server.descriptions) else {}


def _unplug(world: WorkerContext, operation: Operation, _args: Document) -> Document:
    server_id, volume_id = _ids(operation)
    server = servers.look(world, server_id)
    server.refuse_unless("detach")
    check_closable(server, volume_id)
    _take_out(world, operation)
    return {}


def _take_out(world: WorkerContext, operation: Operation) -> None:
    """Removes the disk from the running guest first: while the guest has it, the definition must name it too. Raises NotYet
    while the guest has not answered, and StepFailed when that lasts too long."""
    server_id, volume_id = _ids(operation)
    server, domain = servers.look(world, server_id), world.hypervisor.domain(server_id)
    live = server.live.disk_of(volume_id)
    if server.view.active and live is not None:
        _take_out_live(world, domain, server, live, operation.notes())
    disk = server.inactive.disk_of(volume_id) if server.inactive else None
    if disk is not None and server.view.inactive_xml:
        xml = domain_xml.disk_element(server.view.inactive_xml, disk.target)
        hypervisor.detach_from_definition(domain, xml)


def _take_out_live(world: WorkerContext, domain: object, server: Server, disk: Disk, notes: Document) -> None:
    """The notes: ``waited`` for the guest's answer, and ``asked``, at which moment of that it was asked last, in seconds."""
    waited, asked = notes.get("waited", 0.0), notes.get("asked")
    if asked is None or waited - asked >= ASK_AGAIN_SECONDS:
        _ask_to_go(domain, domain_xml.alias_of(server.view.xml, disk.target))
        asked = waited
    now = servers.look(world, server.id)
    if not now.view.active or not _has(now.live, str(disk.volume_id)):
        return
    if waited < world.settings.compute.detach_timeout_seconds:
        seconds = min(LONGEST_LOOK_SECONDS, max(SHORTEST_LOOK_SECONDS, waited / 10))
        raise NotYet(seconds, {"waited": waited + seconds, "asked": asked})
    raise StepFailed(
        f"the guest of server {server.id} did not release disk {disk.target} within"
        f" {world.settings.compute.detach_timeout_seconds} s; unmount it in the guest and repeat. If the guest"
        " releases it later, at a reset for instance, the volume is detached then"
    )


def _ask_to_go(domain: object, alias: str) -> None:
    try:
        hypervisor.ask_to_release(domain, alias)
    except StepFailed as error:
        # libvirt 9.0 refuses a second request while the first is open; the guest may still answer it.
        if "in the process of unplug" not in error.message and "not found" not in error.message:
            raise


def _released(world: WorkerContext, operation: Operation, _args: Document) -> Document | None:
    server_id, volume_id = _ids(operation)
    return None if world.storage.attachment(volume_id, server_id) else {}


def _do_release(world: WorkerContext, operation: Operation, args: Document) -> Document:
    _release(world, operation, args)
    return {}


def _settle(_connection: Connection, _operation: Operation, _outcome: str, _fault: Document | None) -> None:
    """Compute keeps no row of an attachment: libvirt and block storage know."""


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
    if disk.name is not None and server.live.disk_of(volume_id) and server.inactive:
        other = server.inactive.disk_of(volume_id)
        if other is not None and other.file != disk.file:
            raise ChainConflict(
                f"volume {volume_id} is {disk.name} in the guest and {disk.beside(other)} in the definition of its server"
            )


_COMPARE = (
    "Compare the server's disks with 'openstack volume attachment list': 'stillframe doctor' tells each that is on one side"
    " only, and what to do."
)
ATTACH = Kind(
    {
        "turn": Verb(_never, _turn, _tell),
        "reserve": Verb(_reserved, _reserve, _give_up),
        "connect": Verb(_connected, _connect),
        "plug": Verb(_plugged, _plug, _unplug_begun),
        "complete": Verb(_completed, _complete),
    },
    _settle,
    afterwards=_COMPARE,
)
DETACH = Kind(
    {
        "turn": Verb(_never, _turn, _tell),
        "unplug": Verb(_unplugged, _unplug, _tell),
        "release": Verb(_released, _do_release),
    },
    _settle,
    afterwards=_COMPARE,
)
