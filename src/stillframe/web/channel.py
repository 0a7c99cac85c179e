"""One connection: what it reads and answers, and since when it has been waiting for its client.

Times are on the monotonic clock, in seconds. Everything but ``Channel.service`` runs in the thread that reads and writes.
"""

import json
import math
import time
from contextlib import suppress
from http import HTTPStatus
from socket import SHUT_WR
from typing import Any

from waitress.channel import HTTPChannel
from waitress.task import ErrorTask, WSGITask
from waitress.utilities import Error

from stillframe.errors import StillframeError
from stillframe.web import faults
from stillframe.web.limits import Limits
from stillframe.web.parser import Parser
from stillframe.web.peers import network_of

_PIECE = 64 << 10
LAST_READ = 256 << 10  # bytes that are read and discarded before a connection is closed
RETRY_SECONDS = 5


class _Crowded(Error):  # type: ignore[misc]
    """One client has too many requests under way."""

    def __init__(self, told: StillframeError) -> None:
        super().__init__(told.message)
        self.code, self.reason, self.told = told.status, HTTPStatus(told.status).phrase, told


class Refusal(ErrorTask):  # type: ignore[misc]
    """Answers a request that is not HTTP, or is too long, in the dialect of the services."""

    def execute(self) -> None:
        error = self.request.error
        told = faults.of_error(error.told) if isinstance(error, _Crowded) else faults.of_status(error.code, str(error.body))
        content = json.dumps(told).encode()
        if isinstance(error, _Crowded):
            self.response_headers.append(("Retry-After", str(RETRY_SECONDS)))
        self.status = f"{error.code} {error.reason}"
        self.response_headers.append(("Content-Type", "application/json"))
        self.set_close_on_finish()
        self.content_length = len(content)
        self.write(content)


class Answer(WSGITask):  # type: ignore[misc]
    """Tells the application for which client a proxy has spoken."""

    def get_environment(self) -> dict[str, Any]:
        known = self.environ is not None
        environ: dict[str, Any] = super().get_environment()
        if not known:
            self.channel.server.proxies.tell(environ)
        return environ


