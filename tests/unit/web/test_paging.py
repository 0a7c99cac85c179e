"""What part of a list a query asks for, and the link to the next part."""

from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillframe.db.engine import Database
from stillframe.db.queries import Page
from stillframe.errors import BadRequest
from stillframe.web import paging
from stillframe.web.route import Call
from tests.unit import builders

FILTERS = {"name": "name", "host": "host_column"}
SORTABLE = ("name", "created_at")


@pytest.fixture
def api(database: Database, tmp_path: Path) -> Any:
    return builders.api(database, tmp_path)


def asked(api: Any, **query: str) -> Page:
    return paging.wanted(builders.call(api, query=query), FILTERS, SORTABLE)


def test_a_query_that_asks_for_nothing_gets_the_newest_thousand(api: Any) -> None:
    assert asked(api) == Page(1000, None, 0, (("seq", True),), {})


def test_limit_marker_and_offset_are_read(api: Any) -> None:
    page = asked(api, limit="7", marker="m", offset="3")
    assert (page.limit, page.marker, page.offset) == (7, "m", 3)


def test_a_limit_above_the_largest_is_cut(api: Any) -> None:
    assert asked(api, limit="999999999").limit == paging.MAX_LIMIT


def with_metadata(api: Any, text: str) -> Page:
    return paging.wanted(builders.call(api, query={"metadata": text}), {"metadata": "metadata"}, SORTABLE)


def test_metadata_is_asked_for_as_clients_write_it(api: Any) -> None:
    assert with_metadata(api, "{'a': 'b', 'c': ''}").filters == {"metadata": {"a": "b", "c": ""}}


@pytest.mark.parametrize("text", ["", "a=b", "{'a': 1}", "{1: 'a'}", "['a']", "{'a\"b': 'c'}", "__import__('os')", "{" * 4000])
def test_metadata_that_is_no_mapping_of_texts_is_refused(api: Any, text: str) -> None:
    with pytest.raises(BadRequest, match="metadata must map"):
        with_metadata(api, text)


@pytest.mark.parametrize("text", ["{'a': '\\ud800'}", "{'\\ud800': 'a'}", "{'a': '\\x1b[2J'}"])
def test_metadata_whose_letters_are_written_as_escapes_is_looked_at_too(api: Any, text: str) -> None:
    with pytest.raises(BadRequest, match="metadata must map"):
        with_metadata(api, text)


def test_a_key_may_be_sorted_by_once(api: Any) -> None:
    """A thousand made the database refuse its query, which was told as a database that does not answer."""
    for text in ("name,name", ",".join(["name:asc"] * 3000), "created_at,name:desc,created_at:asc"):
        with pytest.raises(BadRequest, match="twice"):
            asked(api, sort=text)
    assert asked(api, sort="name:asc,created_at").sort == (("name", False), ("created_at", True))


@pytest.mark.parametrize("name", ["limit", "offset"])
@pytest.mark.parametrize("text", ["-1", "x", "", "1.5", "1e3", "\u0663", "²", " 1", "+1", "9" * 5000])
def test_a_limit_or_offset_that_is_no_number_is_refused(api: Any, name: str, text: str) -> None:
    with pytest.raises(BadRequest, match=name):
        asked(api, **{name: text})


@pytest.mark.parametrize("name", ["seq", "evil", "Name", "limit "])
def test_unknown_parameters_are_refused_by_name(api: Any, name: str) -> None:
    with pytest.raises(BadRequest, match=f"unknown query parameters: {name}"):
        asked(api, **{name: "1"})


def test_filters_are_given_on_under_their_columns(api: Any) -> None:
    assert asked(api, host="h", name="").filters == {"host_column": "h", "name": ""}


@pytest.mark.parametrize(
    ("query", "sort"),
    [
        ({"sort": "name"}, (("name", True),)),
        ({"sort": "name:asc"}, (("name", False),)),
        ({"sort": "name:asc,created_at:desc"}, (("name", False), ("created_at", True))),
        ({"sort": " name:asc , created_at"}, (("name", False), ("created_at", True))),
        ({"sort_key": "name"}, (("name", True),)),
        ({"sort_key": "name", "sort_dir": "asc"}, (("name", False),)),
        ({"sort": "name", "sort_key": "created_at"}, (("name", True),)),
    ],
)
def test_both_ways_to_ask_for_an_order_are_read(api: Any, query: dict[str, str], sort: Any) -> None:
    assert asked(api, **query).sort == sort


@pytest.mark.parametrize("text", ["", "evil", "name:up", "name:ASC", "name,,created_at", "seq", "name;drop", "id"])
def test_an_order_that_is_not_known_is_refused(api: Any, text: str) -> None:
    with pytest.raises(BadRequest, match="cannot sort by"):
        asked(api, sort=text)


def linked(call: Call, limit: int, rows: int) -> dict[str, Any]:
    return paging.links(call, Page(limit=limit), [{"id": f"row {number}"} for number in range(rows)], "things_links")


def test_a_full_page_links_to_the_next_and_another_does_not(api: Any) -> None:
    call = builders.call(api)
    assert linked(call, 2, 1) == {}
    assert linked(call, 2, 0) == {}
    assert linked(call, 0, 0) == {}
    assert linked(call, 2, 2) == {
        "things_links": [{"rel": "next", "href": "http://here/v3/volumes?limit=2&marker=row+1"}],
    }


@given(query=st.dictionaries(st.sampled_from(["name", "sort", "all_tenants", "marker", "offset"]), st.text(max_size=20)))
def test_the_link_keeps_the_rest_of_the_query_and_moves_the_marker(query: dict[str, str]) -> None:
    call = Call(builders.context(), (3, 0), {}, query, None, "", "http://here/v3/volumes", None)  # type: ignore[arg-type]
    href = linked(call, 1, 1)["things_links"][0]["href"]
    found = {name: values[0] for name, values in parse_qs(urlsplit(href).query, keep_blank_values=True).items()}
    kept = {name: value for name, value in query.items() if name not in ("marker", "offset")}
    assert found == {**kept, "limit": "1", "marker": "row 0"}
