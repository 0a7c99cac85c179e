"""Failpoints do nothing unless a test's environment asks for them."""

import os
import signal

import pytest

from stillframe.journal import failpoints


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: found.append((pid, number)))
    monkeypatch.delenv(failpoints.VARIABLE, raising=False)
    return found


@pytest.mark.parametrize("name", ["", "kind/verb/before"])
def test_nothing_happens_unasked(killed: list[tuple[int, int]], name: str) -> None:
    failpoints.reached(name)
    assert killed == []


def test_only_the_named_place_kills(killed: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(failpoints.VARIABLE, "kind/verb/before")
    for name in ("kind/verb/effect", "kind/verb", "kind/verb/before2"):
        failpoints.reached(name)
    assert killed == []
    failpoints.reached("kind/verb/before")
    assert killed == [(os.getpid(), signal.SIGKILL)]


def test_a_place_can_be_held_instead(killed: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[float] = []
    monkeypatch.setattr(failpoints.time, "sleep", held.append)
    monkeypatch.setenv(failpoints.VARIABLE, "quiesce/frozen:sleep=1.5")
    failpoints.reached("quiesce/frozen")
    assert (held, killed) == ([1.5], [])
