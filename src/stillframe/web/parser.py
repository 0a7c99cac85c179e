"""Reads one request from the bytes of a connection: waitress's parser (3.0.2), and what it leaves open."""

from typing import Any

from waitress.buffers import OverflowableBuffer
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.utilities import BadRequest

from stillframe.web import body


class Body(OverflowableBuffer):  # type: ignore[misc]
    """Keeps as much of a body as the application may take, and one byte by which it sees that there was more."""

    def append(self, data: Any) -> None:
        room = body.LIMIT + 1 - len(self)
        if room > 0:
            super().append(data[:room])


class Parser(HTTPRequestParser):  # type: ignore[misc]
    """Every request that cannot be read is answered, and none has two ends."""

    def received(self, data: bytes) -> int:
        try:
            return int(super().received(data))
        except ValueError:
            # A Content-Length of more digits than int() takes, a host in brackets that is no address. It would pass through
            # to the loop, which closes the connection without an answer and writes a traceback to the log.
            self.error, self.completed, self.headers_finished = BadRequest("the request cannot be read"), True, True
            self.connection_close = True
            return len(data)

    def parse_header(self, header_plus: bytes) -> None:
        """Raises ParsingError, also where a proxy before us could see another end of the request than we do
        (RFC 9112, section 6.1): what follows would be read as the next request, which nobody has let pass."""
        super().parse_header(header_plus)
        if self.body_rcv is not None:
            self.body_rcv.buf = Body(self.adj.inbuf_overflow)
        else:  # waitress would say 100 and wait for a body that never comes, or take the next request for a part of this
            self.expect_continue = False
        if self.chunked and "CONTENT_LENGTH" in self.headers:
            raise ParsingError("Content-Length and Transfer-Encoding exclude each other")
        if "TRANSFER_ENCODING" in self.headers:  # taken out where it is understood, which is in HTTP/1.1
            raise ParsingError("Transfer-Encoding needs HTTP/1.1")
