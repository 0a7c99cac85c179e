"""Requests about assisted snapshots: everything that can be known beforehand is checked here, before anything is touched."""

import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from stillframe.chain import image, names
from stillframe.compute.clients import chain_limits
from stillframe.compute.clients.chain_limits import ChainLimits
from stillframe.compute.libvirt import other_jobs, owners, servers
from stillframe.compute.libvirt.domain_xml import Disk
from stillframe.compute.libvirt.servers import Server
from stillframe.compute.libvirt.shares import place_of
from stillframe.compute.operations import assisted_snapshots as assisted_snapshot_operations
from stillframe.compute.operations import assisted_volume_snapshots, delete_set, switch
from stillframe.compute.requests import assisted_snapshot_settings as settings_requests
from stillframe.compute.requests import repeats
from stillframe.compute.snapshot_policies import retention
from stillframe.compute.worker.context import WorkerContext
from stillframe.compute.worker.side_by_side import side_by_side
from stillframe.context import Context
from stillframe.db import assisted_snapshots, operations
from stillframe.db.tables import now
from stillframe.errors import (
    BadRequest,
    Busy,
    Cancelled,
    ChainConflict,
    Conflict,
    HostCommandFailed,
    IdInUse,
    NotFound,
    QuiesceRefused,
    QuotaExceeded,
    ServiceFailed,
    ServiceUnavailable,
    ShareUnavailable,
    StepFailed,
    StillframeError,
)
from stillframe.host import files, qemu_img, soundness
from stillframe.journal import record
from stillframe.units import GIB

LOG = logging.getLogger(__name__)
MOST_WAITING = 32  # sets of one server: each is looked at every two seconds
REMOVABLE = ("cdrom", "floppy")  # their content is not part of the server's state


def create(world: WorkerContext, context: Context, server_id: str, wanted: dict[str, Any]) -> str:
    """Plans an assisted snapshot and starts it; returns the set's id.

    ``wanted`` holds name, description, metadata, volumes ("all" or ids), what is to differ from the server's settings, and
    ``wait``: for how many seconds other work on the server, ours or another program's, is waited for. A ``set_id`` makes a
    repeat the same set; a policy gives ``policy_id`` too. Raises NotFound, BadRequest, IdInUse, Conflict (another set runs),
    AnotherJob, QuiesceRefused, QuotaExceeded, ChainConflict, ShareUnavailable; then nothing was created.
    """
    ours = "policy_id" in wanted
    if not ours and repeats.is_known(world, context, server_id, wanted):
        return str(wanted["set_id"])
    given = {**wanted, "set_id": wanted.get("set_id") or str(uuid.uuid4())}
    if not ours:
        given["asked"] = repeats.asked(context, server_id, wanted)
    if not given.get("wait"):
        return take(world, context, server_id, given)
    given |= {"wait_until": time.time() + given["wait"], "context": context.to_document()}
    try:
        return take(world, context, server_id, given)
    except Busy as busy:
        return _line_up(world, context, servers.find(world, context, server_id), given, busy)


def _line_up(world: WorkerContext, context: Context, server: Server, wanted: dict[str, Any], busy: Busy) -> str:
    """Stores a set that waits for its turn. It is refused now if it can be known now that it would be."""
    _choose(world, server, wanted["volumes"])
    row = {
        "quiesce": settings_requests.effective(world, server.id, wanted)["quiesce"],
        "volumes": [],
        "excluded_disks": [],
        "warnings": None,
        "fault": f"it waits, for {wanted['wait']} s at most: {busy.message}",
    }
    with world.database.write() as connection:
        if not _is_stored(connection, wanted["set_id"], wanted):
            if assisted_snapshots.being_made(connection, server.id) >= MOST_WAITING:
                raise QuotaExceeded(f"{MOST_WAITING} sets of server {server.id} are waiting already, more are not allowed")
            assisted_snapshots.insert(connection, {**_new_row(context, server, wanted), **row})
            record.submit(
                connection, assisted_snapshot_operations.waiting(server.id, wanted, context.request_id).of(server.project_id)
            )
    return str(wanted["set_id"])


