"""Operations that have ended: counted when they do, pruned when nobody needs them any more."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, bindparam, func, select, update
from sqlalchemy import delete as sql_delete

from stillframe.db import clock
from stillframe.db.operations import UNFINISHED
from stillframe.db.queries import many, touched
from stillframe.db.rows import OperationFigures, OperationTotalRow
from stillframe.db.tables import attachments, operation_totals, operations
from stillframe.db.tables import operation_resources as held

_RELEASE = update(held).where(held.c.operation_id == bindparam("key"))
_COUNTED = select(operations.c.service, operations.c.kind, operations.c.state, operations.c.bytes, operations.c.fault).where(
    operations.c.id == bindparam("key")
)
_COUNT = update(operation_totals).where(
    operation_totals.c.service == bindparam("whose"),
    operation_totals.c.kind == bindparam("named"),
    operation_totals.c.state == bindparam("outcome"),
)
_COPIED = bindparam("copied", type_=operation_totals.c.bytes.type)
_MORE = _COUNT.values(amount=operation_totals.c.amount + 1, bytes=operation_totals.c.bytes + _COPIED)


def ended(connection: Connection, operation_id: str) -> None:
    """Releases what the operation holds, in the transaction that ends it, and counts it. An operation that a person abandoned
    is never pruned: it says what may be left behind."""
    connection.execute(_RELEASE.values(unfinished=0), {"key": operation_id})
    service, kind, state, copied, fault = connection.execute(_COUNTED, {"key": operation_id}).one()
    if state in UNFINISHED:
        return
    if touched(connection, _MORE, {"whose": service, "named": kind, "outcome": state, "copied": copied}) == 0:
        first: OperationTotalRow = {"service": service, "kind": kind, "state": state, "amount": 1, "bytes": copied}
        connection.execute(operation_totals.insert(), first)
    if (fault or {}).get("code") != "abandoned":
        since = clock.utc(connection)
        connection.execute(update(operations).where(operations.c.id == operation_id).values(unneeded_since=since))


def totals(connection: Connection) -> list[OperationFigures]:
    """Returns count, copied bytes and when the oldest was asked for, by service, kind and state. Those that have ended are
    counted already: the cost is that of the others."""
    grouping = (operations.c.service, operations.c.kind, operations.c.state)
    amount, copied = func.count().label("amount"), func.sum(operations.c.bytes).label("bytes")
    query = select(*grouping, amount, copied, func.min(operations.c.created_at).label("oldest"))
    query = query.where(operations.c.unneeded_since.is_(None), operations.c.state.in_(UNFINISHED)).group_by(*grouping)
    over: list[OperationFigures] = [
        {**row, "oldest": None} for row in many(OperationTotalRow, connection, select(operation_totals))
    ]
    return [*over, *many(OperationFigures, connection, query)]


def prune(connection: Connection, kept: timedelta, most: int) -> int:
    """Deletes up to ``most`` operations that ended longer than ``kept`` ago, oldest first; returns how many were looked at.

    An unfinished operation may still ask about another one, such as a merge that it began. That one is younger, so nothing
    younger than the oldest unfinished operation is deleted. A detachment that failed is kept while its volume is attached: it
    says that the disk is to be detached when the guest releases it.
    """
    moment = clock.utc(connection)
    pending = select(func.min(operations.c.seq)).where(
        operations.c.unneeded_since.is_(None), operations.c.state.in_(UNFINISHED)
    )
    first = connection.execute(pending).scalar()
    query = select(operations.c.id, operations.c.kind, operations.c.state, operations.c.intent)
    query = query.where(operations.c.unneeded_since < moment - kept)
    if first is not None:
        query = query.where(operations.c.seq < first)
    found = list(connection.execute(query.order_by(operations.c.unneeded_since).limit(most)))
    needed = [row.id for row in found if _is_needed(connection, row.kind, row.state, row.intent)]
    _needed(connection, needed, moment)
    gone = [row.id for row in found if row.id not in needed]
    connection.execute(sql_delete(held).where(held.c.operation_id.in_(gone)))
    connection.execute(sql_delete(operations).where(operations.c.id.in_(gone)))
    return len(found)


def _needed(connection: Connection, ids: list[str], moment: datetime) -> None:
    """They are looked at again when they would be pruned next."""
    connection.execute(update(operations).where(operations.c.id.in_(ids)).values(unneeded_since=moment))


def _is_needed(connection: Connection, kind: str, state: str, intent: dict[str, Any]) -> bool:
    if (kind, state) != ("detach_volume", "undone"):
        return False
    query = select(attachments.c.seq).where(attachments.c.volume_id == intent.get("volume_id"))
    return connection.execute(query.limit(1)).first() is not None
