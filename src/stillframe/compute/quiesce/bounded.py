"""A call that may have to wait for libvirt's lock, made while somebody else waits for it.

libvirt lets one long job after the other at a domain. A snapshot call waits for its turn in the daemon, where nobody can take
it back: it is carried out up to 30 s later, or fails then (libvirt 9.0). So the caller stops waiting after BOUND_SECONDS, and
checks afterwards what the call has done. A daemon or a QEMU that hangs never answers: the caller waits FINISH_SECONDS, with the
guest thawed, and then the operation is parked for a person.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from stillframe.errors import HypervisorUnavailable, Parked, StillframeError

LOG = logging.getLogger(__name__)
BOUND_SECONDS = 0.4  # eight disks on a busy machine are switched in a quarter of that time
BEGUN_SECONDS = 10.0
FINISH_SECONDS = 120.0  # four times as long as libvirt lets a call wait
LATE = "another job held libvirt's lock on the server, so the guest was thawed before the switch"
LASTS = "the switch had begun and did not end in time, so the guest was thawed before it was known to be done"


class Late(Exception):
    """The call has not begun in time, or does not end. ``finish`` waits for its end and raises the call's error, or Parked when
    it does not end in FINISH_SECONDS."""

    def __init__(self, finish: Callable[[], None], message: str = LATE) -> None:
        super().__init__(message)
        self.finish = finish


class Call:
    """A call made in a thread of its own. Calling it raises Late when it has not begun within BOUND_SECONDS, or has not ended
    ``begun_seconds`` after that."""

    def __init__(self, act: Callable[[], None], begun: Callable[[], bool], begun_seconds: float = BEGUN_SECONDS) -> None:
        """``begun`` tells whether what the call does has begun: then the guest waits for it a little longer."""
        self._act = act
        self._begun = begun
        self._begun_seconds = begun_seconds
        self._started = False
        self._ended = threading.Event()
        self._error: BaseException | None = None

    @property
    def pending(self) -> bool:
        """Tells whether the call was made and has not returned: it may still be carried out."""
        return self._started and not self._ended.is_set()

    def __call__(self) -> None:
        self._start()
        if not self._ended.wait(BOUND_SECONDS) and not self._has_begun() and not self._ended.is_set():
            raise Late(self.finish)
        if not self._ended.wait(self._begun_seconds):
            raise Late(self.finish, LASTS)
        self.finish()

    def _start(self) -> None:
        self._started = True
        threading.Thread(target=self._run, daemon=True, name="switch").start()

    def _has_begun(self) -> bool:
        """A share that does not answer proves nothing, and the guest must not wait for it."""
        try:
            return self._begun()
        except (OSError, StillframeError) as error:
            LOG.warning("it is not known whether the switch has begun, so the guest is thawed: %s", error)
            return False

    def finish(self) -> None:
        """Waits for the end of the call and raises its error. Raises Parked when it does not end."""
        if not self._ended.wait(FINISH_SECONDS):
            raise Parked(_unanswered())
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self._act()
        except BaseException as error:
            self._error = error
        finally:
            self._ended.set()


def _unanswered() -> str:
    return (
        f"libvirt has not answered the call that switches the server's disks for {FINISH_SECONDS:g} s: whether they are"
        " switched is not known, and it may still happen. The guest is not frozen meanwhile. Find out what libvirt waits for"
        " ('virsh domjobinfo' and 'virsh qemu-monitor-command' show whether the server's QEMU answers, the log of libvirtd"
        " the rest)."
        " When it answers again, 'stillframe operation retry' checks the server's disks and continues"
    )


def patiently(switch: Callable[[], None]) -> None:
    """Calls it where nobody is frozen, and stays."""
    try:
        switch()
    except Late as late:
        late.finish()


@dataclass
class Calls:
    """The last call for each server: until it has returned no other is made, and nothing that it needs is removed."""

    _by_server: dict[str, Call] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def keep(self, server_id: str, call: Call) -> Call:
        """Raises Parked while the call before has not returned."""
        with self._lock:
            if self._is_pending(server_id):
                raise Parked(_unanswered())
            self._by_server[server_id] = call
        return call

    def refuse_while_pending(self, server_id: str) -> None:
        """Raises HypervisorUnavailable."""
        with self._lock:
            if self._is_pending(server_id):
                raise HypervisorUnavailable(
                    f"libvirt has not answered the last call that switches the disks of server {server_id}"
                )

    def _is_pending(self, server_id: str) -> bool:
        found = self._by_server.get(server_id)
        return found is not None and found.pending
