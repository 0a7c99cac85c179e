"""Requests that cannot be read, or could be read in two ways, end in an answer and never in an exception."""

import pytest
from waitress.adjustments import Adjustments

from stillframe.web import body
from stillframe.web.parser import Parser

CHUNKED = b"Transfer-Encoding: chunked\r\n"


def read(first_line: bytes, headers: bytes = b"", body: bytes = b"") -> Parser:
    parser = Parser(Adjustments())
    whole = first_line + b"\r\n" + headers + b"\r\n" + body
    while whole and not parser.completed:
        whole = whole[parser.received(whole) :]
    return parser


@pytest.mark.parametrize(
    ("first_line", "headers"),
    [
        (b"POST / HTTP/1.1", b"Content-Length: " + b"1" * 5000 + b"\r\n"),
        (b"GET http://[::1/ HTTP/1.1", b""),
        (b"GET http://[x]/ HTTP/1.1", b""),
    ],
)
def test_what_cannot_be_read_is_refused(first_line: bytes, headers: bytes) -> None:
    found = read(first_line, headers)
    assert found.completed
    assert found.error.code == 400


@pytest.mark.parametrize(
    ("version", "headers"),
    [
        (b"1.0", CHUNKED + b"Connection: keep-alive\r\n"),
        (b"1.0", CHUNKED),
        (b"2.0", CHUNKED),
        (b"1.1", CHUNKED + b"Content-Length: 3\r\n"),
        (b"1.1", b"Content-Length: 3\r\n" + CHUNKED),
    ],
)
def test_a_request_with_two_ends_is_refused(version: bytes, headers: bytes) -> None:
    found = read(b"POST / HTTP/" + version, headers, b"0\r\n\r\n")
    assert found.completed
    assert found.error.code == 400


def test_chunks_and_lengths_are_read_as_before() -> None:
    chunked = read(b"POST / HTTP/1.1", CHUNKED, b"2\r\n{}\r\n0\r\n\r\n")
    assert (chunked.error, chunked.get_body_stream().read()) == (None, b"{}")
    counted = read(b"POST / HTTP/1.0", b"Content-Length: 2\r\n", b"{}")
    assert (counted.error, counted.get_body_stream().read()) == (None, b"{}")


@pytest.mark.parametrize("chunked", [False, True])
def test_no_more_of_a_body_is_kept_than_may_be_taken(chunked: bool) -> None:
    """A megabyte for each of two thousand connections that never end their request was kept."""
    content = b"x" * 900_000
    if chunked:
        found = read(b"POST / HTTP/1.1", CHUNKED, b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content))
    else:
        found = read(b"POST / HTTP/1.1", b"Content-Length: %d\r\n" % len(content), content)
    assert found.completed
    assert len(found.get_body_stream().read()) == body.LIMIT + 1
    assert int(found.headers["CONTENT_LENGTH"]) > body.LIMIT  # by which the application refuses it
