"""What the journal's resources tell beside the operations themselves."""

from sqlalchemy import Connection, select

from stillframe.db.tables import operation_resources as held

_VOLUME = "volume:"


def volumes_ever(connection: Connection) -> set[str]:
    """Returns the ids of all volumes that any operation of this database was ever about, those that are gone too."""
    query = select(held.c.resource).where(held.c.resource.like(f"{_VOLUME}%")).distinct()
    return {str(found).removeprefix(_VOLUME) for found in connection.execute(query).scalars()}
