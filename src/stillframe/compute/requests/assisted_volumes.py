"""Requests about single disks that block storage makes: merge live, cancel, grow, name another file for a stopped server."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stillframe.chain import names
from stillframe.compute.libvirt import definitions, owners, repair, server_lock, servers
from stillframe.compute.libvirt.domain_xml import Disk
from stillframe.compute.libvirt.servers import Server
from stillframe.compute.operations import merge
from stillframe.compute.worker.context import WorkerContext
from stillframe.context import Context
from stillframe.db import operations
from stillframe.errors import BadImage, BadRequest, Cancelled, ChainConflict, Conflict, NotFound
from stillframe.host import block_jobs, files, qcow2, qemu_img
from stillframe.journal import record

MIB = 1 << 20


def server_of(world: WorkerContext, context: Context, volume_id: str) -> dict[str, Any] | None:
    """Returns ``{"id", "active", "file", "state", "refusal", "merge_bandwidth_mib"}`` of the server whose descriptions name the
    volume, or None. ``state`` is a row of ``domain_state``; ``refusal`` a sentence where that allows no change of the volume's
    files, live or offline; ``merge_bandwidth_mib`` bounds a merge that names no limit, 0: nothing does. One that is about to
    start is active; it is waited for. Raises Conflict when that lasts."""
    try:
        server, disk = owners.owner(world, volume_id)
        if not server.view.active:
            with server_lock.taken(world, server.id):  # a start that is under way now has ended by then
                server, disk = owners.owner(world, volume_id)
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
        "merge_bandwidth_mib": world.settings.compute.merge_bandwidth_mib,
    }


def merge_volume(world: WorkerContext, context: Context, snapshot_id: str, delete_info: dict[str, Any]) -> str:
    """Nova's call: ``file_to_merge`` goes down into ``merge_target_file``; without a target what lies above
    ``file_to_merge`` (None: everything) is pulled into the active file. Our block storage gives an ``id`` too, which makes
    a repeat the same merge, and ``bandwidth_mib``. Returns the operation's id. Errors are 400, as in Nova."""
    known = _known(world, delete_info.get("id"))
    if known is not None:
        return known
    try:
        intent = _plan(world, snapshot_id, delete_info)
    except (BadImage, ChainConflict, Conflict, NotFound) as error:
        raise BadRequest(error.message, **error.details) from error
    with world.database.write() as connection:
        if delete_info.get("id") is None:  # a caller that gives an id asks for progress, and waits for its turn
            record.refuse_if_busy(connection, f"server:{intent['server_id']}", shared=True)
        record.refuse_if_busy(connection, f"merge:{intent['volume_id']}")
        return record.submit(
            connection, merge.request(intent, delete_info.get("id"), context.request_id).of(intent["project_id"])
        )


def _known(world: WorkerContext, operation_id: str | None) -> str | None:
    if operation_id is None:
        return None
    wanted = names.canonical_id(operation_id, "id")
    with world.database.read() as connection:
        row = operations.get(connection, wanted)
    if row is not None and row["kind"] != "merge_volume":
        raise BadRequest(f"the id {wanted} is another operation's")
    return wanted if row is not None else None


def _plan(world: WorkerContext, snapshot_id: str, given: dict[str, Any]) -> dict[str, Any]:
    server, disk, share = _attached(world, given["volume_id"])
    volume_id = str(disk.volume_id)
    _refuse_unless_changeable(server)
    servers.check_same(server, disk)
    try:
        known = world.storage.attachment(volume_id, server.id)
        foundation = known["connection_info"].get("foundation") if known and known["connection_info"] else None
        images = qemu_img.read_chain(share, volume_id, str(disk.name), disk.format, foundation).images
    except FileNotFoundError as error:
        raise ChainConflict(f"{error.filename} of volume {volume_id} is missing on its share") from error
    chain, formats = [image.name for image in images], {image.name: image.format for image in images}
    common = {
        "server_id": server.id,
        "project_id": server.project_id,
        "volume_id": volume_id,
        "snapshot_id": names.canonical_id(snapshot_id, "snapshot_id"),
        "target": disk.target,
        "directory": str(share),
        "active": disk.name,
        "bandwidth": (given.get("bandwidth_mib") or world.settings.compute.merge_bandwidth_mib) * MIB,
    }
    into, merged = given.get("merge_target_file"), given.get("file_to_merge")
    for name in (into, merged):
        if name is not None:
            names.check_belongs(name, volume_id)
            if name not in chain:
                raise BadRequest(f"{name} is not part of the chain {' <- '.join(chain)} of volume {volume_id}")
    way = _pull_intent(chain, formats, merged) if into is None else _commit_intent(chain, formats, str(merged), into)
    intent = {**common, **way, "closes": [[name, formats[name]] for name in way["gone"] if name != disk.name]}
    if server.view.active:
        merge.require_sound(share, intent)
    return intent


