"""The HTTP server: waitress, in a thread of ours, over sockets of our choice (docs/decisions/0013).

One thread reads and writes all connections, and a request takes one of the working threads only when the last byte of it
has come. Connections that wait for their client are bounded in time and number.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.server import TcpWSGIServer, UnixWSGIServer

from stillframe.errors import BadConfiguration
from stillframe.web.connections import Channel, Connections, Limits
from stillframe.web.loop import Loop
from stillframe.web.threads import Dispatcher

LOG = logging.getLogger(__name__)
THREADS = 8
BACKLOG = 1024  # connections the kernel keeps until they are accepted; it takes net.core.somaxconn when that is less
STOP_SECONDS = 5.0  # for requests under way, when the server is stopped
LOOK_SECONDS = 1  # between looks for connections whose time is over


class Server:
    """Serves one WSGI application over one listening socket until stopped."""

    def __init__(self, application: Callable[..., Any], listening: socket.socket, limits: Limits) -> None:
        """Takes a bound socket, TCP or Unix, and closes it at the end."""
        self._stopping = threading.Event()
        self._loop = Loop()
        self._dispatcher = Dispatcher()
        self._dispatcher.set_thread_count(THREADS)
        kind = _UnixListener if listening.family == socket.AF_UNIX else _TcpListener
        self._listener = kind(application, listening, self._loop, self._dispatcher, limits)
        name = listening.getsockname()
        self.port = int(name[1]) if isinstance(name, tuple) else 0  # 0: a Unix socket
        self._thread = threading.Thread(target=self._run, name=f"http-{self.port}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the server, also one that was never started. Requests under way have a few seconds to end."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        if self._thread.ident is not None:
            self._listener.pull_trigger()
            self._thread.join(STOP_SECONDS + LOOK_SECONDS)
        self._dispatcher.shutdown(timeout=LOOK_SECONDS)
        for channel in list(self._listener.connections):
            channel.handle_close()  # also what it keeps of an answer, which may lie in a temporary file
        if not self._dispatcher.threads:  # one that still works writes into the trigger's pipe at its end
            wasyncore.close_all(self._loop, ignore_all=True)
            self._loop.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._loop.turn(LOOK_SECONDS)
                self._listener.close_slow()
            except Exception:  # without this thread nobody is served any more
                LOG.exception("a request failed because of a defect of Stillframe in the HTTP server")
                self._stopping.wait(LOOK_SECONDS / 10)
        self._listener.stop_accepting()
        end = time.monotonic() + STOP_SECONDS
        while any(channel.is_answering for channel in self._listener.connections) and time.monotonic() < end:
            self._loop.turn(LOOK_SECONDS / 10)


class _Listener:
    """What we add to waitress's server, whatever the kind of socket."""

    channel_class = Channel
    connections: Connections
    _next_look = 0.0

    def handle_accept(self) -> None:
        """Takes all that wait: one in a turn of the loop, as waitress does, is little while many others send."""
        for _ in range(BACKLOG):
            before = self.connections.latest
            super().handle_accept()  # type: ignore[misc]
            latest = self.connections.latest
            if latest is None or latest is before:
                return
            surplus = self.connections.surplus(latest)
            if surplus is not None:
                surplus.handle_close()

    def handle_error(self) -> None:
        """A connection could not be taken. Waitress would close the listening socket, for good."""
        LOG.exception("a connection could not be taken")

    def maintenance(self, _now: float) -> None:
        """Waitress closes by the time of the last byte, which a slow client always has just sent."""

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


class _TcpListener(_Listener, TcpWSGIServer):  # type: ignore[misc]
    def __init__(self, application: Any, listening: socket.socket, loop: Loop, dispatcher: Any, limits: Limits) -> None:
        self.connections = Connections(limits)
        known = (listening.family, listening.type, listening.proto, listening.getsockname())
        super().__init__(application, loop, True, listening, dispatcher, _adjustments(), known, bind_socket=False)


class _UnixListener(_Listener, UnixWSGIServer):  # type: ignore[misc]
    def __init__(self, application: Any, listening: socket.socket, loop: Loop, dispatcher: Any, limits: Limits) -> None:
        self.connections = Connections(limits)
        known = (listening.family, listening.type, listening.proto, listening.getsockname())
        super().__init__(application, loop, True, listening, dispatcher, _adjustments(), known, bind_socket=False)


def _adjustments() -> Adjustments:
    return Adjustments(
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
        raise BadConfiguration(f"cannot listen on {address}:{port}: {error}") from error
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