class Channel(HTTPChannel):  # type: ignore[misc]
    """One connection, and since when it has been waiting for its client. ``peer`` is at its other end. ``client`` sent the
    request that is being answered; it is the peer unless the peer is a proxy."""

    task_class = Answer
    error_task_class = Refusal
    parser_class = Parser
    is_proxy = False
    is_due = False  # the loop knows that the client sent something that it has not read yet
    request: Any = None
    sent_continue = False
    _rest = b""  # bytes that were read but whose turn has not come

    def __init__(self, server: Any, sock: Any, addr: Any, adj: Any, map: Any = None) -> None:
        self.peer = self.client = network_of(str(addr[0]))
        self.is_proxy = str(addr[0]) in server.proxies
        self._since = time.monotonic()
        self._receiving = self._answered = False
        self._begun: Any = None  # the request that a thread took last
        super().__init__(server, sock, addr, adj, map=map)

    @property
    def is_answering(self) -> bool:
        """Tells whether a request is complete, but its answer is not yet made or not yet taken."""
        return bool(self.requests) or bool(self.total_outbufs_len)

    @property
    def is_closable(self) -> bool:
        """Tells whether the connection waits for its client."""
        return not self.requests and not self.is_due and not self._rest

    @property
    def is_worked_at(self) -> bool:
        """Tells whether a thread works on its request; otherwise the request waits for a thread."""
        first = next(iter(self.requests), None)
        return first is not None and first is self._begun

    @property
    def waits_since(self) -> float:
        return self._since

    def deadline(self, limits: Limits) -> float | None:
        """Returns when its time is over; None while we work for it."""
        if self.requests:
            return None
        if self.total_outbufs_len:
            return self._since + limits.answer_seconds
        if self._receiving or not self._answered:
            return self._since + limits.request_seconds
        return self._since + limits.idle_seconds

    @property
    def has_more(self) -> bool:
        """Tells whether something was read that has not been processed."""
        return bool(self._rest)

    @property
    def _owes_records(self) -> bool:
        return bool(getattr(self.socket, "owes_records", False))

    def readable(self) -> bool:
        return not self._owes_records and bool(super().readable())

    def writable(self) -> bool:
        return self._owes_records or bool(super().writable())

    def handle_write(self) -> None:
        if self._owes_records:
            self.socket.flush()
        super().handle_write()

    def handle_read(self) -> None:
        data, self._rest = self._rest, b""
        try:
            data = data or self.recv(self.adj.recv_bytes)
        except BlockingIOError:  # only a part of a TLS record has come
            return
        except OSError:
            self.handle_close()
            return
        if data:
            self.received(data)

    def received(self, data: bytes) -> Any:
        """Processes the next part of one request. The rest waits for its turn; what follows a complete request waits until that
        is answered.

        Waitress would read hundreds of requests from one piece, and keep a thread waiting until their answers are read.
        """
        if not self._receiving:  # from here on it has the time of one request, in however many pieces it comes
            self._receiving = True
            if self._answered:
                self._since = time.monotonic()
        with self.requests_lock:
            if self.will_close or self.close_when_flushed:
                return False
            self._rest = data[self._taken(data) :]
        return True

    def _taken(self, data: bytes) -> int:
        request = self.request = self.request or self.parser_class(self.adj)
        taken = int(request.received(data))
        if request.expect_continue and request.headers_finished and not self.sent_continue:
            self.send_continue()
        if request.completed:
            self.request, self.sent_continue = None, False
            if not request.empty:
                if self.is_proxy:
                    self._know_client(request)
                self.requests.append(request)
                self.server.add_task(self)
        return taken

    def _know_client(self, request: Any) -> None:
        said = request.headers.get("X_FORWARDED_FOR", "")
        self.client = network_of(self.server.proxies.client(str(self.addr[0]), said))
        error = self.server.connections.began(self)
        if error is not None and request.error is None:
            request.error = _Crowded(error)

    def service(self) -> None:
        """Runs in a working thread."""
        self._begun = self.requests[0]
        self._since = math.inf  # meanwhile it does not wait for its client
        super().service()
        if self.is_proxy:
            self.server.connections.ended(self)
        self._receiving, self._answered, self._since = False, True, time.monotonic()
        self.server.look_again(self._fileno)

    def turn_away(self, error: StillframeError) -> None:
        """Closes the connection to make room for another one. A client that waits for an answer is told why, if it takes that
        at once. A client that has its answer sees an idle connection closed, and opens a new one."""
        if (self._receiving or self.requests or not self._answered) and not self.total_outbufs_len:
            with suppress(OSError):
                self.socket.send(_turned_away(error))
        self.handle_close()

    def handle_close(self) -> None:
        """Reads what the client sent and nobody has read. Otherwise the kernel would reset the connection, and the client would
        lose an answer that it has not read yet."""
        if self.socket is not None and self.connected:
            with suppress(OSError):
                self.socket.shutdown(SHUT_WR)
                for _ in range(LAST_READ // _PIECE):
                    if not self.socket.recv(_PIECE):
                        break
        super().handle_close()

    def add_channel(self, map: Any = None) -> None:
        super().add_channel(map)
        self.server.connections.add(self)

    def del_channel(self, map: Any = None) -> None:
        super().del_channel(map)
        self.server.connections.remove(self)


def _turned_away(error: StillframeError) -> bytes:
    content = json.dumps(faults.of_error(error)).encode()
    reason = HTTPStatus(error.status).phrase
    head = (
        f"HTTP/1.1 {error.status} {reason}\r\nConnection: close\r\nContent-Length: {len(content)}\r\n"
        f"Content-Type: application/json\r\nRetry-After: {RETRY_SECONDS}\r\n\r\n"
    )
    return head.encode() + content
