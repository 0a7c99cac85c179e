"""Requests about assisted snapshots: everything that can be known beforehand is checked here, before anything is touched."""

import logging
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from msgspec.structs import replace
from sqlalchemy import Connection

from stillframe.chain import image, names
from stillframe.compute.clients import chain_limits
from stillframe.compute.libvirt import other_jobs, servers
from stillframe.compute.libvirt.domain_xml import Disk
from stillframe.compute.libvirt.servers import Server
from stillframe.compute.libvirt.shares import place_of
from stillframe.compute.operations import assisted_snapshots as assisted_snapshot_operations
from stillframe.compute.operations import switch
from stillframe.compute.operations.snapshot_intents import (
    AssistedSnapshot,
    Caller,
    SetRequest,
    SnapshotDisk,
    WantedSet,
)
from stillframe.compute.requests import assisted_snapshot_settings as settings_requests
from stillframe.compute.requests import disk_methods, native_disks, repeats
from stillframe.compute.worker.context import WorkerContext
from stillframe.compute.worker.side_by_side import side_by_side
from stillframe.context import Context
from stillframe.db import assisted_snapshots, operations
from stillframe.db.rows import AssistedSnapshotRow
from stillframe.db.values import AssistedSnapshotPlan, NewAssistedSnapshot
from stillframe.errors import (
    BadRequest,
    Busy,
    Cancelled,
    ChainConflict,
    Conflict,
    IdInUse,
    NotFound,
    QuiesceRefused,
    QuotaExceeded,
    ShareUnavailable,
)
from stillframe.host import files, qemu_img, soundness
from stillframe.journal import deadline, record, typed
from stillframe.journal.typed import NotUnderstood
from stillframe.units import GIB

LOG = logging.getLogger(__name__)
MOST_WAITING = 32  # sets of one server: each is looked at every two seconds
NOT_YET = "an iscsi volume, whose snapshots block storage makes by itself: such a volume cannot be in a set"
MOST_SETS = 1000  # of one server, those that failed too, which no quota counts: each holds 64 KiB of metadata
REMOVABLE = ("cdrom", "floppy")  # their content is not part of the server's state


def create(worker: WorkerContext, context: Context, server_id: str, wanted: dict[str, Any]) -> str:
    """Plans an assisted snapshot and starts it; returns the set's id.

    ``wanted`` holds name, description, metadata, volumes ("all" or ids), what is to differ from the server's settings, and
    ``wait``: for how many seconds other work on the server, ours or another program's, is waited for. A ``set_id`` makes a
    repeat the same set; a policy gives ``policy_id`` too. Raises NotFound, BadRequest, IdInUse, Conflict (another set runs),
    AnotherJob, QuiesceRefused, QuotaExceeded, ChainConflict, ShareUnavailable; then nothing was created.
    """
    ours = "policy_id" in wanted
    if not ours and repeats.is_known(worker, context, server_id, wanted):
        return str(wanted["set_id"])
    given = _given(wanted, None if ours else repeats.asked(context, server_id, wanted))
    if not given.wait:
        return take(worker, context, server_id, given)
    with worker.database.read() as connection:
        until = deadline.after(connection, given.wait)
    given = replace(given, wait_until=until, context=Caller.of(context))
    try:
        return take(worker, context, server_id, given)
    except Busy as busy:
        return _line_up(worker, context, servers.find(worker, context, server_id), given, busy)


def _given(wanted: Mapping[str, Any], asked: SetRequest | None) -> WantedSet:
    """Returns what a request says as it is stored. Raises BadRequest for what is no part of one."""
    try:
        given = typed.read(WantedSet, {**wanted, "set_id": wanted.get("set_id") or str(uuid.uuid4())}, "the request")
    except NotUnderstood as error:
        raise BadRequest(str(error)) from error
    return replace(given, asked=asked)


