"""The few shapes every query module needs: compare-and-swap updates, pages, rows as the dictionaries of ``rows``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from sqlalchemy import ColumnElement, Connection, CursorResult, Executable, Select, Table, case, false, select

from stillframe.errors import NotFound

R = TypeVar("R", bound=Mapping[str, Any])  # one of the classes of ``rows``


@dataclass(frozen=True)
class Page:
    """Which part of a list is wanted. ``filters`` maps column names to a value they must equal, or to pairs that a column of
    JSON objects must hold."""

    limit: int = 1000
    marker: str | None = None
    offset: int = 0
    sort: tuple[tuple[str, bool], ...] = (("seq", True),)  # (column, descending)
    filters: Mapping[str, Any] = field(default_factory=dict)


def one(kind: type[R], connection: Connection, query: Executable, **values: Any) -> R | None:
    """Returns the first row that the query finds, or None.

    ``kind`` is what the row is: the query selects all of its table. ``values`` are for the query's own parameters. A query made
    once costs half the time of one made for each call.
    """
    found = connection.execute(query, values).mappings().first()
    return cast("R", dict(found)) if found is not None else None


def many(kind: type[R], connection: Connection, query: Executable, **values: Any) -> list[R]:
    """Returns all rows that the query finds; otherwise as ``one``."""
    found = connection.execute(query, values)
    names = tuple(found.keys())  # once, and not for every row as mappings() does
    return [cast("R", dict(zip(names, row, strict=True))) for row in found.all()]


def touched(connection: Connection, statement: Executable, values: Mapping[str, Any] | None = None) -> int:
    """Returns how many rows a change touched; ``values`` as for ``one``, and what columns become."""
    return cast("CursorResult[Any]", connection.execute(statement, values)).rowcount


def page(kind: type[R], connection: Connection, table: Table, where: list[ColumnElement[bool]], wanted: Page) -> list[R]:
    """Returns one page of a list, newest first unless sorted otherwise; rows without a value come last.

    Raises NotFound for a marker that is not in the list the caller may see.
    """
    query: Select[Any] = select(table).where(*where)
    query = query.where(*matching(table, wanted.filters))
    sort = wanted.sort if wanted.sort[-1][0] == "seq" else (*wanted.sort, ("seq", True))
    if wanted.marker is not None:
        marked = one(kind, connection, select(table).where(table.c.id == wanted.marker, *where))
        if marked is None:
            raise NotFound(f"the marker {wanted.marker[:64]!r} was not found")
        query = query.where(_after(table, marked, sort))
    for name, descending in sort:
        column = table.c[name]
        if column.nullable:
            query = query.order_by(case((column.is_(None), 1), else_=0))
        query = query.order_by(column.desc() if descending else column.asc())
    return many(kind, connection, query.limit(wanted.limit).offset(wanted.offset))


def matching(table: Table, filters: Mapping[str, Any]) -> list[ColumnElement[bool]]:
    """Returns the conditions of ``Page.filters``."""
    found: list[ColumnElement[bool]] = []
    for name, value in filters.items():
        if isinstance(value, Mapping):
            found += [table.c[name][key].as_string() == text for key, text in value.items()]
        else:
            found.append(table.c[name] == value)
    return found


def _after(table: Table, marked: Mapping[str, Any], sort: tuple[tuple[str, bool], ...]) -> ColumnElement[bool]:
    condition: ColumnElement[bool] = false()
    for name, descending in reversed(sort):
        column, value = table.c[name], marked[name]
        if value is None:
            condition = column.is_(None) & condition
            continue
        beyond = column < value if descending else column > value
        if column.nullable:
            beyond = beyond | column.is_(None)
        condition = beyond | ((column == value) & condition)
    return condition
