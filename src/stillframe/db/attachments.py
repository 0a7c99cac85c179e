"""Attachments: which server holds which volume."""

from collections.abc import Sequence
from typing import Unpack

from sqlalchemy import Connection, bindparam, select, update
from sqlalchemy import delete as sql_delete

from stillframe.db.queries import Page, many, one, page
from stillframe.db.rows import AttachmentRow
from stillframe.db.tables import attachments
from stillframe.db.values import AttachmentChanges, NewAttachment

_BY_IDS = select(attachments).where(attachments.c.id.in_(bindparam("keys", expanding=True)))
_MINE_BY_IDS = _BY_IDS.where(attachments.c.project_id == bindparam("project"))
_OF_VOLUMES = select(attachments).where(attachments.c.volume_id.in_(bindparam("keys", expanding=True)))


def insert(connection: Connection, row: NewAttachment) -> None:
    """Inserts an attachment. Raises IntegrityError for an id that is known."""
    connection.execute(attachments.insert(), row)


def get(connection: Connection, attachment_id: str, project_id: str | None) -> AttachmentRow | None:
    """Returns the row, or None; ``project_id`` None sees every project."""
    query = select(attachments).where(attachments.c.id == attachment_id)
    if project_id is not None:
        query = query.where(attachments.c.project_id == project_id)
    return one(AttachmentRow, connection, query)


def by_ids(connection: Connection, attachment_ids: Sequence[str], project_id: str | None) -> list[AttachmentRow]:
    """Returns those of the attachments that are there and of the project, or of any for None."""
    if project_id is None:
        return many(AttachmentRow, connection, _BY_IDS, keys=list(attachment_ids))
    return many(AttachmentRow, connection, _MINE_BY_IDS, keys=list(attachment_ids), project=project_id)


def list_page(connection: Connection, project_id: str | None, wanted: Page) -> list[AttachmentRow]:
    """Returns one page of the attachments of a project, or of all for None. Raises NotFound for an unknown marker."""
    return page(
        AttachmentRow, connection, attachments, [] if project_id is None else [attachments.c.project_id == project_id], wanted
    )


def of_volumes(connection: Connection, volume_ids: Sequence[str]) -> dict[str, list[AttachmentRow]]:
    """Returns each volume's attachments, for the views of a whole page at once."""
    grouped: dict[str, list[AttachmentRow]] = {volume_id: [] for volume_id in volume_ids}
    for row in many(AttachmentRow, connection, _OF_VOLUMES, keys=list(volume_ids)):
        grouped[row["volume_id"]].append(row)
    return grouped


def change(connection: Connection, attachment_id: str, /, **values: Unpack[AttachmentChanges]) -> None:
    """Changes the columns that are named."""
    connection.execute(update(attachments).where(attachments.c.id == attachment_id).values(**values))


def delete(connection: Connection, attachment_id: str) -> None:
    """Deletes the row; the volume's status is the caller's to change."""
    connection.execute(sql_delete(attachments).where(attachments.c.id == attachment_id))
