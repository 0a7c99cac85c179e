"""This deployment: the id by which a share's marker names the database that its volumes are in."""

import uuid

from sqlalchemy import select

from stillframe.db.engine import Database
from stillframe.db.tables import deployments


def own(database: Database) -> str:
    """Returns the id of the deployment this database is of; it is made when it is first asked for."""
    with database.read() as connection:
        found = connection.execute(select(deployments.c.id)).scalar_one_or_none()
    if found is not None:
        return str(found)
    with database.write() as connection:  # another process may have been quicker
        found = connection.execute(select(deployments.c.id)).scalar_one_or_none()
        if found is None:
            found = str(uuid.uuid4())
            connection.execute(deployments.insert().values(only=1, id=found))
    return str(found)


def become(database: Database, deployment: str) -> None:
    """The database is that of a deployment which lost its own: it has that one's id from now on."""
    with database.write() as connection:
        connection.execute(deployments.delete())
        connection.execute(deployments.insert().values(only=1, id=deployment))
