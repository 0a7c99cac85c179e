"""Messages: why something that was accepted could not be done."""

from datetime import datetime

from sqlalchemy import ColumnElement, Connection, select
from sqlalchemy import delete as sql_delete

from stillframe.db.queries import Page, one, page, touched
from stillframe.db.rows import MessageRow
from stillframe.db.tables import messages
from stillframe.db.values import NewMessage


def insert(connection: Connection, row: NewMessage) -> None:
    """Inserts a message."""
    connection.execute(messages.insert(), row)


def get(connection: Connection, message_id: str, project_id: str | None) -> MessageRow | None:
    """Returns the row, or None; ``project_id`` None sees every project."""
    return one(MessageRow, connection, select(messages).where(messages.c.id == message_id, *_mine(project_id)))


def list_page(connection: Connection, project_id: str | None, wanted: Page) -> list[MessageRow]:
    """Returns one page of the messages of a project, or of all for None. Raises NotFound for an unknown marker."""
    return page(MessageRow, connection, messages, _mine(project_id), wanted)


def delete(connection: Connection, message_id: str) -> None:
    """Deletes a message."""
    connection.execute(sql_delete(messages).where(messages.c.id == message_id))


def prune(connection: Connection, before: datetime) -> int:
    """Deletes the messages that expired; returns how many."""
    return touched(connection, sql_delete(messages).where(messages.c.expires_at < before))


def _mine(project_id: str | None) -> list[ColumnElement[bool]]:
    return [] if project_id is None else [messages.c.project_id == project_id]
