"""Limits how often a password may be guessed. Each check takes about 80 ms of CPU time, right or wrong.

Attempts are counted by peer and name, and by peer alone. The first ones are free. After them each attempt must wait twice as
long as the one before, at most a minute. An attempt is counted before its check, so that many at once cost no more than one
after another. The counts are limited in number: the one that was used longest ago goes first.
"""

import hashlib
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass

from stillframe.errors import TooManyRequests
from stillframe.web.peers import network_of

FREE_BY_NAME = 20  # more than a client with many parallel requests sends before the first is answered
FREE_BY_PEER = 60
LONGEST_SECONDS = 60.0
FORGET_SECONDS = 900.0  # seconds after the last attempt
MOST_KEPT = 10_000


@dataclass
class _Count:
    attempts: int = 0
    until: float = 0.0  # on the monotonic clock: no attempt before this
    last: float = 0.0


class Guesses:
    """Counts attempts whose password is not yet known to be right. It may be used from many threads."""

    def __init__(self) -> None:
        self._counts: OrderedDict[bytes, _Count] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, peer: str, name: str) -> None:
        """Counts an attempt. Raises TooManyRequests, with ``retry_after`` in seconds, while no further one is allowed."""
        moment = time.monotonic()
        with self._lock:
            found = [(key, self._of(key, moment), free) for key, free in _keys(peer, name)]
            wait = max(count.until for _key, count, _free in found) - moment
            if wait > 0:
                seconds = int(wait) + 1
                raise TooManyRequests(f"too many wrong passwords; the next may be sent in {seconds} s", retry_after=seconds)
            for key, count, free in found:  # stored only now, so that a refused attempt does not displace others
                self._counts.pop(key, None)
                self._counts[key] = count
                count.attempts += 1
                count.last = moment
                beyond = count.attempts - free
                if beyond >= 0:
                    count.until = moment + min(LONGEST_SECONDS, 2.0 ** min(beyond, 10))
            while len(self._counts) > MOST_KEPT:
                self._counts.popitem(last=False)

    def right(self, peer: str, name: str) -> None:
        """Notes that the attempt was right: the count of the name starts again. The peer gets back only this one attempt, so
        nobody resets its count with an account of their own."""
        (by_name, _), (by_peer, _) = _keys(peer, name)
        with self._lock:
            self._counts.pop(by_name, None)
            count = self._counts.get(by_peer)
            if count is not None:
                count.attempts = max(0, count.attempts - 1)
                if count.attempts < FREE_BY_PEER:
                    count.until = 0.0

    def _of(self, key: bytes, moment: float) -> _Count:
        count = self._counts.get(key)
        return _Count() if count is None or moment - count.last > FORGET_SECONDS else count


def _keys(peer: str, name: str) -> tuple[tuple[bytes, int], tuple[bytes, int]]:
    """Returns digests, because a name may have any length."""
    network = network_of(peer)
    by_name = hashlib.sha256(f"{network}\0{name}".encode()).digest()
    return (by_name, FREE_BY_NAME), (hashlib.sha256(network.encode()).digest(), FREE_BY_PEER)