def take(world: WorkerContext, context: Context, server_id: str, wanted: dict[str, Any]) -> str:
    """Plans a set and starts it now, as ``create`` does. ``wanted`` holds ``set_id`` and ``asked`` (the request) too, and of
    a set that waited ``wait_until`` and ``operation_id``. Raises Busy as well, while the server or a volume is."""
    server = servers.find(world, context, server_id)
    settings = settings_requests.effective(world, server.id, wanted)
    with world.database.read() as connection:
        record.refuse_if_busy(connection, f"server:{server.id}")
    server.refuse_unless("set")
    chosen, excluded = _choose(world, server, wanted["volumes"])
    if wanted.get("wait_until"):
        _refuse_if_deleting(world, [str(disk.volume_id) for disk, _ in chosen])
    volumes = world.storage.volumes_of(server.project_id, [str(disk.volume_id) for disk, _ in chosen])
    disks = side_by_side(lambda each: _plan_disk(world, server, each, volumes), chosen)
    if not wanted.get("wait_until"):
        other_jobs.refuse_if_at_work(world, server, tuple(disk["target"] for disk in disks))
    if server.view.active and settings["quiesce"] == "required":
        targets = tuple(disk["target"] for disk in disks)
        ready = switch.check_ready(world, server, targets, settings["allow_unfreezable"])
        if ready.unmet is not None:
            raise QuiesceRefused(f"server {server.id} cannot be quiesced: {ready.unmet}")
    intent = {
        "set_id": wanted["set_id"],
        "policy_id": wanted.get("policy_id"),
        "asked": wanted.get("asked"),
        "operation_id": wanted.get("operation_id"),
        "wanted": wanted if wanted.get("wait_until") and "policy_id" not in wanted else None,
        "server_id": server.id,
        "active": server.view.active,
        **settings,
        "name": wanted.get("name"),
        "description": wanted.get("description"),
        "metadata": wanted.get("metadata") or {},
        "disks": disks,
        "warnings": _warnings(disks),
        "wait_until": wanted.get("wait_until"),
    }
    _store(world, context, server, intent, excluded)
    return str(intent["set_id"])


def _store(
    world: WorkerContext, context: Context, server: Server, intent: dict[str, Any], excluded: list[dict[str, str]]
) -> None:
    planned = {
        "quiesce": intent["quiesce"],
        "volumes": assisted_snapshot_operations.volume_entries(intent, "creating"),
        "excluded_disks": excluded,
        "warnings": intent["warnings"] or None,
    }
    with world.database.write() as connection:
        if _is_stored(connection, intent["operation_id"] or intent["set_id"], intent):
            return
        record.refuse_if_busy(connection, f"server:{server.id}")
        if intent["operation_id"] is None:
            assisted_snapshots.insert(connection, {**_new_row(context, server, intent), **planned})
        elif not assisted_snapshots.begin(connection, intent["set_id"], planned):
            raise Cancelled("the set was deleted while it waited for other work on the server")
        record.submit(connection, assisted_snapshot_operations.request(intent, context.request_id).of(server.project_id))


def _is_stored(connection: Connection, operation_id: str, wanted: Mapping[str, Any]) -> bool:
    """Tells whether the same request was stored already. Raises IdInUse when another request has that id."""
    known = operations.get(connection, operation_id)
    if known is not None and known["intent"].get("asked") != wanted.get("asked"):
        raise IdInUse(f"the id {wanted['set_id']} is in use")
    return known is not None


def _new_row(context: Context, server: Server, wanted: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": wanted["set_id"],
        "project_id": server.project_id,
        "user_id": context.user_id,
        "name": wanted.get("name"),
        "description": wanted.get("description"),
        "server_id": server.id,
        "metadata": wanted.get("metadata") or {},
        "status": "creating",
        "progress": 0,
        "policy_id": wanted.get("policy_id"),
    }


def _refuse_if_deleting(world: WorkerContext, volume_ids: Sequence[str]) -> None:
    """Block storage locks a volume from the first merge of a deletion to the last; libvirt is idle in between."""
    deleting = sorted(world.storage.being_deleted() & set(volume_ids))
    if deleting:
        raise Busy(f"a snapshot of volume {deleting[0]} is being deleted")


def _warnings(disks: Sequence[dict[str, Any]]) -> list[str]:
    """Returns a sentence for each volume whose chain is as deep as the soft limit or deeper; the log has them too."""
    told = [
        f"volume {disk['volume_id']} has {disk['depth']} files in its chain before this snapshot; from"
        f" {limits.chain_depth_warning} on reads become slow, at {limits.max_chain_depth} snapshots are refused:"
        " delete old ones, or let a snapshot policy do it"
        for disk, limits in ((each, chain_limits.of(each)) for each in disks)
        if disk["depth"] >= limits.chain_depth_warning
    ]
    for sentence in told:
        LOG.warning("%s", sentence)
    return told


