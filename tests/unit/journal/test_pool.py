"""Projects take turns for the threads of a lane."""

import threading

import pytest

from stillframe.journal.pool import Pool, Work


class Held:
    """Work that lasts until it is told to end; ``began`` in the order in which it was."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.go_on = threading.Event()
        self.ended = threading.Semaphore(0)

    def work(self, name: str) -> None:
        self.began.append(name)
        assert self.go_on.wait(30)
        self.ended.release()


def test_one_of_another_project_is_next_whatever_waits() -> None:
    pool, held = Pool(1, "lane"), Held()
    for number in range(700):
        pool.submit(Work("many", lambda number=number: held.work(f"many {number}")))  # type: ignore[misc]
    pool.submit(Work("one", lambda: held.work("one")))
    held.go_on.set()
    for _ in range(701):
        assert held.ended.acquire(timeout=30)
    pool.stop()
    assert held.began.index("one") <= 2
    assert [name for name in held.began if name != "one"] == [f"many {number}" for number in range(700)]


def test_no_more_run_at_once_than_there_are_threads() -> None:
    pool, held = Pool(3, "lane"), Held()
    most, running, lock = 0, 0, threading.Lock()

    def work() -> None:
        nonlocal most, running
        with lock:
            running += 1
            most = max(most, running)
        held.work("")
        with lock:
            running -= 1

    for number in range(20):
        pool.submit(Work(str(number % 4), work))
    held.go_on.set()
    for _ in range(20):
        assert held.ended.acquire(timeout=30)
    pool.stop()
    assert 1 <= most <= 3


def test_what_waits_when_it_is_stopped_is_not_begun() -> None:
    pool, held = Pool(1, "lane"), Held()
    started = threading.Event()

    def first() -> None:
        started.set()
        held.work("first")

    pool.submit(Work("a", first))
    assert started.wait(30)
    pool.submit(Work("a", lambda: held.work("second")))
    stopping = threading.Thread(target=pool.stop)
    stopping.start()
    while not pool._stopping:
        pass
    held.go_on.set()
    stopping.join(30)
    assert held.began == ["first"]
    assert not stopping.is_alive()


def test_an_error_costs_no_thread() -> None:
    pool, held = Pool(1, "lane"), Held()
    held.go_on.set()

    def breaks() -> None:
        raise ValueError("broken")

    pool.submit(Work("a", breaks))
    pool.submit(Work("a", lambda: held.work("next")))
    assert held.ended.acquire(timeout=30)
    pool.stop()


def test_without_another_thread_the_ones_there_are_do_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, held = Pool(2, "lane"), Held()
    start = threading.Thread.start

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError):
        pool.submit(Work("one", lambda: held.work("never")))
    monkeypatch.setattr(threading.Thread, "start", start)
    pool.submit(Work("one", lambda: held.work("first")))
    monkeypatch.setattr(threading.Thread, "start", refuse)
    pool.submit(Work("one", lambda: held.work("second")))
    held.go_on.set()
    for _ in range(2):
        assert held.ended.acquire(timeout=30)
    pool.stop()
    assert held.began == ["first", "second"]


def test_one_projects_long_work_leaves_a_thread_to_others() -> None:
    """Taking turns did not help: all threads were at copies of hours, and nobody's turn came."""
    pool, held, one = Pool(2, "lane", spare=1), Held(), threading.Event()
    for number in range(5):
        pool.submit(Work("many", lambda number=number: held.work(f"many {number}")))  # type: ignore[misc]
    for _ in range(3):  # each when the one before has ended: the thread is kept for whoever has none under way
        one.clear()
        pool.submit(Work("one", one.set))
        assert one.wait(30)
    assert len(held.began) <= 2
    held.go_on.set()
    for _ in range(5):
        assert held.ended.acquire(timeout=30)
    pool.stop()
    assert held.began == [f"many {number}" for number in range(5)]


def test_work_that_hangs_at_one_place_leaves_a_thread_to_other_places() -> None:
    """All of one project: a share that does not answer took every thread there was."""
    pool, held, other = Pool(2, "lane", spare=1), Held(), threading.Event()
    for number in range(5):
        pool.submit(Work("p", lambda number=number: held.work(f"dead {number}"), ("share dead",)))  # type: ignore[misc]
    for _ in range(3):
        other.clear()
        pool.submit(Work("p", other.set, ("share alive", "server s")))
        assert other.wait(30)
    assert len(held.began) <= 2
    held.go_on.set()
    for _ in range(5):
        assert held.ended.acquire(timeout=30)
    pool.stop()


def test_neither_a_project_nor_a_place_takes_the_thread_kept_from_the_other() -> None:
    pool, held, began = Pool(1, "lane", spare=1), Held(), threading.Semaphore(0)

    def work() -> None:
        began.release()
        held.work("")

    for place in ("a", "b", "c"):  # the second has a place of its own, the third must leave a thread to other projects
        pool.submit(Work("p", work, (place,)))
    for _ in range(2):
        assert began.acquire(timeout=30)
    assert not began.acquire(timeout=0.2)
    pool.submit(Work("q", work, ("a",)))
    assert began.acquire(timeout=30)
    held.go_on.set()
    for _ in range(4):
        assert held.ended.acquire(timeout=30)
    pool.stop()


def test_what_begins_does_not_stand_behind_a_crowd_that_comes_again() -> None:
    pool, held = Pool(1, "lane"), Held()
    for number in range(200):
        pool.submit(Work("p", lambda number=number: held.work(f"again {number}"), again=True))  # type: ignore[misc]
    for number in range(2):
        pool.submit(Work("p", lambda number=number: held.work(f"begins {number}")))  # type: ignore[misc]
    held.go_on.set()
    for _ in range(202):
        assert held.ended.acquire(timeout=30)
    pool.stop()
    assert [held.began.index(f"begins {number}") for number in range(2)] in ([0, 2], [1, 3])


def test_a_projects_kinds_of_work_take_turns() -> None:
    """A snapshot stood behind two hundred deletions of other servers' sets, each of which takes a look."""
    pool, held = Pool(1, "lane"), Held()
    for number in range(200):
        pool.submit(Work("p", lambda number=number: held.work(f"delete {number}"), kind="delete"))  # type: ignore[misc]
    pool.submit(Work("p", lambda: held.work("set"), kind="set"))
    held.go_on.set()
    for _ in range(201):
        assert held.ended.acquire(timeout=30)
    pool.stop()
    assert held.began.index("set") <= 2
    assert [name for name in held.began if name != "set"] == [f"delete {number}" for number in range(200)]


def test_what_is_not_admitted_stays_until_it_is() -> None:
    pool, held, open_ = Pool(1, "lane"), Held(), threading.Event()
    held.go_on.set()
    pool.submit(Work("p", lambda: held.work("limited"), admitted=open_.is_set))
    pool.submit(Work("p", lambda: held.work("other")))
    assert held.ended.acquire(timeout=30)
    assert held.began == ["other"]
    open_.set()
    pool.nudge()
    assert held.ended.acquire(timeout=30)
    pool.stop()
    assert held.began == ["other", "limited"]
