"""Where an operation runs: the lane of its share, and what it touches there, whichever release stored it."""

from pathlib import Path
from typing import Any

import pytest

from stillframe.db.engine import Database
from stillframe.journal.operation import Operation
from stillframe.volumes import kinds
from stillframe.volumes.operations.chain_metadata import RecordChain
from stillframe.volumes.worker.context import WorkerContext
from tests.unit import builders
from tests.unit.builders import OTHER_VOLUME, VOLUME
from tests.unit.volumes import fakes


@pytest.fixture
def worker(database: Database, tmp_path: Path) -> WorkerContext:
    with database.write() as connection:
        builders.volume_row(connection, share="/of/the/row")
    return fakes.worker(database, tmp_path, fakes.share())


def operation(intent: Any) -> Operation:
    return Operation("op", "a kind", "running", intent, [], 0, {}, 1, 0, "req-1")


@pytest.mark.parametrize(
    ("intent", "lane", "places"),
    [
        (RecordChain(volume_id=VOLUME), "/of/the/row", (f"volume {VOLUME}",)),
        (RecordChain(volume_id=OTHER_VOLUME), "", (f"volume {OTHER_VOLUME}",)),
        ({"volume_id": VOLUME, "share": "/its/own", "of another release": 1}, "/its/own", (f"volume {VOLUME}",)),
        ({"volume_id": 7}, "", ()),
        ({}, "", ()),
    ],
)
def test_an_operation_runs_with_those_of_its_share(worker: WorkerContext, intent: Any, lane: str, places: Any) -> None:
    assert (worker.lane(operation(intent)), kinds.places(operation(intent))) == (lane, places)
