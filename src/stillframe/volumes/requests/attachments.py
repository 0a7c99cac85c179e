"""Requests about attachments, as the worker takes them: reserve, connect, complete, release."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from stillframe.chain import names
from stillframe.context import Context
from stillframe.db import attachments, operations, volumes
from stillframe.db.rows import AttachmentRow, VolumeRow
from stillframe.db.tables import now
from stillframe.errors import BadRequest, ChainConflict, Conflict, NotFound, StillframeError
from stillframe.journal.about import verbs
from stillframe.journal.typed import verb_of
from stillframe.units import GIB
from stillframe.volumes.chain import observe
from stillframe.volumes.operations.executors.offline import CheckStopped
from stillframe.volumes.requests import force_detach
from stillframe.volumes.storage.drivers.targets import initiator_of
from stillframe.volumes.worker import exports, lookup
from stillframe.volumes.worker.context import WorkerContext


def seen(connection: Connection, context: Context, attachment_id: str) -> AttachmentRow:
    """Returns the row of an attachment that the asker may see. Raises NotFound."""
    project = None if context.sees_all_projects else context.project_id
    row = attachments.get(connection, names.canonical_id(attachment_id, "attachment id"), project)
    if row is None:
        raise NotFound(f"Volume attachment could not be found with filter: attachment_id = {attachment_id}.")
    return row


def create(worker: WorkerContext, context: Context, wanted: dict[str, Any]) -> str:
    """Reserves the volume for a server (``instance_uuid``), and connects it when a connector is given.

    The same volume and server again: the same attachment. Returns its id. Only a service is believed about the server; for
    everybody else compute says whether the server belongs to the volume's project. Raises BadRequest, Conflict, NotFound;
    ServiceUnavailable when compute does not answer, TargetUnavailable when what gives the volume out does not; BadImage,
    ChainConflict, ShareUnavailable when a connector is given and the volume's files are not fit to be opened.
    """
    instance = wanted.get("instance_uuid")
    instance = names.canonical_id(instance, "instance_uuid") if instance else None
    with worker.database.read() as connection:
        volume = lookup.volume(connection, context, wanted["volume_uuid"])
    if volume["readonly"]:
        raise BadRequest(
            f"Invalid volume: volume {volume['id']} is read only, and servers are given volumes to write to. Take the flag off"
            " ('openstack volume set --read-write'), or attach a copy of it"
        )
    if instance is not None and not context.has_service_identity:
        _check_server(worker, volume, instance)
    if wanted.get("connector") and volume["status"] == "available":
        _check_connector(worker, volume, wanted["connector"])
        _look_at(worker, volume)
    with worker.database.write() as connection:
        volume = lookup.volume(connection, context, wanted["volume_uuid"])
        for row in attachments.of_volumes(connection, [volume["id"]])[volume["id"]]:
            if instance is not None and row["instance_id"] == instance:
                return str(row["id"])
            raise BadRequest(
                f"Invalid volume: volume {volume['id']} is {volume['status']}, attached to server {row['instance_id']}"
            )
        lookup.refuse_if_busy(connection, volume["id"], shared=True)
        status = "attaching" if wanted.get("connector") else "reserved"
        if not volumes.move(connection, volume["id"], ("available",), status):
            raise BadRequest(
                f"Invalid volume: the status of volume {volume['id']} must be available, but it is {volume['status']}"
            )
        attachment_id = str(uuid.uuid4())
        attachments.insert(
            connection,
            {
                "id": attachment_id,
                "project_id": volume["project_id"],
                "volume_id": volume["id"],
                "instance_id": instance,
                "status": status,
                "mode": wanted.get("mode") or "rw",
                "connector": wanted.get("connector"),
            },
        )
    if wanted.get("connector"):
        _give_out(worker, volume["id"], attachment_id)
    return attachment_id


def _give_out(worker: WorkerContext, volume_id: str, attachment_id: str) -> None:
    """What cannot be given out is not attached: the caller knows no id yet by which to release it."""
    try:
        exports.settle(worker, volume_id)
    except StillframeError:
        with worker.database.write() as connection:
            held = attachments.get(connection, attachment_id, None)
            if held is not None:
                force_detach.drop(connection, held)
        raise


def _check_server(worker: WorkerContext, volume: VolumeRow, server_id: str) -> None:
    """Raises NotFound for a server of another project: its lists would show attachments that its owner did not make."""
    if not worker.compute.has_server(volume["project_id"], server_id):
        raise NotFound(f"Instance {server_id} could not be found.")


def _look_at(worker: WorkerContext, volume: VolumeRow) -> None:
    """A hypervisor opens whatever is at a volume's name, and everything that names (F9). So it is only given a file that is the
    volume's own and has its size (R12)."""
    active = observe.observe(worker, volume).images[volume["active_file"]]
    if -(-active.size // GIB) != volume["size"]:
        raise ChainConflict(f"{active.name} has {active.size} bytes, but volume {volume['id']} has {volume['size']} GiB")


def update(worker: WorkerContext, context: Context, attachment_id: str, connector: dict[str, Any]) -> None:
    """Gives the attachment its connector; may be repeated. Raises BadImage, ChainConflict, ShareUnavailable as ``create``."""
    with worker.database.read() as connection:
        row = seen(connection, context, attachment_id)
        volume = volumes.get(connection, row["volume_id"], None)
    assert volume is not None
    if row["status"] != "attached":
        _look_at(worker, volume)
    _check_connector(worker, volume, connector)
    with worker.database.write() as connection:
        row = seen(connection, context, attachment_id)
        if row["status"] == "attached":
            return
        lookup.refuse_if_busy(connection, row["volume_id"], shared=True)  # its active file may be about to change
        attachments.change(connection, row["id"], connector=connector, status="attaching")
        volumes.move(connection, row["volume_id"], ("reserved",), "attaching")
    exports.settle(worker, row["volume_id"])


def complete(worker: WorkerContext, context: Context, attachment_id: str) -> None:
    """Says that the server has the volume; may be repeated."""
    with worker.database.write() as connection:
        row = seen(connection, context, attachment_id)
        if row["status"] == "reserved":
            raise BadRequest(f"Invalid attachment: {row['id']} has no connector yet")
        attachments.change(connection, row["id"], status="attached", attached_at=row["attached_at"] or now())
        volumes.move(connection, row["volume_id"], ("reserved", "attaching"), "in-use", fault=None)


def note_fault(worker: WorkerContext, context: Context, volume_id: str, fault: str) -> None:
    """Records why compute could not attach or detach the volume, until that succeeds. May be repeated."""
    with worker.database.write() as connection:
        volumes.change(connection, lookup.volume(connection, context, volume_id)["id"], fault=fault)


def report_guest_disk(worker: WorkerContext, context: Context, attachment_id: str, present: bool) -> None:
    """Records compute's report on an attachment: whether the running guest was just seen with the disk. Changes no status,
    since the volume is the server's until it is detached. May be repeated: the first look that missed it is what is kept."""
    with worker.database.write() as connection:
        row = seen(connection, context, attachment_id)
        if not present and row["missing_since"] is None and row["status"] == "attached":
            attachments.change(connection, row["id"], missing_since=now())
        elif present and row["missing_since"] is not None:
            attachments.change(connection, row["id"], missing_since=None)


def delete(worker: WorkerContext, context: Context, attachment_id: str) -> list[dict[str, Any]]:
    """Releases the volume; returns the attachments that remain. If a server has the volume, compute releases it, after it
    removed the disk. Everybody else needs the proof that nobody uses the volume (``force_detach``): whoever was told where it
    is may have it open, long before the attachment is complete. For a complete attachment of a server only administrators may
    do so. Raises Conflict, Busy; ServiceUnavailable, ShareUnavailable when that is not known.
    """
    with worker.database.read() as connection:
        row = seen(connection, context, attachment_id)
    if (row["instance_id"] or row["connector"]) and not context.has_service_identity:
        if row["instance_id"] and row["status"] == "attached" and not context.is_admin:
            raise Conflict(
                f"attachment {row['id']} is in use by server {row['instance_id']}; detach the volume through compute. If the"
                " server does not exist any more, an administrator deletes the attachment",
                server_id=row["instance_id"],
            )
        return _views(force_detach.release(worker, row, named=context.is_admin))
    with worker.database.write() as connection:
        remaining = force_detach.drop(connection, seen(connection, context, attachment_id))
    exports.withdraw(worker, row["volume_id"])
    return _views(remaining)


def _check_connector(worker: WorkerContext, volume: VolumeRow, connector: Mapping[str, Any]) -> None:
    """Raises BadRequest for one to which the volume cannot be given out."""
    if worker.backends.pool(volume).capabilities.exported:
        initiator_of(connector)


def _views(rows: Sequence[AttachmentRow]) -> list[dict[str, Any]]:
    return [{"id": other["id"], "instance": other["instance_id"], "status": other["status"]} for other in rows]


CHAIN_LIMITS = ("max_chain_depth", "chain_depth_warning", "minimum_free_mib")


def connection_infos(worker: WorkerContext, context: Context, attachment_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Returns what the hypervisor needs to open the volumes *now*, by attachment: always made from the active file, never
    stored. An attachment that was deleted meanwhile, or that the caller may not see, is left out."""
    project = None if context.sees_all_projects else context.project_id
    with worker.database.read() as connection:
        rows = attachments.by_ids(connection, attachment_ids, project)
        known = volumes.by_ids(connection, [row["volume_id"] for row in rows])
        offline = _offline(connection, list(known))
    return {row["id"]: _connection_info(worker, known[row["volume_id"]], row, offline) for row in rows}


def _offline(connection: Connection, volume_ids: Sequence[str]) -> dict[str, str]:
    """Returns, by volume, the operation that may change its files at any moment, because its server is stopped."""
    found = operations.alone_on_resources(connection, [f"volume:{volume_id}" for volume_id in volume_ids])
    counts = [row for row in found if verb_of(CheckStopped) in verbs(row["plan"])]
    return {row["resource"].removeprefix("volume:"): row["id"] for row in counts}


def _connection_info(
    worker: WorkerContext, volume: VolumeRow, attachment: AttachmentRow, offline: Mapping[str, str]
) -> dict[str, Any]:
    pool = worker.backends.pool(volume)
    held = exports.held(attachment) if pool.capabilities.exported and attachment["connector"] else None
    info = pool.connection_info(volume, held)
    # Compute refuses a header that names another volume's file, unless this allows it.
    parent_image = volume["linked_to"]["file"] if volume["linked_to"] else None
    # Compute refuses a chain of this depth before it asks the guest for anything. It does not read our section of the
    # configuration.
    limits = {name: getattr(worker.settings.volumes, name) for name in CHAIN_LIMITS}
    base_file = {"base_file": volume["base_file"]} if volume["base_file"] else {}
    return {
        **info,
        **base_file,
        "parent_image": parent_image,
        "offline_operation": offline.get(volume["id"]),
        "chain_limits": limits,
    }
