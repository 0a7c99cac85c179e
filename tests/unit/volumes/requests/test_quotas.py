from pathlib import Path

from stillframe.db import quotas
from stillframe.db.engine import Database
from stillframe.volumes.requests import quotas as quota_requests
from tests.unit.builders import context
from tests.unit.volumes import fakes


def test_limits_are_set_and_cleared_for_a_project(database: Database, tmp_path: Path) -> None:
    worker, admin = fakes.worker(database, tmp_path), context("admin")
    quota_requests.set_quotas(worker, admin, "demo", {"volumes": 1})
    with database.read() as connection:
        assert quotas.limits(connection, "demo") == {"volumes": 1}
    quota_requests.clear_quotas(worker, admin, "demo")
    with database.read() as connection:
        assert quotas.limits(connection, "demo") == {}
