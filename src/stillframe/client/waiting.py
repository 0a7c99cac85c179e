"""Waiting for work that the services do by themselves: as long as it takes, or as long as the caller says."""

import time
from collections.abc import Callable
from typing import Any, TypeVar

from keystoneauth1 import exceptions

from stillframe.errors import ServiceFailed, ServiceUnavailable, StillRunning

Document = dict[str, Any]
NO_ANSWER = (ServiceUnavailable, ServiceFailed, exceptions.ConnectFailure, exceptions.ConnectionError)
Answer = TypeVar("Answer")
Progressed = Callable[[Document], None]
SHORTEST_SECONDS, LONGEST_SECONDS = 0.2, 5.0  # between two looks
REPEATS, PAUSE_SECONDS = 5, 1.0  # of a request whose answer did not come
OUTAGE_SECONDS = 300.0  # a service that restarts has not stopped working


def until(look: Callable[[], Document | None], seconds: float | None, what: str) -> Document | None:
    """Calls ``look`` until it returns something other than a document in "creating" or "deleting"; returns that.

    A service that does not answer is asked again for ``OUTAGE_SECONDS``. Raises StillRunning after ``seconds`` (None: there
    is no end), ServiceUnavailable, and whatever else ``look`` raises.
    """
    began = answered = time.monotonic()
    while True:
        try:
            found = look()
            if found is None or found["status"] not in ("creating", "deleting"):
                return found
            answered = time.monotonic()
        except NO_ANSWER as error:
            if time.monotonic() - answered > OUTAGE_SECONDS:
                raise ServiceUnavailable(f"{what} cannot be watched any more: {error}") from error
        passed = time.monotonic() - began
        pause = min(LONGEST_SECONDS, max(SHORTEST_SECONDS, passed / 20))
        if seconds is not None:
            if passed >= seconds:
                raise StillRunning(f"{what} has not ended after {seconds:g} s; the work continues without this command")
            pause = min(pause, max(seconds - passed, 0.01))
        time.sleep(pause)


def repeated(send: Callable[[], Answer]) -> Answer:
    """Sends a request that may be repeated until it is answered, a few times. Raises what the last one raised."""
    for number in range(REPEATS):
        try:
            return send()
        except NO_ANSWER:
            if number == REPEATS - 1:
                raise
        time.sleep(PAUSE_SECONDS * (number + 1))
    raise AssertionError
