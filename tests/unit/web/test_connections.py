"""Which connection is closed, and when."""

import math
import threading
from typing import Any

import pytest
from waitress.adjustments import Adjustments

from stillframe.web import channel as channel_module
from stillframe.web.channel import Channel
from stillframe.web.chunks import MOST_CHUNKS
from stillframe.web.connections import Connections
from stillframe.web.limits import Limits

LIMITS = Limits(connections=6, connections_per_peer=3, request_seconds=10, idle_seconds=60, answer_seconds=30)


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(channel_module, "time", made)
    return made


class Stub(Channel):
    """A connection without a socket."""

    def __init__(self, peer: str, since: float) -> None:
        self.peer = self.client = peer
        self._since, self.socket = since, None
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


GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class Server:
    """What a channel tells its server."""

    def __init__(self) -> None:
        self.tasks = 0

    def add_task(self, _channel: Channel) -> None:
        self.tasks += 1


class Reading(Stub):
    """One that reads what it is given."""

    def __init__(self, since: float = 50) -> None:
        super().__init__("a", since)
        self.requests_lock = threading.Lock()
        self.adj = Adjustments()
        self.server = Server()


def test_the_time_of_a_request_counts_from_its_first_byte(clock: Clock) -> None:
    channel = Reading(50)
    channel.received(b"G")
    assert channel.deadline(LIMITS) == 60  # from the connection: it never sent a whole one
    channel = Reading(50)
    channel._answered = True
    channel.received(b"G")
    clock.now = 105
    channel.received(b"E")
    assert channel.deadline(LIMITS) == 110


def test_of_many_requests_in_one_piece_one_is_taken_at_a_time() -> None:
    """Hundreds in one piece were all read before anybody else was looked at."""
    channel = Reading()
    channel.received(GET * 3)
    assert (len(channel.requests), channel.server.tasks, channel.has_more) == (1, 1, True)
    assert not channel.readable()  # until the first is answered
    channel.requests.clear()
    channel.handle_read()
    assert (len(channel.requests), channel.server.tasks, channel._rest) == (1, 2, GET)


def test_a_body_in_crumbs_is_read_in_several_turns() -> None:
    channel = Reading()
    channel.received(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    channel.received(b"1\r\nx\r\n" * (MOST_CHUNKS // 2) + b"0\r\n\r\n")
    turns = 0
    while channel.has_more:
        turns += 1
        channel.handle_read()
    assert turns > 3
    assert channel.requests[0].get_body_stream().read() == b"x" * (MOST_CHUNKS // 2)


def test_one_whose_client_has_sent_what_nobody_has_looked_at_does_not_wait_for_it() -> None:
    """An honest client at the address of a flood was reset, because it had waited longest: for us."""
    channels = [Stub("a", since) for since in (1, 2, 3, 4)]
    channels[0].is_due = True
    channels[1]._rest = b"x"
    assert all_of(*channels).surplus(channels[3]) is channels[2]
    channels[2].is_due = True
    assert all_of(*channels).surplus(channels[3]) is channels[3]


def test_who_is_turned_away_is_told_for_what() -> None:
    crowd = [Stub("a", since) for since in (1, 2, 3, 4)]
    kept = all_of(*crowd)
    assert (kept.why(crowd[0]).status, kept.why(crowd[0]).code) == (429, "too_many_connections")
    kept.remove(crowd[3])
    assert (kept.why(crowd[0]).status, kept.why(crowd[0]).code) == (503, "service_busy")


def test_a_proxy_may_have_more_than_others_and_of_one_client_behind_it_no_more_are_under_way() -> None:
    channels = [Stub("proxy", since) for since in (1, 2, 3, 4)]
    for channel in channels:
        channel.is_proxy, channel.client = True, "client"
    kept = all_of(*channels)
    assert kept.surplus(channels[3]) is None
    assert [kept.began(channel) for channel in channels[:3]] == [None] * 3
    refused = kept.began(channels[3])
    assert refused is not None and refused.code == "too_many_connections"
    kept.ended(channels[3])
    kept.remove(channels[0])  # it went without an answer
    channels[3].client = "another"
    assert kept.began(channels[3]) is None
    channels[3].client = "client"
    assert kept.began(channels[3]) is None
