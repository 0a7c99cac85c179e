"""Operations: the journal's rows. Every change by a worker names owner and epoch and must touch exactly one row."""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, Unpack

from sqlalchemy import ColumnElement, Connection, Select, and_, bindparam, or_, select, union, update

from stillframe.db import clock, holds
from stillframe.db.queries import many, one, touched
from stillframe.db.rows import HeldAlone, OperationRow
from stillframe.db.tables import operation_resources as held
from stillframe.db.tables import operations
from stillframe.db.values import NewOperation, OperationChanges

BACK = "on the way back"
UNFINISHED = ("pending", "running", "undoing", "parked")
CLAIMABLE = ("pending", "running", "undoing")
BACKGROUND = ("record_chain",)
_BY_ID = select(operations).where(operations.c.id == bindparam("key"))
_CHANGE = update(operations).where(
    operations.c.id == bindparam("key"), operations.c.owner == bindparam("mine"), operations.c.epoch == bindparam("began")
)
_ON_RESOURCE = (
    select(operations)
    .join(held, held.c.operation_id == operations.c.id)
    .where(held.c.resource == bindparam("named"), held.c.unfinished == 1, operations.c.kind.not_in(BACKGROUND))
    .order_by(operations.c.seq)
)
_ALONE_ON_RESOURCES = (
    select(operations.c.id, operations.c.plan, held.c.resource)
    .join(held, held.c.operation_id == operations.c.id)
    .where(held.c.resource.in_(bindparam("names", expanding=True)), held.c.unfinished == 1, held.c.shared == 0)
    .order_by(operations.c.seq)
)
_ALONE_ON_RESOURCE = _ON_RESOURCE.where(held.c.shared == 0)
_CLAIM = update(operations).where(
    operations.c.id == bindparam("key"),
    operations.c.epoch == bindparam("seen_epoch"),
    operations.c.state == bindparam("seen_state"),
)


CLAIMED_AT_ONCE = 64
LONGEST_PAUSE_SECONDS = 3600.0  # no pause is nearly as long
LEAST_OF_A_PROJECT = 4  # taken at once, however many projects there are


_IS_DUE = operations.c.lease_until <= bindparam("moment")
# That nobody holds and that would wait longer than any of ours waits: the clock was ahead when they paused.
_NEVER = and_(operations.c.owner.is_(None), operations.c.lease_until > bindparam("latest"))


def _due() -> ColumnElement[bool]:
    return or_(_IS_DUE, _NEVER)


def _claimable() -> Select[Any]:
    mine, theirs, first = held.alias(), held.alias(), operations.alias()
    waits = (
        select(first.c.seq)
        .join(theirs, theirs.c.operation_id == first.c.id)
        .join(mine, mine.c.resource == theirs.c.resource)
        .where(mine.c.operation_id == operations.c.id, theirs.c.unfinished == 1, first.c.seq < operations.c.seq)
        .where(mine.c.shared + theirs.c.shared < 2)
    )
    free = select(operations).where(operations.c.service == bindparam("whose"), operations.c.state.in_(CLAIMABLE))
    free = free.where(operations.c.project_id == bindparam("project"))
    free = free.where(_due(), ~waits.exists())
    return free.order_by(operations.c.seq).limit(bindparam("most"))


_WITH_DUE = select(operations.c.project_id).where(operations.c.service == bindparam("whose"), operations.c.state.in_(CLAIMABLE))
# Asked at every wake-up: each half is found by an index (ix_operations_due), however many operations wait or have ended.
_PROJECTS = union(_WITH_DUE.where(_IS_DUE), _WITH_DUE.where(_NEVER))
_CLAIMABLE = _claimable()  # made once: making it takes longer than running it, and a worker runs it at every wake-up


def insert(connection: Connection, row: NewOperation, resources: Sequence[str], shared: Sequence[str] = ()) -> None:
    """``shared`` resources are only read: operations that share one run side by side."""
    connection.execute(operations.insert(), row)
    holds.remember(connection, (*resources, *shared))
    for number, names in enumerate((resources, shared)):
        for name in names:
            values = {"operation_id": row["id"], "resource": name, "unfinished": 1, "shared": number}
            connection.execute(held.insert(), values)


