"""Requests to make volumes of a server's disks where they are, and to end that."""

import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stillframe.chain import names
from stillframe.compute.libvirt import servers
from stillframe.compute.libvirt.domain_xml import Disk
from stillframe.compute.libvirt.servers import Server
from stillframe.compute.operations import adopted_disks as operations
from stillframe.compute.operations.adopted_disks import AdoptDisks, AdoptedDisk, ReleaseDisks
from stillframe.compute.worker.context import WorkerContext
from stillframe.context import Context
from stillframe.db import adopted_disks
from stillframe.db import operations as operations_of
from stillframe.db.rows import AdoptedDiskRow, OperationRow
from stillframe.errors import BadRequest, ChainConflict, Conflict, StillframeError
from stillframe.host import users
from stillframe.journal import record

FORMATS = ("qcow2", "raw")
_KINDS = {
    "block": "a block device; a volume of the iscsi driver can hold its content",
    "network": "a disk in the network; attach it as a volume of the iscsi driver",
    "volume": "named by a storage pool; name its file in the definition: 'virsh vol-path VOLUME --pool POOL' tells which"
    " that is, 'virsh edit' changes it (type='file', source file=), and it counts from the next start",
}


@dataclass(frozen=True)
class Seen:
    """One disk, what it would be (adopt, adopted or excluded), and why it cannot be a volume. ``size`` in bytes."""

    disk: Disk
    result: str
    reason: str | None = None
    size: int | None = None
    known: Mapping[str, Any] = field(default_factory=dict)  # volume_id and base_file of a volume that lost its server

    @property
    def document(self) -> dict[str, Any]:
        """As the API shows it."""
        disk = self.disk
        return {
            "device": disk.target,
            "file": disk.file,
            "format": disk.format,
            "size": self.size,
            "result": self.result,
            "reason": self.reason,
            "volume_id": disk.volume_id if self.result == "adopted" else self.known.get("volume_id"),
        }


def look(worker: WorkerContext, context: Context, server_id: str, targets: Sequence[str] | None) -> dict[str, Any]:
    """Returns what would become of each disk of a server: ``{"server_id", "disks": [...], "operation"}``. Changes nothing.
    ``targets`` names the disks that are asked about, None all of them; ``operation`` is the last adoption or release, null
    where there was none. Raises NotFound, BadRequest for a target that is none."""
    server = servers.find(worker, context, server_id)
    with worker.database.read() as connection:
        rows = operations_of.newest_on(connection, operations.place(server.id), ("adopt_disks", "release_disks"))
    disks = [each.document for each in _looked_at(worker, server, targets)]
    return {"server_id": server.id, "disks": disks, "operation": _operation(rows[0]) if rows else None}


def _operation(row: OperationRow) -> dict[str, Any]:
    over = row["state"] in ("done", "undone", "parked")
    return {"id": row["id"], "kind": row["kind"], "state": row["state"], "fault": row["fault"] if over else None}


def adopt(worker: WorkerContext, context: Context, server_id: str, targets: Sequence[str] | None) -> dict[str, Any]:
    """Begins to make volumes of disks; returns ``{"server_id", "operation_id", "disks"}``. Disks that cannot be volumes are
    left as they are, unless they were named: then nothing is done. Nothing left to do is fine: ``operation_id`` is null. Raises
    NotFound, BadRequest, Conflict, Busy."""
    server = servers.find(worker, context, server_id)
    seen = _looked_at(worker, server, targets)
    refused = [f"{each.disk.target}: {each.reason}" for each in seen if each.result == "excluded"]
    if targets is not None and refused:
        raise BadRequest(f"these disks of server {server.id} cannot be adopted: {'; '.join(refused)}")
    chosen = [_named(server, each) for each in seen if each.result == "adopt"]
    if not chosen:
        return {"server_id": server.id, "operation_id": None, "disks": [each.document for each in seen]}
    asked = AdoptDisks(
        server_id=server.id, project_id=server.project_id, user_id=server.user_id or context.user_id, disks=tuple(chosen)
    )
    with worker.database.write() as connection:
        record.refuse_if_busy(connection, f"server:{server.id}")
        record.refuse_if_busy(connection, operations.place(server.id))
        operation_id = record.submit(connection, operations.adopt_request(asked, context.request_id))
    ids = {each.target: {"volume_id": each.volume_id} for each in chosen}
    disks = [{**each.document, **ids.get(each.disk.target, {})} for each in seen]
    return {"server_id": server.id, "operation_id": operation_id, "disks": disks}


