"""Clients that lean on a port: connections without a byte, requests that come drop by drop, answers nobody reads."""

import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle

ADDRESSES = ("127.0.0.66", "127.0.0.67", "127.0.0.68", "127.0.0.69", "127.0.0.1")  # the last is also the honest client's
DROP_SECONDS = 0.5


@contextmanager
def crowd(port: int, idle: int = 1000, dripping: int = 200, slow: int = 200) -> Iterator[None]:
    """Holds so many connections of each kind to a service's port while the block runs."""
    _allow_files(2 * (idle + dripping + slow))
    addresses, held = cycle(ADDRESSES), []
    drops: list[socket.socket] = []
    ended = threading.Event()
    dropping = threading.Thread(target=_drop, args=(drops, ended), daemon=True)
    try:
        for _ in range(slow):
            reader = connected(port, next(addresses), window=4096)
            reader.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            held.append(reader)
        held += [connected(port, next(addresses)) for _ in range(idle)]
        drops += [connected(port, next(addresses)) for _ in range(dripping)]
        dropping.start()
        yield
    finally:
        ended.set()
        if dropping.ident is not None:
            dropping.join()
        for one in held + drops:
            one.close()


def connected(port: int, address: str, window: int = 0) -> socket.socket:
    """Returns a connection from that address of the loopback network; ``window`` is its receive buffer in bytes."""
    made = socket.socket()
    try:
        if window:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        made.bind((address, 0))
        made.settimeout(10)
        made.connect(("127.0.0.1", port))
    except OSError:
        made.close()
        raise
    return made


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
