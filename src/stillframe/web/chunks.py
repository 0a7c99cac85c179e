"""Reads a body in chunks (RFC 9112, section 7.1) strictly.

Waitress (3.0.2) accepts a bare line feed after a chunk's size or its extension, and lines before a size, where a proxy before
us may see another end of the body. It also stores a size line or trailers of up to a megabyte.
"""

import re
from typing import Any

from waitress.rfc7230 import CHUNK_EXT
from waitress.utilities import BadRequest, RequestEntityTooLarge

from stillframe.web.fields import field

LONGEST_LINE = 1024  # bytes of a chunk's size with its extensions, or of one trailer
MOST_TRAILERS = 16
MOST_CHUNKS = 1000  # each takes some microseconds of the one thread that reads, and a body has at most 64 KiB
PARTS = 128  # lines and chunk contents that are read at once before others have their turn
_SIZE = re.compile(f"(?P<size>[0-9A-Fa-f]{{1,16}}){CHUNK_EXT}".encode("latin-1"))


class Chunks:
    """Takes the bytes after the headers, with the interface of waitress's receivers. What it cannot read is in ``error``."""

    def __init__(self, buf: Any, most: int) -> None:
        """One chunk may have at most ``most`` bytes."""
        self.buf = buf
        self.completed = False
        self.error: Any = None
        self._most = most
        self._line = b""
        self._left = 0  # bytes of the current chunk
        self._take = self._take_size
        self._trailers = 0
        self._chunks = 0

    def __len__(self) -> int:
        return len(self.buf)

    def received(self, data: bytes) -> int:
        """Returns how many of the bytes were read, which may be fewer than all. After an error it is all of them, because
        nobody knows which belong to this body."""
        rest = data
        for _ in range(PARTS):
            if not rest or self.completed or self.error is not None:
                break
            rest = self._content(rest) if self._left else self._piece(rest)
        return len(data) - (0 if self.error else len(rest))

    def getfile(self) -> Any:
        return self.buf.getfile()

    def getbuf(self) -> Any:
        return self.buf

    def _content(self, data: bytes) -> bytes:
        piece = data[: self._left]
        self.buf.append(piece)
        self._left -= len(piece)
        return data[len(piece) :]

    def _piece(self, data: bytes) -> bytes:
        end = data.find(b"\n") + 1 or len(data)
        self._line += data[:end]
        if len(self._line) > LONGEST_LINE:
            self.error = BadRequest("a line of the chunked body is too long")
        elif self._line.endswith(b"\n"):
            line, self._line = self._line, b""
            if line.endswith(b"\r\n") and b"\r" not in line[:-2]:
                self._take(line[:-2])
            else:
                self.error = BadRequest("a line of the chunked body does not end with CR LF")
        return data[end:]

    def _take_size(self, line: bytes) -> None:
        found = _SIZE.fullmatch(line)
        if found is None:
            self.error = BadRequest("a chunk's size cannot be read")
            return
        self._chunks += 1
        if self._chunks > MOST_CHUNKS:
            self.error = BadRequest(f"the body has more than {MOST_CHUNKS} chunks; send larger ones")
            return
        self._left = int(found["size"], 16)
        self._take = self._take_end if self._left else self._take_trailer
        if self._left > self._most:
            self.error = RequestEntityTooLarge(f"a chunk has more than {self._most} bytes")

    def _take_end(self, line: bytes) -> None:
        self._take = self._take_size
        if line:
            self.error = BadRequest("a chunk is longer than its size says")

    def _take_trailer(self, line: bytes) -> None:
        """Checks trailers and discards them: nothing in them may change what the headers said."""
        self._trailers += 1
        if not line:
            self.completed = True
        elif self._trailers > MOST_TRAILERS or field(line) is None:
            self.error = BadRequest("the trailers of the chunked body cannot be read")
