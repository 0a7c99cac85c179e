"""A TLS connection with the interface of a socket that never blocks.

The socket and TLS are kept apart: bytes are read from the socket one piece at a time, and TLS sees only those. So TLS cannot
read for as long as a client sends (renegotiation, key updates, empty records), and never blocks on a client in the middle of a
write. The loop's turns, deadlines and limits hold as they do without TLS. A handshake needs no thread, and nothing is allocated
for TLS before a client's first byte.
"""

import errno
import json
import socket
import ssl
import threading
from contextlib import suppress
from typing import Any

from stillframe.web import faults
from stillframe.web.certificates import Certificates

RECORD = 16 << 10  # most bytes of plain text in a record (RFC 8446, section 5.1)
LONGEST_HANDSHAKE = 64 << 10  # most bytes from a client until the handshake ends; a chain of certificates has a few thousand
_HANDSHAKE = 22  # first byte of the first record (RFC 8446, section 5.1)


class TlsSocket:
    """What waitress needs of a socket. The loop reads and the answering thread writes; one lock, because OpenSSL needs it."""

    def __init__(self, plain: socket.socket, certificates: Certificates) -> None:
        self._plain = plain
        self._certificates = certificates
        self._lock = threading.Lock()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None
        self._is_open = self._is_ending = False
        self._seen = 0  # bytes of the handshake so far
        self._records = b""  # bytes that the kernel has not taken
        self._taken = 0  # bytes of plain text in them

    @property
    def owes_records(self) -> bool:
        """Tells whether something of TLS itself, such as an answer in a handshake, waits until the client reads."""
        return bool(self._records) and not self._taken

    def recv(self, size: int) -> bytes:
        """Returns everything that can be decrypted from one piece of the socket; b"" at the end. Raises BlockingIOError when
        that is nothing yet, ConnectionAbortedError when the client does not speak TLS."""
        data = self._plain.recv(size)
        if not data or self._is_ending:
            return data
        with self._lock:
            found = self._decrypted(self._begun(data), data)
            with suppress(BlockingIOError):
                self._flush()
        if found is None:
            raise BlockingIOError(errno.EAGAIN, "only a part of a record has come")
        return found

    def send(self, data: Any) -> int:
        """Returns how many bytes the kernel has taken, in records. Raises BlockingIOError when it does not take a whole record:
        the caller must then send the same bytes again, as with OpenSSL."""
        with self._lock:
            if self._tls is None or not self._is_open:
                raise BlockingIOError(errno.EAGAIN, "the handshake is not complete")
            if not self._taken:
                self._flush()
                self._taken = self._tls.write(memoryview(data)[:RECORD])
            self._flush()
            taken, self._taken = self._taken, 0
            return taken

    def flush(self) -> None:
        """Sends what TLS owes the client, as far as the kernel takes it."""
        with self._lock, suppress(BlockingIOError):
            self._flush()

    def shutdown(self, how: int) -> None:
        """Tells the client that nothing follows (close_notify). What comes from now on is returned undecrypted."""
        with self._lock:
            self._is_ending = True
            if self._tls is not None and self._is_open and not self._records:
                with suppress(ssl.SSLError):
                    self._tls.unwrap()
            with suppress(OSError):
                self._flush()
        self._plain.shutdown(how)

    def close(self) -> None:
        self._plain.close()

    def fileno(self) -> int:
        return self._plain.fileno()

    def setblocking(self, wait: bool) -> None:
        self._plain.setblocking(wait)

    def getsockopt(self, level: int, name: int) -> int:
        """Waitress asks how much it may pass at once, and copies that much for each call: one record is enough."""
        if (level, name) == (socket.SOL_SOCKET, socket.SO_SNDBUF):
            return RECORD
        return self._plain.getsockopt(level, name)

    def setsockopt(self, level: int, name: int, value: int) -> None:
        self._plain.setsockopt(level, name, value)

    def _begun(self, data: bytes) -> ssl.SSLObject:
        if self._tls is None:
            if data[0] != _HANDSHAKE:
                with suppress(OSError):
                    if data[:1].isalpha():  # a method of HTTP
                        self._plain.send(_only_tls())
                raise ConnectionAbortedError(errno.ECONNABORTED, "the client does not speak TLS")
            self._tls = self._certificates.context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        if not self._is_open:
            self._seen += len(data)
            if self._seen > LONGEST_HANDSHAKE:
                raise ConnectionAbortedError(errno.ECONNABORTED, "the client sent too much before the end of its handshake")
        return self._tls

    def _decrypted(self, tls: ssl.SSLObject, data: bytes) -> bytes | None:
        self._incoming.write(data)
        found = b""
        try:
            if not self._is_open:
                tls.do_handshake()
                self._is_open = True
            while piece := tls.read(RECORD):
                found += piece
        except ssl.SSLWantReadError:
            return found or None
        except ssl.SSLError as error:  # the alert that tells the client is on its way
            with suppress(OSError):
                self._flush()
            raise ConnectionAbortedError(errno.ECONNABORTED, str(error)) from error
        return found  # b"": the client said that nothing follows

    def _flush(self) -> None:
        """Raises BlockingIOError when the kernel does not take all."""
        if self._outgoing.pending:
            self._records += self._outgoing.read()
        while self._records:
            self._records = self._records[self._plain.send(self._records) :]


def _only_tls() -> bytes:
    content = json.dumps(faults.of_status(400, "this port speaks TLS: ask with https://")).encode()
    head = (
        f"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n"
    )
    return f"{head}\r\n".encode() + content
