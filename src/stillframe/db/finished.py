"""Operations that have ended: counted when they do, pruned when nobody needs them any more."""

from datetime import datetime, timedelta

from sqlalchemy import Connection, bindparam, func, select, update
from sqlalchemy import delete as sql_delete

from stillframe.db import clock
from stillframe.db.operations import UNFINISHED
from stillframe.db.rows import Row, many, touched
from stillframe.db.tables import attachments, operation_totals, operations
from stillframe.db.tables import operation_resources as held

_GIVE_BACK = update(held).where(held.c.operation_id == bindparam("key"))
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
    """Gives back what the operation holds, in the transaction that ends it, and counts it. One that a person abandoned is kept
    for good: it tells what may be left behind."""
    connection.execute(_GIVE_BACK.values(unfinished=0), {"key": operation_id})
    row = many(connection, _COUNTED, key=operation_id)[0]
    if row["state"] in UNFINISHED:
        return
    named = {"whose": row["service"], "named": row["kind"], "outcome": row["state"]}
    if touched(connection, _MORE, {**named, "copied": row["bytes"]}) == 0:
        values = {name: row[name] for name in ("service", "kind", "state", "bytes")}
        connection.execute(operation_totals.insert(), {**values, "amount": 1})
    if (row["fault"] or {}).get("code") != "abandoned":
        since = clock.utc(connection)
        connection.execute(update(operations).where(operations.c.id == operation_id).values(unneeded_since=since))


def totals(connection: Connection) -> list[Row]:
    """Returns count, copied bytes and when the oldest was asked for, by service, kind and state. Those that have ended are
    counted already: the cost is that of the others."""
    grouping = (operations.c.service, operations.c.kind, operations.c.state)
    amount, copied = func.count().label("amount"), func.sum(operations.c.bytes).label("bytes")
    query = select(*grouping, amount, copied, func.min(operations.c.created_at).label("oldest"))
    query = query.where(operations.c.unneeded_since.is_(None), operations.c.state.in_(UNFINISHED)).group_by(*grouping)
    over = [{**row, "oldest": None} for row in many(connection, select(operation_totals))]
    return [*over, *many(connection, query)]


def prune(connection: Connection, kept: timedelta, most: int) -> int:
    """Deletes up to ``most`` operations that ended longer than ``kept`` ago, oldest first; returns how many were looked at.

    What an operation that has not ended may still ask about, such as a merge it asked for, began after it: nothing younger than
    the oldest of those is deleted. Nor is a detachment that failed while its volume is attached: it tells that the disk
    is to be detached when the guest releases it.
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
    found = many(connection, query.order_by(operations.c.unneeded_since).limit(most))
    needed = [row["id"] for row in found if _is_needed(connection, row)]
    _needed(connection, needed, moment)
    gone = [row["id"] for row in found if row["id"] not in needed]
    connection.execute(sql_delete(held).where(held.c.operation_id.in_(gone)))
    connection.execute(sql_delete(operations).where(operations.c.id.in_(gone)))
    return len(found)


def _needed(connection: Connection, ids: list[str], moment: datetime) -> None:
    """They are looked at again when they would be pruned next."""
    connection.execute(update(operations).where(operations.c.id.in_(ids)).values(unneeded_since=moment))


def _is_needed(connection: Connection, row: Row) -> bool:
    if (row["kind"], row["state"]) != ("detach_volume", "undone"):
        return False
    query = select(attachments.c.seq).where(attachments.c.volume_id == row["intent"].get("volume_id"))
    return connection.execute(query.limit(1)).first() is not None
