"""What is known only while a merge runs: its progress, and whether somebody asked to cancel it. It is lost with the process and
found anew: progress comes from the hypervisor, and a request to cancel that was lost is sent again."""

import threading
from dataclasses import dataclass, field


@dataclass
class Merges:
    """By operation id. Safe to use from several threads."""

    _progress: dict[str, tuple[int, int]] = field(default_factory=dict)
    _unwanted: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _holding: dict[str, threading.Lock] = field(default_factory=dict)

    def tell(self, operation: str, done: int, total: int) -> None:
        with self._lock:
            self._progress[operation] = (done, total)

    def progress(self, operation: str) -> tuple[int, int]:
        """Returns (bytes done, bytes in all); zeros when nothing is known."""
        with self._lock:
            return self._progress.get(operation, (0, 0))

    def give_up(self, operation: str) -> None:
        with self._lock:
            self._unwanted.add(operation)

    def is_unwanted(self, operation: str) -> bool:
        with self._lock:
            return operation in self._unwanted

    def forget(self, operation: str) -> None:
        with self._lock:
            self._progress.pop(operation, None)
            self._unwanted.discard(operation)

    def turn(self, server: str) -> threading.Lock:
        """Returns the lock under which a server is suspended: its other merges and its power actions wait for it."""
        with self._lock:
            return self._holding.setdefault(server, threading.Lock())
