"""A lock for each server, for whatever suspends, stops or starts it: merges, power actions, changes of its definition."""

from collections.abc import Iterator
from contextlib import contextmanager

from stillframe.compute.worker.context import WorkerContext
from stillframe.errors import Conflict

SECONDS = 30.0  # a merge suspends its server for a third of that at most; libvirt's shutdown waits longer


@contextmanager
def taken(world: WorkerContext, server_id: str) -> Iterator[None]:
    """Raises Conflict when the lock is not free in time."""
    turn = world.merges.turn(server_id)
    if not turn.acquire(timeout=SECONDS):
        raise Conflict(
            f"another power action on server {server_id}, or the end of a merge, takes longer than {SECONDS:g} s; repeat later"
        )
    try:
        yield
    finally:
        turn.release()
