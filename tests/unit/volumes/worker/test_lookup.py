"""Who may see what, and what a project may have."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillframe.db import quotas, snapshots, volumes
from stillframe.db.engine import Database
from stillframe.errors import BadRequest, Conflict, NotFound, QuotaExceeded
from stillframe.journal import record
from stillframe.volumes.operations import chain_metadata
from stillframe.volumes.operations import volumes as operations
from stillframe.volumes.worker import lookup
from stillframe.volumes.worker.context import WorkerContext
from tests.unit import builders
from tests.unit.builders import BACKUP, OTHER_VOLUME, SNAPSHOT, VOLUME, context
from tests.unit.volumes import fakes

MEMBER, FOREIGN = context(), context(project="other")
FINDERS: dict[str, Any] = {VOLUME: lookup.volume, SNAPSHOT: lookup.snapshot, BACKUP: lookup.backup}


@pytest.fixture
def worker(database: Database, tmp_path: Path) -> WorkerContext:
    with database.write() as connection:
        builders.volume_row(connection, size=3)
        builders.snapshot_row(connection)
        builders.backup_row(connection, size=5)
    return fakes.worker(database, tmp_path)


@pytest.mark.parametrize("wanted", list(FINDERS))
def test_a_row_is_found_by_its_project_by_admins_and_by_the_service(worker: WorkerContext, wanted: str) -> None:
    with worker.database.read() as connection:
        for who in (MEMBER, context("admin", project="other"), context("service", project="service")):
            assert FINDERS[wanted](connection, who, wanted.upper())["id"] == wanted


@pytest.mark.parametrize("wanted", list(FINDERS))
def test_a_foreign_row_is_answered_as_a_missing_one(worker: WorkerContext, wanted: str) -> None:
    with worker.database.read() as connection:
        with pytest.raises(NotFound) as foreign:
            FINDERS[wanted](connection, FOREIGN, wanted)
        with pytest.raises(NotFound) as missing:
            FINDERS[wanted](connection, MEMBER, OTHER_VOLUME)
    assert foreign.value.message.replace(wanted, "X") == missing.value.message.replace(OTHER_VOLUME, "X")


@pytest.mark.parametrize("wanted", ["x", "", "../x", "x" * 9999])
def test_what_is_no_id_is_refused(worker: WorkerContext, wanted: str) -> None:
    with worker.database.read() as connection:
        for find in FINDERS.values():
            with pytest.raises(BadRequest):
                find(connection, MEMBER, wanted)


def test_what_a_project_has_is_counted_by_project(worker: WorkerContext) -> None:
    with worker.database.read() as connection:
        assert lookup.used(connection, "demo") == {
            "volumes": 1,
            "gigabytes": 4,  # 3 of the volume, 1 of its snapshot
            "snapshots": 1,
            "backups": 1,
            "backup_gigabytes": 5,
            "groups": 0,
        }
        assert set(lookup.used(connection, "other").values()) == {0}


def test_a_projects_own_limit_wins_over_the_configuration(database: Database, tmp_path: Path) -> None:
    worker = fakes.worker(database, tmp_path, quota_volumes=7, quota_backups=8)
    with database.write() as connection:
        quotas.set_limits(connection, "demo", {"volumes": 2})
        assert lookup.limits(worker, connection, "demo")["volumes"] == 2
        assert lookup.limits(worker, connection, "demo")["backups"] == 8
        assert lookup.limits(worker, connection, "other")["volumes"] == 7


@given(
    st.sampled_from(["volumes", "gigabytes", "snapshots", "backups", "backup_gigabytes"]),
    st.integers(-1, 8),
    st.integers(-1, 8),
)
def test_a_quota_is_broken_exactly_by_what_is_beyond_it(worker: WorkerContext, resource: str, limit: int, more: int) -> None:
    with worker.database.write() as connection:
        quotas.set_limits(connection, "demo", {resource: limit})
        has = lookup.used(connection, "demo")[resource]
        fits = limit < 0 or more <= 0 or has + more <= limit
        if fits:
            lookup.check_quota(worker, connection, "demo", {resource: more})
        else:
            with pytest.raises(QuotaExceeded, match="exceed") as found:
                lookup.check_quota(worker, connection, "demo", {resource: more})
            told = {"resource": resource, "used": has, "asked": more, "allowed": limit}
            assert found.value.details == told
        quotas.clear(connection, "demo")


def test_a_volumes_own_limit_of_snapshots(worker: WorkerContext) -> None:
    with worker.database.write() as connection:
        row, rows = lookup.volume(connection, MEMBER, VOLUME), snapshots.of_volume(connection, VOLUME)
        quotas.set_limits(connection, "demo", {"snapshots_per_volume": 1})
        with pytest.raises(QuotaExceeded, match="has 1, 1 are allowed"):
            lookup.check_snapshot_quota(worker, connection, row, rows)
        quotas.set_limits(connection, "demo", {"snapshots_per_volume": 2})
        lookup.check_snapshot_quota(worker, connection, row, rows)
        quotas.set_limits(connection, "demo", {"snapshots": 1})
        with pytest.raises(QuotaExceeded, match="Maximum number of snapshots allowed"):
            lookup.check_snapshot_quota(worker, connection, row, rows)


def test_a_volume_is_busy_for_whom_its_operation_is_in_the_way(worker: WorkerContext) -> None:
    with worker.database.write() as connection:
        volume = volumes.get(connection, VOLUME, None)
        assert volume is not None
        other = builders.volume_row(connection, id=OTHER_VOLUME)
        source = operations.CopySource(volume_id=VOLUME, name="x", format="qcow2", exclusive=False)
        record.submit(connection, chain_metadata.request(VOLUME, "r"))
        lookup.refuse_if_busy(connection, VOLUME)
        copying = record.submit(connection, operations.copy_request(other, 1, source, "r"))
        lookup.refuse_if_busy(connection, VOLUME, shared=True)
        with pytest.raises(Conflict, match=copying):
            lookup.refuse_if_busy(connection, VOLUME)
        deleting = record.submit(connection, operations.delete_request(volume, "r"))
        with pytest.raises(Conflict, match=deleting):
            lookup.refuse_if_busy(connection, VOLUME, shared=True)
