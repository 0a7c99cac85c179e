"""The open pages: health and metrics, made from the database."""

import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import falcon
import pytest
from falcon import testing

from stillframe.db import assisted_snapshots, operations, services
from stillframe.db.engine import Database
from stillframe.db.values import NewAssistedSnapshot
from stillframe.web import observe
from tests.unit.builders import SERVER, new_id
from tests.unit.journal.fakes import submit


def page(made: observe.Page) -> testing.Result:
    class Resource:
        def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
            made(req, resp)

    application = falcon.App()
    application.add_route("/page", Resource())
    result: testing.Result = testing.TestClient(application).simulate_get("/page")
    return result


def sample(text: str, name: str) -> list[str]:
    return [line.removeprefix(name) for line in text.splitlines() if line.startswith(name)]


def measured(database: Database, consistency: dict[str, Any] | None) -> None:
    row: NewAssistedSnapshot = {
        "id": new_id(),
        "project_id": "demo",
        "user_id": "u",
        "server_id": SERVER,
        "metadata": {},
        "status": "available",
        "progress": 100,
        "quiesce": "preferred",
        "consistency": consistency,
        "volumes": [],
        "excluded_disks": [],
    }
    with database.write() as connection:
        assisted_snapshots.insert(connection, row)


def test_a_service_is_healthy_while_its_worker_was_seen_within_a_minute(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    health = observe.health_page(database, "stillframe-volumes")
    assert page(health).status_code == 503
    with database.write() as connection:
        services.beat(connection, "stillframe-compute", "here")
    assert page(health).status_code == 503
    with database.write() as connection:
        services.beat(connection, "stillframe-volumes", "here")
        seen = services.list_all(connection)[-1]["seen_at"]
    assert page(health).json == {"database": "ok", "worker": "ok"}
    monkeypatch.setattr(time, "time", lambda: seen + observe.SILENT_AFTER_SECONDS + 1)
    assert page(health).status_code == 503


def test_a_worker_beats_in_one_row(database: Database) -> None:
    with database.write() as connection:
        for host in ("here", "here", "there"):
            services.beat(connection, "stillframe-volumes", host)
        assert [row["host"] for row in services.list_all(connection)] == ["here", "there"]


def test_operations_are_counted_by_kind_and_outcome(database: Database) -> None:
    for _ in range(2):
        submit(database, ["one"], kind="create_snapshot")
    answer = page(observe.metrics_page(database))
    assert answer.headers["Content-Type"].startswith("text/plain")
    line = 'stillframe_operations_total{kind="create_snapshot",outcome="pending",service="volumes"}'
    assert sample(answer.text, line) == [" 2.0"]


def test_the_age_of_the_oldest_operation_that_has_not_ended_is_told(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "stillframe_operation_oldest_seconds{" not in page(observe.metrics_page(database)).text
    for _ in range(2):
        submit(database, ["one"], kind="create_snapshot")
    with database.read() as connection:
        first = min(row["created_at"] for row in operations.newest(connection, 2))
    monkeypatch.setattr(observe, "now", lambda: first + timedelta(seconds=90))
    line = 'stillframe_operation_oldest_seconds{kind="create_snapshot",service="volumes"}'
    assert sample(page(observe.metrics_page(database)).text, line) == [" 90.0"]


def test_frozen_times_fall_into_buckets(database: Database) -> None:
    for frozen in (60.0, 450.0, 40000.0):
        measured(database, {"level": "filesystem", "frozen_ms": frozen})
    measured(database, {"level": "crash", "frozen_ms": None})
    measured(database, None)
    text = page(observe.metrics_page(database)).text
    name = "stillframe_frozen_milliseconds"
    assert sample(text, f'{name}_bucket{{le="50.0"}}') == [" 0.0"]
    assert sample(text, f'{name}_bucket{{le="500.0"}}') == [" 2.0"]
    assert sample(text, f'{name}_bucket{{le="+Inf"}}') == [" 3.0"]
    assert sample(text, f"{name}_count") == [" 3.0"]


def test_no_document_of_a_set_is_read_for_the_figures(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody may ask for them: to read the documents of 20,000 sets took the process seconds each time."""
    measured(database, {"level": "filesystem", "frozen_ms": 60, "disks": {}})

    def read(_text: str) -> Any:
        raise AssertionError("a document was read")

    monkeypatch.setattr(database.engine.dialect, "_json_deserializer", read)
    assert sample(page(observe.metrics_page(database)).text, "stillframe_frozen_milliseconds_count") == [" 1.0"]


def test_a_database_without_rows_has_metrics(database: Database, tmp_path: Path) -> None:
    assert "stillframe_frozen_milliseconds_count 0.0" in page(observe.metrics_page(database)).text