def _named(server: Server, seen: Seen) -> AdoptedDisk:
    disk = seen.disk
    return AdoptedDisk(
        target=disk.target,
        directory=str(disk.directory),
        file=str(disk.name),
        format=disk.format,
        volume_id=seen.known.get("volume_id") or str(uuid.uuid4()),
        base_file=seen.known.get("base_file"),
        attachment_id=str(uuid.uuid4()),
        name=f"{server.view.name}-{disk.target}"[:255],
        bootable=disk == server.live.disks[0],
        ends_chain=any(each.target == disk.target and each.ends_chain for each in (server.inactive or server.live).disks),
    )


def _looked_at(worker: WorkerContext, server: Server, targets: Sequence[str] | None) -> list[Seen]:
    disks = {disk.target: disk for disk in server.live.disks}
    unknown = [each for each in targets or () if each not in disks]
    if unknown:
        raise BadRequest(f"server {server.id} has no disk {', '.join(unknown)}; it has {', '.join(disks) or 'none'}")
    others = [each for each in servers.list_everything(worker) if each.id != server.id]
    with worker.database.read() as connection:
        recorded = {row["target"]: row for row in adopted_disks.of_server(connection, server.id)}
    attached = {each["volume_id"] for each in worker.storage.attachments_of(server.id, server.project_id)}
    return [
        Seen(disk, "adopted")
        if disk.volume_id in attached
        else _look(worker, server, disk, (others, recorded.get(disk.target)))
        for disk in (disks[each] for each in targets or disks)
    ]


def _look(worker: WorkerContext, server: Server, disk: Disk, known: tuple[Sequence[Server], AdoptedDiskRow | None]) -> Seen:
    """``known``: the other servers, and what is recorded of the disk's target. The disk is no attached volume."""
    others, recorded = known
    reason = unfit(disk) or _in_use_elsewhere(server, disk, others)
    if recorded is not None and recorded["volume_id"] != disk.volume_id:
        reason = reason or _replaced(worker, server, recorded)
    if reason is not None:
        return Seen(disk, "excluded", reason)
    try:
        servers.check_same(server, disk)
        wanted = {"directory": str(disk.directory), "file": str(disk.name), "format": disk.format}
        found = worker.storage.look_at_adoptable(wanted)
        for parent in found["parent_images"]:
            _refuse_written_parent(parent, (server, *others))
        return Seen(disk, "adopt", size=found["size"], known={key: found.get(key) for key in ("volume_id", "base_file")})
    except ChainConflict as error:
        return Seen(disk, "excluded", error.message)
    except StillframeError as error:
        if error.status >= 500:
            raise
        return Seen(disk, "excluded", error.message)


def _refuse_written_parent(path: str, known: Sequence[Server]) -> None:
    """Raises Conflict for a parent image that a server writes to: nobody knows what lies in it."""
    identity = users.identity(Path(path))
    for other in known:
        for disk in (*other.live.disks, *(other.inactive.disks if other.inactive else ())):
            if disk.file is not None and not disk.read_only and users.identity(Path(disk.file)) == identity is not None:
                raise Conflict(
                    f"its parent image {os.path.basename(path)} is disk {disk.target} of server {other.id} ({other.view.name})"
                )


