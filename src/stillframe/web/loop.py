"""The loop that reads and writes all connections of a server, over epoll.

Waitress's own loop asks every connection before each wait, which costs milliseconds with thousands of them. Here a
connection is asked again only after something happened to it: an event, or a word from another thread.
"""

import select
import threading
from typing import Any

from waitress.wasyncore import readwrite


class Loop(dict[int, Any]):
    """Waitress's map of connections by descriptor, which knows the ones that came, changed and went."""

    def __init__(self) -> None:
        super().__init__()
        self._epoll = select.epoll()
        self._interest: dict[int, int] = {}
        self._changed: set[int] = set()
        self._lock = threading.Lock()

    def __setitem__(self, handle: int, connection: Any) -> None:
        super().__setitem__(handle, connection)
        self.look_again(handle)

    def __delitem__(self, handle: int) -> None:
        super().__delitem__(handle)
        if self._interest.pop(handle, 0):
            self._epoll.unregister(handle)

    def look_again(self, handle: int | None) -> None:
        """Has a connection asked anew what it waits for. Any thread may say so; it wakes nobody."""
        if handle is not None:
            with self._lock:
                self._changed.add(handle)

    def turn(self, seconds: float) -> None:
        """Waits for events, at most so long, and carries them out."""
        with self._lock:
            changed, self._changed = self._changed, set()
        for handle in changed:
            self._ask(handle)
        for handle, events in self._epoll.poll(seconds):
            connection = self.get(handle)
            if connection is not None:
                readwrite(connection, events)
                self.look_again(handle)

    def close(self) -> None:
        self._epoll.close()

    def _ask(self, handle: int) -> None:
        connection = self.get(handle)
        if connection is None:
            return
        # Never EPOLLPRI: a byte of urgent data (MSG_OOB), which nobody reads, would wake the loop without end.
        wanted = select.EPOLLIN if connection.readable() else 0
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
