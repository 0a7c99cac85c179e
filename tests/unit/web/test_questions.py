"""How many may ask at once, and that nobody asks what somebody asks already."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext

import pytest

from stillframe.errors import TooManyRequests, Unauthorized
from stillframe.web.questions import IN_ALL, PER_PEER, Questions


class Keystone:
    """Answers when told to, and knows how often it was asked."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Event()
        self.asked = 0

    def __call__(self) -> str:
        self.asked += 1
        self.begun.release()
        assert self.go_on.wait(30)
        return "somebody"


def started(
    pool: ThreadPoolExecutor, questions: Questions[str], keystone: Keystone, *asked: tuple[bytes, str]
) -> list[Future[str]]:
    """Begins questions, (key, peer) each, and waits until Keystone has all of them."""
    begun = [pool.submit(questions.ask, key, peer, keystone) for key, peer in asked]
    for _ in asked:
        assert keystone.begun.acquire(timeout=30)
    return begun


@pytest.mark.parametrize("same", ["192.0.2.1", "::ffff:192.0.2.1"])
def test_a_peer_has_so_many_questions_under_way_and_another_one_its_own(same: str) -> None:
    questions, keystone = Questions[str](), Keystone()
    with ThreadPoolExecutor(IN_ALL) as pool:
        begun = started(pool, questions, keystone, *[(b"%d" % number, "192.0.2.1") for number in range(PER_PEER)])
        with pytest.raises(TooManyRequests) as told:
            questions.ask(b"more", same, keystone)
        assert told.value.details["retry_after"] == 1
        begun += started(pool, questions, keystone, (b"other", "192.0.2.2"))
        keystone.go_on.set()
        assert [each.result() for each in begun] == ["somebody"] * (PER_PEER + 1)
    assert questions.ask(b"more", same, keystone) == "somebody"
    assert (questions._pending, dict(questions._peers)) == ({}, {})


def test_one_host_of_ipv6_is_one_peer_from_whichever_of_its_addresses() -> None:
    questions, keystone = Questions[str](), Keystone()
    with ThreadPoolExecutor(IN_ALL) as pool:
        started(pool, questions, keystone, *[(b"%d" % number, f"2001:db8::{number}:1") for number in range(PER_PEER)])
        with pytest.raises(TooManyRequests):
            questions.ask(b"more", "2001:db8::ffff:1", keystone)
        keystone.go_on.set()


def test_in_all_there_are_fewer_than_threads() -> None:
    questions, keystone = Questions[str](), Keystone()
    with ThreadPoolExecutor(IN_ALL) as pool:
        started(pool, questions, keystone, *[(b"%d" % number, f"192.0.2.{number}") for number in range(IN_ALL)])
        with pytest.raises(TooManyRequests):
            questions.ask(b"more", "192.0.2.99", keystone)
        keystone.go_on.set()


@pytest.mark.parametrize("refused", [False, True])
def test_a_token_that_is_asked_about_already_is_no_further_question(refused: bool) -> None:
    questions, keystone = Questions[str](), Keystone()

    def asked() -> str:
        found = keystone()
        if refused:
            raise Unauthorized("nobody")
        return found

    with ThreadPoolExecutor(1) as pool:
        begun = pool.submit(questions.ask, b"one", "192.0.2.1", asked)
        assert keystone.begun.acquire(timeout=30)
        (pending,) = questions._pending.values()
        threading.Timer(0, keystone.go_on.set).start()
        answers: list[Callable[[], str]] = [begun.result, pending.result]
        for each in answers:
            with pytest.raises(Unauthorized) if refused else nullcontext():
                assert each() == "somebody"
    assert keystone.asked == 1


def test_who_brings_it_too_waits_for_the_same_answer() -> None:
    questions, keystone = Questions[str](), Keystone()
    answer: Future[str] = Future()
    questions._pending[b"one"] = answer
    answer.set_result("somebody")
    assert questions.ask(b"one", "192.0.2.1", keystone) == "somebody"
    assert keystone.asked == 0
