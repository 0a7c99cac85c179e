"""Changes what a server's definition says of its disks: the next start opens that."""

from collections.abc import Collection

from stillframe.compute.libvirt import domain_xml, servers
from stillframe.compute.libvirt.domain_xml import Disk
from stillframe.compute.libvirt.servers import Server
from stillframe.compute.worker.context import WorkerContext
from stillframe.errors import Conflict
from stillframe.host import hypervisor


def name_file(worker: WorkerContext, server: Server, target: str, file: str, format_: str) -> None:
    """Lets the definition name ``file`` (a path) for a disk, and nothing behind it: libvirt reads that from the headers.

    Raises Conflict when the server has another file open, and lets the definition name that one again. Whether it runs can only
    be seen afterwards: libvirt (9.0) also accepts a change of the definition while a start that has read it already is under
    way, but applies it only after the start has ended.
    """
    _name(worker, server, target, file, format_)
    now = servers.look(worker, server.id)
    saved = next((each for each in now.saved.disks if each.target == target), None) if now.saved else None
    if saved is not None and saved.file is not None and saved.file != file:
        _name(worker, now, target, saved.file, saved.format)
        raise Conflict(f"server {server.id} was saved meanwhile, with {saved.name} open; {now.condition.way}")
    live = next((each for each in now.live.disks if each.target == target), None) if now.view.active else None
    if live is not None and live.file is not None and live.file != file:
        _name(worker, now, target, live.file, live.format)
        raise Conflict(f"server {server.id} was started meanwhile and has {live.name} open; stop it and repeat")


def _name(worker: WorkerContext, server: Server, target: str, file: str, format_: str) -> None:
    xml = server.view.inactive_xml or server.view.xml
    changed = domain_xml.with_file(xml, target, file, format_)
    hypervisor.update_definition(worker.hypervisor.domain(server.id), changed)


def forget_chain(worker: WorkerContext, server: Server, target: str) -> None:
    """libvirt (9.0) writes the chain it knows of a running disk into the definition too, at a pivot. It is not kept up to date
    there: once a file of it is merged away the server does not start any more. Without it, libvirt reads the headers."""
    disk = _disk(server, target)
    if disk is not None and disk.backing and disk.file is not None:
        name_file(worker, server, target, disk.file, disk.format)


def forget_chains(worker: WorkerContext, server: Server) -> None:
    """As ``forget_chain`` for every volume of a server."""
    for _volume_id, disk in server.volumes():
        forget_chain(worker, server, disk.target)


def forget_ends(worker: WorkerContext, server: Server, targets: Collection[str]) -> None:
    """As ``forget_chain``, also where the definition says that nothing is behind the file: a pivot leaves that (libvirt 9.0),
    and nobody else wrote it. For disks that are plain files again."""
    for target in targets:
        disk = _disk(server, target)
        if disk is not None and disk.file is not None and (disk.backing or disk.ends_chain):
            name_file(worker, server, target, disk.file, disk.format)


def _disk(server: Server, target: str) -> Disk | None:
    return next((each for each in server.inactive.disks if each.target == target), None) if server.inactive else None
