"""Reads one request from the bytes of a connection: waitress's parser (3.0.2), and the checks that it lacks."""

import re
from typing import Any

from waitress.buffers import OverflowableBuffer
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.utilities import BadRequest, RequestHeaderFieldsTooLarge

from stillframe.web import body
from stillframe.web.chunks import Chunks
from stillframe.web.fields import CONTROL, field, start_line

_START = re.compile(rb"(?:\r\n)*(?:\r?\Z|[!-~])")  # empty lines before a request are accepted (RFC 9112, section 2.2)
_END = b"\r\n\r\n"
_EMPTY_LINES = b"\r\n" * 16  # more of them are not a client's mistake; each pair costs as much as a request
_LENGTH = re.compile(rb"[0-9]{1,18}")
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[\w.~!$&'()*+,;=%-]+)(?::[0-9]*)?", re.ASCII)  # RFC 9112, section 3.2
MOST_HEADERS = 200  # each header costs as much as a long one, and thousands fit into 64 KiB
_ONCE = (b"content-length", b"transfer-encoding", b"host")  # headers that say where a request ends and which host it is for


class Body(OverflowableBuffer):  # type: ignore[misc]
    """Keeps as much of a body as the application accepts, and one byte more, which shows it that there was more."""

    def append(self, data: Any) -> None:
        room = body.LIMIT + 1 - len(self)
        if room > 0:
            super().append(data[:room])


class Parser(HTTPRequestParser):  # type: ignore[misc]
    """Answers every request that it cannot read, and refuses a request whose end could be read in two ways."""

    body_rcv: Any = None
    completed: bool = False

    def __init__(self, adj: Any) -> None:
        super().__init__(adj)
        self._early = bytearray()  # bytes of the headers, while their end has not come

    def received(self, data: bytes) -> int:
        try:
            if self.body_rcv is not None or self.completed:
                return int(super().received(data))
            return self._received_headers(data)
        except ValueError:
            # Waitress raises, too, for a host in brackets that is not an address. The error would reach the loop, which closes
            # the connection without an answer and writes a traceback to the log.
            self._refuse(BadRequest("the request cannot be read"))
            return len(data)

    def _received_headers(self, data: bytes) -> int:
        """Waitress would search everything it has with each piece, so a client that sends single bytes made it read
        gigabytes."""
        early = self._early
        whole_is_here = _END in bytes(early[-3:]) + data or len(early) + len(data) >= self.adj.max_request_header_size
        if len(early) < len(_EMPTY_LINES):
            begin = bytes(early) + data[: len(_EMPTY_LINES)]
            if not _START.match(begin) or begin.startswith(_EMPTY_LINES):
                raise ValueError("white space before the request")
        if not whole_is_here:
            early += data
            return len(data)
        whole = bytes(early) + data
        if whole.count(b"\r\n", 0, whole.find(_END)) > MOST_HEADERS:
            self._refuse(RequestHeaderFieldsTooLarge(f"the request has more than {MOST_HEADERS} headers"))
            return len(data)
        return max(0, int(super().received(whole)) - len(early))

    def _refuse(self, error: Any) -> None:
        self.error, self.completed, self.headers_finished, self.connection_close = error, True, True, True

    def parse_header(self, header_plus: bytes) -> None:
        """Raises ParsingError for a request that is wrong, and for one whose end a proxy before us could see elsewhere (RFC
        9112, section 6.1). What follows that end would be read as a request that the proxy never checked."""
        first, *lines = header_plus.split(b"\r\n")
        super().parse_header(b"\r\n".join([_start(first), *_fields(lines), b""]))
        if self.version not in ("1.0", "1.1"):
            raise ParsingError("this service speaks only HTTP/1.0 and HTTP/1.1")
        host = self.headers.get("HOST")
        if self.version == "1.1" and host is None:
            raise ParsingError("HTTP/1.1 needs a Host header")
        if host is not None and not _HOST.fullmatch(host):
            raise ParsingError("Host is not the name of a host")
        if self.chunked:
            self.body_rcv = Chunks(Body(self.adj.inbuf_overflow), self.adj.max_request_body_size)
        elif self.body_rcv is not None:
            self.body_rcv.buf = Body(self.adj.inbuf_overflow)
        else:  # waitress would answer 100 and wait for a body that never comes, or take the next request as a part of this one
            self.expect_continue = False
        if self.chunked and "CONTENT_LENGTH" in self.headers:
            raise ParsingError("Content-Length and Transfer-Encoding exclude each other")
        if "TRANSFER_ENCODING" in self.headers:  # waitress removes the header where it understands it, which is in HTTP/1.1
            raise ParsingError("Transfer-Encoding needs HTTP/1.1")


def _start(line: bytes) -> bytes:
    found = start_line(line)
    if found is None:
        raise ParsingError("the first line is not a request of HTTP/1.0 or HTTP/1.1")
    return found


def _fields(lines: list[bytes]) -> list[bytes]:
    """Returns the headers, one to a line, without white space around their values."""
    if any(line[:1] in (b" ", b"\t") for line in lines):
        raise ParsingError("a header continues in the next line")
    if any(CONTROL.search(line) for line in lines):
        raise ParsingError("a header has a control character")
    found = [field(line) for line in lines if line]
    fields = [each for each in found if each is not None]
    if len(fields) < len(found):
        raise ParsingError("a header has no name or an invalid one")
    _refuse_two_readings(fields)
    return [name + b":" + value for name, value in fields]


def _refuse_two_readings(fields: list[tuple[bytes, bytes]]) -> None:
    """Waitress joins a header that is repeated. It skips empty codings. It drops a name with an underscore, which others read
    as one with a dash. All of that is refused in headers that say where the request ends."""
    for name in _ONCE:
        alike = [(written, value) for written, value in fields if written.lower().replace(b"_", b"-") == name]
        if len(alike) > 1 or any(b"_" in written for written, _ in alike):
            raise ParsingError(f"{name.decode()} appears more than once, or in another form")
        for _, value in alike:
            _refuse_odd_value(name, value.lower())


def _refuse_odd_value(name: bytes, value: bytes) -> None:
    if name == b"content-length" and not _LENGTH.fullmatch(value):
        raise ParsingError("Content-Length is not a number of bytes")
    codings = {each.strip(b" \t") for each in value.split(b",")}
    if (
        name == b"transfer-encoding" and value != b"chunked" and codings <= {b"chunked", b""}
    ):  # waitress refuses other codings: 501
        raise ParsingError("Transfer-Encoding must name chunked exactly once")
