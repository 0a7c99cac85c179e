"""What the listening socket does in one turn of the loop."""

from types import SimpleNamespace
from typing import Any

from stillframe.fair import FairQueue
from stillframe.web import server
from stillframe.web.server import _Listener


class Waiting:
    """As waitress, which takes one connection that waits, or none. Each is the number it came as."""

    adj = _map = None

    def __init__(self, *peers: str) -> None:
        self.waiting = list(enumerate(peers))
        self.taken: list[int] = []
        self.connections: Any = SimpleNamespace(surplus=lambda _latest: None)
        self._newcomers: FairQueue[tuple[Any, Any]] = FairQueue()

    def accept(self) -> tuple[Any, Any] | None:
        if not self.waiting:
            return None
        number, peer = self.waiting.pop(0)
        return SimpleNamespace(number=number, close=lambda: None), (peer, 0)

    def fix_addr(self, address: Any) -> Any:
        return address

    def set_socket_options(self, _connection: Any) -> None: ...

    def channel_class(self, _server: Any, connection: Any, *_more: Any, **_named: Any) -> None:
        self.taken.append(connection.number)


class Listener(Waiting, _Listener):  # type: ignore[misc]
    pass


def test_many_connections_that_wait_are_taken_in_one_turn() -> None:
    """One in a turn kept clients waiting for minutes, while some dozens of others sent as much as they could."""
    listener = Listener(*["a"] * 100)
    listener.handle_accept()
    assert len(listener.taken) == server.TAKEN_AT_ONCE > 10
    while listener.has_more:
        listener.handle_accept()
    assert listener.taken == [*range(100)]


def test_a_newcomer_waits_for_none_of_the_hundreds_of_another_peer() -> None:
    """They are closed and opened again as fast as they are taken: an honest client waited behind all of them, each time."""
    listener = Listener(*["a"] * 400, "b")
    listener.handle_accept()
    assert 400 in listener.taken[:2]


def test_who_waits_is_bounded() -> None:
    listener = Listener(*["a"] * 2000)
    listener.handle_accept()
    assert len(listener.taken) + len(listener.waiting) >= 2000 - server.MOST_NEWCOMERS
