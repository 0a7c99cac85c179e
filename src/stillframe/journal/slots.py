"""How many operations of a limited kind are at work at once, whether a thread is with them or not."""

import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from stillframe.journal.operation import Operation


@dataclass(frozen=True)
class Lanes:
    """How many operations run side by side. ``of`` names an operation's lane, which has ``threads`` of its own: what one
    lane waits for, such as a share that does not answer, holds up no other. ``places`` are what an operation touches within
    its lane, such as "server <id>": none of them can have all threads."""

    threads: int
    limits: Mapping[str, int] = field(default_factory=dict)  # by kind: how many of a lane are at work at once
    of: Callable[[Operation], str] = lambda _operation: ""
    together: Mapping[str, int] = field(default_factory=dict)  # by kind: how many in all lanes
    places: Callable[[Operation], tuple[str, ...]] = lambda _operation: ()


class Slots:
    """An operation has a slot from its beginning until it ends or waits for something else. While work that it began continues
    without it (``NotYet.at_work``), such as a block job in QEMU, it keeps the slot and has no thread."""

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._held: dict[str, tuple[str, str]] = {}  # by operation id: its kind, its lane
        self._lock = threading.Lock()

    def has_limit(self, kind: str) -> bool:
        return kind in self._lanes.limits or kind in self._lanes.together

    def keep(self, operation: Operation) -> None:
        """For one that was at work before this process began: it may be one more than there are slots."""
        with self._lock:
            self._held[operation.id] = operation.kind, self._lanes.of(operation)

    def take(self, operation: Operation, lane: str) -> bool:
        """False when all are taken. Who has one keeps it."""
        with self._lock:
            if not self.has_limit(operation.kind) or operation.id in self._held:
                return True
            taken = Counter(self._held.values())
            of_kind = sum(number for (kind, _lane), number in taken.items() if kind == operation.kind)
            full = taken[operation.kind, lane] >= self._lanes.limits.get(operation.kind, of_kind + 1)
            if full or of_kind >= self._lanes.together.get(operation.kind, of_kind + 1):
                return False
            self._held[operation.id] = operation.kind, lane
            return True

    def leave(self, operation_id: str) -> bool:
        """Tells whether there is one more now."""
        with self._lock:
            return self._held.pop(operation_id, None) is not None

    def holders(self) -> Collection[str]:
        with self._lock:
            return list(self._held)
