"""Backups: rows and their state machine."""

from collections.abc import Sequence
from typing import Any, Unpack

from sqlalchemy import ColumnElement, Connection, func, select, update
from sqlalchemy import delete as sql_delete

from stillframe.db.queries import Page, many, one, page, touched
from stillframe.db.rows import BackupRow
from stillframe.db.tables import backups
from stillframe.db.values import BackupChanges, NewBackup


def insert(connection: Connection, row: NewBackup) -> None:
    """Inserts a backup. Raises IntegrityError for an id that is known."""
    connection.execute(backups.insert(), row)


def get(connection: Connection, backup_id: str, project_id: str | None) -> BackupRow | None:
    """Returns the row, or None; ``project_id`` None sees every project."""
    return one(BackupRow, connection, select(backups).where(backups.c.id == backup_id, *_mine(project_id)))


def list_page(connection: Connection, project_id: str | None, wanted: Page) -> list[BackupRow]:
    """Returns one page of the backups of a project, or of all for None. Raises NotFound for an unknown marker."""
    return page(BackupRow, connection, backups, _mine(project_id), wanted)


def of_volume(connection: Connection, volume_id: str) -> list[BackupRow]:
    """Returns a volume's backups, oldest first."""
    return many(BackupRow, connection, select(backups).where(backups.c.volume_id == volume_id).order_by(backups.c.seq))


def with_objects(connection: Connection, stored_id: str) -> list[BackupRow]:
    """Returns the rows whose objects carry that id in the store: more than one where a backup was imported again."""
    return many(BackupRow, connection, select(backups).where(backups.c.stored_id == stored_id))


def children(connection: Connection, backup_ids: Sequence[str]) -> dict[str, list[str]]:
    """Returns by backup the incremental ones that build on it."""
    found: dict[str, list[str]] = {backup_id: [] for backup_id in backup_ids}
    query = select(backups.c.id, backups.c.parent_id).where(backups.c.parent_id.in_(backup_ids))
    for child, parent in connection.execute(query):
        found[parent].append(child)
    return found


def count(connection: Connection, project_id: str | None, filters: dict[str, Any]) -> int:
    """Returns how many backups of a project, or of all for None, have these values in these columns."""
    query = select(func.count()).select_from(backups).where(*_mine(project_id))
    for name, value in filters.items():
        query = query.where(backups.c[name] == value)
    return int(connection.execute(query).scalar_one())


def usage(connection: Connection, project_id: str) -> tuple[int, int]:
    """Returns (number of backups, GiB of the volumes in them) of a project."""
    query = select(func.count(), func.coalesce(func.sum(backups.c.size), 0)).where(backups.c.project_id == project_id)
    found = connection.execute(query).one()
    return int(found[0]), int(found[1])


def change(connection: Connection, backup_id: str, /, **values: Unpack[BackupChanges]) -> None:
    """Changes the columns that are named."""
    connection.execute(update(backups).where(backups.c.id == backup_id).values(**values))


def move(
    connection: Connection, backup_id: str, allowed: Sequence[str], status: str, /, **values: Unpack[BackupChanges]
) -> bool:
    """Compare-and-swap of the status; False when it was in none of the ``allowed`` ones."""
    query = update(backups).where(backups.c.id == backup_id, backups.c.status.in_(allowed))
    return touched(connection, query.values(status=status, **values)) == 1


def delete(connection: Connection, backup_id: str) -> None:
    """Deletes the row; the objects in the store are the caller's."""
    connection.execute(sql_delete(backups).where(backups.c.id == backup_id))


def _mine(project_id: str | None) -> list[ColumnElement[bool]]:
    return [] if project_id is None else [backups.c.project_id == project_id]
