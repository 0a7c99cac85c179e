"""A lock for each server, for whatever suspends, stops or starts it: merges, power actions, changes of its definition.

It is a lock of the host's kernel on a file, because the guest is the host's: it holds between processes, and ends with the
process that has it.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from stillframe.compute.worker.context import WorkerContext
from stillframe.errors import Conflict
from stillframe.host import files

SECONDS = 30.0  # a merge suspends its server for a third of that at most; libvirt's shutdown waits longer
_LOOK_SECONDS = 0.02


@contextmanager
def taken(worker: WorkerContext, server_id: str) -> Iterator[None]:
    """For requests, whose callers wait. Raises Conflict when the lock is not free in time."""
    end = time.monotonic() + SECONDS
    while True:
        with at_once(worker, server_id) as ours:
            if ours:
                yield
                return
        if time.monotonic() >= end:
            raise Conflict(
                f"another power action on server {server_id}, or the end of a merge, takes longer than {SECONDS:g} s;"
                " repeat later"
            )
        time.sleep(_LOOK_SECONDS)


@contextmanager
def at_once(worker: WorkerContext, server_id: str) -> Iterator[bool]:
    """Tells whether the lock is ours within the block; False while somebody else has it."""
    directory = worker.settings.state_dir / "locks"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = files.open_lock(directory, f"server-{server_id}")
    try:
        yield _is_locked(handle)
    finally:
        os.close(handle)


def _is_locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
