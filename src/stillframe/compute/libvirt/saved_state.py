"""Whether a saved server may be restored: its memory belongs to the files that its saved description names, if they are sound.

libvirt (9.0, F22) starts a domain that has a managed save image from the description in that image, and does not look at the
definition. A file that has become a backing file since, or has other content by now, would be written by the restored guest.

QEMU (7.2) repairs a file with the dirty bit when it takes it over for writing, at the end of a restore, but not one behind it.
A dirty file that it only reads makes it crash when it closes it: at the next save, which loses the guest's memory, and at its
end (F42). A repair changes counts and no byte that a guest reads, and nothing
of the counts is in the saved memory.
"""

from pathlib import Path

from stillframe.compute.libvirt import repair
from stillframe.compute.libvirt.domain_xml import Disk
from stillframe.compute.libvirt.servers import Server
from stillframe.compute.worker.context import WorkerContext
from stillframe.errors import ChainConflict, Conflict
from stillframe.host import files, qcow2

_AWAY = (
    "Do not start it in another way. 'virsh managedsave-dumpxml' shows which files the saved memory belongs to; 'stillframe"
    " doctor' says what can be done"
)


def check_files(world: WorkerContext, server: Server) -> None:
    """Repairs what a dead writer left in the files of the volumes, behind the active ones too, and logs it.

    Before that, raises Conflict, ChainConflict naming both files, unless every volume's disk in the saved description is the
    volume's active file, in the definition too, over the chain it had. Raises BadImage for what no repair helps."""
    if server.saved is None:
        raise Conflict(
            f"the saved memory of server {server.id} cannot be read: libvirt would throw it away and boot the server. Copy its"
            " file away first ('virsh managedsave-dumpxml' tells what is wrong with it)"
        )
    known = {
        entry["volume_id"]: entry["connection_info"] for entry in world.storage.attachments_of(server.id, server.project_id)
    }
    disks = [(disk.volume_id, disk) for disk in server.saved.disks if disk.volume_id is not None]
    for volume_id, disk in disks:
        _check_disk(server, disk, (known.get(volume_id) or {}).get("name"))
    for volume_id, disk in disks:
        repair.before_start(disk, volume_id, known[volume_id].get("foundation"))


def _check_disk(server: Server, disk: Disk, recorded: str | None) -> None:
    if disk.name != recorded:
        is_now = f"its active file is {recorded}" if recorded else "block storage does not have it attached to this server"
        raise ChainConflict(
            f"the saved memory of server {server.id} belongs to {disk.name} for volume {disk.volume_id}, but {is_now}. {_AWAY}"
        )
    defined = next((each for each in (server.inactive or server.live).disks if each.target == disk.target), None)
    if defined is None or defined.file != disk.file:
        raise ChainConflict(
            f"the saved memory of server {server.id} belongs to {disk.name} as {disk.target}, but its definition names"
            f" {disk.beside(defined)}. {_AWAY}"
        )
    _check_chain(server, disk)


def _check_chain(server: Server, disk: Disk) -> None:
    """libvirt believes the chain in the saved description, and reads no header of it."""
    above = Path(str(disk.file))
    for below in map(Path, disk.backing):
        try:
            found = qcow2.read(above.parent, above.name).backing
        except FileNotFoundError:
            found = None
        if found != below.name or not files.exists(below.parent, below.name):
            raise ChainConflict(
                f"the saved memory of server {server.id} was saved with {above.name} over {below.name}, but now {above.name} is"
                f" over {found or 'nothing'}. {_AWAY}"
            )
        above = below