def get(connection: Connection, operation_id: str) -> OperationRow | None:
    """Returns the row, or None."""
    return one(OperationRow, connection, _BY_ID, key=operation_id)


def claimable(connection: Connection, service: str) -> list[OperationRow]:
    """Returns operations nobody holds, each the first in line for all of its resources. Projects take turns; of each the
    oldest come first."""
    moment = clock.now(connection)
    asked = {"whose": service, "moment": moment, "latest": moment + LONGEST_PAUSE_SECONDS}
    projects = sorted(connection.execute(_PROJECTS, asked).scalars())
    share = max(LEAST_OF_A_PROJECT, CLAIMED_AT_ONCE // max(1, len(projects)))
    found = [many(OperationRow, connection, _CLAIMABLE, **asked, project=project, most=share) for project in projects]
    turns = zip_longest(*sorted((rows for rows in found if rows), key=lambda rows: int(rows[0]["seq"])))
    return [row for turn in turns for row in turn if row is not None]


def claim(connection: Connection, row: OperationRow, owner: str, lease_until: float) -> bool:
    """Takes the operation with a new epoch; False when somebody else was quicker."""
    seen = {"key": row["id"], "seen_epoch": row["epoch"], "seen_state": row["state"]}
    state = "running" if row["state"] == "pending" else row["state"]
    values = {"owner": owner, "epoch": row["epoch"] + 1, "lease_until": lease_until, "state": state}
    return touched(connection, _CLAIM, {**seen, **values}) == 1


def change(connection: Connection, operation_id: str, owner: str, epoch: int, /, **values: Unpack[OperationChanges]) -> bool:
    """Changes an operation we hold; False when we hold it no more."""
    mine = {"key": operation_id, "mine": owner, "began": epoch}
    return touched(connection, _CHANGE, {**mine, **values}) == 1


def make_due(connection: Connection, operation_id: str, at: float = 0.0) -> bool:
    """Ends the pause of an operation that waits, now or ``at``; False when somebody works on it, or nobody will."""
    query = update(operations).where(operations.c.id == operation_id, operations.c.owner.is_(None))
    return touched(connection, query.where(operations.c.state.in_(CLAIMABLE)).values(lease_until=at)) == 1


def make_all_due(connection: Connection, service: str) -> None:
    """Ends every pause of a service's operations."""
    query = update(operations).where(operations.c.service == service, operations.c.owner.is_(None))
    connection.execute(query.where(operations.c.state.in_(CLAIMABLE)).values(lease_until=0.0))


def ask_to_cancel(connection: Connection, operation_id: str) -> None:
    """Sets ``cancel_asked``. The worker sees it when it next looks at the operation; one that waits is looked at now."""
    connection.execute(update(operations).where(operations.c.id == operation_id).values(cancel_asked=1))
    make_due(connection, operation_id)


def withdraw(connection: Connection, operation_id: str, fault: dict[str, Any]) -> bool:
    """Ends an operation that nobody has begun; False when somebody has."""
    query = update(operations).where(operations.c.id == operation_id, operations.c.state == "pending")
    return touched(connection, query.values(state="undone", fault=fault)) == 1


def renew(connection: Connection, owner: str, ids: Sequence[str], lease_until: float) -> None:
    """Prolongs the leases of operations that the owner still holds, to ``lease_until`` (seconds since the epoch)."""
    query = update(operations).where(operations.c.owner == owner, operations.c.id.in_(ids))
    query = query.where(operations.c.state.in_(("running", "undoing")))
    connection.execute(query.values(lease_until=lease_until))


def owners(connection: Connection, service: str) -> list[str]:
    """Returns the owners that hold operations of the service which have not ended."""
    query = select(operations.c.owner).where(
        operations.c.service == service, operations.c.state.in_(CLAIMABLE), operations.c.owner.is_not(None)
    )
    return list(connection.execute(query.distinct()).scalars())


def free(connection: Connection, service: str, owner: str) -> None:
    """Ends the lease of an owner known to be dead."""
    query = update(operations).where(operations.c.service == service, operations.c.owner == owner)
    connection.execute(query.where(operations.c.state.in_(CLAIMABLE)).values(lease_until=0.0))


def unpark(connection: Connection, service: str) -> None:
    """Lets parked operations be looked at once more; forward or back is decided from what is found."""
    for row in many(
        OperationRow, connection, select(operations).where(operations.c.service == service, operations.c.state == "parked")
    ):
        unpark_one(connection, row)


def unpark_one(connection: Connection, row: OperationRow) -> bool:
    """Lets one parked operation be looked at once more; False when it is not parked, or not as it was read."""
    state = "undoing" if BACK in row["evidence"] else "running"
    query = update(operations).where(operations.c.id == row["id"], operations.c.epoch == row["epoch"])
    query = query.where(operations.c.state == "parked")
    return touched(connection, query.values(state=state, lease_until=0.0, attempts=0)) == 1


def abandon(connection: Connection, row: OperationRow, fault: dict[str, Any]) -> bool:
    """Ends one operation that nobody works on; False when it is not as it was read: somebody was quicker."""
    query = update(operations).where(operations.c.id == row["id"], operations.c.epoch == row["epoch"])
    query = query.where(operations.c.state == row["state"])
    if row["state"] != "parked":  # no worker has a parked one
        query = query.where(operations.c.owner.is_(None))
    back = {"evidence": {**row["evidence"], BACK: {}}} if row["state"] == "undoing" else {}
    return touched(connection, query.values(state="undone", owner=None, fault=fault, epoch=row["epoch"] + 1, **back)) == 1


def abandoned(connection: Connection) -> list[OperationRow]:
    """Returns the operations that a person abandoned, the newest first."""
    query = select(operations).where(operations.c.unneeded_since.is_(None), operations.c.state == "undone")
    return many(OperationRow, connection, query.order_by(operations.c.seq.desc()).limit(1000))


def on_resource(connection: Connection, resource: str, shared: bool = False) -> OperationRow | None:
    """Returns the oldest unfinished operation on the resource, or None; with ``shared``, those that only read it do not count.
    Background operations never count: a new request runs after them."""
    return one(OperationRow, connection, _ALONE_ON_RESOURCE if shared else _ON_RESOURCE, named=resource)


def line(connection: Connection, resource: str) -> list[OperationRow]:
    """Returns the unfinished operations on the resource, in the order in which they run."""
    return many(OperationRow, connection, _ON_RESOURCE, named=resource)


def alone_on_resources(connection: Connection, resources: Sequence[str]) -> list[HeldAlone]:
    """Returns id, plan and resource of the unfinished operations on any of them that do not only read it, oldest first."""
    return many(HeldAlone, connection, _ALONE_ON_RESOURCES, names=list(resources))


def newest_on(connection: Connection, resource: str, kinds: Sequence[str]) -> list[OperationRow]:
    """Returns the operations of these kinds that ever named the resource, newest first."""
    query = select(operations).join(held, held.c.operation_id == operations.c.id)
    query = query.where(held.c.resource == resource, operations.c.kind.in_(kinds))
    return many(OperationRow, connection, query.order_by(operations.c.seq.desc()).limit(1000))


def of_kind_on(connection: Connection, resource: str, kind: str) -> bool:
    """Tells whether an operation of that kind has yet to begin on the resource."""
    query = select(operations.c.seq).join(held, held.c.operation_id == operations.c.id)
    query = query.where(held.c.resource == resource, held.c.unfinished == 1)
    query = query.where(operations.c.kind == kind, operations.c.state == "pending")
    return connection.execute(query).first() is not None


def unfinished_of(connection: Connection, service: str, kind: str) -> list[OperationRow]:
    """Returns the operations of one kind that have not ended, oldest first."""
    query = select(operations).where(operations.c.service == service, operations.c.state.in_(UNFINISHED))
    return many(OperationRow, connection, query.where(operations.c.kind == kind).order_by(operations.c.seq))


def unfinished(connection: Connection, service: str) -> list[OperationRow]:
    """Returns the operations of a service that have not ended, oldest first."""
    query = select(operations).where(operations.c.service == service, operations.c.state.in_(UNFINISHED))
    return many(OperationRow, connection, query.order_by(operations.c.seq))


def newest(connection: Connection, limit: int) -> list[OperationRow]:
    """Returns up to ``limit`` operations of any service, newest first."""
    return many(OperationRow, connection, select(operations).order_by(operations.c.seq.desc()).limit(limit))
