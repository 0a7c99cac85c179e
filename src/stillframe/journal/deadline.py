"""Until when a request may wait: a moment that a clock which is set does not move, and that outlives a restart (I11).

The database's clock is the host's where the database is SQLite, and is set as any other. Seconds since the host started are
never set, but mean nothing on another host or after another start. So a deadline holds both: whoever asks in the same run of
the same host's kernel goes by those seconds, everybody else by the database's clock.
"""

import time
from functools import cache
from pathlib import Path

from sqlalchemy import Connection

from stillframe.db import clock
from stillframe.journal.typed import Value

_BOOT = Path("/proc/sys/kernel/random/boot_id")  # another one with each start (Linux, random(4))
SLACK_SECONDS = 5.0  # by which the clocks of a database and its standby may differ


class Deadline(Value, frozen=True, kw_only=True):
    """``seconds`` from when it was made: at ``time`` of the database (seconds since the epoch), and at ``ticks`` of
    CLOCK_BOOTTIME of the host's run ``boot``."""

    seconds: float
    time: float
    boot: str
    ticks: float


def after(connection: Connection, seconds: float) -> Deadline:
    """Returns the deadline that many seconds from now."""
    return Deadline(seconds=seconds, time=clock.now(connection) + seconds, boot=_boot(), ticks=_ticks() + seconds)


def left(connection: Connection, deadline: Deadline | float | None) -> float:
    """Returns the seconds until the deadline, 0 once it has passed, and for None.

    More than there were at first means that the clock was set back since, nobody knows by how much: then it has passed. A
    number is a deadline of a release that knew only the time."""
    if deadline is None:
        return 0.0
    if not isinstance(deadline, Deadline):
        return max(0.0, deadline - clock.now(connection))
    if deadline.boot == _boot():
        return max(0.0, deadline.ticks - _ticks())
    found = deadline.time - clock.now(connection)
    return max(0.0, min(found, deadline.seconds)) if found <= deadline.seconds + SLACK_SECONDS else 0.0


def _ticks() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@cache
def _boot() -> str:
    return _BOOT.read_text().strip()
