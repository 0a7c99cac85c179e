"""Documents read back are believed only in exactly the shape they were written in."""

import json
from typing import Any

import pytest

from stillframe import documents
from stillframe.documents import Shape

TWO = Shape(documents.record({"id": documents.ID, "size": documents.number(1, 5)}))
ID = "1a1a1a1a-1111-4111-8111-111111111111"


@pytest.mark.parametrize(
    ("text", "good"), [("a" * 5, True), ("a" * 6, False), ("a\0", False), ("\udfff", False), ("\U0001f4be", True), (5, False)]
)
def test_texts_that_every_database_keeps(text: object, good: bool) -> None:
    assert (Shape(documents.text(5)).flaw(text) is None) is good
    assert Shape(documents.optional(documents.text(5))).flaw(None) is None
    assert Shape(documents.text(5)).flaw(None) is not None


def test_what_fits_has_no_flaw() -> None:
    assert TWO.flaw({"id": ID, "size": 5}) is None


@pytest.mark.parametrize("size", [1.0, 5e0, True, "1", None, 0, 6, [1], 10**400])
def test_a_number_is_a_whole_one_as_it_is_written(size: Any) -> None:
    told = TWO.flaw({"id": ID, "size": size})
    assert told is not None and told.startswith("size: ")


@pytest.mark.parametrize("id_", [ID.upper().replace("1A", "AA"), ID + "\n", ID[1:], "", 1, None])
def test_an_id_has_one_form(id_: Any) -> None:
    told = TWO.flaw({"id": id_, "size": 1})
    assert told is not None and told.startswith("id: ")


@pytest.mark.parametrize("document", [{}, {"id": ID}, {"id": ID, "size": 1, "more": 1}, [], None, "text"])
def test_fields_are_exactly_those(document: Any) -> None:
    told = TWO.flaw(document)
    assert told is not None and told.startswith("it: ")


@pytest.mark.parametrize(
    "pairs", [{"a": 1}, {"abcdef": "x"}, {"a": "abcdef"}, {"a\0": "x"}, {"a": "1", "b": "2", "c": "3"}, []]
)
def test_texts_by_name_are_few_and_short(pairs: Any) -> None:
    shape = Shape(documents.texts(2, 5))
    assert shape.flaw(pairs) is not None
    assert shape.flaw({"abcde": "abcde"}) is None


def test_a_flaw_is_told_in_short() -> None:
    told = TWO.flaw({"id": "x" * 100_000, "size": 1})
    assert told is not None and len(told) < 500


def test_what_is_nested_deeply_is_refused_and_breaks_nothing() -> None:
    for depth in (100, 900, 990):
        try:
            nested = json.loads("[" * depth + "]" * depth)
        except RecursionError:
            continue
        assert TWO.flaw({"id": nested, "size": 1}) is not None
        assert TWO.flaw(nested) is not None
