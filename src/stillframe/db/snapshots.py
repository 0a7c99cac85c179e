"""Snapshots: rows and their state machine."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, func, select, update
from sqlalchemy import delete as sql_delete

from stillframe.db.rows import Page, Row, many, one, page, touched
from stillframe.db.tables import snapshots

_BY_ID = select(snapshots).where(snapshots.c.id == bindparam("key"))
_MINE_BY_ID = _BY_ID.where(snapshots.c.project_id == bindparam("project"))
_CHANGE = update(snapshots).where(snapshots.c.id == bindparam("key"))
_OF_VOLUME = select(snapshots).where(snapshots.c.volume_id == bindparam("volume")).order_by(snapshots.c.seq)
_USAGE = select(func.count()).select_from(snapshots).where(snapshots.c.project_id == bindparam("project"))


def insert(connection: Connection, row: Row) -> None:
    connection.execute(snapshots.insert(), row)


def get(connection: Connection, snapshot_id: str, project_id: str | None) -> Row | None:
    """Returns the row, or None; ``project_id`` None sees every project."""
    if project_id is None:
        return one(connection, _BY_ID, key=snapshot_id)
    return one(connection, _MINE_BY_ID, key=snapshot_id, project=project_id)


def list_page(connection: Connection, project_id: str | None, wanted: Page) -> list[Row]:
    return page(connection, snapshots, _mine(project_id), wanted)


def of_volume(connection: Connection, volume_id: str) -> list[Row]:
    """Returns a volume's snapshots, oldest first."""
    return many(connection, _OF_VOLUME, volume=volume_id)


def ids(connection: Connection) -> list[str]:
    return list(connection.execute(select(snapshots.c.id)).scalars())


def count(connection: Connection, project_id: str | None, filters: dict[str, Any]) -> int:
    query = select(func.count()).select_from(snapshots).where(*_mine(project_id))
    for name, value in filters.items():
        query = query.where(snapshots.c[name] == value)
    return int(connection.execute(query).scalar_one())


def usage(connection: Connection, project_id: str) -> int:
    """Returns the number of snapshots of a project."""
    return int(connection.execute(_USAGE, {"project": project_id}).scalar_one())


def change(connection: Connection, snapshot_id: str, **values: Any) -> None:
    connection.execute(_CHANGE, {"key": snapshot_id, **values})


def move(connection: Connection, snapshot_id: str, allowed: Sequence[str], status: str, **values: Any) -> bool:
    """Compare-and-swap of the status; False when it was in none of the ``allowed`` ones."""
    query = update(snapshots).where(snapshots.c.id == snapshot_id, snapshots.c.status.in_(allowed))
    return touched(connection, query.values(status=status, **values)) == 1


def delete(connection: Connection, snapshot_id: str) -> None:
    connection.execute(sql_delete(snapshots).where(snapshots.c.id == snapshot_id))


def _mine(project_id: str | None) -> list[ColumnElement[bool]]:
    return [] if project_id is None else [snapshots.c.project_id == project_id]
