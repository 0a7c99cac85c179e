"""Policies' rows: who may take a run, and what a worker's record leaves alone."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from stillframe.db import assisted_snapshots, snapshot_policies
from stillframe.db.engine import Database
from stillframe.db.queries import Page
from stillframe.db.rows import SnapshotPolicyRow
from stillframe.db.values import NewSnapshotPolicy
from tests.unit.builders import SERVER, SET, VOLUME, new_id

NOON = datetime(2026, 11, 24, 12)
SOON = NOON + timedelta(seconds=7)
LATER = NOON + timedelta(minutes=1)
POLICY = "8b8b8b8b-8888-4888-8888-888888888888"
ROW: NewSnapshotPolicy = {
    "description": None,
    "id": POLICY,
    "project_id": "demo",
    "user_id": "somebody",
    "name": "hourly",
    "server_id": SERVER,
    "schedule": "0 * * * *",
    "timezone": "UTC",
    "quiesce": "preferred",
    "volumes": "all",
    "keep_last": 3,
    "keep_hourly": 0,
    "keep_daily": 0,
    "keep_weekly": 0,
    "enabled": True,
    "next_run": NOON,
}


@pytest.fixture(autouse=True)
def known(database: Database) -> None:
    with database.write() as connection:
        snapshot_policies.insert(connection, ROW)


def row_of(database: Database) -> SnapshotPolicyRow:
    with database.read() as connection:
        found = snapshot_policies.get(connection, POLICY, None)
    assert found is not None
    return found


def claim(database: Database, row: SnapshotPolicyRow) -> bool:
    with database.write() as connection:
        return snapshot_policies.claim(connection, row, SOON, LATER)


def due(database: Database, now: datetime) -> list[str]:
    with database.read() as connection:
        return [row["id"] for row in snapshot_policies.due(connection, now)]


def test_a_run_is_taken_by_one_of_those_who_read_it(database: Database) -> None:
    read = row_of(database)
    assert [claim(database, read), claim(database, read)] == [True, False]
    taken = row_of(database)
    assert (taken["next_run"], taken["due_at"], taken["trying_since"], taken["updated_at"]) == (LATER, NOON, SOON, None)


def test_a_run_that_is_taken_again_is_the_same_run(database: Database) -> None:
    claim(database, row_of(database))
    claim(database, row_of(database))
    assert row_of(database)["due_at"] == NOON


def test_a_policy_that_was_switched_off_meanwhile_is_not_taken(database: Database) -> None:
    read = row_of(database)
    with database.write() as connection:
        snapshot_policies.change(connection, POLICY, enabled=False)
    assert not claim(database, read)


def test_what_came_of_a_run_does_not_overwrite_what_somebody_changed(database: Database) -> None:
    claim(database, row_of(database))
    with database.write() as connection:
        assert snapshot_policies.settle(connection, POLICY, LATER, next_run=NOON, due_at=None)
        assert not snapshot_policies.settle(connection, POLICY, LATER, next_run=LATER)
        snapshot_policies.note(connection, POLICY, last_error="x")
    found = row_of(database)
    assert (found["next_run"], found["due_at"], found["last_error"], found["updated_at"]) == (NOON, None, "x", None)


def test_policies_are_due_when_enabled_and_not_before_their_time(database: Database) -> None:
    assert due(database, NOON - timedelta(seconds=1)) == []
    assert due(database, NOON) == [POLICY]
    with database.write() as connection:
        snapshot_policies.insert(connection, {**ROW, "id": new_id(), "enabled": False})
        snapshot_policies.insert(connection, {**ROW, "id": new_id(), "next_run": None})
        snapshot_policies.insert(connection, {**ROW, "id": VOLUME, "next_run": NOON - timedelta(days=1)})
    assert due(database, NOON) == [VOLUME, POLICY]
    with database.read() as connection:
        assert len(snapshot_policies.enabled(connection)) == 3
        assert snapshot_policies.count_of_server(connection, SERVER) == 4
        assert snapshot_policies.count_of_server(connection, VOLUME) == 0


def test_another_projects_policies_are_not_seen(database: Database) -> None:
    with database.read() as connection:
        assert snapshot_policies.get(connection, POLICY, "other") is None
        assert snapshot_policies.list_page(connection, "other", Page()) == []
        assert len(snapshot_policies.list_page(connection, "demo", Page())) == 1


def test_a_deleted_policy_is_gone(database: Database) -> None:
    with database.write() as connection:
        snapshot_policies.delete(connection, POLICY)
    assert due(database, LATER) == []


def test_sets_are_found_by_the_policy_that_made_them(database: Database) -> None:
    base: Any = {
        "project_id": "demo",
        "user_id": "u",
        "server_id": SERVER,
        "metadata": {},
        "progress": 100,
        "quiesce": "never",
        "volumes": [],
        "excluded_disks": [],
    }
    with database.write() as connection:
        for set_id, status, policy in ((SET, "available", POLICY), (VOLUME, "error", POLICY), (SERVER, "error", None)):
            made: Any = {**base, "id": set_id, "status": status, "policy_id": policy}
            assisted_snapshots.insert(connection, made)
        assert [row["id"] for row in assisted_snapshots.made_by_policies(connection, SERVER)] == [SET, VOLUME]
        assert assisted_snapshots.made_by_policies(connection, VOLUME) == []
        assert [row["id"] for row in assisted_snapshots.failed_of(connection, [POLICY])] == [VOLUME]
        assert assisted_snapshots.failed_of(connection, []) == []
        newest = assisted_snapshots.newest_of_server(connection, SERVER)
        assert newest is not None and newest["id"] == SERVER
        assert assisted_snapshots.newest_of_server(connection, VOLUME) is None
