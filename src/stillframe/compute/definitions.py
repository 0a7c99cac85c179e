"""What a server's definition says of its disks, changed: it is what the next start opens."""

from stillframe.compute import domain_xml
from stillframe.compute.domain_xml import Disk
from stillframe.compute.servers import Server
from stillframe.compute.world import World
from stillframe.host import hypervisor


def name_file(world: World, server: Server, target: str, file: str, format_: str) -> None:
    """Lets the definition name ``file`` (a path) for a disk, and nothing behind it: libvirt reads that from the headers."""
    xml = server.view.inactive_xml or server.view.xml
    changed = domain_xml.with_file(xml, target, file, format_)
    hypervisor.update_definition(world.hypervisor.domain(server.id), changed)


def forget_chain(world: World, server: Server, target: str) -> None:
    """libvirt (9.0) writes the chain it knows of a running disk into the definition too, at a pivot. It is not kept up to date
    there: once a file of it is merged away the server does not start any more. Without it, libvirt reads the headers."""
    disk = _disk(server, target)
    if disk is not None and disk.backing and disk.file is not None:
        name_file(world, server, target, disk.file, disk.format)


def forget_chains(world: World, server: Server) -> None:
    """As ``forget_chain`` for every volume of a server."""
    for _volume_id, disk in server.volumes():
        forget_chain(world, server, disk.target)


def _disk(server: Server, target: str) -> Disk | None:
    return next((each for each in server.inactive.disks if each.target == target), None) if server.inactive else None