Usable = dict[str, tuple[Disk, dict[str, Any]]]


def _choose(
    world: WorkerContext, server: Server, volumes: Any
) -> tuple[list[tuple[Disk, dict[str, Any]]], list[dict[str, str]]]:
    """Returns the disks of the set with their connection_info, and why the others are left out."""
    usable, excluded, refused = _sorted_out(world, server)
    if volumes == "all":
        if not usable:
            raise BadRequest(f"server {server.id} has no volume that can be snapshotted: {excluded}")
        if len(usable) > world.settings.compute.max_volumes_per_set:
            raise BadRequest(
                f"server {server.id} has {len(usable)} volumes, at most {world.settings.compute.max_volumes_per_set}"
                " fit in one set; name some of them"
            )
        return list(usable.values()), excluded
    wanted = [names.canonical_id(volume_id, "volume id") for volume_id in volumes]
    if len(set(wanted)) != len(wanted):
        raise BadRequest("a volume is named twice")
    missing = [volume_id for volume_id in wanted if volume_id not in usable]
    if told := [refused[volume_id] for volume_id in missing if volume_id in refused]:
        raise BadRequest(f"these cannot be in a set: {'; '.join(told[:20])}", volumes=missing[:128])
    if missing:
        raise BadRequest(f"not attached to server {server.id} as a volume: {', '.join(missing[:20])}", volumes=missing[:128])
    left_out = [
        {"device": f"/dev/{disk.target}", "reason": "not asked for"}
        for volume_id, (disk, _) in usable.items()
        if volume_id not in wanted
    ]
    return [usable[volume_id] for volume_id in usable if volume_id in wanted], excluded + left_out


def _sorted_out(world: WorkerContext, server: Server) -> tuple[Usable, list[dict[str, str]], dict[str, str]]:
    """Returns the volumes a set can have, the disks it cannot have, and a sentence for each volume among those."""
    attached = world.storage.attachments_of(server.id, server.project_id)
    known = {entry["volume_id"]: entry["connection_info"] for entry in attached}
    usable: Usable = {}
    excluded: list[dict[str, str]] = []
    refused: dict[str, str] = {}
    for disk in server.live.disks:
        reason = _why_not(disk, known, server.view.active)
        if reason is None:
            usable[str(disk.volume_id)] = (disk, known[str(disk.volume_id)])
        elif disk.device not in REMOVABLE:
            excluded.append({"device": f"/dev/{disk.target}", "reason": reason})
            if disk.volume_id in known:
                refused[str(disk.volume_id)] = f"volume {disk.volume_id} (/dev/{disk.target}) is {reason}"
    for volume_id in sorted(known.keys() - {disk.volume_id for disk in server.live.disks}):
        reason = _why_absent(server, known[volume_id])
        excluded.append({"device": "none", "volume_id": volume_id, "reason": reason})
        refused[volume_id] = f"volume {volume_id}: {reason}"
    return usable, excluded, refused


def _why_absent(server: Server, info: Mapping[str, Any]) -> str:
    """Says why a volume that block storage has attached to the server is not one of its disks."""
    if not info:
        return "the volume is still being attached"
    return (
        f"block storage has it attached, but server {server.id} has no such disk now: it was unplugged, by hand or by a"
        " detachment that the guest answered late. Detach it (openstack server remove volume); to have it in"
        " the guest again, attach it afterwards"
    )


def _why_not(disk: Disk, known: Mapping[str, dict[str, Any]], active: bool) -> str | None:
    if disk.volume_id is None or disk.volume_id not in known:
        return "not a volume of block storage"
    if disk.kind != "file" or disk.format != "qcow2":
        return f"a {disk.format} disk of type {disk.kind}; only qcow2 files on a share can be in a set"
    if disk.transient and active:
        return "a transient disk: what the guest writes to it is thrown away when the server stops"
    if not known[disk.volume_id]:
        return "still being attached"
    return None


