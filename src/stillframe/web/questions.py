"""Limits how many questions to Keystone are under way, so that callers with unknown tokens cost Keystone little.

Each token that is not remembered causes a question. Waiting for an answer holds a thread, so some of the threads are reserved
for callers whose token is remembered. The same token is asked about once, however many requests bring it at that moment.
"""

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from stillframe.errors import TooManyRequests
from stillframe.web.peers import network_of

PER_PEER = 4
IN_ALL = 6  # out of the threads of a port (server.THREADS)
RETRY_SECONDS = 1

Found = TypeVar("Found")


class Questions(Generic[Found]):
    """It may be used from many threads."""

    def __init__(self) -> None:
        self._pending: dict[bytes, Future[Found]] = {}
        self._peers: Counter[str] = Counter()
        self._lock = threading.Lock()

    def ask(self, key: bytes, peer: str, question: Callable[[], Found]) -> Found:
        """Returns what ``question`` finds, or what another thread that asks about the same key at this moment finds; raises
        what it raises. Raises TooManyRequests, with ``retry_after`` in seconds, while enough others are under way."""
        network = network_of(peer)
        with self._lock:
            pending = self._pending.get(key)
            if pending is None:
                self._begin(key, network)
        if pending is not None:
            return pending.result()
        mine = self._pending[key]
        try:
            mine.set_result(question())
        except BaseException as error:
            mine.set_exception(error)
        finally:
            self._end(key, network)
        return mine.result()

    def _begin(self, key: bytes, network: str) -> None:
        if self._peers[network] >= PER_PEER or len(self._pending) >= IN_ALL:
            raise TooManyRequests(
                f"too many tokens are looked up at once; repeat in {RETRY_SECONDS} s", retry_after=RETRY_SECONDS
            )
        self._pending[key] = Future()
        self._peers[network] += 1

    def _end(self, key: bytes, network: str) -> None:
        with self._lock:
            del self._pending[key]
            self._peers[network] -= 1
            if not self._peers[network]:
                del self._peers[network]