def _line_up(worker: WorkerContext, context: Context, server: Server, wanted: WantedSet, busy: Busy) -> str:
    """Stores a set that waits for its turn. It is refused now if it can be known now that it would be."""
    _choose(worker, server, wanted.volumes)
    planned: AssistedSnapshotPlan = {
        "quiesce": settings_requests.effective(worker, server.id, wanted.settings)["quiesce"],
        "volumes": [],
        "excluded_disks": [],
        "warnings": None,
        "fault": f"it waits, for {wanted.wait} s at most: {busy.message}",
    }
    with worker.database.write() as connection:
        if not _is_stored(connection, wanted.set_id, wanted):
            if assisted_snapshots.being_made(connection, server.id) >= MOST_WAITING:
                raise QuotaExceeded(f"{MOST_WAITING} sets of server {server.id} are waiting already, more are not allowed")
            _insert(connection, _new_row(context, server, wanted, planned))
            record.submit(
                connection, assisted_snapshot_operations.waiting(server.id, wanted, context.request_id).of(server.project_id)
            )
    return wanted.set_id


def take(worker: WorkerContext, context: Context, server_id: str, wanted: WantedSet) -> str:
    """Plans a set and starts it now, as ``create`` does. Raises Busy as well, while the server or a volume is."""
    server = servers.find(worker, context, server_id)
    settings = settings_requests.effective(worker, server.id, wanted.settings)
    with worker.database.read() as connection:
        record.refuse_if_busy(connection, f"server:{server.id}")
    server.refuse_unless("set")
    chosen, excluded = _choose(worker, server, wanted.volumes)
    if wanted.wait_until is not None:
        _refuse_if_deleting(worker, [str(disk.volume_id) for disk, _ in chosen])
    volumes = worker.storage.volumes_of(server.project_id, [str(disk.volume_id) for disk, _ in chosen])
    files_, others = _by_method(chosen)
    disks = side_by_side(lambda each: _plan_disk(worker, server, each, volumes), files_)
    if others and native_disks.need_scratch(worker, server):
        native_disks.check_place(worker.settings.scratch_dir, disks)
    natives = native_disks.plan_all(worker, server, wanted.set_id, others, volumes)
    if wanted.wait_until is None:
        other_jobs.refuse_if_at_work(worker, server, tuple(disk.target for disk in (*disks, *natives)))
    if server.view.active and settings["quiesce"] == "required":
        targets = tuple(disk.target for disk in (*disks, *natives))
        ready = switch.check_ready(worker, server, targets, settings["allow_unfreezable"])
        if ready.unmet is not None:
            raise QuiesceRefused(f"server {server.id} cannot be quiesced: {ready.unmet}")
    asked = AssistedSnapshot(
        set_id=wanted.set_id,
        policy_id=wanted.policy_id,
        asked=wanted.asked,
        operation_id=wanted.operation_id,
        wanted=wanted if wanted.wait_until is not None and wanted.policy_id is None else None,
        server_id=server.id,
        active=server.view.active,
        quiesce=settings["quiesce"],
        allow_unfreezable=tuple(settings["allow_unfreezable"]),
        hook_timeout=settings["hook_timeout"],
        name=wanted.name,
        description=wanted.description,
        metadata=wanted.metadata or {},
        disks=tuple(disks),
        natives=tuple(natives),
        warnings=tuple(_warnings(disks)),
        wait_until=wanted.wait_until,
    )
    _store(worker, context, server, asked, excluded)
    return asked.set_id


def _store(
    worker: WorkerContext, context: Context, server: Server, asked: AssistedSnapshot, excluded: list[dict[str, Any]]
) -> None:
    planned: AssistedSnapshotPlan = {
        "quiesce": asked.quiesce,
        "volumes": assisted_snapshot_operations.volume_entries(asked, "creating"),
        "excluded_disks": excluded,
        "warnings": list(asked.warnings) or None,
        "fault": None,
    }
    with worker.database.write() as connection:
        if _is_stored(connection, asked.operation_id or asked.set_id, asked):
            return
        record.refuse_if_busy(connection, f"server:{server.id}")
        if asked.operation_id is None:
            _insert(connection, _new_row(context, server, asked, planned))
        elif not assisted_snapshots.begin(connection, asked.set_id, planned):
            raise Cancelled("the set was deleted while it waited for other work on the server")
        record.submit(connection, assisted_snapshot_operations.request(asked, context.request_id).of(server.project_id))


