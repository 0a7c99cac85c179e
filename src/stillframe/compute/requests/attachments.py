"""Requests about a server's volumes, as the worker takes them."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from stillframe.chain import names
from stillframe.compute.libvirt import servers
from stillframe.compute.libvirt.servers import Server
from stillframe.compute.operations import attachments as operations
from stillframe.compute.operations.attachments import AttachVolume, DetachVolume
from stillframe.compute.worker.context import WorkerContext
from stillframe.context import Context
from stillframe.db import operations as operations_of
from stillframe.db.rows import OperationRow
from stillframe.errors import BadRequest, NotFound
from stillframe.journal import deadline, record
from stillframe.journal.about import about
from stillframe.journal.deadline import Deadline
from stillframe.journal.operation import intent_of

SHORT = ("attach_volume", "detach_volume")  # the resource by which they wait for each other


def volume_of(worker: WorkerContext, context: Context, volume_id: str) -> dict[str, Any]:
    """Returns the volume's document. Raises NotFound, the same for a missing one and one of another project."""
    try:
        wanted = names.canonical_id(volume_id)
        volume = worker.storage.volume(wanted)
    except (BadRequest, NotFound) as error:
        raise NotFound(f"Volume {volume_id} could not be found.") from error
    if not context.sees_all_projects and volume["os-vol-tenant-attr:tenant_id"] != context.project_id:
        raise NotFound(f"Volume {volume_id} could not be found.")
    return volume


def attach(worker: WorkerContext, context: Context, server_id: str, volume_id: str, device: str | None) -> dict[str, Any]:
    """Starts to attach a volume, after what attaches and detaches at the server now; returns its device name. Raises NotFound,
    BadRequest, Conflict."""
    with worker.database.read() as connection:
        before = operations_of.line(connection, f"server:{names.lookup_id(server_id)}")
    server = servers.find(worker, context, server_id)
    volume = volume_of(worker, context, volume_id)
    if volume["os-vol-tenant-attr:tenant_id"] != server.project_id:
        raise BadRequest(f"volume {volume['id']} belongs to another project than server {server.id}")
    server.refuse_unless("attach")
    with worker.database.write() as connection:
        line = record.line_of(connection, f"server:{server.id}", SHORT)
        if any(each.volume_id == volume["id"] for each in _attaching(line)):
            raise BadRequest(f"Volume {volume['id']} is being attached to server {server.id} already")
        # A request that waited when libvirt was asked may be done by now: its device name is taken either way.
        taken = {each.target for each in _attaching([*before, *line])}
        target = operations.check_attachable(server, volume, device, taken)
        asked = AttachVolume(
            server_id=server.id, volume_id=volume["id"], target=target, begin_until=_begin_until(worker, connection, line)
        )
        record.submit(connection, operations.request(asked, context.request_id).of(server.project_id))
    return {
        "volume_id": volume["id"],
        "server_id": server.id,
        "device": f"/dev/{target}",
        "attachment_id": None,
        "guest_has_disk": None,
    }


def detach(worker: WorkerContext, context: Context, server_id: str, volume_id: str) -> None:
    """Starts to detach a volume, after what attaches and detaches at the server now; one that no description of the server has
    any more is only released. While that is under way, the same request again is the same (I9): a guest that does not answer
    could otherwise be kept busy, and the journal filled, without end. Raises NotFound, Conflict."""
    try:
        server = servers.find(worker, context, server_id)
    except NotFound as error:
        raise NotFound(
            f"{error.message} If it does not exist any more, an administrator releases its volumes:"
            " 'openstack --os-volume-api-version 3.27 volume attachment delete ATTACHMENT'"
        ) from error
    try:
        wanted = names.canonical_id(volume_id)
    except BadRequest as error:
        raise NotFound(f"volume_id not found: {volume_id}") from error
    server.refuse_unless("detach")
    operations.check_closable(server, wanted)
    gone = server.disk_of(wanted) is None and _is_recorded(worker, server, wanted)
    with worker.database.write() as connection:
        line = record.line_of(connection, f"server:{server.id}", SHORT)
        before = _last_of(line, wanted)
        if before == "detach_volume":
            return
        if not gone and before is None:
            operations.check_consistent(server, wanted)
        asked = DetachVolume(server_id=server.id, volume_id=wanted, begin_until=_begin_until(worker, connection, line))
        record.submit(connection, operations.request(asked, context.request_id).of(server.project_id))


def _is_recorded(worker: WorkerContext, server: Server, volume_id: str) -> bool:
    """Whether block storage has the volume attached to the server."""
    known = worker.storage.attachment(volume_id, server.id)
    return known is not None and known["status"] == "attached"


def _attaching(line: Sequence[OperationRow]) -> list[AttachVolume]:
    return [intent_of(row, AttachVolume) for row in line if row["kind"] == "attach_volume"]


def _last_of(line: Sequence[OperationRow], volume_id: str) -> str | None:
    """Returns the kind of the last operation in line that is about the volume."""
    kinds = [row["kind"] for row in line if about(row["intent"]).volume_id == volume_id]
    return kinds[-1] if kinds else None


def _begin_until(worker: WorkerContext, connection: Connection, line: Sequence[OperationRow]) -> Deadline | None:
    """Returns until when a request that waits may begin; None for one that does not."""
    return deadline.after(connection, worker.settings.compute.attach_wait_seconds) if line else None


def list_attached(worker: WorkerContext, context: Context, server_id: str) -> list[dict[str, Any]]:
    """Returns what libvirt shows, with block storage's attachment ids; then what only block storage calls attached.

    ``guest_has_disk`` is what libvirt says of the guest now: True, or False where it runs without the disk or no description
    has it any more; None while the server does not run."""
    server = servers.find(worker, context, server_id)
    known = {entry["volume_id"]: entry for entry in worker.storage.attachments_of(server.id, server.project_id)}
    held = {volume_id: disk.target for volume_id, disk in server.volumes()}
    lost = [volume_id for volume_id, entry in known.items() if entry["status"] == "attached" and volume_id not in held]
    return [_entry(server, volume_id, held.get(volume_id), known.get(volume_id, {}).get("id")) for volume_id in (*held, *lost)]


def _entry(server: Server, volume_id: str, target: str | None, attachment_id: str | None) -> dict[str, Any]:
    live = any(disk.volume_id == volume_id for disk in server.live.disks)
    return {
        "volume_id": volume_id,
        "server_id": server.id,
        "device": f"/dev/{target}" if target else None,
        "attachment_id": attachment_id,
        "guest_has_disk": live if server.view.active else None if target else False,
    }
