"""A call without its turn is left behind, and seen to its end later."""

import threading

import pytest

from stillframe.compute import bounded
from stillframe.compute.bounded import Call, Late
from stillframe.errors import AnotherJob, StepFailed


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
