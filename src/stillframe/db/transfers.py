"""Transfers: volumes that their projects offer to others."""

from sqlalchemy import ColumnElement, Connection, select
from sqlalchemy import delete as sql_delete

from stillframe.db.queries import Page, one, page, touched
from stillframe.db.rows import VolumeTransferRow
from stillframe.db.tables import volume_transfers
from stillframe.db.values import NewVolumeTransfer


def insert(connection: Connection, row: NewVolumeTransfer) -> None:
    """Inserts a transfer."""
    connection.execute(volume_transfers.insert(), row)


def get(connection: Connection, transfer_id: str, project_id: str | None) -> VolumeTransferRow | None:
    """Returns the row, or None; ``project_id`` None sees every project."""
    query = select(volume_transfers).where(volume_transfers.c.id == transfer_id, *_mine(project_id))
    return one(VolumeTransferRow, connection, query)


def list_page(connection: Connection, project_id: str | None, wanted: Page) -> list[VolumeTransferRow]:
    """Returns one page of the transfers a project offers, or all projects for None. Raises NotFound for an unknown marker."""
    return page(VolumeTransferRow, connection, volume_transfers, _mine(project_id), wanted)


def delete(connection: Connection, transfer_id: str) -> bool:
    """Deletes the row; False when another request did."""
    return touched(connection, sql_delete(volume_transfers).where(volume_transfers.c.id == transfer_id)) == 1


def _mine(project_id: str | None) -> list[ColumnElement[bool]]:
    return [] if project_id is None else [volume_transfers.c.project_id == project_id]
