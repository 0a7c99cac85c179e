"""Requests by which clients of old attach: reserve, attach, detach, and the flag that a volume is only read."""

from typing import Any

from sqlalchemy import Connection

from stillframe.chain import names
from stillframe.context import Context
from stillframe.db import attachments, volumes
from stillframe.db.rows import AttachmentRow, VolumeRow
from stillframe.db.tables import now
from stillframe.errors import BadRequest, NotFound
from stillframe.volumes.operations import chain_metadata
from stillframe.volumes.requests import attachments as attachment_requests
from stillframe.volumes.requests import force_detach
from stillframe.volumes.worker import lookup
from stillframe.volumes.worker.context import WorkerContext


def reserve(worker: WorkerContext, context: Context, volume_id: str) -> None:
    """``os-reserve``: an available volume is ``attaching``. Raises NotFound, BadRequest."""
    with worker.database.write() as connection:
        row = lookup.volume(connection, context, volume_id)
        lookup.refuse_if_busy(connection, row["id"], shared=True)
        _move(connection, row, ("available",), "attaching")


def unreserve(worker: WorkerContext, context: Context, volume_id: str) -> None:
    """``os-unreserve``: takes ``os-reserve`` back. Raises NotFound; BadRequest for a volume that has an attachment, which is
    what releases it."""
    with worker.database.write() as connection:
        row = lookup.volume(connection, context, volume_id)
        held = attachments.of_volumes(connection, [row["id"]])[row["id"]]
        if held:
            raise BadRequest(
                f"Invalid volume: volume {row['id']} is {row['status']} by attachment {held[0]['id']}; delete that"
            )
        _move(connection, row, ("attaching",), "available")


def begin_detaching(worker: WorkerContext, context: Context, volume_id: str) -> None:
    """``os-begin_detaching``: a volume in use is ``detaching``. Raises NotFound, BadRequest."""
    with worker.database.write() as connection:
        _move(connection, lookup.volume(connection, context, volume_id), ("in-use",), "detaching")


def roll_detaching(worker: WorkerContext, context: Context, volume_id: str) -> None:
    """``os-roll_detaching``: takes ``os-begin_detaching`` back. Raises NotFound, BadRequest."""
    with worker.database.write() as connection:
        _move(connection, lookup.volume(connection, context, volume_id), ("detaching",), "in-use")


def attach(worker: WorkerContext, context: Context, volume_id: str, wanted: dict[str, Any]) -> None:
    """``os-attach``: records that a server or a host has the volume. Compute does not give the server the disk by that, so
    ``os-detach`` takes it back, by the proof that nobody uses the volume. Raises as ``attachments.create``."""
    with worker.database.read() as connection:
        row = lookup.volume(connection, context, volume_id)
    if worker.backends.pool(row).capabilities.exported:
        raise BadRequest(
            f"volume {row['id']} is given out to one initiator: it is attached through /attachments, with a connector"
        )
    with worker.database.write() as connection:  # what was reserved by the same client
        if not attachments.of_volumes(connection, [row["id"]])[row["id"]]:
            volumes.move(connection, row["id"], ("attaching",), "available")
    asked = {"volume_uuid": row["id"], "instance_uuid": wanted.get("instance_uuid"), "mode": wanted.get("mode")}
    attachment_id = attachment_requests.create(worker, context, asked)
    place = {"mountpoint": wanted["mountpoint"], "host": wanted.get("host_name")}
    with worker.database.write() as connection:
        attachments.change(connection, attachment_id, status="attached", attached_at=now(), connector=place)
        volumes.move(connection, row["id"], ("reserved",), "in-use", fault=None)


def detach(worker: WorkerContext, context: Context, volume_id: str, attachment_id: str | None) -> None:
    """``os-detach``: ends one attachment of the volume; without an id the only one. A service is believed; everybody else needs
    the proof that nobody uses the volume. Raises NotFound, BadRequest, Conflict."""
    with worker.database.read() as connection:
        row = lookup.volume(connection, context, volume_id)
        held = attachments.of_volumes(connection, [row["id"]])[row["id"]]
    chosen = _chosen(row, held, names.lookup_id(attachment_id) if attachment_id else None)
    if context.has_service_identity:
        attachment_requests.delete(worker, context, chosen["id"])
    else:
        force_detach.release(worker, chosen, named=context.is_admin)


def set_readonly(worker: WorkerContext, context: Context, volume_id: str, readonly: bool) -> None:
    """``os-update_readonly_flag``: whether servers may write. Raises NotFound, BadRequest unless the volume is available."""
    with worker.database.write() as connection:
        row = lookup.volume(connection, context, volume_id)
        lookup.refuse_unless(row["status"], ("available",), f"volume {row['id']}")
        volumes.change(connection, row["id"], readonly=readonly)
        chain_metadata.submit_once(connection, row["id"], context.request_id)


def _chosen(row: VolumeRow, held: list[AttachmentRow], wanted: str | None) -> AttachmentRow:
    found = [each for each in held if wanted in (None, each["id"])]
    if not held:
        raise BadRequest(f"Invalid volume: volume {row['id']} has no attachment")
    if not found:
        raise NotFound(f"Volume attachment could not be found with filter: attachment_id = {wanted}.")
    if len(found) > 1:
        raise BadRequest(f"Invalid volume: volume {row['id']} has {len(found)} attachments; name one by attachment_id")
    return found[0]


def _move(connection: Connection, row: VolumeRow, allowed: tuple[str, ...], status: str) -> None:
    if not volumes.move(connection, row["id"], allowed, status):
        raise BadRequest(
            f"Invalid volume: the status of volume {row['id']} must be {' or '.join(allowed)}, but it is {row['status']}"
        )
