"""Whose turn it is. The loop's epoll is a stub: it reports what a test says."""

import itertools
import select
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from stillframe.web import loop
from stillframe.web.loop import Loop


class Epoll:
    """Level-triggered, as the kernel's: what is to be read is reported in each look."""

    def __init__(self) -> None:
        self.ready: dict[int, int] = {}

    def poll(self, _seconds: float, most: int) -> list[tuple[int, int]]:
        return list(self.ready.items())[:most]

    def register(self, handle: int, events: int) -> None: ...
    def modify(self, handle: int, events: int) -> None: ...
    def unregister(self, handle: int) -> None: ...
    def close(self) -> None: ...


class Connection:
    """Tells when it is served."""

    accepting = connected = False

    def __init__(self, number: int, peer: str | None, served: Callable[["Connection"], None]) -> None:
        self.number, self.served = number, served
        self.is_due = self.has_more = False
        if peer is not None:
            self.peer = peer

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def handle_read_event(self) -> None:
        self.served(self)


class Stage:
    """A loop with stub connections, and the numbers of those served, in order."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.epoll: Any = self.loop._epoll
        self.served: list[int] = []

    def connection(self, number: int, peer: str | None, then: Callable[[], None] = lambda: None) -> Connection:
        def served(connection: Connection) -> None:
            self.served.append(connection.number)
            then()

        made = Connection(number, peer, served)
        self.loop[number] = made
        return made

    def sends(self, *numbers: int) -> None:
        self.epoll.ready |= dict.fromkeys(numbers, select.EPOLLIN)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setattr("stillframe.web.loop.select.epoll", Epoll)
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: 0.0))
    yield Stage()


def test_one_connection_of_a_peer_waits_for_no_round_of_another_peers(stage: Stage) -> None:
    """Of one peer 2,000 connections send without end. An honest client beside them waited for all of them, each time."""
    for number in range(2000):
        stage.connection(number, "a")
    stage.sends(*range(2000))
    stage.loop.turn(0)
    stage.connection(5000, "b")
    stage.sends(5000)
    stage.loop.turn(0)
    assert stage.served.index(5000) <= loop.STEPS + 2
    assert len(stage.served) == 2 * loop.STEPS


def test_costly_pieces_are_fewer_between_two_looks(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty of them took so long that a newcomer's handshake, of some pieces, waited for seconds."""
    moments = itertools.count(0, loop.STEPS_SECONDS / 3)
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: next(moments)))
    for number in range(100):
        stage.connection(number, "a")
    stage.sends(*range(100))
    stage.loop.turn(0)
    assert 0 < len(stage.served) <= 3


def test_of_one_peer_each_connection_has_its_turn(stage: Stage) -> None:
    for number in range(10):
        stage.connection(number, "a")
    stage.sends(*range(10))
    stage.loop.turn(0)
    stage.loop.turn(0)
    assert stage.served == [*range(10)] * 2


def test_who_accepts_and_who_wakes_the_loop_wait_for_no_turn_and_know_what_has_come(stage: Stage) -> None:
    senders = [stage.connection(number, "a") for number in range(2000)]
    known: list[bool] = []
    stage.connection(9000, None, then=lambda: known.extend(each.is_due for each in senders))
    stage.sends(9000, *range(2000))
    stage.loop.turn(0)
    assert stage.served[0] == 9000
    assert all(known)


def test_what_was_read_already_needs_no_event(stage: Stage) -> None:
    made = stage.connection(1, "a")
    made.has_more = True
    stage.loop.turn(0)
    made.has_more = False
    stage.loop.turn(0)
    assert stage.served == [1]


def test_one_that_went_while_it_waited_is_not_served_and_neither_is_its_successor(stage: Stage) -> None:
    def goes() -> None:
        del stage.loop[2]
        stage.epoll.ready.clear()
        stage.connection(2, "a")

    stage.connection(1, "a", then=goes)
    stage.connection(2, "a")
    stage.sends(1, 2)
    stage.loop.turn(0)
    stage.loop.turn(0)
    assert stage.served == [1]
