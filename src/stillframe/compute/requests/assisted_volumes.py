"""Requests about single disks that block storage makes: merge live, cancel, grow, name another file for a stopped server."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stillframe.chain import names
from stillframe.chain.image import Image
from stillframe.compute.clients import chain_limits
from stillframe.compute.libvirt import definitions, owners, repair, server_lock, servers
from stillframe.compute.libvirt.domain_xml import Disk
from stillframe.compute.libvirt.servers import Server
from stillframe.compute.operations import merge
from stillframe.compute.operations.merge_intents import CommitMerge, MergeVolume, PullMerge
from stillframe.compute.operations.snapshot_intents import AssistedSnapshot
from stillframe.compute.worker.context import WorkerContext
from stillframe.context import Context
from stillframe.db import adopted_disks, operations
from stillframe.errors import BadImage, BadRequest, Cancelled, ChainConflict, Conflict, NotFound
from stillframe.host import block_jobs, files, qcow2, qemu_img
from stillframe.journal import record
from stillframe.journal.operation import intent_of

MIB = 1 << 20


def server_of(worker: WorkerContext, context: Context, volume_id: str) -> dict[str, Any] | None:
    """Returns ``{"id", "active", "file", "state", "refusal", "merge_bandwidth_mib", "set_id"}`` of the server whose
    descriptions name the volume, or None. ``state`` is a row of ``domain_state``; ``refusal`` a sentence where that allows no
    change of the volume's files, live or offline; ``merge_bandwidth_mib`` bounds a merge that names no limit, 0: nothing does;
    ``set_id`` is the set that is being taken and has the volume as a native one, or None. One that is about to start is active;
    it is waited for. Raises Conflict when that lasts."""
    try:
        server, disk = owners.owner(worker, volume_id)
        if not server.view.active:
            with server_lock.taken(worker, server.id):  # a start that is under way now has ended by then
                server, disk = owners.owner(worker, volume_id)
    except NotFound:
        return None
    condition = server.condition
    refusal = condition.why_not(server.id, "merge" if server.view.active else "offline")
    return {
        "id": server.id,
        "active": server.view.active,
        "file": disk.name,
        "state": condition.name,
        "refusal": refusal,
        "merge_bandwidth_mib": worker.settings.compute.merge_bandwidth_mib,
        "set_id": _set_of(worker, server.id, volume_id),
    }


def _set_of(worker: WorkerContext, server_id: str, volume_id: str) -> str | None:
    with worker.database.read() as connection:
        rows = operations.line(connection, f"server:{server_id}")
    taken = [intent_of(row, AssistedSnapshot) for row in rows if row["kind"] == "assisted_snapshot"]
    return next((asked.set_id for asked in taken if volume_id in {disk.volume_id for disk in asked.natives}), None)


def merge_volume(worker: WorkerContext, context: Context, snapshot_id: str, delete_info: dict[str, Any]) -> str:
    """Nova's call: ``file_to_merge`` goes down into ``merge_target_file``; without a target what lies above
    ``file_to_merge`` (None: everything) is pulled into the active file. Our block storage gives an ``id`` too, which makes
    a repeat the same merge, ``bandwidth_mib``, and ``branches``, which it points elsewhere afterwards. Returns the operation's
    id. Errors are 400, as in Nova."""
    known = _known(worker, delete_info.get("id"))
    if known is not None:
        return known
    try:
        asked = _plan(worker, snapshot_id, delete_info)
    except (BadImage, ChainConflict, Conflict, NotFound) as error:
        raise BadRequest(error.message, **error.details) from error
    with worker.database.write() as connection:
        if delete_info.get("id") is None:  # a caller that gives an id asks for progress, and waits for its turn
            record.refuse_if_busy(connection, f"server:{asked.server_id}", shared=True)
        record.refuse_if_busy(connection, f"merge:{asked.volume_id}")
        request = merge.request(asked, delete_info.get("id"), context.request_id)
        return record.submit(connection, request.of(asked.project_id))


def _known(worker: WorkerContext, operation_id: str | None) -> str | None:
    if operation_id is None:
        return None
    wanted = names.canonical_id(operation_id, "id")
    with worker.database.read() as connection:
        row = operations.get(connection, wanted)
    if row is not None and row["kind"] != "merge_volume":
        raise BadRequest(f"the id {wanted} is another operation's")
    return wanted if row is not None else None


def _plan(worker: WorkerContext, snapshot_id: str, given: dict[str, Any]) -> MergeVolume:
    server, disk, share = _attached(worker, given["volume_id"])
    volume_id = str(disk.volume_id)
    _refuse_unless_changeable(server)
    servers.check_same(server, disk)
    info = _recorded(worker, server, disk)
    try:
        images = qemu_img.read_chain(share, volume_id, str(disk.name), disk.format, chain_limits.recorded(info)).images
    except FileNotFoundError as error:
        raise ChainConflict(f"{error.filename} of volume {volume_id} is missing on its share") from error
    chain = [image.name for image in images]
    into, merged = given.get("merge_target_file"), given.get("file_to_merge")
    for name in (into, merged):
        if name is not None:
            names.check_belongs(name, volume_id, info.get("base_file"))
            if name not in chain:
                raise BadRequest(f"{name} is not part of the chain {' <- '.join(chain)} of volume {volume_id}")
    branches = tuple(names.check_belongs(name, volume_id, info.get("base_file")) for name in given.get("branches", ()))
    if in_use := [name for name in branches if name in chain]:
        raise BadRequest(f"{in_use[0]} is part of the chain that server {server.id} has open, and no branch of it")
    about = {
        "server_id": server.id,
        "project_id": server.project_id,
        "volume_id": volume_id,
        "branches": branches,
        "snapshot_id": names.canonical_id(snapshot_id, "snapshot_id"),
        "target": disk.target,
        "directory": str(share),
        "active": str(disk.name),
        "bandwidth": (given.get("bandwidth_mib") or worker.settings.compute.merge_bandwidth_mib) * MIB,
    }
    asked = _pull(about, images, merged) if into is None else _commit(about, images, str(merged), into)
    if server.view.active:
        merge.require_sound(asked)
    return asked


def _pull(about: Mapping[str, Any], images: Sequence[Image], backing: str | None) -> PullMerge:
    """``about`` is what every merge says."""
    chain, formats = [image.name for image in images], {image.name: image.format for image in images}
    if len(chain) < 2 or backing == chain[-1]:
        raise BadRequest("nothing lies between the active file and the file that is to stay behind it")
    first = chain.index(backing) + 1 if backing is not None else 0
    gone = images[first:-1]
    if not gone:
        raise BadRequest(f"the active file is backed by {backing} already")
    return PullMerge(
        **about,
        backing=backing,
        backing_format=formats[backing] if backing else None,
        old_backing=chain[-2],
        old_format=formats[chain[-2]],
        gone=tuple(image.name for image in gone),
        closes=_closes(gone, chain[-1]),
    )


def _commit(about: Mapping[str, Any], images: Sequence[Image], top: str, base: str) -> CommitMerge:
    """``about`` is what every merge says."""
    chain = [image.name for image in images]
    low, high = chain.index(base), chain.index(top)
    if low >= high:
        raise BadRequest(f"{base} does not back {top}")
    gone = images[low + 1 : high + 1]
    return CommitMerge(
        **about,
        top=top,
        base=base,
        base_format=images[low].format,
        above=chain[high + 1] if high + 1 < len(chain) else None,
        gone=tuple(image.name for image in gone),
        closes=_closes(gone, chain[-1]),
    )


def _closes(gone: Sequence[Image], active: str) -> tuple[tuple[str, str], ...]:
    """Returns the files that go and that QEMU only reads, each with its format."""
    return tuple((image.name, image.format) for image in gone if image.name != active)


def _attached(worker: WorkerContext, volume_id: str) -> tuple[Server, Disk, Path]:
    server, disk = owners.owner(worker, volume_id)
    return server, disk, Path(str(_in_file(server, disk).directory))


def _in_file(server: Server, disk: Disk) -> Disk:
    """Returns the disk. Raises NotFound for one that is no file."""
    if disk.file is None:
        raise NotFound(f"server {server.id} has volume {disk.volume_id}, but its disk there is no file")
    return disk


def _recorded(worker: WorkerContext, server: Server, disk: Disk) -> dict[str, Any]:
    """Returns the connection_info that block storage has for the volume of a disk; empty without an attachment. Raises
    ChainConflict when the server has the file as another format."""
    known = worker.storage.attachment(str(disk.volume_id), server.id)
    info: dict[str, Any] = (known["connection_info"] or {}) if known else {}
    servers.check_format(server, disk, info)
    return info


def _refuse_unless_changeable(server: Server) -> None:
    """Raises Conflict in a state in which the files of a server's volumes must be left alone."""
    server.refuse_unless("merge" if server.view.active else "offline")