def _insert(connection: Connection, row: NewAssistedSnapshot) -> None:
    """Raises QuotaExceeded: sets that fail are kept until somebody deletes them."""
    if assisted_snapshots.count_of_server(connection, row["server_id"]) >= MOST_SETS:
        raise QuotaExceeded(
            f"server {row['server_id']} has {MOST_SETS} assisted snapshots already, those that failed too; delete some of them"
        )
    assisted_snapshots.insert(connection, row)


def _is_stored(connection: Connection, operation_id: str, wanted: WantedSet | AssistedSnapshot) -> bool:
    """Tells whether the same request was stored already. Raises IdInUse when another request has that id."""
    known = operations.get(connection, operation_id)
    if known is not None and repeats.recorded(known) != wanted.asked:
        raise IdInUse(f"the id {wanted.set_id} is in use")
    return known is not None


def _new_row(
    context: Context, server: Server, wanted: WantedSet | AssistedSnapshot, planned: AssistedSnapshotPlan
) -> NewAssistedSnapshot:
    return {
        "id": wanted.set_id,
        "project_id": server.project_id,
        "user_id": context.user_id,
        "name": wanted.name,
        "description": wanted.description,
        "server_id": server.id,
        "metadata": wanted.metadata or {},
        "status": "creating",
        "progress": 0,
        "policy_id": wanted.policy_id,
        "quiesce": planned["quiesce"],
        "volumes": planned["volumes"],
        "excluded_disks": planned["excluded_disks"],
        "warnings": planned["warnings"],
        "fault": planned["fault"],
    }


def _refuse_if_deleting(worker: WorkerContext, volume_ids: Sequence[str]) -> None:
    """Block storage locks a volume from the first merge of a deletion to the last; libvirt is idle in between."""
    deleting = sorted(worker.storage.being_deleted() & set(volume_ids))
    if deleting:
        raise Busy(f"a snapshot of volume {deleting[0]} is being deleted")


def _warnings(disks: Sequence[SnapshotDisk]) -> list[str]:
    """Returns a sentence for each volume whose chain is as deep as the soft limit or deeper; the log has them too."""
    sentences = [
        f"volume {disk.volume_id} has {disk.depth} files in its chain before this snapshot; from"
        f" {limits.chain_depth_warning} on reads become slow, at {limits.max_chain_depth} snapshots are refused:"
        " delete old ones, or let a snapshot policy do it"
        for disk, limits in ((each, each.chain_limits) for each in disks)
        if disk.depth >= limits.chain_depth_warning
    ]
    for sentence in sentences:
        LOG.warning("%s", sentence)
    return sentences


Usable = dict[str, tuple[Disk, dict[str, Any]]]


def _choose(
    worker: WorkerContext, server: Server, volumes: Literal["all"] | Sequence[str]
) -> tuple[list[tuple[Disk, dict[str, Any]]], list[dict[str, str]]]:
    """Returns the disks of the set with their connection_info, and why the others are left out."""
    usable, excluded, refused = _sorted_out(worker, server)
    if volumes == "all":
        if not usable:
            raise BadRequest(
                f"server {server.id} has no volume that can be snapshotted: {excluded}. 'stillframe adopt {server.id}' makes"
                " volumes of the disks that a server has already"
            )
        if len(usable) > worker.settings.compute.max_volumes_per_set:
            raise BadRequest(
                f"server {server.id} has {len(usable)} volumes, at most {worker.settings.compute.max_volumes_per_set}"
                " fit in one set; name some of them"
            )
        return list(usable.values()), excluded
    wanted = [names.canonical_id(volume_id, "volume id") for volume_id in volumes]
    if len(set(wanted)) != len(wanted):
        raise BadRequest("a volume is named twice")
    missing = [volume_id for volume_id in wanted if volume_id not in usable]
    if reasons := [refused[volume_id] for volume_id in missing if volume_id in refused]:
        raise BadRequest(f"these cannot be in a set: {'; '.join(reasons[:20])}", volumes=missing[:128])
    if missing:
        raise BadRequest(f"not attached to server {server.id} as a volume: {', '.join(missing[:20])}", volumes=missing[:128])
    left_out = [
        {"device": f"/dev/{disk.target}", "reason": "not asked for"}
        for volume_id, (disk, _) in usable.items()
        if volume_id not in wanted
    ]
    return [usable[volume_id] for volume_id in usable if volume_id in wanted], excluded + left_out


