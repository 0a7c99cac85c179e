"""A worker: takes operations from the journal, runs them side by side, renews its leases, looks again on a timer."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from stillframe.journal.operation import Kind, Operation
from stillframe.journal.pool import Pool, Work
from stillframe.journal.record import Journal
from stillframe.journal.runner import UNKNOWN, run
from stillframe.journal.slots import Lanes, Slots

LOG = logging.getLogger(__name__)
IDLE_SECONDS = 1.0
SHORTEST_IDLE_SECONDS = 0.01
TIMER_SECONDS = 10.0
SPARE_THREADS = 1  # of a lane, for projects that have nothing under way in it; and for places, such as a share or a server


class Worker:
    """Runs the operations of one service. ``on_timer`` is called about every ten seconds, and once at the start."""

    def __init__(
        self, journal: Journal, kinds: Mapping[str, Kind], worker: Any, lanes: Lanes, on_timer: Callable[[], None]
    ) -> None:
        self.journal = journal
        self.kinds = kinds
        self.worker = worker
        self.on_timer = on_timer
        self._lanes = lanes
        self._pools: dict[str, Pool] = {}
        self._slots = Slots(lanes)
        self._wake = threading.Event()
        self._stopping = False
        self._ended = threading.Event()
        self._timer = threading.Thread(target=self._tick, name=f"{journal.service}-timer", daemon=True)
        self._loop = threading.Thread(target=self._work, name=f"{journal.service}-worker", daemon=True)

    def start(self) -> None:
        self.journal.take_over()
        for operation in self.journal.at_work():
            if self._slots.has_limit(operation.kind):
                self._slots.keep(operation)
        self._loop.start()
        self._timer.start()

    def wake(self) -> None:
        """Wakes the worker because there may be work; it would be found within a second anyway."""
        self._wake.set()

    def tell(self, operation_id: str) -> None:
        """Wakes a waiting operation because what it waits for may have ended; it would run at its time anyway."""
        self.journal.tell(operation_id)
        self.wake()

    def stop(self) -> None:
        """Lets running operations end and starts no more; what was claimed and has not begun is freed at the next start."""
        self._stopping = True
        self._ended.set()
        self._wake.set()
        self._loop.join()
        for pool in self._pools.values():
            pool.stop()
        try:
            self.journal.close()
        except Exception:
            LOG.exception("the %s worker could not give back what it waits for; its lease ends", self.journal.service)

    def _work(self) -> None:
        renew_due = 0.0
        while not self._stopping:
            try:
                if time.monotonic() >= renew_due:
                    self.journal.renew()
                    self.journal.spread()
                    self._leave_slots()
                    renew_due = time.monotonic() + self.journal.lease_seconds / 3
                for operation in self.journal.claim_all():
                    self._begin(operation)
            except Exception:
                LOG.exception("the %s worker could not look for work", self.journal.service)
            self._wake.wait(min(IDLE_SECONDS, max(self.journal.next_due(), SHORTEST_IDLE_SECONDS)))
            self._wake.clear()

    def _begin(self, operation: Operation) -> None:
        """An operation that cannot be begun, because the database does not answer or there are too many threads, does not delay
        the others: it is claimed again when its lease has ended."""
        try:
            lane = self._lanes.of(operation)
            work = Work(
                operation.project_id,
                partial(self._run, operation),
                self._lanes.places(operation),
                operation.has_waited,
                operation.kind,
                partial(self._slots.take, operation, lane),
            )
            self._pool(operation.kind, lane).submit(work)
        except Exception:
            LOG.exception("operation %s (%s) could not be begun; it is taken up again", operation.id, operation.kind)
            self.journal.release(operation)

    def _pool(self, kind: str, lane: str) -> Pool:
        if lane not in self._pools:
            name = f"{self.journal.service}-operation-{len(self._pools)}"
            threads = self._lanes.limits.get(kind)
            # A kind's own limit protects what it works on, and applies to all projects together.
            self._pools[lane] = Pool(threads, name) if threads else Pool(self._lanes.threads, name, SPARE_THREADS)
        return self._pools[lane]

    def _run(self, operation: Operation) -> None:
        if not run(self.journal, self.kinds.get(operation.kind, UNKNOWN), self.worker, operation):
            self._leave(operation.id)
        self.wake()

    def _leave(self, operation_id: str) -> None:
        if self._slots.leave(operation_id):
            for pool in list(self._pools.values()):
                pool.nudge()

    def _leave_slots(self) -> None:
        """Of what somebody ended, or took over, while nobody was with it here."""
        holders = self._slots.holders()
        for operation_id in set(holders) - self.journal.ours(holders) if holders else ():
            self._leave(operation_id)

    def _tick(self) -> None:
        """Runs apart from the loop: what it calls may hang, and leases must still be renewed."""
        while not self._stopping:
            try:
                self.on_timer()
            except Exception:
                LOG.exception("the periodic check of the %s worker failed", self.journal.service)
            self._ended.wait(TIMER_SECONDS)
