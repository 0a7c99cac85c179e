"""Volume types."""

import uuid
from typing import Unpack

from sqlalchemy import Connection, select, update
from sqlalchemy import delete as sql_delete

from stillframe.db.queries import many, one, touched
from stillframe.db.rows import VolumeTypeRow
from stillframe.db.tables import volume_type_access, volume_types, volumes
from stillframe.db.values import NewVolumeType, VolumeTypeChanges

DEFAULT = "local"
_ALL = select(volume_types).order_by(volume_types.c.name)


def ensure_default(connection: Connection) -> None:
    """Makes the type of the built-in backend unless it is there."""
    if one(VolumeTypeRow, connection, select(volume_types).where(volume_types.c.name == DEFAULT)) is None:
        connection.execute(
            volume_types.insert().values(
                id=str(uuid.uuid4()),
                name=DEFAULT,
                description="Any enabled backend",
                extra_specs={},
                is_public=True,
            )
        )


def default(connection: Connection) -> VolumeTypeRow | None:
    """Returns the type of a volume whose request names none: the built-in one, else the first."""
    return find(connection, "default") or next(iter(list_all(connection)), None)


def list_all(connection: Connection) -> list[VolumeTypeRow]:
    """Returns every type, by name."""
    return many(VolumeTypeRow, connection, _ALL)


def find(connection: Connection, name_or_id: str) -> VolumeTypeRow | None:
    """Returns the type of that name or id; "default" is the built-in one."""
    wanted = DEFAULT if name_or_id == "default" else name_or_id
    return one(
        VolumeTypeRow, connection, select(volume_types).where((volume_types.c.id == wanted) | (volume_types.c.name == wanted))
    )


def insert(connection: Connection, row: NewVolumeType) -> None:
    """Inserts a type. Raises IntegrityError for a name that is taken."""
    connection.execute(volume_types.insert(), row)


def change(connection: Connection, type_id: str, /, **values: Unpack[VolumeTypeChanges]) -> None:
    """Changes the columns that are named."""
    connection.execute(update(volume_types).where(volume_types.c.id == type_id).values(**values))


def delete(connection: Connection, type_id: str) -> None:
    """Deletes a type, and who may use it. Raises IntegrityError while a volume is of it."""
    connection.execute(sql_delete(volume_type_access).where(volume_type_access.c.volume_type_id == type_id))
    connection.execute(sql_delete(volume_types).where(volume_types.c.id == type_id))


def is_used(connection: Connection, type_id: str) -> bool:
    """Tells whether a volume is of the type."""
    return connection.execute(select(volumes.c.seq).where(volumes.c.volume_type_id == type_id)).first() is not None


def with_qos_specs(connection: Connection, qos_specs_id: str) -> list[VolumeTypeRow]:
    """Returns the types that have the qos-specs, by name."""
    return many(VolumeTypeRow, connection, _ALL.where(volume_types.c.qos_specs_id == qos_specs_id))


def visible(connection: Connection, project_id: str) -> set[str]:
    """Returns the ids of the types that are not public and that the project may use all the same."""
    query = select(volume_type_access.c.volume_type_id).where(volume_type_access.c.project_id == project_id)
    return set(connection.execute(query).scalars())


def projects(connection: Connection, type_id: str) -> list[str]:
    """Returns the projects that may use a type which is not public."""
    query = select(volume_type_access.c.project_id).where(volume_type_access.c.volume_type_id == type_id)
    return list(connection.execute(query.order_by(volume_type_access.c.project_id)).scalars())


def allow(connection: Connection, type_id: str, project_id: str) -> None:
    """Lets a project use a type. Raises IntegrityError when it may already."""
    connection.execute(volume_type_access.insert().values(volume_type_id=type_id, project_id=project_id))


def disallow(connection: Connection, type_id: str, project_id: str) -> bool:
    """Lets a project no longer use a type; False when it might not."""
    same = (volume_type_access.c.volume_type_id == type_id, volume_type_access.c.project_id == project_id)
    return touched(connection, sql_delete(volume_type_access).where(*same)) == 1
