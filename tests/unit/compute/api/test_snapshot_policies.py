"""Snapshot policies as clients ask for them and read them."""

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from stillframe.compute.api import snapshot_policies as api
from stillframe.db import assisted_snapshots, snapshot_policies
from stillframe.db.engine import Database
from stillframe.db.values import NewAssistedSnapshot, NewSnapshotPolicy
from stillframe.errors import BadRequest, NotFound
from stillframe.web.route import Call
from tests.unit import builders
from tests.unit.builders import SERVER, SET, VOLUME, context, new_id
from tests.unit.web.shell import SERVICES, Site

POLICY = "8b8b8b8b-8888-4888-8888-888888888888"
ROW: NewSnapshotPolicy = {
    "id": POLICY,
    "project_id": "demo",
    "user_id": "u",
    "name": "hourly",
    "description": None,
    "server_id": SERVER,
    "schedule": "0 * * * *",
    "timezone": "Europe/Berlin",
    "quiesce": "required",
    "volumes": [VOLUME],
    "keep_last": 1,
    "keep_hourly": 2,
    "keep_daily": 3,
    "keep_weekly": 4,
    "enabled": True,
    "created_at": datetime(2026, 1, 2, 3, 4, 5),
    "next_run": datetime(2026, 1, 2, 4),
    "last_run": None,
    "last_set_id": SET,
    "last_error": None,
    "retention_error": "in the way",
    "retention_note": "gone all the same",
}
FAILED: NewAssistedSnapshot = {
    "id": SET,
    "project_id": "demo",
    "user_id": "u",
    "server_id": SERVER,
    "metadata": {},
    "status": "error",
    "progress": 0,
    "quiesce": "required",
    "volumes": [],
    "excluded_disks": [],
    "fault": "the share is full",
    "policy_id": POLICY,
}


@pytest.fixture
def asked(database: Database, tmp_path: Path) -> Any:
    with database.write() as connection:
        snapshot_policies.insert(connection, ROW)

    def make(path: dict[str, str], *roles: str, project: str = "demo", **more: Any) -> Call:
        api = builders.api(database, tmp_path, {"create_snapshot_policy": POLICY})
        return builders.call(api, (2, 1), context(*roles, project=project), path=path, **more)

    return make


def test_a_policy_is_shown_whole(asked: Any) -> None:
    shown = api.show(asked({"policy_id": POLICY.upper()}))["snapshot_policy"]
    kept = {key: value for key, value in ROW.items() if key not in ("project_id", "user_id")}
    stamps = {"created_at": "2026-01-02T03:04:05.000000", "next_run": "2026-01-02T04:00:00.000000", "updated_at": None}
    assert shown == {**kept, **stamps, "failed_sets": []}


def test_sets_that_failed_are_shown_and_the_last_one_is_the_last_error(asked: Any, database: Database) -> None:
    with database.write() as connection:
        assisted_snapshots.insert(connection, FAILED)
        assisted_snapshots.insert(connection, {**FAILED, "id": new_id(), "policy_id": new_id()})
        assisted_snapshots.insert(connection, {**FAILED, "id": new_id(), "status": "available"})
    for shown in (
        api.show(asked({"policy_id": POLICY}))["snapshot_policy"],
        api.list_all(asked({}))["snapshot_policies"][0],
    ):
        assert shown["failed_sets"] == [{"id": SET, "fault": "the share is full"}]
        assert shown["last_error"] == "the share is full"
    with database.write() as connection:
        snapshot_policies.change(connection, POLICY, last_error="a later run was missed")
    assert api.show(asked({"policy_id": POLICY}))["snapshot_policy"]["last_error"] == "a later run was missed"


def test_lists_show_a_servers_policies_and_all_of_the_project(asked: Any, database: Database) -> None:
    with database.write() as connection:
        snapshot_policies.insert(connection, {**ROW, "id": new_id(), "server_id": VOLUME, "name": "other"})
        snapshot_policies.insert(connection, {**ROW, "id": new_id(), "project_id": "other"})
    assert len(api.list_all(asked({}))["snapshot_policies"]) == 2
    assert [each["name"] for each in api.list_all(asked({}, query={"name": "other"}))["snapshot_policies"]] == ["other"]
    assert [each["id"] for each in api.list_of_server(asked({"id": SERVER.upper()}))["snapshot_policies"]] == [POLICY]
    assert api.list_of_server(asked({"id": "x"}))["snapshot_policies"] == []
    assert len(api.list_all(asked({}, "admin", query={"all_tenants": "1"}))["snapshot_policies"]) == 3
    assert "marker=" in api.list_all(asked({}, query={"limit": "1"}))["snapshot_policies_links"][0]["href"]
    with pytest.raises(BadRequest):
        api.list_all(asked({}, query={"enabled": "true"}))


