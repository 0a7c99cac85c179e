"""Requests about servers as such: list, show, and the power actions."""

from collections.abc import Mapping
from typing import Any

from stillframe.compute import definitions, servers
from stillframe.compute.servers import Server
from stillframe.compute.world import World
from stillframe.context import Context
from stillframe.errors import BadRequest, Conflict
from stillframe.host import hypervisor
from stillframe.journal import record

_STATUS = {1: "ACTIVE", 2: "ACTIVE", 3: "PAUSED", 4: "ACTIVE", 5: "SHUTOFF", 6: "ERROR", 7: "SUSPENDED"}
_POWER_STATE = {1: 1, 2: 1, 3: 3, 4: 1, 5: 4, 6: 6, 7: 7}
_ALLOWED = {
    "start": ("SHUTOFF", "ERROR"),
    "stop": ("ACTIVE",),
    "destroy": ("ACTIVE", "PAUSED", "ERROR"),
    "pause": ("ACTIVE",),
    "unpause": ("PAUSED",),
    "reboot": ("ACTIVE",),
}


def status_of(server: Server) -> str:
    """Returns Nova's status word; an I/O error pause is PAUSED too."""
    return _STATUS.get(server.view.state, "UNKNOWN")


def document(server: Server) -> dict[str, Any]:
    """What the API makes its view of."""
    return {
        "id": server.id,
        "name": server.view.name,
        "status": status_of(server),
        "power_state": _POWER_STATE.get(server.view.state, 0),
        "project_id": server.project_id,
        "user_id": server.user_id,
        "memory_mib": server.live.memory_mib,
        "vcpus": server.live.vcpus,
        "volumes": [{"id": volume_id, "device": f"/dev/{disk.target}"} for volume_id, disk in server.volumes()],
    }


def list_servers(world: World, context: Context, all_projects: bool) -> list[dict[str, Any]]:
    return [document(server) for server in servers.list_all(world, context, all_projects)]


def show_server(world: World, context: Context, server_id: str) -> dict[str, Any]:
    return document(servers.find(world, context, server_id))


def power(world: World, context: Context, server_id: str, action: str) -> None:
    """Changes the power state. Raises Conflict in a state that does not allow it, or while an operation holds the server.

    A start is refused when what would be opened is not what block storage records (R18).
    """
    server = servers.find(world, context, server_id)
    with world.database.read() as connection:
        # A merge goes on, or is finished offline, whatever the guest does; only a start must wait for it.
        record.refuse_if_busy(connection, f"server:{server.id}", shared=action != "start")
    status = status_of(server)
    if action not in _ALLOWED:
        raise BadRequest(f"unknown power action {action!r}")
    if status not in _ALLOWED[action]:
        raise Conflict(f"Cannot '{action}' instance {server.id} while it is in status {status}")
    if action == "start":
        _check_files(world, server)
        definitions.forget_chains(world, server)
    hypervisor.power(world.hypervisor.domain(server.id), action)


def _check_files(world: World, server: Server) -> None:
    known = {entry["volume_id"]: entry["connection_info"] for entry in world.storage.attachments_of(server.id)}
    for volume_id, disk in server.volumes():
        info = known.get(volume_id)
        if info and disk.name != info["name"]:
            raise Conflict(
                f"server {server.id} would open {disk.name} for volume {volume_id}, but its active file is"
                f" {info['name']}; it is not started, because that would write behind a snapshot"
            )


METHODS: Mapping[str, Any] = {"list_servers": list_servers, "show_server": show_server, "power": power}
