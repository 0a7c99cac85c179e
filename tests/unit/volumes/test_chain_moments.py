"""Rows and files between two steps of an operation: the view of a chain waits for a moment, and says so if it was in vain."""

import time
from pathlib import Path

import pytest

from stillframe.db import volumes
from stillframe.db.engine import Database
from stillframe.volumes.chain import view as chain_view
from tests.unit.builders import SNAPSHOT, VOLUME, context, volume_row
from tests.unit.journal.fakes import submit
from tests.unit.volumes.fakes import worker

BASE = f"volume-{VOLUME}"
GONE = f"{BASE}.{SNAPSHOT}"  # the row still names it; the file has its own name again
MISSING = f"the active file of volume {VOLUME}, {GONE}, is missing on the share"


@pytest.fixture(autouse=True)
def row(database: Database) -> None:
    with database.write() as connection:
        volume_row(connection, active_file=GONE)


def shown(database: Database, state_dir: Path) -> str | None:
    problem: str | None = chain_view.show(worker(database, state_dir), context("member"), VOLUME)["problem"]
    return problem


def test_what_is_right_a_moment_later_is_no_problem(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def recorded(_seconds: float) -> None:
        with database.write() as connection:
            volumes.change(connection, VOLUME, active_file=BASE)

    monkeypatch.setattr(time, "sleep", recorded)
    monkeypatch.setattr(chain_view, "PATIENCE_SECONDS", 60.0)
    submit(database, ["rename"], resources=[f"volume:{VOLUME}"])
    assert shown(database, tmp_path) is None


def test_a_problem_that_stays_is_told_although_nothing_is_under_way(database: Database, tmp_path: Path) -> None:
    assert shown(database, tmp_path) == MISSING


def test_a_problem_that_stays_under_way_names_the_operation(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain_view, "PATIENCE_SECONDS", 0.0)
    submit(database, ["rename"], kind="extend_volume", resources=[f"volume:{VOLUME}"])
    assert shown(database, tmp_path) == f"{MISSING}; extend_volume is under way, so look again when it has ended"
