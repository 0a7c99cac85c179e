"""Waiting for work that the services do by themselves: as long as it takes, or as long as the caller says."""

import time
from collections.abc import Callable
from typing import Any

from keystoneauth1 import exceptions

from stillframe.errors import ServiceUnavailable, StillRunning

Document = dict[str, Any]
Progressed = Callable[[Document], None]
SHORTEST_SECONDS, LONGEST_SECONDS = 0.2, 5.0  # between two looks
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
        except (ServiceUnavailable, exceptions.ConnectFailure, exceptions.ConnectionError) as error:
            if time.monotonic() - answered > OUTAGE_SECONDS:
                raise ServiceUnavailable(f"{what} cannot be watched any more: {error}") from error
        passed = time.monotonic() - began
        pause = min(LONGEST_SECONDS, max(SHORTEST_SECONDS, passed / 20))
        if seconds is not None:
            if passed >= seconds:
                raise StillRunning(f"{what} is not through after {seconds:g} s; the work goes on without this command")
            pause = min(pause, max(seconds - passed, 0.01))
        time.sleep(pause)
