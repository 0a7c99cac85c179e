"""What assisted snapshots of one server keep to, where the request does not say."""

from typing import Any

from sqlalchemy import Connection, select, update

from stillframe.db.rows import Row, one, touched
from stillframe.db.tables import server_settings as settings


def get(connection: Connection, server_id: str) -> Row | None:
    return one(connection, select(settings).where(settings.c.server_id == server_id))


def put(connection: Connection, server_id: str, project_id: str, **values: Any) -> None:
    """Changes what is named, and makes the row if there is none. To be called in a writing transaction."""
    query = update(settings).where(settings.c.server_id == server_id)
    if touched(connection, query.values(project_id=project_id, **values)) == 0:
        connection.execute(settings.insert(), {"server_id": server_id, "project_id": project_id, **values})
