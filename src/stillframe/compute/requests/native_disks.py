"""What a set does about a native volume: checked beforehand, before anything is touched."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stillframe.compute.libvirt.connections import kinds
from stillframe.compute.libvirt.connections.contract import Attachment
from stillframe.compute.libvirt.domain_xml import Disk
from stillframe.compute.libvirt.servers import Server
from stillframe.compute.operations import native
from stillframe.compute.operations.snapshot_intents import NativeDisk, SnapshotDisk
from stillframe.compute.worker import scratch_place
from stillframe.compute.worker.context import WorkerContext
from stillframe.compute.worker.side_by_side import side_by_side
from stillframe.errors import ChainConflict, Conflict, NotFound, ScratchUnusable
from stillframe.host import scratch
from stillframe.units import GIB

LOSSY = ("report", "ignore")  # of libvirt's error_policy: the guest is told of a write that failed, or nobody is


def check_place(directory: Path, disks: Sequence[SnapshotDisk]) -> None:
    """Raises ScratchUnusable for a scratch directory on the share of a volume of the set: what block storage finds there is a
    volume's, and a share that is away would take the scratch overlays with it."""
    place = directory.resolve()
    for disk in disks:
        share = disk.share.resolve()
        if place == share or share in place.parents:
            raise ScratchUnusable(
                f"scratch_dir: the scratch directory lies on the share of volume {disk.volume_id}; choose one on a disk of the"
                " hypervisor"
            )


def need_scratch(worker: WorkerContext, server: Server) -> bool:
    """Tells whether native volumes of the server get scratch overlays in a set."""
    return server.view.active and worker.settings.compute.native_mode == "overlay"


def plan_all(
    worker: WorkerContext,
    server: Server,
    set_id: str,
    chosen: Sequence[tuple[Disk, dict[str, Any]]],
    volumes: Mapping[str, dict[str, Any]],
) -> list[NativeDisk]:
    """Returns the intent's entries. ``volumes`` are those of the server's project.

    Raises NotFound for a volume of another project, Busy for one that changes, ChainConflict for a disk that is not what block
    storage records, Conflict for one that would lose writes, TargetUnreachable and TargetRefused for one that cannot be
    reached, ScratchUnusable for a scratch directory that cannot be used, ShareUnavailable for one without room."""
    planned = [_plan(worker, server, set_id, each, volumes) for each in chosen]
    if server.view.active:
        side_by_side(lambda each: _check_reachable(worker, server, each), chosen)
    limit = worker.settings.compute.scratch_limit_mib << 20
    if room := sum(disk.overlay.room(limit) for disk in planned if disk.scratch):
        scratch_place.require(worker.settings)
        scratch.check_room(worker.settings.scratch_dir, room)
    return planned


def _check_reachable(worker: WorkerContext, server: Server, chosen: tuple[Disk, dict[str, Any]]) -> None:
    """A guest whose target is away waits for it, and could not be frozen."""
    disk, info = chosen
    volume_id, attachment_id = str(disk.volume_id), info.get("attachment_id")
    if attachment_id is None:
        found = worker.storage.attachment(volume_id, server.id)
        attachment_id = found["id"] if found is not None else ""
    kinds.of(info).check_reachable(worker, Attachment(str(attachment_id), volume_id, info))


def _refuse_if_lossy(server: Server, disk: Disk) -> None:
    """A guest must wait when its scratch overlay cannot grow: it is stopped then, unless the description says otherwise."""
    if disk.error_policy in LOSSY:
        raise Conflict(
            f"disk {disk.target} of server {server.id} has error_policy={disk.error_policy!r}: if the scratch directory became"
            " full, the guest would lose writes instead of being stopped. Change it to 'stop' (virsh edit, then stop and start"
            " the server) and repeat"
        )


def _plan(
    worker: WorkerContext,
    server: Server,
    set_id: str,
    chosen: tuple[Disk, dict[str, Any]],
    volumes: Mapping[str, dict[str, Any]],
) -> NativeDisk:
    disk, info = chosen
    volume = volumes.get(str(disk.volume_id))
    if volume is None:
        raise NotFound(f"Volume {disk.volume_id} could not be found.")
    native.refuse_if_changing([volume])
    if not kinds.of(info).is_same(disk, info):
        raise ChainConflict(
            f"volume {disk.volume_id} is {disk.words} in server {server.id}, but block storage records"
            f" {kinds.of(info).recorded(info)}"
        )
    scratched = need_scratch(worker, server)
    if scratched:
        _refuse_if_lossy(server, disk)
    return NativeDisk(
        volume_id=str(disk.volume_id),
        target=disk.target,
        before=str(disk.place),
        size=int(volume["size"]) * GIB,
        directory=str(worker.settings.scratch_dir) if scratched else "",
        scratch=scratch.name_of(str(disk.volume_id), set_id) if scratched else "",
        name=volume.get("name") or None,
    )