def _pull_intent(chain: list[str], formats: dict[str, str], backing: str | None) -> dict[str, Any]:
    if len(chain) < 2 or backing == chain[-1]:
        raise BadRequest("nothing lies between the active file and the file that is to stay behind it")
    first = chain.index(backing) + 1 if backing is not None else 0
    gone = chain[first:-1]
    if not gone:
        raise BadRequest(f"the active file is backed by {backing} already")
    old = chain[-2]
    return {
        "kind": "pull",
        "backing": backing,
        "backing_format": formats[backing] if backing else None,
        "old_backing": old,
        "old_format": formats[old],
        "gone": gone,
    }


def _commit_intent(chain: list[str], formats: dict[str, str], top: str, base: str) -> dict[str, Any]:
    if chain.index(base) >= chain.index(top):
        raise BadRequest(f"{base} does not back {top}")
    place = chain.index(top)
    return {
        "kind": "commit",
        "top": top,
        "base": base,
        "base_format": formats[base],
        "above": chain[place + 1] if place + 1 < len(chain) else None,
        "gone": chain[chain.index(base) + 1 : place + 1],
    }


def _attached(world: WorkerContext, volume_id: str) -> tuple[Server, Disk, Path]:
    server, disk = owners.owner(world, volume_id)
    if disk.file is None:
        raise NotFound(f"server {server.id} has volume {volume_id}, but its disk there is no file")
    return server, disk, Path(str(disk.directory))


def _refuse_unless_changeable(server: Server) -> None:
    """Raises Conflict in a state in which the files of a server's volumes must be left alone."""
    server.refuse_unless("merge" if server.view.active else "offline")


def merge_status(world: WorkerContext, context: Context, operation_id: str) -> dict[str, Any]:
    """Returns ``{"id", "status", "bytes_done", "bytes_total", "fault"}``; status is running, done, cancelled, error or
    parked. Raises NotFound."""
    with world.database.read() as connection:
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


def cancel_merge(world: WorkerContext, context: Context, operation_id: str) -> None:
    """Cancels a merge; one that waits for its turn ends at once. Raises NotFound, Conflict when it has ended."""
    found = merge_status(world, context, operation_id)
    if found["status"] != "running":
        raise Conflict(f"merge {operation_id} is {found['status']}")
    with world.database.write() as connection:
        if record.withdraw(connection, found["id"], Cancelled("the merge was cancelled before it began", merged=False)):
            return
        operations.ask_to_cancel(connection, found["id"])


def resize_disk(world: WorkerContext, context: Context, volume_id: str, size: int) -> None:
    """Grows the active file of an attached volume to ``size`` bytes, and what a running guest sees. May be repeated."""
    server, disk, share = _attached(world, volume_id)
    _refuse_unless_changeable(server)
    with world.database.read() as connection:
        # A merge of another volume does not matter; one of this volume has locked the volume already.
        record.refuse_if_busy(connection, f"server:{server.id}", shared=True)
        record.refuse_if_busy(connection, f"merge:{volume_id}")
    now = qcow2.read_as(share, str(disk.name), disk.format).size
    if now > size:
        raise ChainConflict(f"{disk.name} has {now} bytes already, more than {size}")
    if server.view.active:
        block_jobs.resize(world.hypervisor.domain(server.id), disk.target, size)
    else:
        repair.before_growth(share, disk, volume_id)
        qemu_img.resize(share, str(disk.name), disk.format, size)
    found = qcow2.read_as(share, str(disk.name), disk.format).size
    if found != size:
        raise ChainConflict(f"{disk.name} has {found} bytes after it was grown to {size}")


def switch_file(world: WorkerContext, context: Context, volume_id: str, wanted: Mapping[str, Any]) -> None:
    """Lets the definition of a stopped server name another active file of the volume: ``{"name", "format", "to_come"}``. May be
    repeated.

    With ``to_come`` the file is about to get that name: until then the server cannot start. Raises Conflict for a server
    that runs, or was started meanwhile: the definition names what it has open then."""
    server, disk, share = _attached(world, volume_id)
    name = names.check_belongs(wanted["name"], str(disk.volume_id))
    with server_lock.taken(world, server.id):
        server, disk, share = _attached(world, volume_id)
        if disk.name == name:
            return
        if server.view.active:
            if server.names_file(os.path.join(str(share), name)):  # a switch that was killed when somebody started the server
                definitions.name_file(world, server, disk.target, str(disk.file), disk.format)
            raise Conflict(f"server {server.id} runs; the file of its disk {disk.target} is changed only while it is stopped")
        server.refuse_unless("offline")
        if not wanted.get("to_come") and not files.exists(share, name):
            raise ChainConflict(f"{name} of volume {disk.volume_id} is not on its share")
        definitions.name_file(world, server, disk.target, os.path.join(str(share), name), wanted["format"])
