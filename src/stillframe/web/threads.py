"""The threads that work on complete requests; peers take turns for them."""

import logging
from typing import Any

from waitress.task import ThreadedTaskDispatcher

from stillframe.fair import FairQueue

logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # it tells of every request that waits for a thread


class Dispatcher(ThreadedTaskDispatcher):  # type: ignore[misc]
    """Waitress's working threads over a fair queue."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = _Queue()


class _Queue(FairQueue[Any]):
    """In the shape of the deque that waitress uses; its lock guards every call."""

    def append(self, task: Any) -> None:
        self.push(task.peer, task)

    def popleft(self) -> Any:
        return self.pop()
