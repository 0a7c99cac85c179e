"""The threads of one lane: projects take turns for them, and no server, volume, share or project can fill them all."""

import logging
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from stillframe.fair import FairQueue

LOG = logging.getLogger(__name__)
_Seat = Literal["common", "project", "places"]


@dataclass(frozen=True)
class Work:
    """What is to be done by one thread. ``places`` are what it touches, such as "server <id>" or "share <directory>".

    ``again``: it was run before and has waited since; work that begins does not wait behind many of those. ``admitted`` is
    asked last, when a thread is free; if it answers False the work stays until ``Pool.nudge``.
    """

    project_id: str
    do: Callable[[], None]
    places: tuple[str, ...] = ()
    again: bool = False
    kind: str = ""
    admitted: Callable[[], bool] = lambda: True


class Pool:
    """Does what it is given in at most ``threads`` threads, which begin as they are needed.

    ``spare`` further threads are only for projects that have nothing under way, and as many for work at places where nothing
    is: taking turns helps nobody while all threads are busy with one project's copies, which may take hours, or hang at one
    share that does not answer.
    """

    def __init__(self, threads: int, name: str, spare: int = 0) -> None:
        self._seats: dict[_Seat, int] = {"common": threads, "project": spare, "places": spare}  # that are free
        self._most = threads + 2 * spare
        self._name = name
        self._queues: dict[bool, FairQueue[Work]] = {False: FairQueue(), True: FairQueue()}  # by whether it comes again
        self._turn = False  # whose it is
        self._threads: list[threading.Thread] = []
        self._busy: Counter[str] = Counter()  # projects and places
        self._idle = 0
        self._stopping = False
        self._changed = threading.Condition()

    def submit(self, work: Work) -> None:
        """Queues the work until the project's turn. Work that comes after ``stop`` is never begun. Raises RuntimeError, with
        the work not taken, when no thread can be had at all."""
        with self._changed:
            if self._idle <= sum(map(len, self._queues.values())) and len(self._threads) < self._most:
                self._grow()
            self._queues[work.again].push(work.project_id, work, work.kind)
            self._changed.notify()

    def nudge(self) -> None:
        """Work that was not admitted may be so now."""
        with self._changed:
            self._changed.notify_all()

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

    def _run(self) -> None:
        while True:
            with self._changed:
                taken = self._next()
            if taken is None:
                return
            work, seat = taken
            try:
                work.do()
            except Exception:
                LOG.exception("an operation of lane %s failed because of a defect of Stillframe", self._name)
            with self._changed:
                self._seats[seat] += 1
                self._busy -= Counter(_names(work))  # a project without any is left out
                self._changed.notify_all()

    def _next(self) -> tuple[Work, _Seat] | None:
        """Waits for work that may be done, and takes it; None: it is to stop."""
        self._idle += 1
        try:
            while not self._stopping:
                work = self._pick()
                if work is not None:
                    seat = self._seat(work)
                    assert seat is not None
                    self._seats[seat] -= 1
                    self._busy += Counter(_names(work))
                    return work, seat
                self._changed.wait()
            return None
        finally:
            self._idle -= 1

    def _pick(self) -> Work | None:
        """Work that begins and work that comes again take turns, and so do the projects within each."""
        for again in (self._turn, not self._turn):
            work = self._queues[again].pop_where(lambda each: self._seat(each) is not None and each.admitted())
            if work is not None:
                self._turn = not again
                return work
        return None

    def _seat(self, work: Work) -> _Seat | None:
        """Where there is a thread for the work now."""
        if self._seats["common"]:
            return "common"
        if self._seats["project"] and not self._busy[_project(work)]:
            return "project"
        if self._seats["places"] and work.places and not any(self._busy[place] for place in work.places):
            return "places"
        return None


def _project(work: Work) -> str:
    return f"project {work.project_id}"


def _names(work: Work) -> set[str]:
    return {_project(work), *work.places}
