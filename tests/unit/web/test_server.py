"""What the listening socket does in one turn of the loop."""

from types import SimpleNamespace
from typing import Any

from stillframe.web.server import _Listener


class Waiting:
    """As waitress, which takes one connection that waits, or none."""

    def __init__(self, waiting: int) -> None:
        self.waiting = [object() for _ in range(waiting)]
        self.connections: Any = SimpleNamespace(latest=None, surplus=lambda _latest: None)

    def handle_accept(self) -> None:
        if self.waiting:
            self.connections.latest = self.waiting.pop()


class Listener(_Listener, Waiting):
    pass


def test_all_connections_that_wait_are_taken_in_one_turn() -> None:
    """One in a turn kept clients waiting for minutes, while some dozens of others sent as much as they could."""
    listener = Listener(300)
    listener.handle_accept()
    assert listener.waiting == []