@pytest.mark.parametrize("handler", [api.show, api.update, api.delete])
@pytest.mark.parametrize(("path", "project"), [(POLICY, "other"), (VOLUME, "demo"), ("x", "demo"), ("0" * 300, "demo")])
def test_what_is_not_there_or_another_projects_is_not_found(asked: Any, handler: Any, path: str, project: str) -> None:
    call = asked({"policy_id": path}, "member", project=project, body={"snapshot_policy": {"name": "x"}})
    with pytest.raises(NotFound):
        handler(call)
    assert call.api.bus.asked == []


def test_requests_are_given_on_to_the_worker(asked: Any) -> None:
    given = {"schedule": "0 3 * * *", "keep_last": 7, "volumes": [VOLUME]}
    made = asked({"id": SERVER}, body={"snapshot_policy": given})
    assert api.create(made)["snapshot_policy"]["id"] == POLICY
    assert made.api.bus.asked == [("create_snapshot_policy", {"server_id": SERVER, "wanted": given})]
    changed = asked({"policy_id": POLICY.upper()}, body={"snapshot_policy": {"enabled": False}})
    assert api.update(changed)["snapshot_policy"]["id"] == POLICY
    assert changed.api.bus.asked == [("change_snapshot_policy", {"policy_id": POLICY, "changes": {"enabled": False}})]
    gone = asked({"policy_id": POLICY})
    api.delete(gone)
    assert gone.api.bus.asked == [("delete_snapshot_policy", {"policy_id": POLICY})]


NONSENSE = [
    {"schedule": 5},
    {"schedule": "* " * 100},
    {"schedule": "* * * * *; reboot"},
    {"schedule": "* * * * *\n"},
    {"schedule": ["* * * * *"]},
    {"timezone": "../../etc/passwd"},
    {"timezone": "/etc/localtime "},
    {"timezone": "x" * 65},
    {"timezone": 1},
    {"quiesce": "maybe"},
    {"volumes": []},
    {"volumes": "some"},
    {"volumes": [VOLUME, VOLUME]},
    {"volumes": ["x" * 37]},
    {"keep_last": -1},
    {"keep_last": 1.5},
    {"keep_last": "3"},
    {"keep_hourly": True},
    {"keep_daily": 1001},
    {"keep_weekly": 10**30},
    {"keep_monthly": 1},
    {"enabled": "yes"},
    {"enabled": 1},
    {"name": "a\nb"},
    {"id": POLICY},
    {"server_id": VOLUME},
    {"next_run": "2026-01-01T00:00:00"},
    {"last_set_id": SET},
    {"project_id": "other"},
]


@pytest.mark.parametrize("given", NONSENSE, ids=str)
def test_nonsense_never_reaches_the_worker(database: Database, tmp_path: Path, given: Any) -> None:
    site = Site(database, tmp_path, SERVICES["compute"])
    body = {"snapshot_policy": {"schedule": "0 * * * *", **given}}
    for method, path in (("POST", f"/servers/{SERVER}/os-snapshot-policies"), ("PUT", f"/os-snapshot-policies/{POLICY}")):
        assert site.ask(method, f"/v2.1{path}", json=body).status_code == 400
    assert site.bus.asked == []


def test_an_empty_change_is_refused(database: Database, tmp_path: Path) -> None:
    site = Site(database, tmp_path, SERVICES["compute"])
    bodies: list[Any] = [{"snapshot_policy": {}}, {}, {"snapshot_policy": None}, {"snapshot_policy": {"name": "a"}, "x": 1}]
    for body in bodies:
        assert site.ask("PUT", f"/v2.1/os-snapshot-policies/{POLICY}", json=body).status_code == 400
    assert site.bus.asked == []


def test_answers_have_the_statuses_the_reference_names(database: Database, tmp_path: Path) -> None:
    with database.write() as connection:
        snapshot_policies.insert(connection, ROW)
    site = Site(database, tmp_path, SERVICES["compute"], {"create_snapshot_policy": POLICY})
    body = {"snapshot_policy": {"schedule": "0 * * * *"}}
    assert site.ask("POST", f"/v2.1/servers/{SERVER}/os-snapshot-policies", json=body).status_code == 201
    assert site.ask("PUT", f"/v2.1/os-snapshot-policies/{POLICY}", json=body).status_code == 200
    answer = site.ask("DELETE", f"/v2.1/os-snapshot-policies/{POLICY}")
    assert (answer.status_code, answer.text) == (204, "")
