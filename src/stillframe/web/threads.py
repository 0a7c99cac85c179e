"""The threads that work on complete requests. Peers take turns for them."""

import logging
from typing import Any

from waitress.task import ThreadedTaskDispatcher

from stillframe.fair import FairQueue

logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # it logs every request that waits for a thread


class Dispatcher(ThreadedTaskDispatcher):  # type: ignore[misc]
    """Waitress's worker threads over a fair queue."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = _Queue()


class _Queue(FairQueue[Any]):
    """Has the interface of the deque that waitress uses. Waitress's lock guards every call."""

    def append(self, task: Any) -> None:
        self.push(task.client, task)

    def popleft(self) -> Any:
        return self.pop()
