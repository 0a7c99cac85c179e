"""Deadlines: a clock that is set neither ends a wait nor prolongs it, on this host or after another start of it."""

import time
from typing import Any

import msgspec
import pytest

from stillframe.db import clock
from stillframe.db.engine import Database
from stillframe.journal import deadline, typed
from stillframe.journal.deadline import Deadline

YEAR = 31_557_600.0


def left(database: Database, until: Deadline | float | None) -> float:
    """As it is told by a process that read it from a row."""
    stored: Any = msgspec.to_builtins(until)
    again = msgspec.convert(stored, type=Deadline | float | None)
    with database.read() as connection:
        return deadline.left(connection, again)


@pytest.fixture
def made(database: Database, monkeypatch: pytest.MonkeyPatch) -> Deadline:
    """600 seconds from now, on a host that has run for 100."""
    monkeypatch.setattr(deadline, "_ticks", lambda: 100.0)
    with database.read() as connection:
        return deadline.after(connection, 600)


@pytest.mark.parametrize("by", [YEAR, 601.0, -601.0, -YEAR])
def test_a_clock_that_is_set_changes_nothing(
    database: Database, made: Deadline, monkeypatch: pytest.MonkeyPatch, by: float
) -> None:
    moment = time.time() + by
    monkeypatch.setattr(time, "time", lambda: moment)
    monkeypatch.setattr(deadline, "_ticks", lambda: 500.0)
    assert left(database, made) == 200.0
    monkeypatch.setattr(deadline, "_ticks", lambda: 701.0)
    assert left(database, made) == 0.0


def test_another_host_or_start_goes_by_the_database(
    database: Database, made: Deadline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadline, "_boot", lambda: "another")
    for passed, expected in ((0.0, 600.0), (400.0, 200.0), (601.0, 0.0), (-2.0, 600.0), (-YEAR, 0.0)):
        monkeypatch.setattr(clock, "now", lambda _connection, at=made.time - 600 + passed: at)
        assert left(database, made) == pytest.approx(expected), passed


def test_what_an_older_release_stored_is_a_moment_of_the_database(database: Database) -> None:
    moment = time.time()
    assert 590 < left(database, moment + 600) <= 600
    assert left(database, moment - 1) == left(database, None) == 0.0


def test_it_is_stored_with_what_is_asked(made: Deadline) -> None:
    assert typed.read(Deadline, typed.document(made), "a deadline") == made


def test_the_run_of_the_kernel_has_a_name_and_seconds() -> None:
    assert len(deadline._boot()) == 36
    assert 0 < deadline._ticks() <= deadline._ticks()
