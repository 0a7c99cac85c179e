"""Volume types."""

import uuid

from sqlalchemy import Connection, select

from stillframe.db.rows import Row, many, one
from stillframe.db.tables import volume_types

DEFAULT = "local"


def ensure_default(connection: Connection) -> None:
    """Makes the type of the built-in backend unless it is there."""
    if one(connection, select(volume_types).where(volume_types.c.name == DEFAULT)) is None:
        connection.execute(
            volume_types.insert().values(
                id=str(uuid.uuid4()),
                name=DEFAULT,
                description="QCOW2 files in a local directory",
                extra_specs={"volume_backend_name": DEFAULT},
            )
        )


def list_all(connection: Connection) -> list[Row]:
    return many(connection, select(volume_types).order_by(volume_types.c.name))


def find(connection: Connection, name_or_id: str) -> Row | None:
    """Returns the type of that name or id; "default" is the built-in one."""
    wanted = DEFAULT if name_or_id == "default" else name_or_id
    return one(connection, select(volume_types).where((volume_types.c.id == wanted) | (volume_types.c.name == wanted)))
