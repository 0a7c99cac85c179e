"""The record "this guest may be frozen": one small file per domain, durable before the freeze, gone after the thaw.

It needs neither database nor broker: the watchdog and a restarted worker read the same files.
"""

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from stillframe.errors import StillframeError
from stillframe.host import files, workdir

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class FreezeRecord:
    """``deadline`` is in seconds of CLOCK_BOOTTIME, which no clock change moves; ``worker`` the pid that froze.

    ``rcu_expedited`` is what this knob of the guest's kernel is put back to after the thaw (see ``hasten``); None: it was
    not touched.
    """

    domain: str
    operation: str
    deadline: float
    worker: int
    rcu_expedited: str | None = None
    suspended: bool = False  # not frozen by its agent but held by the hypervisor, for the length of a pivot or a flush


def boot_seconds() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def write(directory: Path, record: FreezeRecord) -> None:
    workdir.make_private(directory)
    files.write_json(directory, f"{record.domain}.json", asdict(record), mode=0o600)


def read(directory: Path, domain: str) -> FreezeRecord | None:
    found = files.read_json(directory, f"{domain}.json") if directory.is_dir() else None
    return FreezeRecord(**found) if found else None


def read_all(directory: Path) -> list[FreezeRecord]:
    if not directory.is_dir():
        return []
    domains = [name.removesuffix(".json") for name in os.listdir(directory) if not name.startswith(".")]
    return [record for record in (_readable(directory, domain) for domain in domains) if record is not None]


def _readable(directory: Path, domain: str) -> FreezeRecord | None:
    try:
        return read(directory, domain)
    except (ValueError, TypeError, StillframeError) as error:
        LOG.error("the freeze record of server %s cannot be read: %s", domain, error)
        return None


@contextmanager
def alone(directory: Path, domain: str) -> Iterator[None]:
    """No other process or thread is within such a block of the same domain. Its lock file stays, empty."""
    handle = files.open_lock(directory, f".{domain}.lock")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def clear(directory: Path, record: FreezeRecord) -> None:
    """Removes the record, unless another operation has written its own meanwhile."""
    if read(directory, record.domain) == record:
        files.remove(directory, f"{record.domain}.json")
