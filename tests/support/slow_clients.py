"""Clients that overload a port: connections that send nothing, requests that come byte by byte, answers that nobody reads."""

import resource
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import cycle

ADDRESSES = ("127.0.0.66", "127.0.0.67", "127.0.0.68", "127.0.0.69", "127.0.0.1")  # the last is also the honest client's
DROP_SECONDS = 0.5
# What is costly to read: how it begins, and what follows again and again.
FLOODS = {
    "chunks of a byte": (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 1000),
    "extensions of chunks": (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", b"1;a=b\r\nx\r\n" * 600),
    "small requests": (b"", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 200),
    "small pieces of headers": (b"GET / HTTP/1.1\r\nHost: a\r\n", b"X-A: ".ljust(62, b"a") + b"\r\n"),
}


@dataclass(frozen=True)
class Way:
    """How a port is spoken to: plain, or by TLS, of which ``hello`` is what a client says first."""

    trusted: ssl.SSLContext | None = None
    hello: bytes = b""


@contextmanager
def crowd(port: int, idle: int = 1000, dripping: int = 200, slow: int = 200, way: Way = Way()) -> Iterator[None]:
    """Holds so many connections of each kind to a service's port while the block runs. By TLS the idle ones do not end their
    handshake: a third has not begun it, a third has sent a part of ``hello``, a third all of it."""
    _allow_files(2 * (idle + dripping + slow))
    addresses, held = cycle(ADDRESSES), []
    drops: list[socket.socket] = []
    ended = threading.Event()
    dropping = threading.Thread(target=_drop, args=(drops, ended), daemon=True)
    try:
        for _ in range(slow):
            reader = connected(port, next(addresses), 4096, way.trusted)
            reader.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            held.append(reader)
        for number in range(idle):
            held.append(connected(port, next(addresses)))
            held[-1].sendall((b"", way.hello[: len(way.hello) // 2], way.hello)[number % 3])
        drops += [connected(port, next(addresses), trusted=way.trusted) for _ in range(dripping)]
        dropping.start()
        yield
    finally:
        ended.set()
        if dropping.ident is not None:
            dropping.join()
        for one in held + drops:
            one.close()


@contextmanager
def flood(
    port: int, head: bytes, piece: bytes, connections: int = 200, trusted: ssl.SSLContext | None = None
) -> Iterator[None]:
    """From one address, sends ``head`` and then ``piece`` again and again over so many connections, as fast as they are taken,
    while the block runs. One that is closed is followed by another."""
    _allow_files(2 * connections)
    ended = threading.Event()
    stream = Stream(port, head, piece, trusted)
    threads = [threading.Thread(target=stream.pour, args=(connections // 2, ended), daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


@dataclass(frozen=True)
class Stream:
    """What each connection of a flood sends."""

    port: int
    head: bytes
    piece: bytes
    trusted: ssl.SSLContext | None

    def pour(self, count: int, ended: threading.Event) -> None:
        held: list[socket.socket] = []
        try:
            while not ended.is_set():
                with suppress(OSError):  # it was closed in its handshake
                    while len(held) < count and not ended.is_set():
                        held.append(connected(self.port, ADDRESSES[0], trusted=self.trusted))
                        held[-1].setblocking(False)
                        _poured(held[-1], self.head)
                held = [one for one in held if _poured(one, self.piece)]
                ended.wait(0.01)
        finally:
            for one in held:
                one.close()


def _poured(one: socket.socket, piece: bytes) -> bool:
    """False when the service has closed it."""
    try:
        one.send(piece)
    except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
        return True
    except OSError:
        one.close()
        return False
    return True


def connected(port: int, address: str, window: int = 0, trusted: ssl.SSLContext | None = None) -> socket.socket:
    """Returns a connection from that address of the loopback network; ``window`` is its receive buffer in bytes. With a context
    it speaks TLS."""
    made = socket.socket()
    try:
        if window:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        made.bind((address, 0))
        made.settimeout(10)
        made.connect(("127.0.0.1", port))
        return trusted.wrap_socket(made, server_hostname="localhost") if trusted else made
    except OSError:
        made.close()
        raise


def _drop(drops: list[socket.socket], ended: threading.Event) -> None:
    head = b"GET /healthcheck HTTP/1.1\r\nHost: localhost\r\nX-Much: "
    for byte in [*head, *[ord("x")] * 10_000]:
        for one in drops:
            try:
                one.send(bytes([byte]))
            except OSError:
                continue  # the service has closed it
        if ended.wait(DROP_SECONDS):
            return


def _allow_files(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 256
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
