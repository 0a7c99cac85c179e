"""Request bodies: strict JSON, bounded, checked in words a person can act on."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillframe.errors import BadRequest, StillframeError, TooLarge
from stillframe.printable import escaped
from stillframe.web import body

SCHEMA = body.wrapped("thing", {"name": body.NAME, "size": {"type": "integer", "minimum": 1}}, ("size",))
TEXT = st.text().map(escaped)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


@given(PLAIN)
def test_json_is_read_as_it_was_written(document: Any) -> None:
    assert body.parse(json.dumps(document).encode()) == document


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_whatever_is_sent_is_read_or_refused_in_our_words(raw: bytes) -> None:
    try:
        body.parse(raw)
    except StillframeError as error:
        assert error.status == 400


@pytest.mark.parametrize("raw", [b"", b"{", b"{'a': 1}", b"[1,]", b"\xff", b'{"a": 1} x', b"undefined", b'"\n"'])
def test_what_is_no_json_is_refused(raw: bytes) -> None:
    with pytest.raises(BadRequest, match="not valid JSON"):
        body.parse(raw)


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"[1, NaN]"])
def test_numbers_that_json_does_not_have_are_refused(number: bytes) -> None:
    with pytest.raises(BadRequest, match="not a JSON number"):
        body.parse(number)


@pytest.mark.parametrize("number", [b"1e999", b"-1e999", b'{"a": [1e400]}'])
def test_a_number_too_large_to_be_one_is_refused(number: bytes) -> None:
    with pytest.raises(BadRequest):
        body.parse(number)


def test_a_number_of_thousands_of_digits_is_refused() -> None:
    with pytest.raises(BadRequest):
        body.parse(b"9" * 5000)


@pytest.mark.parametrize("raw", [b'{"a": 1, "a": 1}', b'{"x": {"a": 1, "b": 2, "a": 3}}', b'{"a": 1, "\\u0061": 2}'])
def test_a_key_that_stands_twice_is_refused(raw: bytes) -> None:
    with pytest.raises(BadRequest, match="the same key twice"):
        body.parse(raw)


@pytest.mark.parametrize("text", ['"\\ud800"', '{"\\udfff": 1}', '{"a": {"b": ["x\\ud83d"]}}'])
def test_half_a_character_is_refused_because_no_answer_could_carry_it(text: str) -> None:
    with pytest.raises(BadRequest):
        body.parse(text.encode())


def test_a_whole_character_outside_the_plane_is_read() -> None:
    assert body.parse(b'"\\ud83d\\ude00"') == "😀"


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_a_body_nested_too_deeply_is_refused(opening: bytes) -> None:
    with pytest.raises(BadRequest, match="nested too deeply"):
        body.parse(opening * 10_000)


@pytest.mark.parametrize("depth", range(700, 1000, 4))
def test_no_body_that_was_read_is_too_deep_to_be_checked(depth: int) -> None:
    for inner in (b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth):
        try:
            document = body.parse(b'{"thing": {"size": ' + inner + b"}}")
        except BadRequest:
            continue
        with pytest.raises(BadRequest):
            body.check(document, SCHEMA)


def test_a_body_of_the_largest_length_is_read_and_one_byte_more_is_not() -> None:
    raw = b'"' + b"x" * (body.LIMIT - 2) + b'"'
    assert len(body.parse(raw)) == body.LIMIT - 2
    with pytest.raises(TooLarge):
        body.parse(raw + b" ")


def test_a_body_that_fits_is_let_through() -> None:
    for document in ({"thing": {"size": 1}}, {"thing": {"size": 1, "name": None}}, {"thing": {"size": 1, "name": "é 😀"}}):
        body.check(document, SCHEMA)


@pytest.mark.parametrize(
    ("document", "told"),
    [
        (None, "field/attribute body"),
        ([], "field/attribute body"),
        ({}, "field/attribute body: 'thing' is a required property"),
        ({"thing": {}}, "field/attribute thing: 'size' is a required property"),
        ({"thing": {"size": 0}}, "field/attribute size: 0 is less than the minimum of 1"),
        ({"thing": {"size": "1"}}, "field/attribute size: '1' is not of type 'integer'"),
        ({"thing": {"size": True}}, "field/attribute size: True is not of type 'integer'"),
        ({"thing": {"size": 1, "status": "available"}}, "'status' was unexpected"),
        ({"thing": {"size": 1}, "more": 1}, "'more' was unexpected"),
    ],
)
def test_what_does_not_fit_is_told_with_its_place(document: Any, told: str) -> None:
    with pytest.raises(BadRequest) as error:
        body.check(document, SCHEMA)
    assert error.value.message.startswith("Invalid input for ")
    assert told in error.value.message


def test_every_place_is_told_but_a_message_stays_bounded() -> None:
    schema = {"type": "array", "items": {"type": "integer"}}
    with pytest.raises(BadRequest) as error:
        body.check(["x" * 5000] * 50, schema)
    assert len(error.value.message) < 2000
    with pytest.raises(BadRequest) as both:
        body.check({"thing": {"size": 0, "name": 1}}, SCHEMA)
    assert "attribute size" in both.value.message
    assert "attribute name" in both.value.message


@pytest.mark.parametrize("name", ["a\nb", "a\0", "\x1b[31m", "a\x7f", "\x85", "\u2028", "x\n", "x" * 256])
def test_a_name_with_control_characters_or_too_long_is_refused(name: str) -> None:
    with pytest.raises(BadRequest):
        body.check({"thing": {"size": 1, "name": name}}, SCHEMA)


@given(st.text(max_size=255))
def test_a_name_that_is_let_through_has_no_control_characters(name: str) -> None:
    try:
        body.check(name, body.NAME)
    except BadRequest:
        return
    assert not any(ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in name)


def test_a_description_may_have_lines_but_no_other_control_characters() -> None:
    body.check("one\n\ttwo", body.DESCRIPTION)
    for text in ("a\0", "a\rb", "\x1b", "x" * 4097):
        with pytest.raises(BadRequest):
            body.check(text, body.DESCRIPTION)


@pytest.mark.parametrize(
    "metadata", [{"": "x"}, {"k" * 256: "x"}, {"k": "v" * 256}, {"k": 1}, {"k": None}, {"a\\b": "x"}, {"k\n": "x"}, {"é": "x"}]
)
def test_metadata_that_openstack_does_not_allow_is_refused(metadata: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        body.check(metadata, body.METADATA)


def test_metadata_has_a_largest_number_of_keys() -> None:
    body.check({f"k{number}": "v" for number in range(128)}, body.METADATA)
    with pytest.raises(BadRequest):
        body.check({f"k{number}": "v" for number in range(129)}, body.METADATA)


def test_elements_that_must_differ_are_not_compared_each_with_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of 64 KiB, which has too many elements anyway, cost 20 s of processor."""

    def refuse(_container: Any) -> bool:
        raise AssertionError("compares each with each")

    monkeypatch.setattr("jsonschema._keywords.uniq", refuse)
    schema = {"type": "array", "items": {"type": "string"}, "maxItems": 4, "uniqueItems": True}
    body.check(["a", "b"], schema)
    for wrong, told in (
        (["a", "b", "a"], "non-unique"),
        ([[number] if number % 2 else {str(number): 1} for number in range(5_000)], "not of type"),
    ):
        with pytest.raises(BadRequest, match=told):
            body.check(wrong, schema)
