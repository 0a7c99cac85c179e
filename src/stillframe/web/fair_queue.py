"""Complete requests that wait for a working thread: peers take turns, so that one peer's many do not hold up another's one."""

import logging
from collections import OrderedDict, deque
from typing import Any

from waitress.task import ThreadedTaskDispatcher

logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # it tells of every request that waits for a thread


class FairQueue:
    """A queue in the shape of the deque that waitress uses; its lock guards every call."""

    def __init__(self) -> None:
        self._by_peer: OrderedDict[str, deque[Any]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, task: Any) -> None:
        self._by_peer.setdefault(task.peer, deque()).append(task)
        self._count += 1

    def popleft(self) -> Any:
        """Returns the oldest of the peer whose turn it is. Raises KeyError when there is none."""
        peer, tasks = self._by_peer.popitem(last=False)
        task = tasks.popleft()
        if tasks:
            self._by_peer[peer] = tasks  # last again
        self._count -= 1
        return task


class Dispatcher(ThreadedTaskDispatcher):  # type: ignore[misc]
    """Waitress's working threads over a fair queue."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = FairQueue()
