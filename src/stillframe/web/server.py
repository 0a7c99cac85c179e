"""The HTTP server: waitress, in a thread of ours, over sockets that we choose (docs/decisions/0013).

One thread reads and writes all connections. A request takes one of the worker threads only when its last byte has come.
Connections that wait for their client are limited in time and number.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.server import TcpWSGIServer, UnixWSGIServer

from stillframe.errors import BadConfiguration
from stillframe.fair import FairQueue
from stillframe.web.certificates import Certificates
from stillframe.web.channel import Channel
from stillframe.web.connections import Connections
from stillframe.web.limits import Limits
from stillframe.web.loop import Loop
from stillframe.web.peers import network_of
from stillframe.web.proxies import Proxies
from stillframe.web.threads import Dispatcher
from stillframe.web.tls import TlsSocket

LOG = logging.getLogger(__name__)
THREADS = 8
BACKLOG = 1024  # connections that the kernel keeps until they are accepted; net.core.somaxconn limits this
MOST_NEWCOMERS = 512  # sockets that were accepted from the kernel and are not served yet
TAKEN_AT_ONCE = 32  # how many of them are served in one turn of the loop
STOP_SECONDS = 5.0  # seconds for requests under way when the server is stopped
LOOK_SECONDS = 1  # seconds between checks for connections whose time is over


@dataclass(frozen=True)
class Front:
    """How clients reach a server."""

    limits: Limits = field(default_factory=Limits)
    certificates: Certificates | None = None
    proxies: Proxies = field(default_factory=Proxies)


class Server:
    """Serves one WSGI application over one listening socket until stopped."""

    def __init__(
        self,
        application: Callable[..., Any],
        listening: socket.socket,
        front: "Front",
    ) -> None:
        """Takes a bound socket, TCP or Unix, and closes it at the end. With certificates it speaks TLS, on TCP."""
        self._stopping = threading.Event()
        self._loop = Loop()
        self._dispatcher = Dispatcher()
        self._dispatcher.set_thread_count(THREADS)
        kind = _UnixListener if listening.family == socket.AF_UNIX else _TcpListener
        adjustments = _adjustments("https" if front.certificates else "http")
        known = (listening.family, listening.type, listening.proto, listening.getsockname())
        arguments = (application, self._loop, True, listening, self._dispatcher, adjustments, known)
        self._listener = kind(front, arguments)
        name = listening.getsockname()
        self.port = int(name[1]) if isinstance(name, tuple) else 0  # 0 for a Unix socket
        self._thread = threading.Thread(target=self._run, name=f"http-{self.port}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the server, even one that was never started. Requests under way have a few seconds to end."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        if self._thread.ident is not None:
            self._listener.pull_trigger()
            self._thread.join(STOP_SECONDS + LOOK_SECONDS)
        self._dispatcher.shutdown(timeout=LOOK_SECONDS)
        self._listener.stop_accepting()
        for channel in list(self._listener.connections):
            channel.handle_close()  # closes also what it holds of an answer, which may be in a temporary file
        if not self._dispatcher.threads:  # a thread that still works writes into the trigger's pipe when it ends
            wasyncore.close_all(self._loop, ignore_all=True)
            self._loop.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._loop.turn(LOOK_SECONDS)
                self._listener.close_slow()
            except Exception:  # without this thread nobody is served
                LOG.exception("a request failed because of a defect in Stillframe's HTTP server")
                self._stopping.wait(LOOK_SECONDS / 10)
        self._listener.stop_accepting()
        end = time.monotonic() + STOP_SECONDS
        while any(channel.is_answering for channel in self._listener.connections) and time.monotonic() < end:
            self._loop.turn(LOOK_SECONDS / 10)


class _Listener:
    """What we add to waitress's server, for every kind of socket."""

    channel_class = Channel
    connections: Connections
    proxies: Proxies
    _newcomers: FairQueue[tuple[Any, Any]]  # sockets, with their addresses, whose turn has not come
    _next_look = 0.0

    @property
    def has_more(self) -> bool:
        """Tells the loop whether newcomers wait for their turn."""
        return bool(self._newcomers)

    def handle_accept(self) -> None:
        """Accepts all connections that wait in the kernel, and starts to serve some of them; peers take turns. In the kernel's
        queue a client would wait behind everything that another peer opens again and again."""
        with suppress(OSError):  # no descriptor is left, or the client has gone already
            while len(self._newcomers) < MOST_NEWCOMERS and (found := self.accept()) is not None:  # type: ignore[attr-defined]
                address = self.fix_addr(found[1])  # type: ignore[attr-defined]
                self._newcomers.push(network_of(str(address[0])), (found[0], address))
        for _ in range(min(TAKEN_AT_ONCE, len(self._newcomers))):
            self._take(*self._newcomers.pop())

    def _take(self, connection: Any, address: Any) -> None:
        try:
            self.set_socket_options(connection)  # type: ignore[attr-defined]
        except OSError:  # the client has gone already
            connection.close()
            return
        latest = self.channel_class(self, connection, address, self.adj, map=self._map)  # type: ignore[attr-defined]
        surplus = self.connections.surplus(latest)
        if surplus is not None:
            surplus.turn_away(self.connections.why(surplus))

    def handle_error(self) -> None:
        """A connection could not be accepted. Waitress would close the listening socket for good."""
        LOG.exception("a connection could not be accepted")

    def maintenance(self, _now: float) -> None:
        """Waitress measures from the last byte, and a slow client has always just sent one. So we do not use its check."""

    def close_slow(self) -> None:
        moment = time.monotonic()
        if moment >= self._next_look:
            self._next_look = moment + LOOK_SECONDS
            for channel in self.connections.too_slow(moment):
                channel.handle_close()

    def look_again(self, handle: int | None) -> None:
        """Called by a working thread that is done with a connection."""
        self._map.look_again(handle)  # type: ignore[attr-defined]
        self.pull_trigger()  # type: ignore[attr-defined]

    def stop_accepting(self) -> None:
        wasyncore.dispatcher.close(self)
        while self._newcomers:
            self._newcomers.pop()[0].close()


