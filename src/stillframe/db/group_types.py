"""Group types."""

from typing import Unpack

from sqlalchemy import Connection, select, update
from sqlalchemy import delete as sql_delete

from stillframe.db.group_rows import GroupTypeChanges, GroupTypeRow, NewGroupType
from stillframe.db.queries import many, one
from stillframe.db.tables import group_snapshots, group_types, volume_groups


def list_all(connection: Connection) -> list[GroupTypeRow]:
    """Returns every type, the newest first."""
    return many(GroupTypeRow, connection, select(group_types).order_by(group_types.c.created_at.desc(), group_types.c.id))


def find(connection: Connection, name_or_id: str) -> GroupTypeRow | None:
    """Returns the type of that name or id, or None."""
    query = select(group_types).where((group_types.c.id == name_or_id) | (group_types.c.name == name_or_id))
    return one(GroupTypeRow, connection, query)


def insert(connection: Connection, row: NewGroupType) -> None:
    """Inserts a type. Raises IntegrityError for a name that is taken."""
    connection.execute(group_types.insert(), row)


def change(connection: Connection, type_id: str, /, **values: Unpack[GroupTypeChanges]) -> None:
    """Changes the columns that are named."""
    connection.execute(update(group_types).where(group_types.c.id == type_id).values(**values))


def delete(connection: Connection, type_id: str) -> None:
    """Deletes a type."""
    connection.execute(sql_delete(group_types).where(group_types.c.id == type_id))


def is_used(connection: Connection, type_id: str) -> bool:
    """Tells whether a group, or a snapshot of one, is of the type."""
    used = (select(table.c.id).where(table.c.group_type_id == type_id).limit(1) for table in (volume_groups, group_snapshots))
    return any(connection.execute(query).first() is not None for query in used)
