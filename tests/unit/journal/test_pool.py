"""Projects take turns for the threads of a lane."""

import threading

import pytest

from stillframe.journal.pool import Pool


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
        pool.submit("many", lambda number=number: held.work(f"many {number}"))  # type: ignore[misc]
    pool.submit("one", lambda: held.work("one"))
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
        pool.submit(str(number % 4), work)
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

    pool.submit("a", first)
    assert started.wait(30)
    pool.submit("a", lambda: held.work("second"))
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

    pool.submit("a", breaks)
    pool.submit("a", lambda: held.work("next"))
    assert held.ended.acquire(timeout=30)
    pool.stop()


def test_without_another_thread_the_ones_there_are_do_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, held = Pool(2, "lane"), Held()
    start = threading.Thread.start

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError):
        pool.submit("one", lambda: held.work("never"))
    monkeypatch.setattr(threading.Thread, "start", start)
    pool.submit("one", lambda: held.work("first"))
    monkeypatch.setattr(threading.Thread, "start", refuse)
    pool.submit("one", lambda: held.work("second"))
    held.go_on.set()
    for _ in range(2):
        assert held.ended.acquire(timeout=30)
    pool.stop()
    assert held.began == ["first", "second"]


def test_one_projects_long_work_leaves_a_thread_to_others() -> None:
    """Taking turns did not help: all threads were at copies of hours, and nobody's turn came."""
    pool, held, one = Pool(2, "lane", spare=1), Held(), threading.Event()
    for number in range(5):
        pool.submit("many", lambda number=number: held.work(f"many {number}"))  # type: ignore[misc]
    for _ in range(3):  # each when the one before has ended: the thread is kept for whoever has none under way
        one.clear()
        pool.submit("one", one.set)
        assert one.wait(30)
    assert len(held.began) <= 2
    held.go_on.set()
    for _ in range(5):
        assert held.ended.acquire(timeout=30)
    pool.stop()
    assert held.began == [f"many {number}" for number in range(5)]
