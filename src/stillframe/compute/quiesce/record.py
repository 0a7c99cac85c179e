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

from stillframe.errors import Conflict, StillframeError
from stillframe.host import files, workdir

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class FreezeRecord:
    """``deadline`` is in seconds of CLOCK_BOOTTIME, which no clock change moves; ``worker`` the pid that froze.

    ``rcu_expedited`` is the value this setting of the guest's kernel gets back after the thaw (see ``expedite``); None: it was
    not changed.
    """

    domain: str
    operation: str
    deadline: float
    worker: int
    rcu_expedited: str | None = None
    suspended: bool = False  # not frozen by its agent but suspended by the hypervisor, for the length of a pivot or a flush


def boot_seconds() -> float:
    """Seconds since the host started, suspended time included: no clock step changes it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def write(directory: Path, record: FreezeRecord) -> None:
    """Writes the record durably before a guest is frozen, readable by the service alone. Raises OSError."""
    workdir.make_private(directory)
    files.write_json(directory, f"{record.domain}.json", asdict(record), mode=0o600)


def read(directory: Path, domain: str) -> FreezeRecord | None:
    """Returns the server's record, or None when there is none. Raises Conflict for one that cannot be read."""
    name = f"{domain}.json"
    try:
        found = files.read_json(directory, name) if directory.is_dir() else None
        if found is None:
            return None
        record = FreezeRecord(**found)
        if record.domain != domain or type(record.worker) is not int or not isinstance(record.deadline, int | float):
            raise ValueError("it is not this server's, or not complete")
        return record
    except (ValueError, TypeError) as error:
        raise Conflict(
            f"the freeze record {name} of server {domain} cannot be read ({error}), so the server may still be frozen;"
            f" thaw it with 'virsh domfsthaw {domain}' and 'virsh resume {domain}' if it is paused, then remove the record"
            " from the directory freeze of the state directory"
        ) from error


def read_all(directory: Path) -> list[FreezeRecord]:
    """Returns every record that can be read: each is of a guest that may be frozen."""
    if not directory.is_dir():
        return []
    domains = [name.removesuffix(".json") for name in os.listdir(directory) if not name.startswith(".")]
    return [record for record in (_readable(directory, domain) for domain in domains) if record is not None]


def _readable(directory: Path, domain: str) -> FreezeRecord | None:
    try:
        return read(directory, domain)
    except StillframeError as error:
        LOG.error("%s", error)
        return None


@contextmanager
def alone(directory: Path, domain: str) -> Iterator[None]:
    """Excludes other processes and threads from such a block of the same domain. The empty lock file stays."""
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
