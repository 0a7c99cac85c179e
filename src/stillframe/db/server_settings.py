"""What assisted snapshots of one server keep to, where the request does not say."""

from typing import Unpack

from sqlalchemy import Connection, select, update

from stillframe.db.queries import one, touched
from stillframe.db.rows import ServerSettingsRow
from stillframe.db.tables import server_settings as settings
from stillframe.db.values import ServerSettingsChanges


def get(connection: Connection, server_id: str) -> ServerSettingsRow | None:
    """Returns the row, or None when nothing was ever set for the server."""
    return one(ServerSettingsRow, connection, select(settings).where(settings.c.server_id == server_id))


def put(connection: Connection, server_id: str, project_id: str, /, **values: Unpack[ServerSettingsChanges]) -> None:
    """Changes what is named, and makes the row if there is none. To be called in a writing transaction."""
    query = update(settings).where(settings.c.server_id == server_id)
    if touched(connection, query.values(project_id=project_id, **values)) == 0:
        connection.execute(settings.insert(), {"server_id": server_id, "project_id": project_id, **values})
