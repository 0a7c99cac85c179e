"""Who wants a server to be still, to stop or to start takes a turn at it: merges, power actions, changes of its definition."""

from collections.abc import Iterator
from contextlib import contextmanager

from stillframe.compute.worker.context import WorkerContext
from stillframe.errors import Conflict

SECONDS = 30.0  # a merge holds its server still for a third of that at the longest; libvirt's shutdown waits longer


@contextmanager
def taken(world: WorkerContext, server_id: str) -> Iterator[None]:
    """Raises Conflict when it does not come to us in time."""
    turn = world.merges.turn(server_id)
    if not turn.acquire(timeout=SECONDS):
        raise Conflict(
            f"another power action on server {server_id}, or the end of a merge, takes longer than {SECONDS:g} s; repeat later"
        )
    try:
        yield
    finally:
        turn.release()