class _TcpListener(_Listener, TcpWSGIServer):  # type: ignore[misc]
    def __init__(self, front: Front, arguments: tuple[Any, ...]) -> None:
        self.connections, self.proxies, self._newcomers = Connections(front.limits), front.proxies, FairQueue()
        self._certificates = front.certificates
        super().__init__(*arguments, bind_socket=False)

    def accept(self) -> tuple[Any, Any] | None:
        found: tuple[Any, Any] | None = super().accept()
        if found is None or self._certificates is None:
            return found
        return TlsSocket(found[0], self._certificates), found[1]


class _UnixListener(_Listener, UnixWSGIServer):  # type: ignore[misc]
    def __init__(self, front: Front, arguments: tuple[Any, ...]) -> None:
        self.connections, self.proxies, self._newcomers = Connections(front.limits), front.proxies, FairQueue()
        super().__init__(*arguments, bind_socket=False)


def _adjustments(scheme: str) -> Adjustments:
    return Adjustments(
        url_scheme=scheme,
        backlog=BACKLOG,
        connection_limit=1 << 20,  # Connections closes one that waits, where waitress would accept nobody any more
        max_request_header_size=64 << 10,
        max_request_body_size=1 << 20,  # the application refuses much less, in words
        outbuf_high_watermark=64 << 20,  # no answer is as long: a slow reader never holds a thread
        ident="",
        log_socket_errors=False,
        clear_untrusted_proxy_headers=True,
    )


def tcp(address: str, port: int) -> socket.socket:
    """Returns a bound TCP socket. Raises BadConfiguration for an address that cannot be had."""
    try:
        family, kind, protocol, _name, where = socket.getaddrinfo(
            address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(where)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        raise BadConfiguration(f"cannot listen on {address}:{port} (options listen and port): {error}") from error
    return listening


def unix(path: Path) -> socket.socket:
    """Returns a bound Unix socket that only this user may open, in place of one that was left there."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(FileNotFoundError):
            os.unlink(path.name, dir_fd=directory)
        # By the directory's descriptor, because the address may have 107 bytes and the directory's name be longer.
        old = os.umask(0o177)
        try:
            listening.bind(f"/proc/self/fd/{directory}/{path.name}")
        finally:
            os.umask(old)
    finally:
        os.close(directory)
    return listening
