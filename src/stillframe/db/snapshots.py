"""Snapshots: rows and their state machine."""

from collections.abc import Sequence
from typing import Any, Unpack

from sqlalchemy import ColumnElement, Connection, bindparam, func, select, update
from sqlalchemy import delete as sql_delete

from stillframe.db.queries import Page, many, one, page, touched
from stillframe.db.rows import SnapshotRow
from stillframe.db.tables import snapshots, volumes
from stillframe.db.values import NewSnapshot, SnapshotChanges

_BY_ID = select(snapshots).where(snapshots.c.id == bindparam("key"))
_MINE_BY_ID = _BY_ID.where(snapshots.c.project_id == bindparam("project"))
_CHANGE = update(snapshots).where(snapshots.c.id == bindparam("key"))
_OF_VOLUME = select(snapshots).where(snapshots.c.volume_id == bindparam("volume")).order_by(snapshots.c.seq)
_USAGE = select(func.count(), func.coalesce(func.sum(snapshots.c.size), 0)).where(
    snapshots.c.project_id == bindparam("project")
)


def insert(connection: Connection, row: NewSnapshot) -> None:
    """Inserts a snapshot. Raises IntegrityError for an id that is known."""
    connection.execute(snapshots.insert(), row)


def get(connection: Connection, snapshot_id: str, project_id: str | None) -> SnapshotRow | None:
    """Returns the row, or None; ``project_id`` None sees every project."""
    if project_id is None:
        return one(SnapshotRow, connection, _BY_ID, key=snapshot_id)
    return one(SnapshotRow, connection, _MINE_BY_ID, key=snapshot_id, project=project_id)


def list_page(connection: Connection, project_id: str | None, wanted: Page) -> list[SnapshotRow]:
    """Returns one page of the snapshots of a project, or of all for None. Raises NotFound for an unknown marker."""
    return page(SnapshotRow, connection, snapshots, _mine(project_id), wanted)


def of_volume(connection: Connection, volume_id: str) -> list[SnapshotRow]:
    """Returns a volume's snapshots, oldest first."""
    return many(SnapshotRow, connection, _OF_VOLUME, volume=volume_id)


def ids(connection: Connection) -> list[str]:
    """Returns the ids of all snapshots."""
    return list(connection.execute(select(snapshots.c.id)).scalars())


def count(connection: Connection, project_id: str | None, filters: dict[str, Any]) -> int:
    """Returns how many snapshots of a project, or of all for None, have these values in these columns."""
    query = select(func.count()).select_from(snapshots).where(*_mine(project_id))
    for name, value in filters.items():
        query = query.where(snapshots.c[name] == value)
    return int(connection.execute(query).scalar_one())


def usage(connection: Connection, project_id: str) -> tuple[int, int]:
    """Returns (number of snapshots, their virtual GiB) of a project."""
    found = connection.execute(_USAGE, {"project": project_id}).one()
    return int(found[0]), int(found[1])


def usage_of_backend(connection: Connection, backend: str) -> dict[str, tuple[int, int]]:
    """Returns by project (number of snapshots, their virtual GiB) of the volumes on a backend."""
    of = snapshots.join(volumes, volumes.c.id == snapshots.c.volume_id)
    query = select(snapshots.c.project_id, func.count(), func.sum(snapshots.c.size)).select_from(of)
    query = query.where(volumes.c.backend == backend).group_by(snapshots.c.project_id)
    return {row[0]: (int(row[1]), int(row[2])) for row in connection.execute(query)}


def change(connection: Connection, snapshot_id: str, /, **values: Unpack[SnapshotChanges]) -> None:
    """Changes the columns that are named."""
    connection.execute(_CHANGE, {"key": snapshot_id, **values})


def move(
    connection: Connection, snapshot_id: str, allowed: Sequence[str], status: str, /, **values: Unpack[SnapshotChanges]
) -> bool:
    """Compare-and-swap of the status; False when it was in none of the ``allowed`` ones."""
    query = update(snapshots).where(snapshots.c.id == snapshot_id, snapshots.c.status.in_(allowed))
    return touched(connection, query.values(status=status, **values)) == 1


def delete(connection: Connection, snapshot_id: str) -> None:
    """Deletes the row; the files are the caller's."""
    connection.execute(sql_delete(snapshots).where(snapshots.c.id == snapshot_id))


def being_taken(row: SnapshotRow) -> bool:
    """Tells whether somebody takes the snapshot now. One whose status was only *set* to creating has all its data, and says so
    in its fault."""
    return row["status"] == "creating" and row["fault"] is None


def _mine(project_id: str | None) -> list[ColumnElement[bool]]:
    return [] if project_id is None else [snapshots.c.project_id == project_id]
