"""Volumes: rows and their state machine."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, func, select, update
from sqlalchemy import delete as sql_delete

from stillframe.db import operations
from stillframe.db.rows import Page, Row, many, matching, one, page, touched
from stillframe.db.tables import attachments, snapshots, volumes

_BY_ID = select(volumes).where(volumes.c.id == bindparam("key"))
_CHANGE = update(volumes).where(volumes.c.id == bindparam("key"))
_BY_IDS = select(volumes).where(volumes.c.id.in_(bindparam("keys", expanding=True)))
_MINE_BY_ID = _BY_ID.where(volumes.c.project_id == bindparam("project"))


def insert(connection: Connection, row: Row) -> None:
    connection.execute(volumes.insert(), {"bootable": False, "untidy": False, **row})


def get(connection: Connection, volume_id: str, project_id: str | None) -> Row | None:
    """Returns the row, or None; ``project_id`` None sees every project."""
    if project_id is None:
        return one(connection, _BY_ID, key=volume_id)
    return one(connection, _MINE_BY_ID, key=volume_id, project=project_id)


def by_ids(connection: Connection, volume_ids: Sequence[str]) -> dict[str, Row]:
    return {row["id"]: row for row in many(connection, _BY_IDS, keys=list(volume_ids))}


def list_page(connection: Connection, project_id: str | None, wanted: Page) -> list[Row]:
    return page(connection, volumes, _mine(project_id), wanted)


def list_all(connection: Connection) -> list[Row]:
    return many(connection, select(volumes).order_by(volumes.c.seq))


def ids(connection: Connection) -> list[str]:
    return list(connection.execute(select(volumes.c.id)).scalars())


def count(connection: Connection, project_id: str | None, filters: dict[str, Any]) -> int:
    query = select(func.count()).select_from(volumes).where(*_mine(project_id), *matching(volumes, filters))
    return int(connection.execute(query).scalar_one())


def usage(connection: Connection, project_id: str) -> tuple[int, int]:
    """Returns (number of volumes, their virtual GiB) of a project."""
    query = select(func.count(), func.coalesce(func.sum(volumes.c.size), 0)).where(volumes.c.project_id == project_id)
    found = connection.execute(query).one()
    return int(found[0]), int(found[1])


def linked_to(connection: Connection, volume_id: str) -> list[Row]:
    """Returns the linked clones that read a file of the volume."""
    query = select(volumes).where(volumes.c.linked_to["volume_id"].as_string() == volume_id)
    return many(connection, query.order_by(volumes.c.seq))


def on_share(connection: Connection, share: str) -> list[Row]:
    return many(connection, select(volumes).where(volumes.c.share == share).order_by(volumes.c.seq))


def provisioned(connection: Connection, share: str) -> int:
    """Returns the virtual GiB of all volumes on a share."""
    query = select(func.coalesce(func.sum(volumes.c.size), 0)).where(volumes.c.share == share)
    return int(connection.execute(query).scalar_one())


def raw_bases(connection: Connection, share: str) -> list[str]:
    """Returns the ids of the volumes whose lowest file is raw: what lies in it is the guest's, never a header (R3)."""
    query = select(volumes.c.id).where(volumes.c.share == share, volumes.c.base_format == "raw")
    return list(connection.execute(query).scalars())


def with_undo(connection: Connection) -> list[Row]:
    return many(connection, select(volumes).where(volumes.c.undo_file.is_not(None)))


def marked_untidy(connection: Connection) -> list[Row]:
    return many(connection, select(volumes).where(volumes.c.untidy))


def change(connection: Connection, volume_id: str, **values: Any) -> None:
    connection.execute(_CHANGE, {"key": volume_id, **values})


def move(connection: Connection, volume_id: str, allowed: Sequence[str], status: str, **values: Any) -> bool:
    """Compare-and-swap of the status; False when it was in none of the ``allowed`` ones."""
    query = update(volumes).where(volumes.c.id == volume_id, volumes.c.status.in_(allowed))
    return touched(connection, query.values(status=status, **values)) == 1


def delete(connection: Connection, volume_id: str) -> None:
    connection.execute(sql_delete(attachments).where(attachments.c.volume_id == volume_id))
    connection.execute(sql_delete(snapshots).where(snapshots.c.volume_id == volume_id))
    connection.execute(sql_delete(volumes).where(volumes.c.id == volume_id))


def busy_operation(connection: Connection, volume_id: str, shared: bool = False) -> str | None:
    """Returns the id of an unfinished operation on the volume, or None; see ``operations.on_resource``."""
    row = operations.on_resource(connection, f"volume:{volume_id}", shared)
    return str(row["id"]) if row else None


def _mine(project_id: str | None) -> list[ColumnElement[bool]]:
    return [] if project_id is None else [volumes.c.project_id == project_id]
