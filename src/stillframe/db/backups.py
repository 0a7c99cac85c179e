"""Backups: rows and their state machine."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, select, update
from sqlalchemy import delete as sql_delete

from stillframe.db.rows import Page, Row, many, one, page, touched
from stillframe.db.tables import backups


def insert(connection: Connection, row: Row) -> None:
    connection.execute(backups.insert(), row)


def get(connection: Connection, backup_id: str, project_id: str | None) -> Row | None:
    """Returns the row, or None; ``project_id`` None sees every project."""
    return one(connection, select(backups).where(backups.c.id == backup_id, *_mine(project_id)))


def list_page(connection: Connection, project_id: str | None, wanted: Page) -> list[Row]:
    return page(connection, backups, _mine(project_id), wanted)


def of_volume(connection: Connection, volume_id: str) -> list[Row]:
    """Returns a volume's backups, oldest first."""
    return many(connection, select(backups).where(backups.c.volume_id == volume_id).order_by(backups.c.seq))


def with_objects(connection: Connection, stored_id: str) -> list[Row]:
    """Returns the rows whose objects carry that id in the store: more than one where a backup was imported again."""
    return many(connection, select(backups).where(backups.c.stored_id == stored_id))


def children(connection: Connection, backup_ids: Sequence[str]) -> dict[str, list[str]]:
    """Returns by backup the incremental ones that build on it."""
    found: dict[str, list[str]] = {backup_id: [] for backup_id in backup_ids}
    query = select(backups.c.id, backups.c.parent_id).where(backups.c.parent_id.in_(backup_ids))
    for row in many(connection, query):
        found[row["parent_id"]].append(row["id"])
    return found


def count(connection: Connection, project_id: str | None, filters: dict[str, Any]) -> int:
    query = select(func.count()).select_from(backups).where(*_mine(project_id))
    for name, value in filters.items():
        query = query.where(backups.c[name] == value)
    return int(connection.execute(query).scalar_one())


def usage(connection: Connection, project_id: str) -> tuple[int, int]:
    """Returns (number of backups, GiB of the volumes in them) of a project."""
    query = select(func.count(), func.coalesce(func.sum(backups.c.size), 0)).where(backups.c.project_id == project_id)
    found = connection.execute(query).one()
    return int(found[0]), int(found[1])


def change(connection: Connection, backup_id: str, **values: Any) -> None:
    connection.execute(update(backups).where(backups.c.id == backup_id).values(**values))


def move(connection: Connection, backup_id: str, allowed: Sequence[str], status: str, **values: Any) -> bool:
    """Compare-and-swap of the status; False when it was in none of the ``allowed`` ones."""
    query = update(backups).where(backups.c.id == backup_id, backups.c.status.in_(allowed))
    return touched(connection, query.values(status=status, **values)) == 1


def delete(connection: Connection, backup_id: str) -> None:
    connection.execute(sql_delete(backups).where(backups.c.id == backup_id))


def _mine(project_id: str | None) -> list[ColumnElement[bool]]:
    return [] if project_id is None else [backups.c.project_id == project_id]
