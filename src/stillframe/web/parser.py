"""Reads one request from the bytes of a connection: waitress's parser (3.0.2), and what it leaves open."""

import re
from typing import Any

from waitress.buffers import OverflowableBuffer
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.utilities import BadRequest

from stillframe.web import body
from stillframe.web.chunks import Chunks

_START = re.compile(rb"(?:\r\n)*(?:\r?\Z|[!-~])")  # empty lines before a request are taken (RFC 9112, section 2.2)
_END = b"\r\n\r\n"
_EMPTY_LINES = b"\r\n" * 16  # so many before a request are no mistake of a client; each pair costs as much as a request
_LENGTH = re.compile(rb"[0-9]{1,18}")
_ONCE = (b"content-length", b"transfer-encoding", b"host")  # what says where a request ends, and whose it is


class Body(OverflowableBuffer):  # type: ignore[misc]
    """Keeps as much of a body as the application may take, and one byte by which it sees that there was more."""

    def append(self, data: Any) -> None:
        room = body.LIMIT + 1 - len(self)
        if room > 0:
            super().append(data[:room])


class Parser(HTTPRequestParser):  # type: ignore[misc]
    """Every request that cannot be read is answered, and none has two ends."""

    body_rcv: Any = None
    completed: bool = False

    def __init__(self, adj: Any) -> None:
        super().__init__(adj)
        self._early = bytearray()  # of the headers, whose end has not come

    def received(self, data: bytes) -> int:
        try:
            if self.body_rcv is not None or self.completed:
                return int(super().received(data))
            return self._received_headers(data)
        except ValueError:
            # Also of waitress: a host in brackets that is no address. It would pass through to the loop, which closes the
            # connection without an answer and writes a traceback to the log.
            self.error, self.completed, self.headers_finished = BadRequest("the request cannot be read"), True, True
            self.connection_close = True
            return len(data)

    def _received_headers(self, data: bytes) -> int:
        """Waitress looks through all it has with each piece. A client that sends a byte at a time made it read gigabytes."""
        early = self._early
        whole_is_here = _END in bytes(early[-3:]) + data or len(early) + len(data) >= self.adj.max_request_header_size
        if len(early) < len(_EMPTY_LINES):
            begin = bytes(early) + data[: len(_EMPTY_LINES)]
            if not _START.match(begin) or begin.startswith(_EMPTY_LINES):
                raise ValueError("white space before the request")
        if not whole_is_here:
            early += data
            return len(data)
        taken = int(super().received(bytes(early) + data))
        return max(0, taken - len(early))

    def parse_header(self, header_plus: bytes) -> None:
        """Raises ParsingError, also where a proxy before us could see another end of the request than we do
        (RFC 9112, section 6.1): what follows would be read as the next request, which nobody has let pass."""
        _refuse_two_readings(header_plus.split(b"\r\n")[1:])
        super().parse_header(header_plus)
        if self.version not in ("1.0", "1.1"):
            raise ParsingError("only HTTP/1.0 and HTTP/1.1 are spoken here")
        if self.chunked:
            self.body_rcv = Chunks(Body(self.adj.inbuf_overflow), self.adj.max_request_body_size)
        elif self.body_rcv is not None:
            self.body_rcv.buf = Body(self.adj.inbuf_overflow)
        else:  # waitress would say 100 and wait for a body that never comes, or take the next request for a part of this
            self.expect_continue = False
        if self.chunked and "CONTENT_LENGTH" in self.headers:
            raise ParsingError("Content-Length and Transfer-Encoding exclude each other")
        if "TRANSFER_ENCODING" in self.headers:  # taken out where it is understood, which is in HTTP/1.1
            raise ParsingError("Transfer-Encoding needs HTTP/1.1")


def _refuse_two_readings(lines: list[bytes]) -> None:
    """Waitress joins a header that is repeated or continues in the next line, skips empty codings, and leaves out a name with
    an underscore, which others read as one with a dash. All of that is refused where it tells the end of a request."""
    if any(line[:1] in (b" ", b"\t") for line in lines):
        raise ParsingError("a header continues in the next line")
    fields = [line.partition(b":") for line in lines if line]
    for name in _ONCE:
        alike = [(written, value) for written, _, value in fields if written.lower().replace(b"_", b"-") == name]
        if len(alike) > 1 or any(b"_" in written for written, _ in alike):
            raise ParsingError(f"{name.decode()} stands there more than once, or in another form")
        for _, value in alike:
            _refuse_odd_value(name, value.strip(b" \t").lower())


def _refuse_odd_value(name: bytes, value: bytes) -> None:
    if name == b"content-length" and not _LENGTH.fullmatch(value):
        raise ParsingError("Content-Length is no number of bytes")
    codings = {each.strip(b" \t") for each in value.split(b",")}
    if name == b"transfer-encoding" and value != b"chunked" and codings <= {b"chunked", b""}:  # waitress refuses others: 501
        raise ParsingError("Transfer-Encoding names chunked once, or not at all")
