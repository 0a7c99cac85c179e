"""Releases a volume from a server that does not have it, with proof that nobody uses it."""

from collections.abc import Sequence

from sqlalchemy import Connection

from stillframe.chain import names
from stillframe.context import Context
from stillframe.db import attachments, volumes
from stillframe.db.queries import Page
from stillframe.db.rows import AttachmentRow, VolumeRow
from stillframe.db.values import VolumeChanges
from stillframe.errors import BadRequest, Busy, Conflict, NotFound
from stillframe.journal import record
from stillframe.volumes.operations.executors.exported import refuse_if_in_set
from stillframe.volumes.worker import exports, file_users, lookup
from stillframe.volumes.worker.context import WorkerContext


def force_detach(worker: WorkerContext, context: Context, volume_id: str, attachment_id: str | None = None) -> None:
    """``os-force_detach``: ends one attachment of the volume; without an id the only one. Raises BadRequest, NotFound,
    Conflict naming who uses the volume, ServiceUnavailable when that is not known."""
    wanted = names.canonical_id(attachment_id, "attachment_id") if attachment_id else None
    with worker.database.read() as connection:
        volume = lookup.volume(connection, context, volume_id)
        held = attachments.of_volumes(connection, [volume["id"]])[volume["id"]]
    chosen = [row for row in held if wanted in (None, row["id"])]
    if not held:
        raise BadRequest(f"Invalid volume: volume {volume['id']} has no attachment")
    if not chosen:
        raise NotFound(f"Volume attachment could not be found with filter: attachment_id = {attachment_id}.")
    if len(chosen) > 1:
        raise BadRequest(f"Invalid volume: volume {volume['id']} has {len(chosen)} attachments; name one by attachment_id")
    release(worker, chosen[0])


def release(worker: WorkerContext, held: AttachmentRow, named: bool = True) -> Sequence[AttachmentRow]:
    """Ends the attachment ``held`` when nobody uses the volume; returns the attachments that remain. Rows change, nothing else.

    Raises Conflict, with ``named`` naming who uses it: members of a project are not shown programs and servers of others.
    Raises Busy; ServiceUnavailable and ShareUnavailable when it is not known who uses it."""
    with worker.database.read() as connection:
        volume = volumes.get(connection, held["volume_id"], None)
        assert volume is not None
        _refuse_if_at_work(connection, volume["id"])
    if worker.backends.pool(volume).targets is not None:
        refuse_if_in_set(worker, volume["id"])
    connected = exports.sessions(worker, volume["id"])
    if connected:
        _refuse_used(volume, [f"initiator {each}, which is connected to it" for each in connected], named)
    with exports.held_back(worker, volume):
        return _release_unused(worker, volume, held, named)


def _release_unused(worker: WorkerContext, volume: VolumeRow, held: AttachmentRow, named: bool) -> Sequence[AttachmentRow]:
    used_by = file_users.users_of_volume(worker, volume)
    if used_by:
        _refuse_used(volume, used_by, named)
    with worker.database.write() as connection:
        _refuse_if_at_work(connection, volume["id"])
        if attachments.get(connection, held["id"], None) != held:
            raise Busy(f"attachment {held['id']} changed meanwhile; repeat the request")
        return drop(connection, held)


def _refuse_used(volume: VolumeRow, used_by: Sequence[str], named: bool) -> None:
    who, details = ("; ".join(used_by), {"users": list(used_by[:100])}) if named else ("a server or a program", {})
    raise Conflict(
        f"volume {volume['id']} is used by {who}. It was not released; detach it through compute"
        " (openstack server remove volume), or end what uses it, and repeat",
        **details,
    )


def _refuse_if_at_work(connection: Connection, volume_id: str) -> None:
    record.refuse_if_busy(connection, f"volume:{volume_id}")
    lookup.refuse_if_being_taken(connection, volume_id)


def drop(connection: Connection, held: AttachmentRow) -> Sequence[AttachmentRow]:
    """Deletes the attachment; the last one makes the volume available. Returns those that remain."""
    attachments.delete(connection, held["id"])
    remaining = attachments.list_page(connection, None, Page(filters={"volume_id": held["volume_id"]}))
    if not remaining:
        # A volume that is released before the server had it keeps the reason.
        values: VolumeChanges = {"fault": None} if held["status"] == "attached" else {}
        volumes.move(connection, held["volume_id"], ("reserved", "attaching", "in-use", "detaching"), "available", **values)
    return remaining
