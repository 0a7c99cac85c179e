"""Which connection is closed, and when."""

import math
from typing import Any

import pytest
from waitress.channel import HTTPChannel

from stillframe.web import connections
from stillframe.web.connections import Channel, Connections, Limits

LIMITS = Limits(connections=6, connections_per_peer=3, request_seconds=10, idle_seconds=60, answer_seconds=30)


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(connections, "time", made)
    return made


class Stub(Channel):
    """A connection without a socket."""

    def __init__(self, peer: str, since: float) -> None:
        self.peer, self._since = peer, since
        self._receiving = self._answered = False
        self._begun: Any = None
        self.requests: list[Any] = []
        self.total_outbufs_len = 0


def all_of(*channels: Stub) -> Connections:
    made = Connections(LIMITS)
    for channel in channels:
        made.add(channel)
    return made


def test_a_peer_with_too_many_loses_the_one_that_waited_longest() -> None:
    of_one, other = [Stub("a", since) for since in (5, 3, 4, 9)], Stub("b", 1)
    assert all_of(other, *of_one[:3]).surplus(of_one[2]) is None
    assert all_of(other, *of_one).surplus(of_one[3]) is of_one[1]


def test_the_newest_is_never_closed_for_an_idle_one() -> None:
    channels = [Stub("a", 9) for _ in range(3)] + [Stub("a", 1)]
    assert all_of(*channels).surplus(channels[-1]) in channels[:3]


def test_one_we_work_for_is_spared_and_when_all_are_the_newest_goes() -> None:
    channels = [Stub("a", since) for since in (1, 2, 3, 4)]
    channels[0].requests = ["under way"]
    assert all_of(*channels).surplus(channels[3]) is channels[1]
    for channel in channels[:3]:
        channel.requests = ["under way"]
    assert all_of(*channels).surplus(channels[3]) is channels[3]


def test_whose_requests_wait_for_a_thread_loses_one_to_a_newcomer_of_another_peer() -> None:
    """One peer's connections, each with a request in the queue, kept everybody else out until all were answered."""
    crowd, latest = [Stub("a", since) for since in (5, 3, 4)], Stub("b", 50)
    few = [Stub("c", since) for since in (1, 2, 6)]
    for channel in crowd + few:
        channel.requests = [object()]
    crowd[1]._begun = crowd[1].requests[0]
    kept = all_of(*crowd, *few, latest)
    kept.add(extra := Stub("a", 60))
    extra.requests = [object()]
    assert kept.surplus(latest) is crowd[2]
    for channel in (*crowd, extra):
        channel._begun = channel.requests[0]
    assert kept.surplus(latest) is latest


def test_with_too_many_in_all_the_peer_with_most_loses_one() -> None:
    crowd, few = [Stub("a", 5 + number) for number in range(3)], [Stub("b", 1), Stub("b", 2), Stub("c", 0)]
    latest = Stub("d", 50)
    assert all_of(*few, *crowd, latest).surplus(latest) is crowd[0]


def test_what_went_is_not_counted() -> None:
    channels = [Stub("a", since) for since in (1, 2, 3, 4)]
    kept = all_of(*channels)
    kept.remove(channels[0])
    kept.remove(channels[0])
    assert kept.surplus(channels[3]) is None
    assert set(kept) == set(channels[1:])


@pytest.mark.parametrize(
    ("receiving", "answered", "sending", "seconds"),
    [(False, False, 0, 10), (True, False, 0, 10), (True, True, 0, 10), (False, True, 0, 60), (False, True, 7, 30)],
)
def test_each_kind_of_waiting_has_its_time(receiving: bool, answered: bool, sending: int, seconds: float) -> None:
    channel = Stub("a", 100)
    channel._receiving, channel._answered, channel.total_outbufs_len = receiving, answered, sending
    assert channel.deadline(LIMITS) == 100 + seconds
    kept = all_of(channel)
    assert kept.too_slow(100 + seconds - 0.1) == []
    assert kept.too_slow(100 + seconds) == [channel]


def test_one_we_work_for_has_no_deadline() -> None:
    channel = Stub("a", -math.inf)
    channel.requests = ["under way"]
    assert channel.deadline(LIMITS) is None
    assert all_of(channel).too_slow(math.inf) == []


def test_the_time_of_a_request_counts_from_its_first_byte(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HTTPChannel, "received", lambda _self, _data: True)
    channel = Stub("a", 50)
    channel.received(b"x")
    assert channel.deadline(LIMITS) == 60  # from the connection: it never sent a whole one
    channel = Stub("a", 50)
    channel._answered = True
    channel.received(b"x")
    clock.now = 105
    channel.received(b"y")
    assert channel.deadline(LIMITS) == 110


def test_who_sends_requests_and_reads_no_answer_gets_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many requests in one piece, each with a long answer: a thread waited until somebody read them, for ever."""
    served: list[Any] = []

    def serve(self: HTTPChannel) -> None:
        served.append(self)

    monkeypatch.setattr(HTTPChannel, "service", serve)
    channel = Stub("a", 50)
    channel.requests, channel.total_outbufs_len = ["next"], connections.UNREAD_BYTES + 1
    channel.server, channel._fileno = Server(), 5
    channel.service()
    assert served == []
    assert channel.requests == []
    assert channel.will_close
    assert channel.server.asked == [5]
    channel.requests, channel.total_outbufs_len = ["next"], connections.UNREAD_BYTES
    channel.service()
    assert served == [channel]


class Server:
    """What a channel tells its server."""

    def __init__(self) -> None:
        self.asked: list[int | None] = []

    def look_again(self, handle: int | None) -> None:
        self.asked.append(handle)
