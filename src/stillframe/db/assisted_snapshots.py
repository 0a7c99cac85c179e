"""Assisted snapshots: the set taken of one server at one instant."""

from collections.abc import Sequence
from typing import Unpack

from sqlalchemy import ColumnElement, Connection, bindparam, func, select, update
from sqlalchemy import delete as sql_delete

from stillframe.db.queries import Page, many, one, page, touched
from stillframe.db.rows import AssistedSnapshotRow
from stillframe.db.tables import assisted_snapshots
from stillframe.db.values import AssistedSnapshotChanges, AssistedSnapshotPlan, NewAssistedSnapshot

_CHANGE = update(assisted_snapshots).where(assisted_snapshots.c.id == bindparam("key"))


def insert(connection: Connection, row: NewAssistedSnapshot) -> None:
    """Inserts a set. Raises IntegrityError for an id that is known."""
    connection.execute(assisted_snapshots.insert(), row)


def get(connection: Connection, set_id: str, project_id: str | None) -> AssistedSnapshotRow | None:
    """Returns the row, or None; ``project_id`` None sees every project."""
    return one(
        AssistedSnapshotRow, connection, select(assisted_snapshots).where(assisted_snapshots.c.id == set_id, *_mine(project_id))
    )


def list_page(connection: Connection, project_id: str | None, wanted: Page) -> list[AssistedSnapshotRow]:
    """Returns one page of the sets of a project, or of all for None. Raises NotFound for an unknown marker."""
    return page(AssistedSnapshotRow, connection, assisted_snapshots, _mine(project_id), wanted)


def taken(connection: Connection) -> dict[str, frozenset[str]]:
    """Returns the snapshots of every set, by its id."""
    rows = connection.execute(select(assisted_snapshots.c.id, assisted_snapshots.c.volumes))
    return {set_id: frozenset(each["snapshot_id"] for each in entries if each["snapshot_id"]) for set_id, entries in rows}


def frozen_ms(connection: Connection) -> list[float]:
    """Returns how long each set that froze its guest kept it frozen. Whoever reaches the port may ask for this, so the database
    takes it out of the documents: to read all of those took seconds of processor with 20,000 sets."""
    told = assisted_snapshots.c.consistency["frozen_ms"].as_float()
    query = select(told).where(assisted_snapshots.c.consistency.is_not(None))
    return [found for found in connection.execute(query).scalars() if found]


def of_server(connection: Connection, server_id: str) -> list[AssistedSnapshotRow]:
    """Returns every set of a server."""
    return many(AssistedSnapshotRow, connection, select(assisted_snapshots).where(assisted_snapshots.c.server_id == server_id))


def made_by_policies(connection: Connection, server_id: str) -> list[AssistedSnapshotRow]:
    """Returns every set of the server that a policy made, oldest first."""
    query = select(assisted_snapshots).where(
        assisted_snapshots.c.server_id == server_id, assisted_snapshots.c.policy_id.is_not(None)
    )
    return many(AssistedSnapshotRow, connection, query.order_by(assisted_snapshots.c.seq))


def failed_of(connection: Connection, policy_ids: Sequence[str]) -> list[AssistedSnapshotRow]:
    """Returns the sets in "error" that one of the policies made, oldest first."""
    query = select(assisted_snapshots).where(
        assisted_snapshots.c.policy_id.in_(policy_ids), assisted_snapshots.c.status == "error"
    )
    return many(AssistedSnapshotRow, connection, query.order_by(assisted_snapshots.c.seq))


def being_made(connection: Connection, server_id: str) -> int:
    """Returns how many sets of the server are taken or wait for that."""
    query = select(func.count()).select_from(assisted_snapshots)
    query = query.where(assisted_snapshots.c.server_id == server_id, assisted_snapshots.c.status == "creating")
    return int(connection.execute(query).scalar_one())


def count_of_server(connection: Connection, server_id: str) -> int:
    """Returns how many sets of the server there are, those that failed too."""
    query = select(func.count()).select_from(assisted_snapshots).where(assisted_snapshots.c.server_id == server_id)
    return int(connection.execute(query).scalar_one())


def newest_of_server(connection: Connection, server_id: str) -> AssistedSnapshotRow | None:
    """Returns the set of the server that was asked for last, in whatever status."""
    query = select(assisted_snapshots).where(assisted_snapshots.c.server_id == server_id)
    return one(AssistedSnapshotRow, connection, query.order_by(assisted_snapshots.c.seq.desc()).limit(1))


def change(connection: Connection, set_id: str, /, **values: Unpack[AssistedSnapshotChanges]) -> None:
    """Changes the columns that are named."""
    connection.execute(_CHANGE, {"key": set_id, **values})


def swap_status(connection: Connection, set_id: str, before: str, after: str) -> bool:
    """Changes the status if it is ``before``; False when somebody was quicker."""
    query = update(assisted_snapshots).where(assisted_snapshots.c.id == set_id, assisted_snapshots.c.status == before)
    return touched(connection, query.values(status=after)) == 1


def begin(connection: Connection, set_id: str, planned: AssistedSnapshotPlan) -> bool:
    """Gives a set that waited for its turn what is planned for it; False when nobody wants it any more."""
    if not swap_status(connection, set_id, "creating", "creating"):
        return False
    change(connection, set_id, **planned)
    return True


def delete(connection: Connection, set_id: str) -> None:
    """Deletes the row; the snapshots' rows are block storage's."""
    connection.execute(sql_delete(assisted_snapshots).where(assisted_snapshots.c.id == set_id))


def _mine(project_id: str | None) -> list[ColumnElement[bool]]:
    return [] if project_id is None else [assisted_snapshots.c.project_id == project_id]
