"""Failpoints do nothing unless a test's environment asks for them."""

import os
import signal
import threading
import time

import pytest

from stillframe.errors import StepFailed
from stillframe.journal import failpoints

PLACE = "kind/verb/before"


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: found.append((pid, number)))
    monkeypatch.delenv(failpoints.VARIABLE, raising=False)
    return found


def ask(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(failpoints.VARIABLE, text)


def test_nothing_happens_unasked(killed: list[tuple[int, int]]) -> None:
    failpoints.reached(PLACE)
    assert killed == []


def test_only_the_named_place_kills(killed: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    ask(monkeypatch, PLACE)
    for name in ("kind/verb/effect", "kind/verb", f"{PLACE}2"):
        failpoints.reached(name)
    assert killed == []
    failpoints.reached(PLACE)
    assert killed == [(os.getpid(), signal.SIGKILL)]


def test_a_place_can_be_held_instead(killed: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[float] = []
    monkeypatch.setattr(time, "sleep", held.append)
    ask(monkeypatch, f"{PLACE}:sleep=1.5")
    failpoints.reached(PLACE)
    assert (held, killed) == ([1.5], [])


def test_a_place_can_fail_instead_and_several_can_be_named(
    killed: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(monkeypatch, f"{PLACE}:fail,other")
    with pytest.raises(StepFailed, match=PLACE):
        failpoints.reached(PLACE)
    assert killed == []
    failpoints.reached("other")
    assert len(killed) == 1


def test_a_place_of_one_operation_can_be_named(killed: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    ask(monkeypatch, f"{PLACE}@volume-1,other@volume-2")
    failpoints.reached(PLACE, lambda: "{'volume_id': 'volume-2'}")
    failpoints.reached(PLACE)
    assert killed == []
    failpoints.reached(PLACE, lambda: "{'volume_id': 'volume-1'}")
    assert len(killed) == 1


def test_what_a_place_is_about_is_asked_only_where_somebody_wants_to_know(
    killed: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(monkeypatch, "other@volume-1")
    failpoints.reached(PLACE, lambda: pytest.fail("it was asked"))
    assert killed == []


def test_a_place_that_is_held_says_so(
    killed: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A test waits for these words before it kills the process."""
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    ask(monkeypatch, f"{PLACE}@a:sleep=9")
    with caplog.at_level("WARNING"):
        failpoints.reached(PLACE, lambda: "a")
    assert f"held at {PLACE}@a:sleep=9" in caplog.text
    assert killed == []


def test_a_place_can_be_held_until_somebody_kills_the_process(
    killed: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    waits: list[float | None] = []
    monkeypatch.setattr(threading.Event, "wait", lambda _event, timeout=None: waits.append(timeout))
    ask(monkeypatch, f"{PLACE}:hold")
    with caplog.at_level("WARNING"):
        failpoints.reached(PLACE)
    assert f"held at {PLACE}:hold" in caplog.text
    assert (waits, killed) == ([None], [])
