"""Volume types."""

import uuid
from typing import Any

from sqlalchemy import Connection, select, update
from sqlalchemy import delete as sql_delete

from stillframe.db.rows import Row, many, one
from stillframe.db.tables import volume_types, volumes

DEFAULT = "local"
_ALL = select(volume_types).order_by(volume_types.c.name)


def ensure_default(connection: Connection) -> None:
    """Makes the type of the built-in backend unless it is there."""
    if one(connection, select(volume_types).where(volume_types.c.name == DEFAULT)) is None:
        connection.execute(
            volume_types.insert().values(
                id=str(uuid.uuid4()),
                name=DEFAULT,
                description="Any enabled backend",
                extra_specs={},
                is_public=True,
            )
        )


def default(connection: Connection) -> Row | None:
    """Returns the type of a volume whose request names none: the built-in one, else the first."""
    return find(connection, "default") or next(iter(list_all(connection)), None)


def list_all(connection: Connection) -> list[Row]:
    return many(connection, _ALL)


def find(connection: Connection, name_or_id: str) -> Row | None:
    """Returns the type of that name or id; "default" is the built-in one."""
    wanted = DEFAULT if name_or_id == "default" else name_or_id
    return one(connection, select(volume_types).where((volume_types.c.id == wanted) | (volume_types.c.name == wanted)))


def insert(connection: Connection, row: Row) -> None:
    connection.execute(volume_types.insert(), row)


def change(connection: Connection, type_id: str, **values: Any) -> None:
    connection.execute(update(volume_types).where(volume_types.c.id == type_id).values(**values))


def delete(connection: Connection, type_id: str) -> None:
    connection.execute(sql_delete(volume_types).where(volume_types.c.id == type_id))


def is_used(connection: Connection, type_id: str) -> bool:
    """Tells whether a volume is of the type."""
    return connection.execute(select(volumes.c.seq).where(volumes.c.volume_type_id == type_id)).first() is not None
