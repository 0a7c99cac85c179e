"""Requests about a server's volumes, as the worker takes them."""

from collections.abc import Mapping
from typing import Any

from stillframe.chain import names
from stillframe.compute import servers
from stillframe.compute.operations import volumes as operations
from stillframe.compute.servers import Server
from stillframe.compute.world import World
from stillframe.context import Context
from stillframe.errors import BadRequest, NotFound
from stillframe.journal import record


def volume_of(world: World, context: Context, volume_id: str) -> dict[str, Any]:
    """Returns the volume's document. Raises NotFound, the same for a missing one and one of another project."""
    try:
        wanted = names.canonical_id(volume_id)
        volume = world.storage.volume(wanted)
    except (BadRequest, NotFound) as error:
        raise NotFound(f"Volume {volume_id} could not be found.") from error
    if not context.sees_all_projects and volume["os-vol-tenant-attr:tenant_id"] != context.project_id:
        raise NotFound(f"Volume {volume_id} could not be found.")
    return volume


def attach(world: World, context: Context, server_id: str, volume_id: str, device: str | None) -> dict[str, Any]:
    """Starts to attach a volume; returns its device name. Raises NotFound, BadRequest, Conflict."""
    server = servers.find(world, context, server_id)
    volume = volume_of(world, context, volume_id)
    if volume["os-vol-tenant-attr:tenant_id"] != server.project_id:
        raise BadRequest(f"volume {volume['id']} belongs to another project than server {server.id}")
    target = operations.check_attachable(server, volume, device)
    intent = {"server_id": server.id, "volume_id": volume["id"], "target": target}
    with world.database.write() as connection:
        record.refuse_if_busy(connection, f"server:{server.id}")
        record.submit(connection, operations.request("attach_volume", intent, context.request_id))
    return {"volume_id": volume["id"], "server_id": server.id, "device": f"/dev/{target}", "attachment_id": None}


def detach(world: World, context: Context, server_id: str, volume_id: str) -> None:
    """Starts to detach a volume. Raises NotFound, Conflict."""
    server = servers.find(world, context, server_id)
    try:
        wanted = names.canonical_id(volume_id)
    except BadRequest as error:
        raise NotFound(f"volume_id not found: {volume_id}") from error
    operations.check_consistent(server, wanted)
    intent = {"server_id": server.id, "volume_id": wanted}
    with world.database.write() as connection:
        record.refuse_if_busy(connection, f"server:{server.id}")
        record.submit(connection, operations.request("detach_volume", intent, context.request_id))


def list_attached(world: World, context: Context, server_id: str) -> list[dict[str, Any]]:
    """Returns what libvirt shows, with block storage's attachment ids."""
    server = servers.find(world, context, server_id)
    known = {entry["volume_id"]: entry["id"] for entry in world.storage.attachments_of(server.id)}
    return [_entry(server, volume_id, disk.target, known.get(volume_id)) for volume_id, disk in server.volumes()]


def _entry(server: Server, volume_id: str, target: str, attachment_id: str | None) -> dict[str, Any]:
    return {
        "volume_id": volume_id,
        "server_id": server.id,
        "device": f"/dev/{target}",
        "attachment_id": attachment_id,
    }


METHODS: Mapping[str, Any] = {"attach_volume": attach, "detach_volume": detach, "list_attached": list_attached}
