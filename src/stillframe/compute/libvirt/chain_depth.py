"""How deep the chains of a server's volumes are now."""

from pathlib import Path

from stillframe.compute.clients import chain_limits
from stillframe.compute.libvirt import servers
from stillframe.compute.worker.context import WorkerContext
from stillframe.host import qemu_img


def deep_volumes(worker: WorkerContext, server_id: str) -> dict[str, int]:
    """Returns, by id, how many files the chains have that reach the soft limit. Only chains that lie in files are looked at.

    Raises NotFound when the server is gone, and what reading a chain raises.
    """
    server = servers.look(worker, server_id)
    known = {
        entry["volume_id"]: entry["connection_info"] or {}
        for entry in worker.storage.attachments_of(server_id, server.project_id)
    }
    found: dict[str, int] = {}
    for disk in server.live.disks:
        info = known.get(str(disk.volume_id))
        if info is None or disk.kind != "file" or disk.format != "qcow2":
            continue
        place, volume_id = Path(str(disk.directory)), str(disk.volume_id)
        depth = qemu_img.read_chain(place, volume_id, str(disk.name), disk.format, chain_limits.recorded(info)).depth
        if depth >= chain_limits.of(info).chain_depth_warning:
            found[volume_id] = depth
    return found
