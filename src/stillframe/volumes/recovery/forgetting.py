"""Removes the rows of a volume whose share is gone for good. A person's word is needed for that, and no file is touched.

What is proven here is only that the share does not answer as what it was; that it never will again, nobody but a person knows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from stillframe.db import attachments, backups, shares, snapshots, volumes
from stillframe.db.queries import Page
from stillframe.db.rows import AttachmentRow, BackupRow, SnapshotRow, VolumeRow
from stillframe.errors import Busy, Conflict, NotFound, ShareUnavailable
from stillframe.host.probe import Prober
from stillframe.journal import record
from stillframe.volumes.recovery.doctor import looking
from stillframe.volumes.storage.backends import Backends

_EVERYTHING = 1 << 31


@dataclass(frozen=True)
class Lost:
    """What goes with a volume, as rows; its ``backups`` stay."""

    volume: VolumeRow
    snapshots: Sequence[SnapshotRow]
    attachments: Sequence[AttachmentRow]
    backups: Sequence[BackupRow]


def read(connection: Connection, volume_id: str) -> Lost:
    """Raises NotFound; Busy naming an operation on the volume or on a server it is attached to; Conflict for a volume that
    linked ones read."""
    volume = volumes.get(connection, volume_id, None)
    if volume is None:
        raise NotFound(f"there is no volume {volume_id}")
    attached = attachments.of_volumes(connection, [volume_id])[volume_id]
    for resource in (f"volume:{volume_id}", *(f"server:{each['instance_id']}" for each in attached)):
        record.refuse_if_busy(connection, resource)
    linked = [row["id"] for row in volumes.linked_to(connection, volume_id)]
    if linked:
        raise Conflict(f"volume {volume_id} is read by linked volumes, which have to be forgotten first: {', '.join(linked)}")
    stored = backups.list_page(connection, None, Page(limit=_EVERYTHING, filters={"volume_id": volume_id}))
    return Lost(volume, snapshots.of_volume(connection, volume_id), attached, stored)


def why_lost(backends: Backends, volume: VolumeRow) -> str:
    """Returns why the volume's share cannot be had, in words. Changes nothing on it, and makes no directory. Raises Conflict
    when it answers; BadConfiguration when it might, but for how it is configured or mounted."""
    try:
        pool = backends.pool(volume)
        with pool.database.read() as connection:
            known = shares.known_id(connection, volume["share"])
        path = looking.directory(pool)
        if path is None:
            return f"the directory of share {volume['share']} does not exist"
        Prober(path, pool.options.probe_seconds).check()
        found = looking.marker(path)
    except FileNotFoundError:
        return f"the share {volume['share']} has no directory any more"
    except ShareUnavailable as error:
        return error.message
    if known is not None and found != known:
        return (
            f"what is at {volume['share']} is not the share that had the volume: its marker .share-id is {found or 'missing'}"
        )
    raise Conflict(
        f"the share {volume['share']} answers: delete volume {volume['id']} there ('openstack volume delete --force' as an"
        " administrator), which removes its files too"
    )


def forget(connection: Connection, lost: Lost) -> None:
    """Removes the rows, in the caller's transaction. Raises Busy when something of them changed since they were read."""
    volume = lost.volume
    volumes.move(connection, volume["id"], (volume["status"],), volume["status"])  # nobody else begins with it before the end
    now = read(connection, volume["id"])
    if [row["id"] for row in now.snapshots] != [row["id"] for row in lost.snapshots] or now.attachments != lost.attachments:
        raise Busy(f"volume {volume['id']} changed meanwhile; look at it again")
    volumes.delete(connection, volume["id"])
