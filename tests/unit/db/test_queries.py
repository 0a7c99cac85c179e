"""Paging: in every order, page by page, each row is met exactly once."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection

from stillframe.db import attachments, snapshots, volumes
from stillframe.db.engine import Database
from stillframe.db.queries import Page
from stillframe.db.values import NewAttachment
from stillframe.errors import NotFound
from tests.unit import builders
from tests.unit.builders import OTHER_VOLUME, SNAPSHOT, VOLUME

NULLABLE = ("name", "updated_at")
COLUMNS = ("created_at", "name", "size", "status", "id", "availability_zone", "updated_at", "seq")
SORTS = st.lists(st.tuples(st.sampled_from(COLUMNS), st.booleans()), min_size=1, max_size=3).map(tuple)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.sampled_from(["a", "b", "", "ä", None]),
            "size": st.integers(1, 3),
            "status": st.sampled_from(["available", "in-use"]),
            "created_at": st.sampled_from([datetime(2024, 1, 1), datetime(2024, 1, 1, 0, 0, 0, 1)]),
            "updated_at": st.sampled_from([None, datetime(2025, 1, 1), datetime(2025, 1, 2)]),
        }
    ),
    max_size=9,
)


def filled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows without what may be null."""
    return [{**row, "name": row["name"] or "", "updated_at": datetime(2025, 1, 3)} for row in rows]


