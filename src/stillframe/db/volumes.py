"""Volumes: rows and their state machine."""

from collections.abc import Sequence
from typing import Any, Unpack

from sqlalchemy import ColumnElement, Connection, bindparam, func, select, update
from sqlalchemy import delete as sql_delete

from stillframe.db import operations
from stillframe.db.queries import Page, many, matching, one, page, touched
from stillframe.db.rows import VolumeRow
from stillframe.db.tables import attachments, snapshots, volume_transfers, volumes
from stillframe.db.values import NewVolume, VolumeChanges

_BY_ID = select(volumes).where(volumes.c.id == bindparam("key"))
_CHANGE = update(volumes).where(volumes.c.id == bindparam("key"))
_BY_IDS = select(volumes).where(volumes.c.id.in_(bindparam("keys", expanding=True)))
_MINE_BY_ID = _BY_ID.where(volumes.c.project_id == bindparam("project"))


def insert(connection: Connection, row: NewVolume) -> None:
    """Inserts a volume. Raises IntegrityError for an id that is known."""
    connection.execute(volumes.insert(), row)


def get(connection: Connection, volume_id: str, project_id: str | None) -> VolumeRow | None:
    """Returns the row, or None; ``project_id`` None sees every project."""
    if project_id is None:
        return one(VolumeRow, connection, _BY_ID, key=volume_id)
    return one(VolumeRow, connection, _MINE_BY_ID, key=volume_id, project=project_id)


def by_ids(connection: Connection, volume_ids: Sequence[str]) -> dict[str, VolumeRow]:
    """Returns those of the volumes that are there, by id."""
    return {row["id"]: row for row in many(VolumeRow, connection, _BY_IDS, keys=list(volume_ids))}


def list_page(connection: Connection, project_id: str | None, wanted: Page) -> list[VolumeRow]:
    """Returns one page of the volumes of a project, or of all for None. Raises NotFound for an unknown marker."""
    return page(VolumeRow, connection, volumes, _mine(project_id), wanted)


def list_all(connection: Connection) -> list[VolumeRow]:
    """Returns every volume, oldest first."""
    return many(VolumeRow, connection, select(volumes).order_by(volumes.c.seq))


def ids(connection: Connection) -> list[str]:
    """Returns the ids of all volumes."""
    return list(connection.execute(select(volumes.c.id)).scalars())


def count(connection: Connection, project_id: str | None, filters: dict[str, Any]) -> int:
    """Returns how many volumes of a project, or of all for None, match the filters of a ``Page``."""
    query = select(func.count()).select_from(volumes).where(*_mine(project_id), *matching(volumes, filters))
    return int(connection.execute(query).scalar_one())


def usage(connection: Connection, project_id: str) -> tuple[int, int]:
    """Returns (number of volumes, their virtual GiB) of a project."""
    query = select(func.count(), func.coalesce(func.sum(volumes.c.size), 0)).where(volumes.c.project_id == project_id)
    found = connection.execute(query).one()
    return int(found[0]), int(found[1])


def usage_of_backend(connection: Connection, backend: str) -> dict[str, tuple[int, int]]:
    """Returns by project (number of volumes, their virtual GiB) on a backend."""
    query = select(volumes.c.project_id, func.count(), func.sum(volumes.c.size)).where(volumes.c.backend == backend)
    return {row[0]: (int(row[1]), int(row[2])) for row in connection.execute(query.group_by(volumes.c.project_id))}


def linked_to(connection: Connection, volume_id: str) -> list[VolumeRow]:
    """Returns the linked clones that read a file of the volume."""
    query = select(volumes).where(volumes.c.linked_to["volume_id"].as_string() == volume_id)
    return many(VolumeRow, connection, query.order_by(volumes.c.seq))


def on_share(connection: Connection, share: str) -> list[VolumeRow]:
    """Returns the volumes of one share, oldest first."""
    return many(VolumeRow, connection, select(volumes).where(volumes.c.share == share).order_by(volumes.c.seq))


def provisioned(connection: Connection, share: str) -> int:
    """Returns the virtual GiB of all volumes on a share."""
    query = select(func.coalesce(func.sum(volumes.c.size), 0)).where(volumes.c.share == share)
    return int(connection.execute(query).scalar_one())


