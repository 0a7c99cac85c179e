"""Operations whose step asked for another look within moments: they keep their worker and their lease, but no thread.

Their rows do not change meanwhile, so such a look costs the database nothing.
"""

import math
import threading
from dataclasses import dataclass

from stillframe.journal.operation import Operation


@dataclass(frozen=True)
class _Kept:
    operation: Operation
    until: float  # by the clock that nobody sets (time.monotonic): a moment must not become an hour


class ShortWaits:
    """Safe to use from several threads."""

    def __init__(self) -> None:
        self._leaving: dict[str, _Kept] = {}  # a thread is still with them
        self._kept: dict[str, _Kept] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._leaving) + len(self._kept)

    def keep(self, operation: Operation, until: float) -> None:
        """Called by the thread that is with the operation, which calls ``left`` when it is done. ``until``, as every moment
        here, is one of ``time.monotonic``."""
        with self._lock:
            self._leaving[operation.id] = _Kept(operation, until)

    def left(self, operation_id: str) -> bool:
        """Tells whether the operation, which no thread is with any more, is kept."""
        with self._lock:
            kept = self._leaving.pop(operation_id, None)
            if kept is not None:
                self._kept[operation_id] = kept
            return kept is not None

    def make_due(self, operation_id: str) -> bool:
        """Makes one due at once. False when it is not kept, or a thread is still with it."""
        with self._lock:
            kept = self._kept.get(operation_id)
            if kept is not None:
                self._kept[operation_id] = _Kept(kept.operation, 0.0)
            return kept is not None

    def take(self, moment: float = math.inf) -> list[Operation]:
        """Returns those that are due at the moment, and keeps them no longer."""
        with self._lock:
            due = [kept.operation for kept in self._kept.values() if kept.until <= moment]
            for operation in due:
                del self._kept[operation.id]
            return due

    def next(self) -> float:
        """Returns when the first is due; infinite when none is kept."""
        with self._lock:
            return min((kept.until for kept in self._kept.values()), default=math.inf)
