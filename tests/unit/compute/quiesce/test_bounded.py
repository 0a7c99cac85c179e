"""A call without its turn is left behind, and seen to its end later."""

import threading
from collections.abc import Callable, Iterator

import pytest

from stillframe.compute.quiesce import bounded
from stillframe.compute.quiesce.bounded import Call, Calls, Late
from stillframe.errors import AnotherJob, HypervisorUnavailable, Parked, StepFailed
from tests.unit.builders import SERVER


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "BOUND_SECONDS", 0.0)


def test_a_call_that_ends_in_time_is_done_when_it_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "BOUND_SECONDS", 60.0)
    done: list[str] = []
    Call(lambda: done.append("switched"), lambda: False)()
    assert done == ["switched"]


def test_a_call_that_has_begun_is_waited_for() -> None:
    done, go = [], threading.Event()

    def begun() -> bool:
        go.set()
        return True

    def act() -> None:
        go.wait()
        done.append("switched")

    Call(act, begun)()
    assert done == ["switched"]


def test_a_call_that_waits_for_its_turn_is_late_and_ends_when_it_ends() -> None:
    done, go = [], threading.Event()

    def act() -> None:
        go.wait()
        done.append("switched")

    with pytest.raises(Late) as late:
        Call(act, lambda: False)()
    assert done == []
    go.set()
    late.value.finish()
    assert done == ["switched"]


@pytest.mark.parametrize("trouble", [OSError("stale"), StepFailed("libvirt")])
def test_who_cannot_tell_whether_it_has_begun_does_not_wait(trouble: Exception) -> None:
    go = threading.Event()

    def begun() -> bool:
        raise trouble

    with pytest.raises(Late):
        Call(go.wait, begun)()  # type: ignore[arg-type]
    go.set()


def test_what_a_late_call_ends_with_is_told() -> None:
    go = threading.Event()

    def act() -> None:
        go.wait()
        raise AnotherJob("libvirt's lock")

    with pytest.raises(Late) as late:
        Call(act, lambda: False)()
    go.set()
    with pytest.raises(AnotherJob):
        late.value.finish()


def test_where_nobody_is_frozen_a_late_call_is_waited_for() -> None:
    go, done = threading.Event(), []

    def act() -> None:
        go.wait()
        done.append("switched")

    def begun() -> bool:
        go.set()
        return False

    bounded.patiently(Call(act, begun))
    assert done == ["switched"]


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """A libvirt that does not answer as long as the test runs."""
    monkeypatch.setattr(bounded, "FINISH_SECONDS", 0.0)
    go = threading.Event()

    def hang() -> None:
        go.wait()

    yield hang
    go.set()


def test_a_call_that_never_returns_is_for_a_person_to_look_at(hanging: Callable[[], None]) -> None:
    with pytest.raises(Parked, match="operation retry"):
        bounded.patiently(Call(hanging, lambda: False))


def test_nobody_is_kept_frozen_for_a_call_that_has_begun_and_does_not_end(hanging: Callable[[], None]) -> None:
    with pytest.raises(Late, match="did not end in time") as late:
        Call(hanging, lambda: True, 0.0)()
    with pytest.raises(Parked):
        late.value.finish()


def test_no_second_call_is_made_while_the_first_may_still_be_carried_out(hanging: Callable[[], None]) -> None:
    calls, first, done = Calls(), Call(hanging, lambda: False), list[str]()
    calls.keep(SERVER, first)
    calls.refuse_while_pending(SERVER)  # it is not made yet
    with pytest.raises(Parked):
        bounded.patiently(first)
    with pytest.raises(Parked):
        calls.keep(SERVER, Call(lambda: done.append("again"), lambda: False))
    with pytest.raises(HypervisorUnavailable):
        calls.refuse_while_pending(SERVER)
    calls.refuse_while_pending("another server")


def test_after_a_call_that_has_come_back_another_one_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "BOUND_SECONDS", 60.0)
    calls, done = Calls(), list[str]()
    for word in ("one", "two"):
        calls.keep(SERVER, Call(lambda word=word: done.append(word), lambda: False))()  # type: ignore[misc]
        calls.refuse_while_pending(SERVER)
    assert done == ["one", "two"]
