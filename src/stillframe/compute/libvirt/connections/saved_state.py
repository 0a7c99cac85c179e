"""Whether a saved server may be restored: its memory belongs to the files that its saved description names, if they are sound.

libvirt (9.0, F22) starts a domain that has a managed save image from the description in that image, and does not look at the
definition. A file that has become a backing file since, or has other content by now, would be written by the restored guest.

QEMU (7.2) repairs a file with the dirty bit when it takes it over for writing, at the end of a restore, but not one behind it.
A dirty file that it only reads makes it crash when it closes it: at the next save, which loses the guest's memory, and at its
end (F42). A repair changes counts and no byte that a guest reads, and nothing
of the counts is in the saved memory.
"""

from pathlib import Path

from stillframe.compute.clients.block_storage import Document
from stillframe.compute.libvirt.connections import kinds as connections
from stillframe.compute.libvirt.connections.contract import Attachment
from stillframe.compute.libvirt.domain_xml import Disk
from stillframe.compute.libvirt.servers import Server
from stillframe.compute.worker.context import WorkerContext
from stillframe.errors import ChainConflict, Conflict
from stillframe.host import files, qcow2

_AWAY = (
    "Do not start it in another way. 'virsh managedsave-dumpxml' shows which files the saved memory belongs to; 'stillframe"
    " doctor' says what can be done"
)
_UNATTACHED = "block storage does not have it attached to this server"


def check_files(worker: WorkerContext, server: Server) -> None:
    """Repairs what a dead writer left in the files of the volumes, behind the active ones too, and logs it.

    Before that, raises Conflict, ChainConflict naming both files, unless every volume's disk in the saved description is the
    volume's active file, in the definition too, over the chain it had. Raises BadImage for what no repair helps."""
    if server.saved is None:
        raise Conflict(
            f"the saved memory of server {server.id} cannot be read: libvirt would throw it away and boot the server. Copy its"
            " file away first ('virsh managedsave-dumpxml' tells what is wrong with it)"
        )
    known = {entry["volume_id"]: entry for entry in worker.storage.attachments_of(server.id, server.project_id)}
    disks = [(disk, known.get(disk.volume_id)) for disk in server.saved.disks if disk.volume_id is not None]
    found = [(disk, _checked(server, disk, entry)) for disk, entry in disks]
    for disk, attachment in found:
        connections.of(attachment.info).check_start(worker, server, disk, attachment)
    for disk, attachment in found:
        connections.of(attachment.info).before_start(worker, server, disk, attachment)


def _checked(server: Server, disk: Disk, entry: Document | None) -> Attachment:
    volume_id, info = str(disk.volume_id), (entry["connection_info"] if entry else None) or {}
    if entry is None or not info or not connections.of(info).is_same(disk, info):
        is_now = f"block storage records {connections.of(info).recorded(info)}" if info else _UNATTACHED
        raise ChainConflict(
            f"the saved memory of server {server.id} belongs to {disk.words} for volume {volume_id}, but {is_now}. {_AWAY}"
        )
    _check_definition(server, disk)
    return Attachment(entry["id"], volume_id, info)


def _check_definition(server: Server, disk: Disk) -> None:
    defined = next((each for each in (server.inactive or server.live).disks if each.target == disk.target), None)
    if defined is None or (defined.place, defined.format) != (disk.place, disk.format):
        raise ChainConflict(
            f"the saved memory of server {server.id} belongs to {disk.words} as {disk.target}, but its definition names"
            f" {disk.beside(defined)}. {_AWAY}"
        )
    if disk.file is not None:
        _check_chain(server, disk)


def _check_chain(server: Server, disk: Disk) -> None:
    """libvirt believes the chain in the saved description, and reads no header of it."""
    above = Path(str(disk.file))
    for below in map(Path, disk.backing):
        try:
            image = qcow2.read(above.parent, above.name)
        except FileNotFoundError:
            image = None
        if image is not None and image.parents:
            return  # what is below is no volume's, and is not merged
        found = image.backing if image is not None else None
        if found != below.name or not files.exists(below.parent, below.name):
            raise ChainConflict(
                f"the saved memory of server {server.id} was saved with {above.name} over {below.name}, but now {above.name} is"
                f" over {found or 'nothing'}. {_AWAY}"
            )
        above = below