def _plan_disk(
    world: WorkerContext, server: Server, chosen: tuple[Disk, dict[str, Any]], volumes: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    """Checks one disk and its connection_info against block storage and the share; returns the intent's entry for it.

    ``volumes`` are those of the server's project.
    """
    disk, info = chosen
    servers.check_same(server, disk)
    volume_id, share = str(disk.volume_id), Path(str(disk.directory))
    place = place_of(world.settings, info)
    if disk.name != info["name"] or share != place:
        elsewhere = "" if share == place else ", in another directory"
        raise ChainConflict(
            f"volume {volume_id} is {disk.name} in server {server.id}, but block storage records {info['name']}{elsewhere}"
        )
    chain = _read_chain(share, (volume_id, str(disk.name)), chain_limits.of(info), info.get("foundation"))
    volume = volumes.get(volume_id)
    if volume is None:
        raise NotFound(f"Volume {volume_id} could not be found.")
    if chain.active.size != volume["size"] * GIB:
        raise ChainConflict(f"{disk.name} has {chain.active.size} bytes, but volume {volume_id} has {volume['size']} GiB")
    if server.view.active and not files.is_locked(share, str(disk.name)):
        raise ChainConflict(f"the guest of server {server.id} does not have {disk.name} open: the file was replaced")
    snapshot_id = str(uuid.uuid4())
    return {
        "volume_id": volume_id,
        "snapshot_id": snapshot_id,
        "target": disk.target,
        "directory": str(share),
        "active": disk.name,
        "overlay": names.overlay_name(volume_id, snapshot_id),
        "size": chain.active.size,
        "depth": chain.depth,
        chain_limits.KEY: asdict(chain_limits.of(info)),
        "name": volume.get("name") or None,
    }


def _read_chain(share: Path, place: tuple[str, str], limits: ChainLimits, foundation: str | None = None) -> image.Chain:
    volume_id, active = place
    if files.free_bytes(share) < limits.minimum_free:
        raise ShareUnavailable(f"the share of volume {volume_id} is full: less than {limits.minimum_free_mib} MiB are free")
    try:
        chain = image.check(qemu_img.read_chain(share, volume_id, active, "qcow2", foundation), foundation)
        soundness.refuse_beyond_repair(share, active, "qcow2")  # it becomes a base
    except FileNotFoundError as error:
        raise ShareUnavailable(f"{error.filename} of volume {volume_id} is not on its share") from error
    if chain.depth >= limits.max_chain_depth:
        raise Conflict(
            f"volume {volume_id} has {chain.depth} files in its chain, the most allowed is {limits.max_chain_depth};"
            " delete a snapshot that is not needed any more, which merges two files"
        )
    return chain


def delete(world: WorkerContext, context: Context, server_id: str, set_id: str, policy_id: str | None = None) -> None:
    """Starts to delete every snapshot of a set; under a running server they are merged live. Raises Conflict.

    With ``policy_id`` in that policy's name: a set that it did not make, or that is labelled ``keep`` by now, is a Conflict.
    """
    row = find(world, context, set_id, server_id)
    if row["status"] == "creating" and _give_up(world, row["id"]):
        return
    if row["status"] in ("creating", "deleting"):
        raise Conflict(f"assisted snapshot {row['id']} is {row['status']}")
    _refuse_if_kept(world, [entry["volume_id"] for entry in row["volumes"]])
    present = [entry["snapshot_id"] for entry in row["volumes"] if world.storage.snapshot(entry["snapshot_id"]) is not None]
    refuse_what_stays(world, row["id"], present)
    with world.database.write() as connection:
        record.refuse_if_busy(connection, f"set:{row['id']}")
        record.refuse_if_busy(connection, f"server:{row['server_id']}", shared=True)
        if policy_id is not None:
            _retire(connection, row["id"], policy_id)
        assisted_snapshots.change(connection, row["id"], status="deleting")
        wanted = delete_set.request(row["id"], row["server_id"], present, context.request_id)
        record.submit(connection, wanted.of(row["project_id"]))


def _give_up(world: WorkerContext, set_id: str) -> bool:
    """Cancels a set that waits for its turn. Returns False for one that does not wait."""
    with world.database.write() as connection:
        waiting = operations.on_resource(connection, f"set:{set_id}")
        if waiting is None or waiting["kind"] != "await_server":
            return False
        return assisted_snapshots.swap_status(connection, set_id, "creating", "deleting")


def _refuse_if_kept(world: WorkerContext, volume_ids: Sequence[str]) -> None:
    """Raises Conflict when the files of one of the volumes must be left alone in the state its server is in."""
    for server in servers.list_everything(world):
        if any(server.disk_of(volume_id) for volume_id in volume_ids):
            server.refuse_unless("merge" if server.view.active else "offline")


def refuse_what_stays(world: WorkerContext, set_id: str, snapshot_ids: Sequence[str]) -> None:
    """Raises Conflict naming the snapshots that cannot be deleted, before anything of the set changes."""
    reasons = side_by_side(lambda each: _why_it_stays(world, each), snapshot_ids)
    stays = {key: why for key, why in zip(snapshot_ids, reasons, strict=True) if why}
    if stays:
        told = "; ".join(f"snapshot {key}: {why}" for key, why in stays.items())
        raise Conflict(f"assisted snapshot {set_id} cannot be deleted, and nothing of it was changed: {told}", failed=stays)


def _why_it_stays(world: WorkerContext, snapshot_id: str) -> str | None:
    """None also where it may be deleted later: an operation has to end first, or room to be made (then there is a method)."""
    try:
        found = world.storage.explain_deletion(snapshot_id)
    except Conflict as error:
        return None if isinstance(error, Busy) else error.message
    except (NotFound, ServiceUnavailable, ServiceFailed, StepFailed, HostCommandFailed):
        return None  # gone meanwhile, or not known now: the deletion waits and finds out
    return None if found["possible"] or found["busy"] or found["method"] else str(found["why"])


def _retire(connection: Connection, set_id: str, policy_id: str) -> None:
    """Checked in the transaction that decides, so that a label that was just set counts."""
    row = assisted_snapshots.get(connection, set_id, None)
    if row is None or row["policy_id"] != policy_id or retention.is_labelled(row["metadata"]):
        raise Conflict(f"assisted snapshot {set_id} is not for policy {policy_id} to delete: it is labelled, gone or another's")
    assisted_snapshots.change(connection, set_id, retired_at=row["retired_at"] or now())


def find(world: WorkerContext, context: Context, set_id: str, server_id: str | None) -> dict[str, Any]:
    """Returns the set's row. Raises NotFound."""
    project = None if context.sees_all_projects else context.project_id
    with world.database.read() as connection:
        row = assisted_snapshots.get(connection, set_id, project)
    if row is None or (server_id is not None and row["server_id"] != server_id):
        raise NotFound(f"Assisted snapshot {set_id} could not be found.")
    return row


def create_for_volume(world: WorkerContext, _context: Context, volume_id: str, create_info: dict[str, str]) -> None:
    """Nova's call: switches one volume's disk to an overlay that block storage has made. Errors are 400, as in Nova."""
    try:
        intent = _plan_for_volume(world, volume_id, create_info)
    except StillframeError as error:
        raise error if error.status >= 500 else BadRequest(error.message) from error
    with world.database.write() as connection:
        record.submit(connection, assisted_volume_snapshots.request(intent, _context.request_id).of(intent["project_id"]))


def _connection_info(world: WorkerContext, server: Server, volume_id: str) -> dict[str, Any]:
    known = world.storage.attachment(volume_id, server.id)
    return (known["connection_info"] or {}) if known else {}


def _plan_for_volume(world: WorkerContext, volume_id: str, create_info: dict[str, str]) -> dict[str, Any]:
    wanted = names.canonical_id(volume_id, "volume_id")
    server, _ = owners.owner(world, wanted)
    disk = server.live.disk_of(wanted)
    if disk is None or disk.file is None or disk.format != "qcow2" or create_info["type"] != "qcow2":
        raise BadRequest(f"volume {wanted} is not a qcow2 file in server {server.id}")
    server.refuse_unless("set")
    servers.check_same(server, disk)
    share = Path(str(disk.directory))
    info = _connection_info(world, server, wanted)
    chain = _read_chain(share, (wanted, str(disk.name)), chain_limits.of(info), info.get("foundation"))
    snapshot_id = names.canonical_id(create_info["snapshot_id"], "snapshot_id")
    entry = {
        "volume_id": wanted,
        "snapshot_id": snapshot_id,
        "target": disk.target,
        "directory": str(share),
        "active": str(disk.name),
        "overlay": names.check_belongs(create_info["new_file"], wanted),
        "size": chain.active.size,
    }
    switch.check_overlay_exists(entry)
    other_jobs.refuse_if_at_work(world, server, (disk.target,))
    of = {"server_id": server.id, "project_id": server.project_id}
    return {**of, "active": server.view.active, "quiesce": "preferred", "disks": [entry]}
