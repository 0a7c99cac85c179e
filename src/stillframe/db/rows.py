"""The few shapes every query module needs: compare-and-swap updates, pages, rows as dictionaries."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from sqlalchemy import ColumnElement, Connection, CursorResult, Executable, Select, Table, case, false, select

from stillframe.errors import BadRequest

Row = dict[str, Any]


@dataclass(frozen=True)
class Page:
    """Which part of a list is wanted. ``filters`` maps column names to a value they must equal, or to pairs that a column of
    JSON objects must hold."""

    limit: int = 1000
    marker: str | None = None
    offset: int = 0
    sort: tuple[tuple[str, bool], ...] = (("seq", True),)  # (column, descending)
    filters: Mapping[str, Any] = field(default_factory=dict)


def one(connection: Connection, query: Executable, **values: Any) -> Row | None:
    """``values`` are for the query's own parameters. A query made once costs half the time of one made for each call."""
    found = connection.execute(query, values).mappings().first()
    return dict(found) if found is not None else None


def many(connection: Connection, query: Executable, **values: Any) -> list[Row]:
    found = connection.execute(query, values)
    names = tuple(found.keys())  # once, and not for every row as mappings() does
    return [dict(zip(names, row, strict=True)) for row in found.all()]


def touched(connection: Connection, statement: Executable, values: Row | None = None) -> int:
    """Returns how many rows a change touched; ``values`` as for ``one``, and what columns become."""
    return cast("CursorResult[Any]", connection.execute(statement, values)).rowcount


def page(connection: Connection, table: Table, where: list[ColumnElement[bool]], wanted: Page) -> list[Row]:
    """Returns one page of a list, newest first unless sorted otherwise; rows without a value come last.

    Raises BadRequest for a marker that is not in the list the caller may see.
    """
    query: Select[Any] = select(table).where(*where)
    query = query.where(*matching(table, wanted.filters))
    sort = wanted.sort if wanted.sort[-1][0] == "seq" else (*wanted.sort, ("seq", True))
    if wanted.marker is not None:
        marked = one(connection, select(table).where(table.c.id == wanted.marker, *where))
        if marked is None:
            raise BadRequest(f"the marker {wanted.marker[:64]!r} was not found")
        query = query.where(_after(table, marked, sort))
    for name, descending in sort:
        column = table.c[name]
        if column.nullable:
            query = query.order_by(case((column.is_(None), 1), else_=0))
        query = query.order_by(column.desc() if descending else column.asc())
    return many(connection, query.limit(wanted.limit).offset(wanted.offset))


def matching(table: Table, filters: Mapping[str, Any]) -> list[ColumnElement[bool]]:
    """Returns the conditions of ``Page.filters``."""
    found: list[ColumnElement[bool]] = []
    for name, value in filters.items():
        if isinstance(value, Mapping):
            found += [table.c[name][key].as_string() == text for key, text in value.items()]
        else:
            found.append(table.c[name] == value)
    return found


def _after(table: Table, marked: Row, sort: tuple[tuple[str, bool], ...]) -> ColumnElement[bool]:
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
