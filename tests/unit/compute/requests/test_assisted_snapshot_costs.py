"""The deletion of a set costs what its volumes cost, and is refused for what any of them is refused for."""

from pathlib import Path
from typing import Any

import pytest

from stillframe.compute.requests import assisted_snapshot_costs
from stillframe.compute.worker.context import WorkerContext
from stillframe.db import assisted_snapshots
from stillframe.db.engine import Database
from stillframe.errors import NotFound
from stillframe.journal import record
from stillframe.journal.record import Request
from stillframe.journal.typed import Intent
from tests.unit.builders import OTHER_SNAPSHOT, OTHER_VOLUME, SERVER, SET, SNAPSHOT, VOLUME, context, new_id
from tests.unit.compute import fakes

DOWN = {"possible": True, "method": "block commit", "bytes": 70, "seconds": 0.7, "why": "down", "dependants": [], "steps": []}
UP = {"possible": True, "method": "block pull", "bytes": 30, "seconds": 0.3, "why": "up", "dependants": [], "steps": []}
REFUSED = {**UP, "possible": False, "method": None, "bytes": 0, "seconds": 0, "why": "a clone reads it", "dependants": ["x"]}


class Costs(fakes.Storage):
    told: dict[str, dict[str, Any]]

    def explain_deletion(self, snapshot_id: str) -> dict[str, Any]:
        if snapshot_id not in self.told:
            raise NotFound(f"no snapshot {snapshot_id}")
        return self.told[snapshot_id]


@pytest.fixture
def storage() -> Costs:
    made = Costs()
    made.told = {SNAPSHOT: DOWN, OTHER_SNAPSHOT: UP}
    return made


@pytest.fixture
def worker(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: Costs) -> WorkerContext:
    made = fakes.worker(database, tmp_path, [], monkeypatch, storage)
    entries = [{"volume_id": VOLUME, "snapshot_id": SNAPSHOT}, {"volume_id": OTHER_VOLUME, "snapshot_id": OTHER_SNAPSHOT}]
    row: Any = {"id": SET, "project_id": "demo", "user_id": "u", "server_id": SERVER, "metadata": {}, "status": "available"}
    more: Any = {"quiesce": "preferred", "volumes": entries, "excluded_disks": [], "progress": 100, "consistency": None}
    with database.write() as connection:
        assisted_snapshots.insert(connection, row | more)
    return made


def explained(worker: WorkerContext) -> dict[str, Any]:
    return assisted_snapshot_costs.explain_deletion(worker, context(), SERVER, SET)


def test_a_set_costs_the_sum_of_its_volumes(worker: WorkerContext) -> None:
    found = explained(worker)
    assert (found["possible"], found["bytes"], found["seconds"]) == (True, 100, 1.0)
    assert found["method"] == "block commit, block pull"
    assert found["volumes"] == [
        {"volume_id": VOLUME, "snapshot_id": SNAPSHOT, **DOWN},
        {"volume_id": OTHER_VOLUME, "snapshot_id": OTHER_SNAPSHOT, **UP},
    ]


def test_one_volume_that_cannot_be_merged_is_named(worker: WorkerContext, storage: Costs) -> None:
    storage.told[OTHER_SNAPSHOT] = REFUSED
    found = explained(worker)
    assert (found["possible"], found["why"], found["dependants"]) == (
        False,
        f"volume {OTHER_VOLUME}: a clone reads it",
        ["x"],
    )


def test_a_snapshot_that_is_gone_costs_nothing(worker: WorkerContext, storage: Costs) -> None:
    del storage.told[SNAPSHOT]
    assert explained(worker)["bytes"] == 30


def test_a_set_that_is_not_deleted_now_says_so(worker: WorkerContext) -> None:
    with worker.database.write() as connection:
        record.submit(connection, Request("compute", "x", Intent(), [], [f"server:{SERVER}"], "r"))
    assert "is busy" in explained(worker)["why"]
    with worker.database.write() as connection:
        assisted_snapshots.change(connection, SET, status="deleting")
    assert explained(worker)["why"] == f"assisted snapshot {SET} is deleting"
    with pytest.raises(NotFound):
        assisted_snapshot_costs.explain_deletion(worker, context(), SERVER, new_id())