def merge_status(worker: WorkerContext, context: Context, operation_id: str) -> dict[str, Any]:
    """Returns ``{"id", "status", "bytes_done", "bytes_total", "fault"}``; status is running, done, cancelled, error or
    parked. Raises NotFound."""
    with worker.database.read() as connection:
        row = operations.get(connection, names.lookup_id(operation_id))
    if row is None or row["kind"] != "merge_volume":
        raise NotFound(f"Merge {operation_id} could not be found.")
    done, total = merge.progress(row)
    # The last fault of an operation that runs again is out of date.
    fault = row["fault"] if row["owner"] is None else None
    words = {"done": "done", "undone": "error", "parked": "parked"}
    status = words.get(row["state"], "running")
    if status == "error" and fault and fault["code"] == "cancelled":
        status = "cancelled"
    return {"id": row["id"], "status": status, "bytes_done": done, "bytes_total": total, "fault": fault}


def cancel_merge(worker: WorkerContext, context: Context, operation_id: str) -> None:
    """Cancels a merge; one that waits for its turn ends at once. Raises NotFound, Conflict when it has ended."""
    found = merge_status(worker, context, operation_id)
    if found["status"] != "running":
        raise Conflict(f"merge {operation_id} is {found['status']}")
    with worker.database.write() as connection:
        if record.withdraw(connection, found["id"], Cancelled("the merge was cancelled before it began", merged=False)):
            return
        operations.ask_to_cancel(connection, found["id"])


