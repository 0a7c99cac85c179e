"""Which server has a volume. Copied domains, and domains over a copied share, name volumes that are not theirs."""

from stillframe.chain import names
from stillframe.compute.libvirt import servers
from stillframe.compute.libvirt.domain_xml import Disk
from stillframe.compute.libvirt.servers import Server
from stillframe.compute.worker.context import WorkerContext
from stillframe.errors import Conflict, NotFound


def owner(worker: WorkerContext, volume_id: str) -> tuple[Server, Disk]:
    """Returns the server that has the volume, and its disk there as the guest has it now, else as it would after a start.

    Of several a disk that has the volume's file goes before one that has its serial alone; then block storage's attachment
    decides. Raises BadRequest for no id, NotFound, and Conflict when several are left."""
    wanted = names.canonical_id(volume_id, "volume_id")
    having = [(server, disk) for server in servers.list_everything(worker) if (disk := server.disk_of(wanted))]
    if len(having) > 1:
        having = [each for each in having if not each[1].foreign_file] or having
    if len(having) > 1:
        having = [each for each in having if worker.storage.attachment(wanted, each[0].id)] or having
    if not having:
        raise NotFound(f"no server has volume {wanted}")
    if len(having) > 1:
        holders = ", ".join(f"{server.id} (as {disk.target})" for server, disk in having)
        raise Conflict(
            f"several servers name volume {wanted}: {holders}. Take the disk out of the definitions of those that it does"
            " not belong to (virsh edit); attach the volume to no other server before"
        )
    return having[0]
