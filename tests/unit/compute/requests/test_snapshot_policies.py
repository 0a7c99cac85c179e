"""Requests about snapshot policies, and what of them is refused."""

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from stillframe.compute.requests import snapshot_policies as policy_requests
from stillframe.compute.worker.context import WorkerContext
from stillframe.db import snapshot_policies
from stillframe.db.engine import Database
from stillframe.db.queries import Page
from stillframe.db.tables import snapshot_policies as table
from stillframe.errors import BadRequest, NotFound, QuotaExceeded
from tests.unit.builders import OTHER_VOLUME, SERVER, VOLUME, context, new_id
from tests.unit.compute import fakes

NOW = datetime(2026, 11, 24, 12, 30)


@pytest.fixture
def worker(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WorkerContext:
    monkeypatch.setattr(policy_requests, "now", lambda: NOW)
    disk = fakes.disk_xml("vda", f"/srv/share/volume-{VOLUME}", VOLUME)
    return fakes.worker(database, tmp_path, [fakes.view(fakes.domain_xml(disk))], monkeypatch)


def stored(worker: WorkerContext) -> list[Any]:
    with worker.database.read() as connection:
        return snapshot_policies.list_page(connection, None, Page())


def make(worker: WorkerContext, **wanted: Any) -> Any:
    policy_id = policy_requests.create(worker, context(), SERVER, {"schedule": "0 * * * *", **wanted})
    return next(row for row in stored(worker) if row["id"] == policy_id)


def test_what_is_left_out_has_its_default(worker: WorkerContext) -> None:
    row = make(worker, timezone=None, volumes=None, keep_last=None, enabled=None)
    assert {key: row[key] for key in policy_requests.DEFAULTS} == {**policy_requests.DEFAULTS, "schedule": "0 * * * *"}
    assert (row["server_id"], row["project_id"], row["user_id"]) == (SERVER, "demo", "somebody")
    assert row["next_run"] == datetime(2026, 11, 24, 13)


def test_a_policy_of_one_volume_by_the_clock_of_its_zone(worker: WorkerContext) -> None:
    row = make(worker, schedule=" 0\t3 * * *  ", timezone="Europe/Berlin", volumes=[VOLUME.upper()], keep_daily=7)
    assert (row["schedule"], row["volumes"]) == ("0 3 * * *", [VOLUME])
    assert row["next_run"] == datetime(2026, 11, 25, 2)


def test_a_policy_may_only_delete_or_only_take_but_not_neither(worker: WorkerContext) -> None:
    assert make(worker, schedule=None, keep_last=1)["next_run"] is None
    assert make(worker)["next_run"] is not None
    with pytest.raises(BadRequest, match="neither takes nor deletes"):
        make(worker, schedule=None)


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({"schedule": ""}, "five fields"),
        ({"schedule": "0 0 * *"}, "five fields"),
        ({"schedule": "* * * * * *"}, "five fields"),
        ({"schedule": "61 * * * *"}, "bad minute"),
        ({"schedule": "* * * * someday"}, "bad day-of-week"),
        ({"schedule": "0 0 31 2 *"}, "bad day-of-month"),
        ({"timezone": "Mars/Olympus"}, "Mars/Olympus"),
        ({"timezone": "/etc/localtime"}, "not known"),
        ({"timezone": "Europe"}, "not known"),
        ({"timezone": ""}, "not known"),
        ({"volumes": [OTHER_VOLUME]}, f"not attached to server {SERVER} as a volume: {OTHER_VOLUME}"),
        ({"volumes": [VOLUME, VOLUME.upper()]}, "named twice"),
        ({"volumes": ["x"]}, "not a UUID"),
        ({"keep_last": 64}, "at most 63 snapshots"),
        ({"keep_hourly": 1000}, "keep_hourly is 1000"),
        ({"keep_daily": 64}, "keep_daily"),
        ({"keep_weekly": 64}, "keep_weekly"),
    ],
    ids=str,
)
def test_nonsense_is_refused_and_nothing_is_stored(worker: WorkerContext, wanted: dict[str, Any], told: str) -> None:
    with pytest.raises(BadRequest, match=told):
        make(worker, **wanted)
    assert stored(worker) == []
    kept = make(worker)
    with pytest.raises(BadRequest, match=told):
        policy_requests.change(worker, context(), kept["id"], wanted)
    assert stored(worker) == [kept]