def _sorted_out(worker: WorkerContext, server: Server) -> tuple[Usable, list[dict[str, str]], dict[str, str]]:
    """Returns the volumes a set can have, the disks it cannot have, and a sentence for each volume among those."""
    attached = worker.storage.attachments_of(server.id, server.project_id)
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
    return disk_methods.classify(disk, known, active).reason or None


Chosen = tuple[Disk, dict[str, Any]]


def _by_method(chosen: Sequence[Chosen]) -> tuple[list[Chosen], list[Chosen]]:
    """Returns those that the hypervisor gives overlays, and those that block storage takes snapshots of."""
    native = [each for each in chosen if each[0].network is not None]
    return [each for each in chosen if each[0].network is None], native


def _plan_disk(
    worker: WorkerContext, server: Server, chosen: tuple[Disk, dict[str, Any]], volumes: Mapping[str, dict[str, Any]]
) -> SnapshotDisk:
    """Checks one disk and its connection_info against block storage and the share; returns the intent's entry for it.

    ``volumes`` are those of the server's project.
    """
    disk, info = chosen
    servers.check_same(server, disk)
    volume_id, share = str(disk.volume_id), Path(str(disk.directory))
    place = place_of(worker.settings, info)
    if disk.name != info["name"] or share != place:
        elsewhere = "" if share == place else ", in another directory"
        raise ChainConflict(
            f"volume {volume_id} is {disk.name} in server {server.id}, but block storage records {info['name']}{elsewhere}"
        )
    servers.check_format(server, disk, info)
    chain = read_chain(share, disk, info)
    volume = volumes.get(volume_id)
    if volume is None:
        raise NotFound(f"Volume {volume_id} could not be found.")
    if -(-chain.active.size // GIB) != volume["size"]:
        raise ChainConflict(f"{disk.name} has {chain.active.size} bytes, but volume {volume_id} has {volume['size']} GiB")
    if server.view.active and not files.is_locked(share, str(disk.name)):
        raise ChainConflict(f"the guest of server {server.id} does not have {disk.name} open: the file was replaced")
    snapshot_id = str(uuid.uuid4())
    return SnapshotDisk(
        volume_id=volume_id,
        snapshot_id=snapshot_id,
        target=disk.target,
        directory=str(share),
        active=str(disk.name),
        format=disk.format,
        overlay=names.overlay_name(volume_id, snapshot_id),
        size=chain.active.disk_size,
        depth=chain.depth,
        chain_limits=chain_limits.of(info),
        name=volume.get("name") or None,
    )


def read_chain(share: Path, disk: Disk, info: Mapping[str, Any]) -> image.Chain:
    """Returns the chain of a volume that is to get one more file above the one that its disk is on now.

    Raises ShareUnavailable for a share that is full or has lost a file, Conflict for a chain that is deep enough, NotSound,
    BadImage.
    """
    volume_id, active, format_ = str(disk.volume_id), str(disk.name), disk.format
    limits, known = chain_limits.of(info), chain_limits.recorded(info)
    if files.free_bytes(share) < limits.minimum_free:
        raise ShareUnavailable(f"the share of volume {volume_id} is full: less than {limits.minimum_free_mib} MiB are free")
    try:
        chain = image.check(qemu_img.read_chain(share, volume_id, active, format_, known), known)
        soundness.refuse_beyond_repair(share, active, format_)
    except FileNotFoundError as error:
        raise ShareUnavailable(f"{error.filename} of volume {volume_id} is not on its share") from error
    if chain.depth >= limits.max_chain_depth:
        raise Conflict(
            f"volume {volume_id} has {chain.depth} files in its chain, the most allowed is {limits.max_chain_depth};"
            " delete a snapshot that is not needed any more, which merges two files"
        )
    return chain


def find(worker: WorkerContext, context: Context, set_id: str, server_id: str | None) -> AssistedSnapshotRow:
    """Returns the set's row. Raises NotFound."""
    project = None if context.sees_all_projects else context.project_id
    with worker.database.read() as connection:
        row = assisted_snapshots.get(connection, set_id, project)
    if row is None or (server_id is not None and row["server_id"] != server_id):
        raise NotFound(f"Assisted snapshot {set_id} could not be found.")
    return row
