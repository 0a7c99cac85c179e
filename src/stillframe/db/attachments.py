"""Attachments: which server holds which volume."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, select, update
from sqlalchemy import delete as sql_delete

from stillframe.db.rows import Page, Row, many, one, page
from stillframe.db.tables import attachments

_BY_IDS = select(attachments).where(attachments.c.id.in_(bindparam("keys", expanding=True)))
_MINE_BY_IDS = _BY_IDS.where(attachments.c.project_id == bindparam("project"))
_OF_VOLUMES = select(attachments).where(attachments.c.volume_id.in_(bindparam("keys", expanding=True)))


def insert(connection: Connection, row: Row) -> None:
    connection.execute(attachments.insert(), row)


def get(connection: Connection, attachment_id: str, project_id: str | None) -> Row | None:
    query = select(attachments).where(attachments.c.id == attachment_id)
    if project_id is not None:
        query = query.where(attachments.c.project_id == project_id)
    return one(connection, query)


def by_ids(connection: Connection, attachment_ids: Sequence[str], project_id: str | None) -> list[Row]:
    if project_id is None:
        return many(connection, _BY_IDS, keys=list(attachment_ids))
    return many(connection, _MINE_BY_IDS, keys=list(attachment_ids), project=project_id)


def list_page(connection: Connection, project_id: str | None, wanted: Page) -> list[Row]:
    return page(connection, attachments, [] if project_id is None else [attachments.c.project_id == project_id], wanted)


def of_volumes(connection: Connection, volume_ids: Sequence[str]) -> dict[str, list[Row]]:
    """Returns each volume's attachments, for the views of a whole page at once."""
    grouped: dict[str, list[Row]] = {volume_id: [] for volume_id in volume_ids}
    for row in many(connection, _OF_VOLUMES, keys=list(volume_ids)):
        grouped[row["volume_id"]].append(row)
    return grouped


def change(connection: Connection, attachment_id: str, **values: Any) -> None:
    connection.execute(update(attachments).where(attachments.c.id == attachment_id).values(**values))


def delete(connection: Connection, attachment_id: str) -> None:
    connection.execute(sql_delete(attachments).where(attachments.c.id == attachment_id))