def unfit(disk: Disk) -> str | None:
    """Says why what a description tells of a disk keeps it from being a volume; None where nothing does. Pure."""
    if disk.device != "disk":
        return f"a {disk.device}"
    if disk.kind != "file" or disk.file is None:
        return _KINDS.get(disk.kind, f"a disk of type {disk.kind}")
    for wrong, words in (
        (disk.read_only, "read-only, so nothing on it changes"),
        (disk.shareable, "shareable: several servers may write to it at once"),
        (disk.transient, "transient: what the guest writes to it is thrown away when the server stops"),
    ):
        if wrong:
            return words
    if disk.format not in FORMATS:
        return f"{disk.format}; convert it with 'qemu-img convert -O qcow2' while the server is stopped"
    if disk.mirror is not None:
        return "being copied by a block job; repeat when 'virsh blockjob' shows none"
    return None


def _in_use_elsewhere(server: Server, disk: Disk, others: Sequence[Server]) -> str | None:
    path = str(disk.file)
    for other in others:
        if other.names_file(path):
            return f"named by the description of server {other.id} ({other.view.name}) too"
    identity = users.identity(Path(path))
    found = users.programs([identity]).get(identity, []) if identity is not None else []
    allowed = 1 if server.view.active else 0  # the server's own QEMU
    if len(found) > allowed:
        return f"open in {', '.join(found)}"
    return None


def _replaced(worker: WorkerContext, server: Server, recorded: AdoptedDiskRow) -> str | None:
    """Says why a disk cannot be adopted whose target had another file when that was adopted, and is a volume still."""
    if operations.is_gone(worker, recorded["volume_id"]):
        return None
    return (
        f"it was adopted with {recorded['file']}, which is volume {recorded['volume_id']} still, and has another file now. Give"
        f" it that file back (virsh edit), or end that adoption first with 'stillframe release {server.id}'; then repeat"
    )


def release(worker: WorkerContext, context: Context, server_id: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Begins to let all adopted disks of a server be plain files again; returns ``{"server_id", "operation_id", "volume_ids",
    "files"}``. ``wanted``: delete_snapshots, or keep_files, which leaves the files of snapshots where they are and lists them;
    with neither there must be no snapshots. Raises NotFound, Conflict, Busy."""
    server = servers.find(worker, context, server_id)
    delete_snapshots, keep_files = bool(wanted.get("delete_snapshots")), bool(wanted.get("keep_files"))
    if delete_snapshots and keep_files:
        raise BadRequest("delete_snapshots and keep_files cannot be asked for together")
    with worker.database.read() as connection:
        rows = adopted_disks.of_server(connection, server.id)
    volume_ids = tuple(row["volume_id"] for row in rows)
    if not volume_ids:
        raise Conflict(f"server {server.id} has no adopted disk")
    held = [each["id"] for volume_id in volume_ids for each in worker.storage.snapshots_of(volume_id)]
    if held and not (delete_snapshots or keep_files):
        raise Conflict(
            f"the disks of server {server.id} have {len(held)} snapshots; ask to delete them, or to keep their files",
            snapshots=held[:128],
        )
    open_targets = () if keep_files else tuple(row["target"] for row in rows if not row["ends_chain"] and _has(server, row))
    asked = ReleaseDisks(server_id=server.id, volume_ids=volume_ids, keep_files=keep_files, open_targets=open_targets)
    with worker.database.write() as connection:
        record.refuse_if_busy(connection, operations.place(server.id))
        request = operations.release_request(asked, delete_snapshots, context.request_id).of(server.project_id)
        operation_id = record.submit(connection, request)
    kept = [disk.file for volume_id, disk in server.volumes() if volume_id in volume_ids and disk.file]
    first = {row["file"] for row in rows}
    behind = [
        path
        for volume_id, disk in server.volumes()
        for path in (disk.backing if volume_id in volume_ids else ())
        if path in first or names.parse(os.path.basename(path)) is not None  # the others are parent images
    ]
    return {
        "server_id": server.id,
        "operation_id": operation_id,
        "volume_ids": list(volume_ids),
        "files": sorted({*kept, *behind}, key=os.path.basename) if keep_files else sorted(kept),
    }


def _has(server: Server, row: AdoptedDiskRow) -> bool:
    """Tells whether the recorded volume is on its disk still: what is another file by now is not ours to change."""
    disk = server.disk_of(row["volume_id"])
    return disk is not None and disk.target == row["target"]