def test_another_projects_server_is_not_found(worker: WorkerContext) -> None:
    for who, server in ((context(project="other"), SERVER), (context(), VOLUME), (context(), "x")):
        with pytest.raises(NotFound):
            policy_requests.create(worker, who, server, {"schedule": "0 * * * *"})
    assert stored(worker) == []


def test_an_administrator_makes_a_policy_of_the_servers_project(worker: WorkerContext) -> None:
    policy_requests.create(worker, context("admin", project="other"), SERVER, {"schedule": "0 * * * *"})
    assert stored(worker)[0]["project_id"] == "demo"


def test_a_server_has_a_limited_number_of_policies(worker: WorkerContext) -> None:
    for _ in range(policy_requests.MOST_PER_SERVER):
        make(worker)
    with pytest.raises(QuotaExceeded, match=SERVER):
        make(worker)
    assert len(stored(worker)) == policy_requests.MOST_PER_SERVER


def test_only_what_is_named_changes_and_the_next_run_only_with_the_timing(worker: WorkerContext) -> None:
    row = make(worker, keep_last=2)
    with worker.database.write() as connection:
        snapshot_policies.note(connection, row["id"], next_run=NOW, due_at=NOW, trying_since=NOW)
    policy_requests.change(worker, context(), row["id"], {"keep_last": 5, "name": "n", "schedule": "0  * * * *"})
    changed = stored(worker)[0]
    assert (changed["keep_last"], changed["name"], changed["next_run"], changed["due_at"]) == (5, "n", NOW, NOW)
    policy_requests.change(worker, context(), row["id"], {"schedule": "0 18 * * *"})
    changed = stored(worker)[0]
    assert (changed["next_run"], changed["due_at"], changed["trying_since"]) == (datetime(2026, 11, 24, 18), None, None)
    policy_requests.change(worker, context(), row["id"], {"timezone": "Europe/Berlin"})
    assert stored(worker)[0]["next_run"] == datetime(2026, 11, 24, 17)


def test_a_policy_that_is_switched_off_has_no_next_run(worker: WorkerContext) -> None:
    row = make(worker)
    policy_requests.change(worker, context(), row["id"], {"enabled": False})
    assert stored(worker)[0]["next_run"] is None
    policy_requests.change(worker, context(), row["id"], {"enabled": None})
    assert stored(worker)[0]["next_run"] == datetime(2026, 11, 24, 13)
    assert make(worker, enabled=False)["next_run"] is None


def test_a_policy_of_a_server_that_is_gone_can_still_be_switched_off(worker: WorkerContext) -> None:
    row = make(worker, volumes=[VOLUME])
    with worker.database.write() as connection:
        connection.execute(update(table).where(table.c.id == row["id"]).values(server_id=new_id()))
    policy_requests.change(worker, context(), row["id"], {"enabled": False})
    with pytest.raises(NotFound):
        policy_requests.change(worker, context(), row["id"], {"volumes": [VOLUME]})
    policy_requests.delete(worker, context(), row["id"])
    assert stored(worker) == []


def test_another_projects_policy_is_neither_changed_nor_deleted(worker: WorkerContext) -> None:
    row = make(worker)
    for stranger in (context(project="other"), context("reader", project="other")):
        with pytest.raises(NotFound):
            policy_requests.change(worker, stranger, row["id"], {"enabled": False})
        with pytest.raises(NotFound):
            policy_requests.delete(worker, stranger, row["id"])
    assert stored(worker) == [row]
    policy_requests.delete(worker, context("admin", project="other"), row["id"])
    assert stored(worker) == []


def test_block_storage_says_how_many_sets_a_chain_has_room_for(worker: WorkerContext) -> None:
    storage: Any = worker.storage
    kept = make(worker, keep_last=5)
    told = [{"chain_limits": {"max_chain_depth": 5}}, None, {"chain_limits": {"max_chain_depth": 9}}]
    storage.attachments = [{"connection_info": info} for info in told]
    with pytest.raises(BadRequest, match="keep_last is 5, but a volume can have at most 4 snapshots"):
        make(worker, keep_last=5)
    with pytest.raises(BadRequest, match="keep_daily is 9"):
        policy_requests.change(worker, context(), kept["id"], {"keep_daily": 9})
    policy_requests.change(worker, context(), kept["id"], {"keep_last": 4, "name": "n"})
    assert make(worker, keep_last=4)["keep_last"] == 4