def resize_disk(worker: WorkerContext, context: Context, volume_id: str, size: int) -> None:
    """Grows the active file of an attached volume to ``size`` bytes, and what a running guest sees. A volume in the network has
    been extended by block storage before; a server that does not run sees that when it starts. May be repeated."""
    server, disk = owners.owner(worker, volume_id)
    _refuse_unless_changeable(server)
    with worker.database.read() as connection:
        # A merge of another volume does not matter; one of this volume has locked the volume already.
        record.refuse_if_busy(connection, f"server:{server.id}", shared=True)
        record.refuse_if_busy(connection, f"merge:{volume_id}")
    if disk.network is None:
        _grow_file(worker, server, _in_file(server, disk), size)
    elif server.view.active:
        _see_growth(worker.hypervisor.domain(server.id), disk, size)


def _grow_file(worker: WorkerContext, server: Server, disk: Disk, size: int) -> None:
    share = Path(str(disk.directory))
    _recorded(worker, server, disk)
    now = qcow2.read_as(share, str(disk.name), disk.format).size
    if now > size:
        raise ChainConflict(f"{disk.name} has {now} bytes already, more than {size}")
    if server.view.active:
        block_jobs.resize(worker.hypervisor.domain(server.id), disk.target, size)
    else:
        repair.before_growth(share, disk, str(disk.volume_id))
        qemu_img.resize(share, str(disk.name), disk.format, size)
    found = qcow2.read_as(share, str(disk.name), disk.format).size
    if found != size:
        raise ChainConflict(f"{disk.name} has {found} bytes after it was grown to {size}")


def _see_growth(domain: Any, disk: Disk, size: int) -> None:
    """QEMU would shrink its view of a disk that is larger: then nothing is asked of it."""
    now = block_jobs.size(domain, disk.target)
    if now > size:
        raise ChainConflict(f"{disk.words} has {now} bytes already, more than {size}")
    if now < size:
        block_jobs.resize(domain, disk.target, size)
    found = block_jobs.size(domain, disk.target)
    if found != size:
        raise ChainConflict(f"{disk.words} has {found} bytes after it was grown to {size}")


def switch_file(worker: WorkerContext, context: Context, volume_id: str, wanted: Mapping[str, Any]) -> None:
    """Lets the definition of a stopped server name another active file of the volume: ``{"name", "format", "to_come"}``. May be
    repeated.

    With ``to_come`` the file is about to get that name: until then the server cannot start. Raises Conflict for a server
    that runs, or was started meanwhile: the definition names what it has open then."""
    server, disk, share = _attached(worker, volume_id)
    with worker.database.read() as connection:
        base_file = adopted_disks.base_file(connection, str(disk.volume_id))
    name = names.check_belongs(wanted["name"], str(disk.volume_id), base_file)
    with server_lock.taken(worker, server.id):
        server, disk, share = _attached(worker, volume_id)
        if disk.name == name:
            return
        if server.view.active:
            if server.names_file(os.path.join(str(share), name)):  # a switch that was killed when somebody started the server
                definitions.name_file(worker, server, disk.target, str(disk.file), disk.format)
            raise Conflict(f"server {server.id} runs; the file of its disk {disk.target} is changed only while it is stopped")
        server.refuse_unless("offline")
        if not wanted.get("to_come") and not files.exists(share, name):
            raise ChainConflict(f"{name} of volume {disk.volume_id} is not on its share")
        definitions.name_file(worker, server, disk.target, os.path.join(str(share), name), wanted["format"])