def fill(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    for known in volumes.ids(connection):
        volumes.delete(connection, known)
    for number, row in enumerate(rows):
        # Ids in another order than the sequence.
        volume_id = f"{(number * 7) % 11:08d}-0000-4000-8000-000000000000"
        builders.volume_row(connection, id=volume_id, **row)


def visited(connection: Connection, sort: Any, limit: int) -> list[str]:
    """Follows the markers to the end; a page past the last one would show a loop."""
    found: list[str] = []
    marker = None
    for _ in range(30):
        rows = volumes.list_page(connection, "demo", Page(limit=limit, marker=marker, sort=sort))
        if not rows:
            return found
        assert len(rows) <= limit
        found += [row["id"] for row in rows]
        marker = rows[-1]["id"]
    raise AssertionError(f"the pages do not end: {found}")


def follow(database: Database, rows: Sequence[dict[str, Any]], sort: Any, limit: int) -> None:
    with database.write() as connection:
        fill(connection, rows)
        whole = [row["id"] for row in volumes.list_page(connection, "demo", Page(sort=sort))]
        assert len(set(whole)) == len(rows)
        assert visited(connection, sort, limit) == whole


@settings(max_examples=60)
@given(ROWS, SORTS, st.integers(1, 4))
def test_pages_visit_each_row_once_in_the_order_of_the_whole_list(
    database: Database, rows: list[dict[str, Any]], sort: Any, limit: int
) -> None:
    follow(database, filled(rows), sort, limit)


@settings(max_examples=60)
@given(ROWS, SORTS, st.integers(1, 4))
def test_pages_visit_each_row_once_even_where_a_sorted_column_is_empty(
    database: Database, rows: list[dict[str, Any]], sort: Any, limit: int
) -> None:
    follow(database, rows, sort, limit)


@pytest.mark.parametrize("column", NULLABLE)
@pytest.mark.parametrize("descending", [True, False])
def test_rows_without_a_value_are_neither_lost_nor_repeated(database: Database, column: str, descending: bool) -> None:
    value = {"name": "a", "updated_at": datetime(2025, 1, 1)}[column]
    follow(database, [{column: value}, {column: None}, {column: value}, {column: None}], ((column, descending),), 1)


def test_a_list_shows_the_newest_first(database: Database) -> None:
    with database.write() as connection:
        fill(connection, [{"name": "old"}, {"name": "new"}])
        assert [row["name"] for row in volumes.list_page(connection, "demo", Page())] == ["new", "old"]


def test_filters_offset_and_limit_are_kept_together(database: Database) -> None:
    with database.write() as connection:
        fill(connection, [{"name": name, "status": status} for name in "abc" for status in ("available", "in-use")])
        wanted = Page(limit=1, offset=1, sort=(("name", False),), filters={"status": "in-use"})
        assert [row["name"] for row in volumes.list_page(connection, "demo", wanted)] == ["b"]
        assert volumes.count(connection, "demo", {"status": "in-use"}) == 3
        assert volumes.list_page(connection, "demo", Page(limit=0)) == []


def test_a_list_shows_only_the_projects_own_rows(database: Database) -> None:
    with database.write() as connection:
        builders.volume_row(connection)
        builders.volume_row(connection, id=OTHER_VOLUME, project_id="other")
        assert [row["id"] for row in volumes.list_page(connection, "demo", Page())] == [VOLUME]
        assert [row["id"] for row in volumes.list_page(connection, "other", Page())] == [OTHER_VOLUME]
        assert len(volumes.list_page(connection, None, Page())) == 2
        assert volumes.list_page(connection, "demo", Page(filters={"project_id": "other"})) == []


def test_an_unknown_marker_is_refused(database: Database) -> None:
    with database.read() as connection, pytest.raises(NotFound, match="marker 'nothing' was not found"):
        volumes.list_page(connection, "demo", Page(marker="nothing"))


def test_a_marker_of_another_project_is_as_unknown_as_a_missing_one(database: Database) -> None:
    with database.write() as connection:
        builders.volume_row(connection, id=OTHER_VOLUME, project_id="other")
        with pytest.raises(NotFound, match="was not found"):
            volumes.list_page(connection, "demo", Page(marker=OTHER_VOLUME))


def test_a_status_moves_only_from_where_it_is_allowed_to(database: Database) -> None:
    with database.write() as connection:
        builders.volume_row(connection, status="available")
        assert not volumes.move(connection, VOLUME, ("in-use", "error"), "deleting")
        assert volumes.move(connection, VOLUME, ("error", "available"), "deleting", fault="why")
        assert not volumes.move(connection, VOLUME, ("available",), "in-use")
        assert not volumes.move(connection, OTHER_VOLUME, ("available",), "in-use")
        row = volumes.get(connection, VOLUME, None)
    assert row is not None
    assert (row["status"], row["fault"]) == ("deleting", "why")


def test_a_snapshots_status_moves_only_from_where_it_is_allowed_to(database: Database) -> None:
    with database.write() as connection:
        builders.volume_row(connection)
        builders.snapshot_row(connection, status="creating")
        assert not snapshots.move(connection, SNAPSHOT, ("available",), "deleting")
        assert snapshots.move(connection, SNAPSHOT, ("creating",), "available")
        assert not snapshots.move(connection, SNAPSHOT, ("creating",), "error")
        row = snapshots.get(connection, SNAPSHOT, "demo")
        assert snapshots.get(connection, SNAPSHOT, "other") is None
    assert row is not None
    assert row["status"] == "available"


def test_of_two_that_move_the_same_row_one_wins(database: Database) -> None:
    with database.write() as connection:
        builders.volume_row(connection)
    won = []
    for status in ("deleting", "attaching"):
        with database.write() as connection:
            won.append(volumes.move(connection, VOLUME, ("available",), status))
    assert won == [True, False]


def test_the_attachments_of_a_page_of_volumes_come_grouped(database: Database) -> None:
    with database.write() as connection:
        builders.volume_row(connection)
        builders.volume_row(connection, id=OTHER_VOLUME)
        row: NewAttachment = {"id": SNAPSHOT, "project_id": "demo", "volume_id": VOLUME, "status": "attached", "mode": "rw"}
        attachments.insert(connection, row)
        found = attachments.of_volumes(connection, [VOLUME, OTHER_VOLUME])
    assert [entry["id"] for entry in found[VOLUME]] == [SNAPSHOT]
    assert found[OTHER_VOLUME] == []


def test_deleting_a_volume_takes_what_belongs_to_it_along(database: Database) -> None:
    with database.write() as connection:
        builders.volume_row(connection)
        builders.snapshot_row(connection)
        row: NewAttachment = {"id": SNAPSHOT, "project_id": "demo", "volume_id": VOLUME, "status": "attached", "mode": "rw"}
        attachments.insert(connection, row)
        volumes.delete(connection, VOLUME)
        assert volumes.list_all(connection) == []
        assert snapshots.of_volume(connection, VOLUME) == []
        assert attachments.list_page(connection, None, Page()) == []
