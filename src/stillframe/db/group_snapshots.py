"""Snapshots of volume groups: rows, and the snapshots of volumes that they are made of."""

from collections.abc import Iterable, Sequence
from typing import Unpack

from sqlalchemy import ColumnElement, Connection, select, update
from sqlalchemy import delete as sql_delete

from stillframe.db.group_rows import GroupSnapshotChanges, GroupSnapshotRow, NewGroupSnapshot
from stillframe.db.queries import Page, many, one, page, touched
from stillframe.db.rows import SnapshotRow
from stillframe.db.tables import group_snapshots, snapshots


def insert(connection: Connection, row: NewGroupSnapshot) -> None:
    """Inserts a group snapshot."""
    connection.execute(group_snapshots.insert(), row)


def get(connection: Connection, group_snapshot_id: str, project_id: str | None) -> GroupSnapshotRow | None:
    """Returns the row, or None; ``project_id`` None sees every project."""
    query = select(group_snapshots).where(group_snapshots.c.id == group_snapshot_id, *_mine(project_id))
    return one(GroupSnapshotRow, connection, query)


def list_page(connection: Connection, project_id: str | None, wanted: Page) -> list[GroupSnapshotRow]:
    """Returns one page of the group snapshots of a project, or of all for None. Raises NotFound for an unknown marker."""
    return page(GroupSnapshotRow, connection, group_snapshots, _mine(project_id), wanted)


def of_group(connection: Connection, group_id: str) -> list[GroupSnapshotRow]:
    """Returns the snapshots of a group, oldest first."""
    query = select(group_snapshots).where(group_snapshots.c.group_id == group_id).order_by(group_snapshots.c.seq)
    return many(GroupSnapshotRow, connection, query)


def change(connection: Connection, group_snapshot_id: str, /, **values: Unpack[GroupSnapshotChanges]) -> None:
    """Changes the columns that are named."""
    connection.execute(update(group_snapshots).where(group_snapshots.c.id == group_snapshot_id).values(**values))


def move(connection: Connection, group_snapshot_id: str, allowed: Sequence[str], status: str) -> bool:
    """Compare-and-swap of the status; False when it was in none of the ``allowed`` ones."""
    query = update(group_snapshots).where(group_snapshots.c.id == group_snapshot_id, group_snapshots.c.status.in_(allowed))
    return touched(connection, query.values(status=status)) == 1


def delete(connection: Connection, group_snapshot_id: str) -> None:
    """Deletes the row; there are no snapshots of volumes that name it any more."""
    connection.execute(sql_delete(group_snapshots).where(group_snapshots.c.id == group_snapshot_id))


def members(connection: Connection, group_snapshot_id: str) -> list[SnapshotRow]:
    """Returns the snapshots of volumes that a group snapshot is made of, oldest first."""
    query = select(snapshots).where(snapshots.c.group_snapshot_id == group_snapshot_id).order_by(snapshots.c.seq)
    return many(SnapshotRow, connection, query)


def end_deletion(connection: Connection, group_snapshot_ids: Iterable[str], whole: bool) -> None:
    """After the deletion of snapshots that group snapshots are made of: one that is being deleted goes with the last of its
    own; when a snapshot could not be deleted (``whole`` is false), neither could the group snapshot."""
    for each in group_snapshot_ids:
        row = get(connection, each, None)
        if not whole:
            move(connection, each, ("deleting",), "error_deleting")
        elif row is not None and row["status"] == "deleting" and not members(connection, each):
            delete(connection, each)


def _mine(project_id: str | None) -> list[ColumnElement[bool]]:
    return [] if project_id is None else [group_snapshots.c.project_id == project_id]
