"""Requests about servers as such: list, show, and the power actions."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from stillframe.compute.libvirt import definitions, domain_state, server_lock, servers
from stillframe.compute.libvirt.connections import kinds as connections
from stillframe.compute.libvirt.connections import saved_state
from stillframe.compute.libvirt.connections.contract import Attachment
from stillframe.compute.libvirt.domain_state import Condition
from stillframe.compute.libvirt.domain_xml import Disk
from stillframe.compute.libvirt.servers import Server
from stillframe.compute.worker.context import WorkerContext
from stillframe.context import Context
from stillframe.errors import BadRequest, Conflict, NotFound
from stillframe.host import hypervisor
from stillframe.journal import record
from stillframe.journal.failpoints import reached

ACTIONS = ("start", "stop", "pause", "unpause", "reboot", "resume")


def _condition(worker: WorkerContext, server: Server) -> Condition:
    """A guest that a merge has suspended for a moment counts as running for everybody else."""
    if server.view.state == domain_state.PAUSED and not _is_held(worker, server):
        server = servers.look(worker, server.id)  # the moment may have ended between the two looks
    if server.view.state == domain_state.PAUSED and _is_held(worker, server):
        return domain_state.CONDITIONS["running"]
    return server.condition


def _is_held(worker: WorkerContext, server: Server) -> bool:
    held = worker.guard.pending(server.id)
    return held is not None and held.suspended


def document(worker: WorkerContext, server: Server) -> dict[str, Any]:
    """What the API makes its view of: Nova's words, in which an I/O error pause is PAUSED too, and a saved server SUSPENDED."""
    condition = _condition(worker, server)
    return {
        "id": server.id,
        "name": server.view.name,
        "status": condition.status,
        "power_state": condition.power_state,
        "project_id": server.project_id,
        "user_id": server.user_id,
        "memory_mib": server.live.memory_mib,
        "vcpus": server.live.vcpus,
        "volumes": [
            {"id": volume_id, "device": f"/dev/{disk.target}"}
            for volume_id, disk in server.volumes()
            if not disk.foreign_file  # a copied domain keeps the serials: block storage would take its disks for in use
        ],
    }


def list_servers(worker: WorkerContext, context: Context, all_projects: bool) -> list[dict[str, Any]]:
    """Returns the servers as documents for the API. Raises HypervisorUnavailable."""
    return [document(worker, server) for server in servers.list_all(worker, context, all_projects)]


def show_server(worker: WorkerContext, context: Context, server_id: str) -> dict[str, Any]:
    """Returns one server as a document for the API. Raises NotFound, HypervisorUnavailable."""
    return document(worker, servers.find(worker, context, server_id))


def power(worker: WorkerContext, context: Context, server_id: str, action: str) -> None:
    """Changes the power state. Raises Conflict in a state that does not allow it, or while an operation holds the server.

    A start is refused when what would be opened is not what block storage records (R18). That of a saved server restores it;
    "resume" does the same, and wakes up a guest that sleeps.
    """
    server = servers.find(worker, context, server_id)
    _refuse_if_busy(worker, server, action)
    if action not in ACTIONS:
        raise BadRequest(f"unknown power action {action!r}")
    if action == "reboot":  # QEMU resets a suspended guest too, and it stays suspended
        _power(worker, server, action)
        return
    with _turn(worker, server):
        _refuse_if_busy(worker, server, action)  # another operation may have begun meanwhile
        _power(worker, servers.look(worker, server.id), action)


def _refuse_if_busy(worker: WorkerContext, server: Server, action: str) -> None:
    with worker.database.read() as connection:
        # A merge continues, or is finished offline, whatever the guest does; only a start must wait for it. Nothing is done
        # offline for a saved server: there the merge waits.
        shared = action not in ("start", "resume") or server.view.saved
        record.refuse_if_busy(connection, f"server:{server.id}", shared=shared)


@contextmanager
def _turn(worker: WorkerContext, server: Server) -> Iterator[None]:
    """Keeps merges from suspending the guest within the block. A pause in such a moment would be undone at its end, an unpause
    would end it too early, and libvirt 9.0 refuses to shut down a guest that does not run."""
    with server_lock.taken(worker, server.id):
        worker.guard.resume(server.id)
        yield


def _power(worker: WorkerContext, server: Server, action: str) -> None:
    condition = _condition(worker, server)
    why_not = condition.why_not(server.id, action)
    if why_not is not None:
        cannot = f"Cannot '{action}' instance {server.id} while it is in status {condition.status}"
        raise Conflict(f"{cannot}: {why_not}", server_state=condition.name)
    domain = worker.hypervisor.domain(server.id)
    if server.view.active:
        hypervisor.power(domain, "wake" if action == "resume" else action)
        return
    if server.view.saved:
        saved_state.check_files(worker, server)
        reached("power/checked")
    else:
        _check_disks(worker, server)
        reached("power/checked")
        definitions.forget_chains(worker, server)
    hypervisor.power(domain, "start")
    if server.view.saved:
        servers.look(worker, server.id)  # its saved state is used up: remove the note


def _check_disks(worker: WorkerContext, server: Server) -> None:
    """Block storage changes the files of a stopped server's volumes itself. Such an operation is recorded before it checks
    whether the server is stopped, and that check waits for the end of this block: one of the two sees the other."""
    found = []
    known = {entry["volume_id"]: entry for entry in worker.storage.attachments_of(server.id, server.project_id)}
    for volume_id, disk in server.volumes():
        info = known[volume_id]["connection_info"] if volume_id in known else None
        if info:
            found.append((disk, Attachment(known[volume_id]["id"], volume_id, info)))
            _check_disk(server, *found[-1])
        elif not disk.foreign_file:
            _refuse_unattached(worker, server, volume_id)
    for disk, attachment in found:
        connections.of(attachment.info).check_start(worker, server, disk, attachment)
    for disk, attachment in found:
        connections.of(attachment.info).before_start(worker, server, disk, attachment)


def _check_disk(server: Server, disk: Disk, attachment: Attachment) -> None:
    volume_id, info = attachment.volume_id, attachment.info
    if info.get("offline_operation"):
        raise Conflict(
            f"server {server.id} cannot start now: operation {info['offline_operation']} changes the files of volume"
            f" {volume_id}; wait for its end ('stillframe operation show {info['offline_operation']}')"
        )
    connection = connections.of(info)
    if not connection.is_same(disk, info):
        raise Conflict(
            f"server {server.id} would open {disk.words} for volume {volume_id}, but block storage records"
            f" {connection.recorded(info)}; it was not started, because the guest would write into a snapshot or into another"
            " volume. 'stillframe doctor' tells an administrator more"
        )


def _refuse_unattached(worker: WorkerContext, server: Server, volume_id: str) -> None:
    """Raises Conflict for a volume of block storage: it is not known then which file the server may open."""
    try:
        worker.storage.volume(volume_id)
    except NotFound:
        return  # a file that only has such a name
    raise Conflict(
        f"server {server.id} is not started: it would use a file of volume {volume_id}, but the volume is not attached to it,"
        " so whether that is the right file is not known. An administrator takes the disk out of the server's definition;"
        " then attach the volume to it ('openstack server add volume') and start it"
    )
