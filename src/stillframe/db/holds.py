"""The ids of all volumes that an operation was ever about. They are kept when the operations are pruned."""

from collections.abc import Iterable

from sqlalchemy import Connection, bindparam, select

from stillframe.db.tables import known_volumes

_VOLUME = "volume:"
_KNOWN = select(known_volumes.c.id).where(known_volumes.c.id == bindparam("key"))


def remember(connection: Connection, resources: Iterable[str]) -> None:
    """Keeps the ids of the volumes among the resources of an operation."""
    for resource in resources:
        key = resource.removeprefix(_VOLUME)
        if key != resource and connection.execute(_KNOWN, {"key": key}).first() is None:
            connection.execute(known_volumes.insert(), {"id": key})


def volumes_ever(connection: Connection) -> set[str]:
    """Returns the ids of all volumes that any operation of this database was ever about, those that are gone too."""
    return set(connection.execute(select(known_volumes.c.id)).scalars())
