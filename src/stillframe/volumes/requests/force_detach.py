"""Releases a volume from a server that does not have it, with proof that nobody uses it."""

from collections.abc import Sequence

from sqlalchemy import Connection

from stillframe.chain import names
from stillframe.context import Context
from stillframe.db import attachments, volumes
from stillframe.db.rows import Page, Row
from stillframe.errors import BadRequest, Busy, Conflict, NotFound
from stillframe.journal import record
from stillframe.volumes.worker import file_users, lookup
from stillframe.volumes.worker.context import WorkerContext


def force_detach(world: WorkerContext, context: Context, volume_id: str, attachment_id: str | None = None) -> None:
    """``os-force_detach``: ends one attachment of the volume; without an id the only one. Raises BadRequest, NotFound,
    Conflict naming who uses the volume, ServiceUnavailable when that is not known."""
    wanted = names.canonical_id(attachment_id, "attachment_id") if attachment_id else None
    with world.database.read() as connection:
        volume = lookup.volume(connection, context, volume_id)
        held = attachments.of_volumes(connection, [volume["id"]])[volume["id"]]
    chosen = [row for row in held if wanted in (None, row["id"])]
    if not held:
        raise BadRequest(f"Invalid volume: volume {volume['id']} has no attachment")
    if not chosen:
        raise NotFound(f"Volume attachment could not be found with filter: attachment_id = {attachment_id}.")
    if len(chosen) > 1:
        raise BadRequest(f"Invalid volume: volume {volume['id']} has {len(chosen)} attachments; name one by attachment_id")
    release(world, chosen[0])


def release(world: WorkerContext, held: Row, named: bool = True) -> Sequence[Row]:
    """Ends the attachment ``held`` when nobody uses the volume; returns the attachments that remain. Rows change, nothing else.

    Raises Conflict, with ``named`` naming who uses it: members of a project are not shown programs and servers of others.
    Raises Busy; ServiceUnavailable and ShareUnavailable when it is not known who uses it."""
    with world.database.read() as connection:
        volume = volumes.get(connection, held["volume_id"], None)
        assert volume is not None
        _refuse_if_at_work(connection, volume["id"])
    used_by = file_users.users_of_volume(world, volume)
    if used_by:
        who, details = ("; ".join(used_by), {"users": used_by[:100]}) if named else ("a server or a program", {})
        raise Conflict(
            f"volume {volume['id']} is used by {who}. It was not released; detach it through compute"
            " (openstack server remove volume), or end what uses it, and repeat",
            **details,
        )
    with world.database.write() as connection:
        _refuse_if_at_work(connection, volume["id"])
        if attachments.get(connection, held["id"], None) != held:
            raise Busy(f"attachment {held['id']} changed meanwhile; repeat the request")
        return drop(connection, held)


def _refuse_if_at_work(connection: Connection, volume_id: str) -> None:
    record.refuse_if_busy(connection, f"volume:{volume_id}")
    lookup.refuse_if_being_taken(connection, volume_id)


def drop(connection: Connection, held: Row) -> Sequence[Row]:
    """Deletes the attachment; the last one makes the volume available. Returns those that remain."""
    attachments.delete(connection, held["id"])
    remaining = attachments.list_page(connection, None, Page(filters={"volume_id": held["volume_id"]}))
    if not remaining:
        # A volume that is released before the server had it keeps the reason.
        values = {"fault": None} if held["status"] == "attached" else {}
        volumes.move(connection, held["volume_id"], ("reserved", "attaching", "in-use", "detaching"), "available", **values)
    return remaining
