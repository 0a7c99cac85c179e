"""A call that may have to wait for libvirt's lock, made while somebody else waits for it.

libvirt lets one long job after the other at a domain. A snapshot call waits for its turn in the daemon, where nobody can
take it back: it is carried out up to 30 s later, or fails then (libvirt 9.0). So the caller stops waiting after
BOUND_SECONDS, and sees afterwards what the call has done.
"""

import logging
import threading
from collections.abc import Callable

from stillframe.errors import StillframeError

LOG = logging.getLogger(__name__)
BOUND_SECONDS = 0.4  # eight disks on a busy machine are switched in a quarter of that
LATE = "another job held libvirt's lock on the server, so the guest was thawed before the switch"


class Late(Exception):
    """The call has not got its turn. ``finish`` stays until it has ended, and raises what it ended with."""

    def __init__(self, finish: Callable[[], None]) -> None:
        super().__init__(LATE)
        self.finish = finish


class Call:
    """A call made in a thread of its own. Calling it raises Late when it has not begun within BOUND_SECONDS."""

    def __init__(self, act: Callable[[], None], begun: Callable[[], bool]) -> None:
        """``begun`` tells whether what the call does has begun: then it is waited for, and the watchdog is the bound."""
        self._act = act
        self._begun = begun
        self._ended = threading.Event()
        self._error: BaseException | None = None

    def __call__(self) -> None:
        threading.Thread(target=self._run, daemon=True, name="switch").start()
        if not self._ended.wait(BOUND_SECONDS) and not self._has_begun() and not self._ended.is_set():
            raise Late(self.finish)
        self.finish()

    def _has_begun(self) -> bool:
        """A share that does not answer tells nothing, and the guest must not wait for it."""
        try:
            return self._begun()
        except (OSError, StillframeError) as error:
            LOG.warning("it is not known whether the switch has begun, so the guest is thawed: %s", error)
            return False

    def finish(self) -> None:
        self._ended.wait()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self._act()
        except BaseException as error:
            self._error = error
        finally:
            self._ended.set()


def patiently(switch: Callable[[], None]) -> None:
    """Calls it where nobody is frozen, and stays."""
    try:
        switch()
    except Late as late:
        late.finish()