def raw_bases(connection: Connection, share: str) -> list[tuple[str, str | None]]:
    """Returns (id, ``base_file``) of the volumes of a share whose lowest file is raw. What lies in such a file is the guest's,
    never a header (R3)."""
    query = select(volumes.c.id, volumes.c.base_file).where(volumes.c.share == share, volumes.c.base_format == "raw")
    return [(row.id, row.base_file) for row in connection.execute(query)]


def adopted_bases(connection: Connection, share: str) -> dict[str, str]:
    """Returns the names of the lowest files of a share's adopted volumes, and the ids of these."""
    query = select(volumes.c.base_file, volumes.c.id).where(volumes.c.base_file.is_not(None), volumes.c.share == share)
    return {row.base_file: row.id for row in connection.execute(query)}


def readers_of_parent_image(connection: Connection, path: str) -> list[str]:
    """Returns the ids of the adopted volumes that read through a file that is no volume's."""
    query = select(volumes.c.id, volumes.c.parent_images).where(volumes.c.parent_images.is_not(None)).order_by(volumes.c.seq)
    return [row.id for row in connection.execute(query) if path in row.parent_images]


def base_file(connection: Connection, volume_id: str) -> str | None:
    """Returns the recorded name of the lowest file of an adopted volume; None for every other one."""
    return connection.execute(select(volumes.c.base_file).where(volumes.c.id == volume_id)).scalar_one_or_none()


def shares_of(connection: Connection, backend: str) -> list[str]:
    """Returns the shares that volumes of a backend are in."""
    query = select(volumes.c.share).where(volumes.c.backend == backend).distinct().order_by(volumes.c.share)
    return list(connection.execute(query).scalars())


def others_on(connection: Connection, share: str, volume_id: str) -> bool:
    """Tells whether a share has another volume than this one."""
    query = select(volumes.c.id).where(volumes.c.share == share, volumes.c.id != volume_id).limit(1)
    return connection.execute(query).first() is not None


def with_undo(connection: Connection) -> list[VolumeRow]:
    """Returns the volumes whose last revert can still be undone."""
    return many(VolumeRow, connection, select(volumes).where(volumes.c.undo_file.is_not(None)))


def needing_cleanup(connection: Connection) -> list[VolumeRow]:
    """Returns the volumes that may hold files which nobody needs any more."""
    return many(VolumeRow, connection, select(volumes).where(volumes.c.needs_cleanup))


def change(connection: Connection, volume_id: str, /, **values: Unpack[VolumeChanges]) -> None:
    """Changes the columns that are named."""
    connection.execute(_CHANGE, {"key": volume_id, **values})


def move(
    connection: Connection, volume_id: str, allowed: Sequence[str], status: str, /, **values: Unpack[VolumeChanges]
) -> bool:
    """Compare-and-swap of the status; False when it was in none of the ``allowed`` ones."""
    query = update(volumes).where(volumes.c.id == volume_id, volumes.c.status.in_(allowed))
    return touched(connection, query.values(status=status, **values)) == 1


def delete(connection: Connection, volume_id: str) -> None:
    """Deletes a volume's row with its attachments, snapshots and transfers; the files are the caller's."""
    connection.execute(sql_delete(volume_transfers).where(volume_transfers.c.volume_id == volume_id))
    connection.execute(sql_delete(attachments).where(attachments.c.volume_id == volume_id))
    connection.execute(sql_delete(snapshots).where(snapshots.c.volume_id == volume_id))
    connection.execute(sql_delete(volumes).where(volumes.c.id == volume_id))


def busy_operation(connection: Connection, volume_id: str, shared: bool = False) -> str | None:
    """Returns the id of an unfinished operation on the volume, or None; see ``operations.on_resource``."""
    row = operations.on_resource(connection, f"volume:{volume_id}", shared)
    return str(row["id"]) if row else None


def _mine(project_id: str | None) -> list[ColumnElement[bool]]:
    return [] if project_id is None else [volumes.c.project_id == project_id]
