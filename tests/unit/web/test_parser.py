"""Requests that cannot be read, or could be read in two ways, end in an answer and never in an exception."""

import re
from typing import Any

import pytest
from waitress import parser as waitress
from waitress.adjustments import Adjustments
from waitress.parser import HTTPRequestParser

from stillframe.web import body
from stillframe.web.chunks import MOST_CHUNKS
from stillframe.web.parser import MOST_HEADERS, Parser

CHUNKED = b"Transfer-Encoding: chunked\r\n"
HOST = b"Host: a\r\n"


def read(first_line: bytes, headers: bytes = b"", body: bytes = b"", step: int = 1 << 20) -> Parser:
    """Hands the request over in pieces of ``step`` bytes; a Host is added where none is named."""
    parser = Parser(Adjustments())
    whole = first_line + b"\r\n" + (b"" if b"host:" in headers.lower() else HOST) + headers + b"\r\n" + body
    while whole and not parser.completed:
        whole = whole[parser.received(whole[:step]) :]
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


SHAPES = {
    "chunked twice": (CHUNKED[:-2] + b", chunked\r\n", b"0\r\n\r\n"),
    "chunked twice, in two lines": (CHUNKED + CHUNKED, b"0\r\n\r\n"),
    "chunked after an empty coding": (b"Transfer-Encoding: , chunked\r\n", b"0\r\n\r\n"),
    "no coding": (b"Transfer-Encoding:\r\n", b""),
    "a comma for a coding": (b"Transfer-Encoding: ,\r\n", b""),
    "chunked in the next line": (b"Transfer-Encoding:\r\n chunked\r\n", b"0\r\n\r\n"),
    "chunked below an underscore": (b"Transfer_Encoding: chunked\r\n", b""),
    "white space before the colon": (b"Transfer-Encoding : chunked\r\n", b""),
    "a length with white space before the colon": (b"Content-Length : 3\r\n", b"abc"),
    "two lengths": (b"Content-Length: 3\r\nContent-Length: 4\r\n", b"abcd"),
    "one length twice": (b"Content-Length: 3\r\nContent-Length: 3\r\n", b"abc"),
    "two lengths in a line": (b"Content-Length: 3, 4\r\n", b"abcd"),
    "an empty length": (b"Content-Length:\r\n", b"abc"),
    "a length with a sign": (b"Content-Length: +3\r\n", b"abc"),
    "a negative length": (b"Content-Length: -3\r\n", b"abc"),
    "a length that is no decimal": (b"Content-Length: 0x3\r\n", b"abc"),
    "a length below an underscore": (b"Content_Length: 3\r\n", b"abc"),
    "a length beside chunks, hidden by its case": (b"CONTENT-length: 3\r\n" + CHUNKED, b"0\r\n\r\n"),
    "a header that goes on": (b"X-A: b\r\n\tc\r\n", b""),
    "a bare LF in a header": (b"X-A: b\nContent-Length: 3\r\n", b"abc"),
    "a bare CR in a header": (b"X-A: b\rContent-Length: 3\r\n", b"abc"),
    "a NUL in a header": (b"X-A: b\0c\r\n", b""),
    "no name": (b": b\r\n", b""),
    "two hosts": (b"Host: a\r\nHost: b\r\n", b""),
    "a bare LF after a size": (CHUNKED, b"3\nabc\r\n0\r\n\r\n"),
    "a bare LF before the CR LF of a size": (CHUNKED, b"3\n\r\nabc\r\n0\r\n\r\n"),
    "a bare LF in an extension": (CHUNKED, b"3;a\n\r\nabc\r\n0\r\n\r\n"),
    "a bare CR in an extension": (CHUNKED, b"3;a\rb\r\nabc\r\n0\r\n\r\n"),
    "an extension without an end": (CHUNKED, b"3;" + b"a" * 5000),
    "an empty line before a size": (CHUNKED, b"\r\n3\r\nabc\r\n0\r\n\r\n"),
    "white space before a size": (CHUNKED, b" 3\r\nabc\r\n0\r\n\r\n"),
    "white space after a size": (CHUNKED, b"3 \r\nabc\r\n0\r\n\r\n"),
    "a size with a prefix": (CHUNKED, b"0x3\r\nabc\r\n0\r\n\r\n"),
    "a negative size": (CHUNKED, b"-3\r\nabc\r\n0\r\n\r\n"),
    "a size of too many digits": (CHUNKED, b"0" * 16 + b"3\r\nabc\r\n0\r\n\r\n"),
    "a chunk longer than its size": (CHUNKED, b"3\r\nabcd\r\n0\r\n\r\n"),
    "a chunk that ends with LF": (CHUNKED, b"3\r\nabc\n0\r\n\r\n"),
    "a trailer that goes on": (CHUNKED, b"0\r\nX-A: b\r\n c\r\n\r\n"),
    "a trailer without a name": (CHUNKED, b"0\r\nGET / HTTP/1.1\r\n\r\n"),
    "trailers that end with LF": (CHUNKED, b"0\r\n\n"),
    "a trailer without an end": (CHUNKED, b"0\r\nX-A: " + b"b" * 5000),
    "trailers without an end": (CHUNKED, b"0\r\n" + b"X-A: b\r\n" * 100),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("step", [1, 1 << 20])
def test_what_others_may_read_otherwise_is_refused(shape: str, step: int) -> None:
    found = read(b"POST / HTTP/1.1", *SHAPES[shape], step=step)
    assert found.completed
    assert found.error.code == 400


@pytest.mark.parametrize("start", [b" ", b"\t", b"\n", b"\r", b"\x0b", b"\r\n ", b"\0", b"\xff"])
@pytest.mark.parametrize("step", [1, 1 << 20])
def test_only_empty_lines_stand_before_a_request(start: bytes, step: int) -> None:
    assert read(start + b"GET / HTTP/1.1", step=step).error.code == 400


def test_an_empty_line_before_a_request_is_no_part_of_it() -> None:
    for step in (1, 1 << 20):
        assert read(b"\r\nGET /a HTTP/1.1", step=step).path == "/a"


def test_empty_lines_without_end_are_no_requests() -> None:
    """Each pair of them was read as a request of its own, with all that followed looked through again."""
    found = read(b"\r\n" * 4096 + b"GET /a HTTP/1.1")
    assert found.error.code == 400


def test_headers_that_come_a_byte_at_a_time_are_looked_through_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[int] = []
    real = HTTPRequestParser.received

    def counted(self: HTTPRequestParser, data: bytes) -> Any:
        looked_at.append(len(self.header_plus) + len(data))
        return real(self, data)

    monkeypatch.setattr(HTTPRequestParser, "received", counted)
    found = read(b"GET /a HTTP/1.1", b"X-A: " + b"a" * 5000 + b"\r\n", step=1)
    assert found.error is None and found.path == "/a"
    assert sum(looked_at) < 2 * 5100


def test_headers_without_end_are_refused_at_their_limit_however_they_come() -> None:
    for step in (7, 1 << 20):
        found = read(b"GET /a HTTP/1.1", b"X-A: " + b"a" * (300 << 10), step=step)
        assert found.error.code == 431


@pytest.mark.parametrize("step", [1, 5, 8192])
def test_a_body_in_crumbs_is_refused(step: int) -> None:
    """Each chunk costs as much as a large one: a megabyte of them kept the thread that reads all connections for seconds."""
    parser = Parser(Adjustments())
    parser.received(b"POST / HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n")
    rest = b"1\r\na\r\n" * (MOST_CHUNKS + 1)
    while rest and not parser.completed:
        rest = rest[parser.received(rest[:step]) :]
    assert parser.completed and parser.error.code == 400


def test_a_body_of_as_many_chunks_as_may_be_is_read() -> None:
    found = read(b"POST / HTTP/1.1", CHUNKED, b"1\r\na\r\n" * (MOST_CHUNKS - 1) + b"0\r\n\r\n", step=8192)
    assert found.error is None and found.completed


def test_every_request_of_http_1_1_names_its_host() -> None:
    for first_line, headers, code in (
        (b"GET / HTTP/1.1", b"", 400),
        (b"GET http://a/ HTTP/1.1", b"", 400),
        (b"GET / HTTP/1.0", b"", None),
        (b"GET / HTTP/1.1", HOST, None),
    ):
        parser = Parser(Adjustments())
        parser.received(first_line + b"\r\n" + headers + b"\r\n")
        assert getattr(parser.error, "code", None) == code


@pytest.mark.parametrize("host", [b"a", b"A.example:8776", b"[::1]:8776", b"[fe80::1]", b"127.0.0.1:"])
def test_hosts_are_taken(host: bytes) -> None:
    assert read(b"GET / HTTP/1.1", b"Host: " + host + b"\r\n").error is None


@pytest.mark.parametrize("host", [b"", b"a b", b"a/b", b"a@b", b"a\x22", b"[::1", b"[x]", b"a:b", b"a, b", b"\xff"])
def test_what_is_no_host_is_refused(host: bytes) -> None:
    assert read(b"GET / HTTP/1.1", b"Host: " + host + b"\r\n").error.code == 400


def test_headers_without_number_are_refused() -> None:
    """Each costs as much as a long one: 16,000 of them kept the thread that reads all connections for 40 ms."""
    assert read(b"GET / HTTP/1.1", b"a: b\r\n" * MOST_HEADERS).error.code == 431
    assert read(b"GET / HTTP/1.1", b"a: b\r\n" * (MOST_HEADERS - 1)).error is None


class Expression:
    """Keeps what one of waitress's is asked about, and asks it."""

    def __init__(self, real: re.Pattern[bytes]) -> None:
        self._real = real
        self.seen: list[bytes] = []

    def match(self, line: bytes) -> re.Match[bytes] | None:
        self.seen.append(line)
        return self._real.match(line)

    def fullmatch(self, line: bytes) -> re.Match[bytes] | None:
        self.seen.append(line)
        return self._real.fullmatch(line)


@pytest.mark.parametrize("end", [b"", b"x", b"\xff", b"\x01", b"\x7f", b"\0"])
@pytest.mark.parametrize("space", [b" ", b"\t", b" \t"])
def test_an_expression_is_never_led_through_thousands_of_spaces(
    space: bytes, end: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waitress tries each of them as the end of the header: 11 s of the whole process, for one request of 64 KiB. The header
    need not be invalid for that."""
    asked = Expression(waitress.HEADER_FIELD_RE)
    monkeypatch.setattr(waitress, "HEADER_FIELD_RE", asked)
    line = b"X-A:" + space * 400 + end + b"\r\n"
    found = [read(b"GET / HTTP/1.1", line), read(b"POST / HTTP/1.1", CHUNKED, b"0\r\n" + line + b"\r\n")]
    bad = end in (b"\x01", b"\x7f", b"\0")
    assert [each.error and each.error.code for each in found] == [400 if bad else None] * 2
    assert [line for line in asked.seen if re.search(rb":[ \t]", line)] == []
    assert bad or found[0].headers["X_A"] == end.decode("latin-1")


@pytest.mark.parametrize(
    "line", [b"GET a://111 x HTTP/1.1", b"GET a://111 x", b"GET a://111", b"GET a://111 HTTP/1.1 x", b"a://111"]
)
def test_an_expression_is_never_asked_about_what_is_no_request(line: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waitress tries every way to divide an address that does not end as it should: four minutes of the whole process, for
    64 KiB of digits."""
    asked = Expression(waitress.first_line_re)
    monkeypatch.setattr(waitress, "first_line_re", asked)
    assert read(line).error.code == 400
    assert asked.seen == []
    assert read(b"GET a://111 HTTP/1.1 ").error is None
    assert asked.seen == [b"GET a://111 HTTP/1.1"]


@pytest.mark.parametrize("version", [b"", b" HTTP/0.9", b" HTTP/1.2", b" HTTP/2.0", b" http/1.1", b"  HTTP/1.1"])
def test_other_versions_are_refused(version: bytes) -> None:
    assert read(b"GET /" + version).error.code == 400


@pytest.mark.parametrize("size", [b"40000001", b"ffffffff", b"f" * 16])
def test_a_chunk_of_a_huge_size_is_refused_before_it_comes(size: bytes) -> None:
    assert read(b"POST / HTTP/1.1", CHUNKED, size + b"\r\n").error.code == 413


@pytest.mark.parametrize("coding", [b"gzip", b"gzip, chunked", b"identity", b"chunked, gzip", b"\x0bchunked"])
def test_other_codings_are_refused(coding: bytes) -> None:
    assert read(b"POST / HTTP/1.1", b"Transfer-Encoding: " + coding + b"\r\n").error.code in (400, 501)


@pytest.mark.parametrize("step", [1, 2, 3, 1 << 20])
def test_chunks_are_read_however_they_are_cut(step: int) -> None:
    content = b'2;a=b;c="d e"\r\n{}\r\n00a\r\n\r\n\r\n012345\r\n0;x\r\nX-A: b\r\nX-B:\r\n\r\n'
    found = read(b"POST / HTTP/1.1", b"transfer-encoding: Chunked\r\n", content, step)
    assert (found.error, found.get_body_stream().read()) == (None, b"{}\r\n\r\n012345")


def test_what_follows_a_body_is_not_a_part_of_it() -> None:
    body_ = b"2\r\n{}\r\n0\r\n\r\n"
    parser = Parser(Adjustments())
    head = b"POST / HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n"
    assert parser.received(head) == len(head)
    assert parser.received(body_ + b"GET / HTTP/1.1") == len(body_)


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
