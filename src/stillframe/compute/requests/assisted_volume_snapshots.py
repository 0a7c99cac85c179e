"""Nova's os-assisted-volume-snapshots: a snapshot of one volume, whose overlay block storage has made.

Who makes a set with one request uses ``assisted_snapshots`` instead.
"""

from pathlib import Path
from typing import Any

from stillframe.chain import names
from stillframe.compute.libvirt import other_jobs, owners, servers
from stillframe.compute.libvirt.servers import Server
from stillframe.compute.operations import assisted_volume_snapshots, switch
from stillframe.compute.operations.snapshot_intents import AssistedVolumeSnapshot, SnapshotDisk
from stillframe.compute.requests.assisted_snapshots import read_chain
from stillframe.compute.requests.disk_methods import IN_SETS
from stillframe.compute.worker.context import WorkerContext
from stillframe.context import Context
from stillframe.errors import BadRequest, StillframeError
from stillframe.journal import record


def create(worker: WorkerContext, context: Context, volume_id: str, create_info: dict[str, str]) -> None:
    """Nova's call: switches one volume's disk to an overlay that block storage has made. Errors are 400, as in Nova."""
    try:
        asked = _plan(worker, volume_id, create_info)
    except StillframeError as error:
        raise error if error.status >= 500 else BadRequest(error.message) from error
    with worker.database.write() as connection:
        record.submit(connection, assisted_volume_snapshots.request(asked, context.request_id).of(asked.project_id))


def _connection_info(worker: WorkerContext, server: Server, volume_id: str) -> dict[str, Any]:
    known = worker.storage.attachment(volume_id, server.id)
    return (known["connection_info"] or {}) if known else {}


def _plan(worker: WorkerContext, volume_id: str, create_info: dict[str, str]) -> AssistedVolumeSnapshot:
    wanted = names.canonical_id(volume_id, "volume_id")
    server, _ = owners.owner(worker, wanted)
    disk = server.live.disk_of(wanted)
    if disk is None or disk.file is None or disk.format not in IN_SETS or create_info["type"] != "qcow2":
        raise BadRequest(f"volume {wanted} is not a raw or qcow2 file in server {server.id}")
    server.refuse_unless("set")
    servers.check_same(server, disk)
    share = Path(str(disk.directory))
    info = _connection_info(worker, server, wanted)
    servers.check_format(server, disk, info)
    chain = read_chain(share, disk, info)
    snapshot_id = names.canonical_id(create_info["snapshot_id"], "snapshot_id")
    entry = SnapshotDisk(
        volume_id=wanted,
        snapshot_id=snapshot_id,
        target=disk.target,
        directory=str(share),
        active=str(disk.name),
        format=disk.format,
        overlay=names.check_belongs(create_info["new_file"], wanted),
        size=chain.active.disk_size,
    )
    switch.check_overlay_exists(entry)
    other_jobs.refuse_if_at_work(worker, server, (disk.target,))
    return AssistedVolumeSnapshot(
        server_id=server.id,
        project_id=server.project_id,
        active=server.view.active,
        quiesce="preferred",
        disks=(entry,),
    )
