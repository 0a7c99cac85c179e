"""Lists: limit, marker, offset and sorting from the query; links to the next page in the answer."""

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from sqlalchemy import Connection

from stillframe.db.queries import Page
from stillframe.errors import BadRequest
from stillframe.printable import unsafe
from stillframe.web.route import Call

MAX_LIMIT = 1000
_LONGEST_MAPPING = 4096
_SORT_ALIASES = {"display_name": "name"}
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_BOOLEAN_COLUMNS = ("bootable",)
_RESERVED = {"limit", "marker", "offset", "sort", "sort_key", "sort_dir", "all_tenants", "with_count", "deleted"}


def wanted(call: Call, filters: Mapping[str, str], sortable: Sequence[str]) -> Page:
    """Reads the query. ``filters`` maps query keys to columns; unknown keys are refused with 400."""
    unknown = set(call.query) - _RESERVED - set(filters)
    if unknown:
        raise BadRequest(f"unknown query parameters: {', '.join(sorted(unknown))}")
    return Page(
        limit=min(number(call, "limit", MAX_LIMIT), MAX_LIMIT),
        marker=call.query.get("marker"),
        offset=number(call, "offset", 0),
        sort=_sort(call, sortable),
        filters={column: _filter(key, column, call.query[key]) for key, column in filters.items() if key in call.query},
    )


def _filter(key: str, column: str, text: str) -> str | bool | dict[str, str]:
    """Returns the value that a column must have. For ``metadata``, which clients write as ``{'key': 'value'}``, it is the pairs
    it must contain."""
    if column in _BOOLEAN_COLUMNS:
        return _boolean(key, text)
    if key != "metadata":
        return text
    try:
        found = ast.literal_eval(text) if len(text) <= _LONGEST_MAPPING else None
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        found = None
    if (
        not isinstance(found, dict)
        or not all(isinstance(word, str) for pair in found.items() for word in pair)
        or any('"' in key for key in found)
        or any(unsafe(word) for pair in found.items() for word in pair)
    ):
        raise BadRequest(f"metadata must map keys to texts, {{'key': 'value'}}, not {text[:60]!r}")
    return found


def _boolean(key: str, text: str) -> bool:
    found = _BOOLEANS.get(text.lower())
    if found is None:
        raise BadRequest(f"{key} must be true or false, not {text[:40]!r}")
    return found


def number(call: Call, name: str, default: int) -> int:
    """Returns an integer from the query that is not negative. Raises BadRequest."""
    text = call.query.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        raise BadRequest(f"{name} must be a whole number that is not negative, not {text[:40]!r}")
    return int(text)


def _sort(call: Call, sortable: Sequence[str]) -> tuple[tuple[str, bool], ...]:
    text = call.query.get("sort")
    if text is None and "sort_key" in call.query:
        text = f"{call.query['sort_key']}:{call.query.get('sort_dir', 'desc')}"
    if text is None:
        return (("seq", True),)
    keys: list[tuple[str, bool]] = []
    for part in text.split(","):
        name, _, direction = part.strip().partition(":")
        name = _SORT_ALIASES.get(name, name) if "name" in sortable else name
        if name not in sortable or direction not in ("", "asc", "desc"):
            raise BadRequest(f"cannot sort by {part[:60]!r}; known keys: {', '.join(sortable)}")
        if name in dict(keys):  # a database accepts only so many
            raise BadRequest(f"cannot sort by {name} twice")
        keys.append((name, direction != "asc"))
    return tuple(keys)


def links(call: Call, page: Page, rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    """Returns ``{name: [{"rel": "next", "href"}]}`` when the page is full, else nothing."""
    if not rows or len(rows) < page.limit:
        return {}
    query = {key: value for key, value in call.query.items() if key not in ("marker", "offset")}
    href = f"{call.collection_url}?{urlencode({**query, 'limit': page.limit, 'marker': rows[-1]['id']})}"
    return {name: [{"rel": "next", "href": href}]}


def counted(call: Call, page: Page, count: Callable[[Connection, str | None, dict[str, Any]], int]) -> dict[str, int]:
    """Returns ``{"count"}`` of all pages when ``with_count`` asks for it (block storage, since 3.45), else nothing."""
    if call.version < (3, 45) or call.query.get("with_count", "").lower() != "true":
        return {}
    with call.api.database.read() as connection:
        return {"count": count(connection, call.project, dict(page.filters))}
