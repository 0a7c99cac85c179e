"""When a worker was seen: by the database's clock, which may be set."""

import pytest

from stillframe.db import services
from stillframe.db.engine import Database
from stillframe.web.observe import SILENT_AFTER_SECONDS
from tests.unit.clocks import set_clock


@pytest.mark.parametrize("by", [3600.0, -3600.0])
def test_a_dead_worker_is_silent_whichever_way_the_clock_was_set(
    database: Database, monkeypatch: pytest.MonkeyPatch, by: float
) -> None:
    with database.write() as connection:
        services.beat(connection, "stillframe-volumes", "dead")
        services.beat(connection, "stillframe-volumes", "alive")
    set_clock(monkeypatch, by)
    with database.write() as connection:
        services.beat(connection, "stillframe-volumes", "alive")
        found = {row["host"]: row["silent_seconds"] for row in services.list_all(connection)}
    assert found["alive"] < SILENT_AFTER_SECONDS < found["dead"]
