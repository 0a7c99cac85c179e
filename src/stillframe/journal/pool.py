"""The threads of one lane: projects take turns for them."""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Container

from stillframe.fair import FairQueue

LOG = logging.getLogger(__name__)


class Pool:
    """Runs what it is given in at most ``threads`` threads, which begin as they are needed.

    ``spare`` further threads are only for projects that have nothing under way: taking turns helps nobody while all threads
    are busy with one project's copies, which may take hours.
    """

    def __init__(self, threads: int, name: str, spare: int = 0) -> None:
        self._common = threads
        self._most = threads + spare
        self._name = name
        self._waiting: FairQueue[tuple[str, Callable[[], None]]] = FairQueue()
        self._threads: list[threading.Thread] = []
        self._running: Counter[str] = Counter()  # by project
        self._idle = 0
        self._stopping = False
        self._changed = threading.Condition()

    def submit(self, project_id: str, work: Callable[[], None]) -> None:
        """Has the work done when it is the project's turn. What comes after ``stop`` is never begun. Raises RuntimeError, with
        the work not taken, when no thread can be had at all."""
        with self._changed:
            if self._idle <= len(self._waiting) and len(self._threads) < self._most:
                self._grow()
            self._waiting.push(project_id, (project_id, work))
            self._changed.notify()

    def _grow(self) -> None:
        thread = threading.Thread(target=self._run, name=f"{self._name}-{len(self._threads)}", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the host gives no more threads
            if not self._threads:
                raise
            LOG.warning("lane %s works with %s threads: no more can be started", self._name, len(self._threads))
            return
        self._threads.append(thread)

    def stop(self) -> None:
        """Returns when what is under way has ended; what waits is not begun."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            threads = list(self._threads)
        for thread in threads:
            thread.join()

    def _passed_over(self) -> Container[str]:
        """The projects that may not begin another one now."""
        return self._running if self._running.total() >= self._common else ()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                self._changed.wait_for(lambda: self._stopping or self._waiting.has(self._passed_over()))
                self._idle -= 1
                if self._stopping:
                    return
                project_id, work = self._waiting.pop(self._passed_over())
                self._running[project_id] += 1
            try:
                work()
            except Exception:
                LOG.exception("an operation of lane %s met a defect of Stillframe", self._name)
            with self._changed:
                self._running -= Counter([project_id])  # a project without any is left out
