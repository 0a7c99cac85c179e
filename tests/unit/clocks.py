"""Clocks that tests set, and time that they let pass: two things."""

import time

import pytest

from stillframe.journal import deadline


def set_clock(monkeypatch: pytest.MonkeyPatch, by: float) -> None:
    """Sets the clock of the host, which is SQLite's too, by that many seconds; no time passes."""
    before = time.time
    monkeypatch.setattr(time, "time", lambda: before() + by)


def pass_time(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Lets that many seconds pass on the clock that nobody sets."""
    before = deadline._ticks
    monkeypatch.setattr(deadline, "_ticks", lambda: before() + seconds)
