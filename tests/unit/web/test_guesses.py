"""How often a password may be guessed."""

import pytest

from stillframe.errors import TooManyRequests
from stillframe.web import guesses
from stillframe.web.guesses import FREE_BY_NAME, FREE_BY_PEER, LONGEST_SECONDS, MOST_KEPT, Guesses


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(guesses, "time", made)
    return made


def refused(limit: Guesses, peer: str, name: str) -> int:
    with pytest.raises(TooManyRequests) as told:
        limit.begin(peer, name)
    return int(told.value.details["retry_after"])


def spend(limit: Guesses, peer: str, name: str, count: int) -> None:
    for _ in range(count):
        limit.begin(peer, name)


def test_after_the_free_ones_each_waits_longer_up_to_a_minute(clock: Clock) -> None:
    limit, waits = Guesses(), []
    spend(limit, "192.0.2.1", "ann", FREE_BY_NAME)
    for _ in range(9):
        waits.append(refused(limit, "192.0.2.1", "ann"))
        clock.now += waits[-1]
        limit.begin("192.0.2.1", "ann")
    assert waits == sorted(waits)
    assert waits[0] == 2
    assert waits[-1] == LONGEST_SECONDS + 1


def test_other_names_cost_the_peer_and_nobody_else(clock: Clock) -> None:
    limit = Guesses()
    for number in range(FREE_BY_PEER):
        limit.begin("192.0.2.1", f"n{number}")
    refused(limit, "192.0.2.1", "ann")
    limit.begin("192.0.2.2", "ann")


def test_one_network_of_ipv6_is_one_peer(clock: Clock) -> None:
    limit = Guesses()
    for number in range(FREE_BY_PEER):
        limit.begin(f"2001:db8::{number:x}", f"n{number}")
    refused(limit, "2001:db8::ffff", "ann")
    limit.begin("2001:db8:0:1::1", "ann")
    limit.begin("::ffff:192.0.2.1", "ann")


def test_a_right_one_starts_the_name_anew_but_frees_no_guesses_of_other_names(clock: Clock) -> None:
    limit = Guesses()
    spend(limit, "192.0.2.1", "ann", FREE_BY_NAME)
    limit.right("192.0.2.1", "ann")
    spend(limit, "192.0.2.1", "ann", FREE_BY_NAME)
    guessed = 0
    with pytest.raises(TooManyRequests):
        for number in range(FREE_BY_PEER):
            limit.begin("192.0.2.1", f"n{number}")
            guessed += 1
            limit.begin("192.0.2.1", "own")
            limit.right("192.0.2.1", "own")
    assert guessed <= FREE_BY_PEER - 2 * FREE_BY_NAME + 2


def test_a_quarter_of_an_hour_of_quiet_is_forgiven(clock: Clock) -> None:
    limit = Guesses()
    spend(limit, "192.0.2.1", "ann", FREE_BY_NAME)
    clock.now += guesses.FORGET_SECONDS + 1
    spend(limit, "192.0.2.1", "ann", FREE_BY_NAME)
    refused(limit, "192.0.2.1", "ann")


def test_what_is_kept_is_bounded_and_refused_ones_keep_nothing(clock: Clock) -> None:
    limit = Guesses()
    for number in range(FREE_BY_PEER):
        limit.begin("192.0.2.1", f"n{number}")
    kept = len(limit._counts)
    for number in range(1000):
        refused(limit, "192.0.2.1", f"other{number}")
    assert len(limit._counts) == kept
    for number in range(MOST_KEPT):
        limit.begin(f"peer{number}", "ann")
    assert len(limit._counts) == MOST_KEPT
