"""Assisted snapshots: the set taken of one server at one instant."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, func, select, update
from sqlalchemy import delete as sql_delete

from stillframe.db.rows import Page, Row, many, one, page, touched
from stillframe.db.tables import assisted_snapshots

_CHANGE = update(assisted_snapshots).where(assisted_snapshots.c.id == bindparam("key"))


def insert(connection: Connection, row: Row) -> None:
    connection.execute(assisted_snapshots.insert(), row)


def get(connection: Connection, set_id: str, project_id: str | None) -> Row | None:
    return one(connection, select(assisted_snapshots).where(assisted_snapshots.c.id == set_id, *_mine(project_id)))


def list_page(connection: Connection, project_id: str | None, wanted: Page) -> list[Row]:
    return page(connection, assisted_snapshots, _mine(project_id), wanted)


def measured(connection: Connection) -> list[dict[str, Any]]:
    """Returns the consistency document of every set that has one."""
    query = select(assisted_snapshots.c.consistency).where(assisted_snapshots.c.consistency.is_not(None))
    return [row["consistency"] for row in many(connection, query) if row["consistency"]]


def made_by_policies(connection: Connection, server_id: str) -> list[Row]:
    """Returns every set of the server that a policy made, oldest first."""
    query = select(assisted_snapshots).where(
        assisted_snapshots.c.server_id == server_id, assisted_snapshots.c.policy_id.is_not(None)
    )
    return many(connection, query.order_by(assisted_snapshots.c.seq))


def failed_of(connection: Connection, policy_ids: Sequence[str]) -> list[Row]:
    """Returns the sets in "error" that one of the policies made, oldest first."""
    query = select(assisted_snapshots).where(
        assisted_snapshots.c.policy_id.in_(policy_ids), assisted_snapshots.c.status == "error"
    )
    return many(connection, query.order_by(assisted_snapshots.c.seq))


def being_made(connection: Connection, server_id: str) -> int:
    """Returns how many sets of the server are taken or wait for that."""
    query = select(func.count()).select_from(assisted_snapshots)
    query = query.where(assisted_snapshots.c.server_id == server_id, assisted_snapshots.c.status == "creating")
    return int(connection.execute(query).scalar_one())


def newest_of_server(connection: Connection, server_id: str) -> Row | None:
    query = select(assisted_snapshots).where(assisted_snapshots.c.server_id == server_id)
    return one(connection, query.order_by(assisted_snapshots.c.seq.desc()).limit(1))


def change(connection: Connection, set_id: str, **values: Any) -> None:
    connection.execute(_CHANGE, {"key": set_id, **values})


def swap_status(connection: Connection, set_id: str, before: str, after: str) -> bool:
    """Changes the status if it is ``before``; False when somebody was quicker."""
    query = update(assisted_snapshots).where(assisted_snapshots.c.id == set_id, assisted_snapshots.c.status == before)
    return touched(connection, query.values(status=after)) == 1


def begin(connection: Connection, set_id: str, planned: Row) -> bool:
    """Gives a set that waited for its turn what is planned for it; False when nobody wants it any more."""
    if not swap_status(connection, set_id, "creating", "creating"):
        return False
    change(connection, set_id, fault=None, **planned)
    return True


def delete(connection: Connection, set_id: str) -> None:
    connection.execute(sql_delete(assisted_snapshots).where(assisted_snapshots.c.id == set_id))


def _mine(project_id: str | None) -> list[ColumnElement[bool]]:
    return [] if project_id is None else [assisted_snapshots.c.project_id == project_id]
