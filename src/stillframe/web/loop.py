"""The loop that reads and writes all connections of a server, with epoll.

Waitress's own loop asks every connection before each wait, which takes milliseconds with thousands of them. Here a connection
is asked again only after something happened to it: an event, or a call from another thread.

Waitress also serves everything that happened before it waits again, so a new connection waits for a round of all others. That
takes seconds when two thousand connections send what is costly to read. Here peers take turns, one piece of one connection at a
time, and after some dozens of pieces the loop looks for new events.
"""

import select
import threading
import time
from typing import Any

from waitress.wasyncore import readwrite

from stillframe.fair import FairQueue

STEPS = 64  # pieces that are read or written between two waits for events
STEPS_SECONDS = 0.005  # the longest time between two waits, because some pieces are costly
MOST_EVENTS = 4096  # in one wait


class Loop(dict[int, Any]):
    """Waitress's map of connections by descriptor; this one knows which connections came, changed and went.

    A connection has a ``peer``, and tells in ``has_more`` whether it has read something that is to be processed. The loop tells
    it in ``is_due`` that something came from its client that was not read yet. An object without a peer is our own (it accepts,
    or wakes the loop) and waits for no turn.
    """

    def __init__(self) -> None:
        super().__init__()
        self._epoll = select.epoll()
        self._interest: dict[int, int] = {}
        self._changed: set[int] = set()
        self._lock = threading.Lock()
        self._turns: FairQueue[int] = FairQueue()
        self._events: dict[int, int] = {}  # events of the connections that wait for their turn
        self._own: dict[int, int] = {}  # our own objects that have more to do

    def __setitem__(self, handle: int, connection: Any) -> None:
        super().__setitem__(handle, connection)
        self.look_again(handle)

    def __delitem__(self, handle: int) -> None:
        super().__delitem__(handle)
        self._events.pop(handle, None)
        self._own.pop(handle, None)
        if self._interest.pop(handle, 0):
            self._epoll.unregister(handle)

    def look_again(self, handle: int | None) -> None:
        """Makes the loop ask a connection again what it waits for. Any thread may call this; it does not wake the loop."""
        if handle is not None:
            with self._lock:
                self._changed.add(handle)

    def turn(self, seconds: float) -> None:
        """Waits for events for at most that many seconds, and processes some of them."""
        with self._lock:
            changed, self._changed = self._changed, set()
        for handle in changed:
            self._ask(handle)
        for handle, events in self._epoll.poll(0 if self._events or self._own else seconds, MOST_EVENTS):
            self._happened(handle, events)
        # Our own objects first: to make room for a newcomer, all that others have sent must be known.
        own, self._own = self._own, {}
        for handle, events in own.items():
            self._carry_out(handle, events)
        end = time.monotonic() + STEPS_SECONDS
        for _ in range(STEPS):
            if not self._events or time.monotonic() > end:
                return
            handle = self._turns.pop()
            self._carry_out(handle, self._events.pop(handle, 0))

    def close(self) -> None:
        self._epoll.close()

    def _happened(self, handle: int, events: int) -> None:
        """Queues a connection for its turn; an object of our own is served next."""
        connection = self.get(handle)
        peer: str | None = getattr(connection, "peer", None)
        if connection is None:
            return
        if peer is None:
            self._own[handle] = events
            return
        if handle not in self._events:
            self._turns.push(peer, handle)
        self._events[handle] = self._events.get(handle, 0) | events
        connection.is_due = True

    def _carry_out(self, handle: int, events: int) -> None:
        connection = self.get(handle)
        if connection is None or not events:  # it went away meanwhile, and another one may have its number
            return
        connection.is_due = False
        if events & select.EPOLLIN and not connection.readable():
            events &= ~select.EPOLLIN
        readwrite(connection, events)
        self.look_again(handle)

    def _ask(self, handle: int) -> None:
        connection = self.get(handle)
        if connection is None:
            return
        # Never EPOLLPRI: a byte of urgent data (MSG_OOB), which nobody reads, would wake the loop for ever.
        wanted = select.EPOLLIN if connection.readable() else 0
        if wanted and getattr(connection, "has_more", False):
            self._happened(handle, select.EPOLLIN)
        if connection.writable() and not connection.accepting:
            wanted |= select.EPOLLOUT
        known = self._interest.get(handle, 0)
        if wanted and not known:
            self._epoll.register(handle, wanted)
        elif known and not wanted:
            self._epoll.unregister(handle)
        elif wanted != known:
            self._epoll.modify(handle, wanted)
        self._interest[handle] = wanted
