"""Assisted snapshots as clients ask for them and read them."""

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from stillframe.compute.api import assisted_snapshots as api
from stillframe.db import assisted_snapshots
from stillframe.db.engine import Database
from stillframe.db.values import NewAssistedSnapshot
from stillframe.errors import BadRequest, NotFound
from stillframe.web.route import Call
from tests.unit import builders
from tests.unit.builders import OTHER_VOLUME, SERVER, SET, VOLUME, context, new_id
from tests.unit.web.shell import SERVICES, Site

POLICY = "8b8b8b8b-8888-4888-8888-888888888888"
ROW: NewAssistedSnapshot = {
    "id": SET,
    "project_id": "demo",
    "user_id": "u",
    "name": "nightly",
    "description": None,
    "server_id": SERVER,
    "metadata": {"k": "v"},
    "status": "available",
    "progress": 100,
    "quiesce": "preferred",
    "consistency": {"level": "filesystem"},
    "volumes": [{"volume_id": VOLUME}],
    "excluded_disks": [],
    "created_at": datetime(2024, 1, 2, 3, 4, 5),
    "switched_at": datetime(2024, 1, 2, 3, 4, 6, 500_000),
    "switched_at_uncertainty_ms": 95.5,
}


@pytest.fixture
def asked(database: Database, tmp_path: Path) -> Any:
    with database.write() as connection:
        assisted_snapshots.insert(connection, ROW)

    def make(path: dict[str, str], *roles: str, project: str = "demo", **more: Any) -> Call:
        api = builders.api(database, tmp_path, {"create_assisted_snapshot": SET})
        return builders.call(api, (2, 1), context(*roles, project=project), path=path, **more)

    return make


def test_a_set_is_shown_whole(asked: Any, database: Database) -> None:
    shown = api.show(asked({"set_id": SET}))["assisted_snapshot"]
    kept = {key: value for key, value in ROW.items() if key not in ("project_id", "user_id")}
    told: dict[str, Any] = {"fault": None, "policy_id": None, "warnings": [], "switched_at_note": None}
    stamps = {"created_at": "2024-01-02T03:04:05.000000", "switched_at": "2024-01-02T03:04:06.500000"}
    assert shown == {**kept, **told, **stamps}
    with database.write() as connection:
        assisted_snapshots.change(connection, SET, switched_at=None, switched_at_uncertainty_ms=None, switched_at_note="why")
    later = api.show(asked({"set_id": SET}))["assisted_snapshot"]
    found = [later[name] for name in ("switched_at", "switched_at_uncertainty_ms", "switched_at_note")]
    assert found == [None, None, "why"]


def test_a_set_says_which_policy_made_it_and_what_it_warns_of(asked: Any, database: Database) -> None:
    made: NewAssistedSnapshot = {**ROW, "id": new_id(), "policy_id": POLICY, "warnings": ["deep"]}
    with database.write() as connection:
        assisted_snapshots.insert(connection, made)
    shown = api.show(asked({"set_id": made["id"]}))["assisted_snapshot"]
    assert (shown["policy_id"], shown["warnings"]) == (POLICY, ["deep"])
    listed = api.list_all(asked({}, query={"policy_id": POLICY}))["assisted_snapshots"]
    assert [each["id"] for each in listed] == [made["id"]]


@pytest.mark.parametrize(
    "path", [{"set_id": SET}, {"set_id": SET, "id": SERVER}, {"set_id": SET.upper(), "id": SERVER.upper()}]
)
def test_a_set_is_found_alone_and_below_its_server(asked: Any, path: dict[str, str]) -> None:
    assert api.show(asked(path))["assisted_snapshot"]["id"] == SET


@pytest.mark.parametrize(
    "path", [{"set_id": VOLUME}, {"set_id": SET, "id": VOLUME}, {"set_id": "x"}, {"set_id": SET, "id": "x"}]
)
def test_a_set_that_is_not_there_or_another_servers_is_not_found(asked: Any, path: dict[str, str]) -> None:
    with pytest.raises(NotFound):
        api.show(asked(path))


def test_a_set_of_another_project_is_not_found_but_by_admins_and_the_service(asked: Any) -> None:
    with pytest.raises(NotFound):
        api.show(asked({"set_id": SET}, "member", project="other"))
    for role in ("admin", "service"):
        api.show(asked({"set_id": SET}, role, project="other"))


def test_lists_show_a_servers_sets_and_all_of_the_project(asked: Any, database: Database) -> None:
    with database.write() as connection:
        assisted_snapshots.insert(connection, {**ROW, "id": new_id(), "server_id": VOLUME})
        assisted_snapshots.insert(connection, {**ROW, "id": new_id(), "project_id": "other"})
    assert len(api.list_all(asked({}))["assisted_snapshots"]) == 2
    assert [each["id"] for each in api.list_of_server(asked({"id": SERVER}))["assisted_snapshots"]] == [SET]
    assert api.list_of_server(asked({"id": "x"}))["assisted_snapshots"] == []
    link = api.list_all(asked({}, query={"limit": "1"}))["assisted_snapshots_links"][0]["href"]
    assert "limit=1" in link


def test_what_is_left_out_or_null_has_its_default(asked: Any) -> None:
    for given in ({}, {"volumes": None, "quiesce": None, "name": None}):
        call = asked({"id": SERVER}, body={"assisted_snapshot": given})
        assert api.create(call)["assisted_snapshot"]["id"] == SET
        wanted = {"volumes": "all"}  # how to quiesce is the server's setting, which the worker knows
        assert call.api.bus.asked == [("create_assisted_snapshot", {"server_id": SERVER, "wanted": wanted})]


def test_what_is_asked_for_is_given_on(asked: Any) -> None:
    given = {"volumes": [VOLUME, OTHER_VOLUME], "quiesce": "required", "name": "n", "metadata": {"a": "b"}}
    call = asked({"id": SERVER}, body={"assisted_snapshot": given})
    api.create(call)
    assert call.api.bus.asked[0][1]["wanted"] == given


def test_more_volumes_than_a_set_may_hold_are_refused(asked: Any) -> None:
    call = asked({"id": SERVER}, body={"assisted_snapshot": {"volumes": [new_id() for _ in range(129)]}})
    with pytest.raises(BadRequest, match="at most 128"):
        api.create(call)


@pytest.mark.parametrize(
    "given",
    [
        {"volumes": []},
        {"volumes": "some"},
        {"volumes": [VOLUME, VOLUME]},
        {"volumes": [1]},
        {"volumes": ["x" * 37]},
        {"volumes": {"all": True}},
        {"quiesce": "maybe"},
        {"quiesce": True},
        {"status": "available"},
        {"consistency": {"level": "filesystem"}},
        {"name": "a\nb"},
        {"policy_id": POLICY},
        {"set_id": SET},
        {"id": SET.upper()},
        {"id": "x"},
        {"id": 1},
        {"id": SET + "0"},
        {"wait": -1},
        {"wait": 86401},
        {"warnings": []},
        {"metadata": {"stillframe:policy": POLICY}},
        {"metadata": {"stillframe:": ""}},
    ],
)
def test_a_request_that_does_not_fit_never_reaches_the_worker(database: Database, tmp_path: Path, given: Any) -> None:
    site = Site(database, tmp_path, SERVICES["compute"])
    path = f"/v2.1/servers/{SERVER}/os-assisted-snapshots"
    assert site.ask("POST", path, json={"assisted_snapshot": given}).status_code == 400
    assert site.bus.asked == []


def test_deleting_names_the_server_the_set_is_of(asked: Any) -> None:
    call = asked({"set_id": SET.upper(), "id": SERVER})
    api.delete(call)
    assert call.api.bus.asked == [("delete_assisted_snapshot", {"server_id": SERVER, "set_id": SET})]


def test_a_set_is_deleted_where_it_is_shown(database: Database, tmp_path: Path, asked: Any) -> None:
    site = Site(database, tmp_path, SERVICES["compute"])
    assert site.ask("DELETE", f"/v2.1/os-assisted-snapshots/{SET}").status_code == 202
    assert site.bus.asked == [("delete_assisted_snapshot", {"server_id": SERVER, "set_id": SET})]
    assert site.ask("DELETE", f"/v2.1/os-assisted-snapshots/{VOLUME}").status_code == 404


def test_the_id_that_a_client_chose_is_given_on(asked: Any) -> None:
    call = asked({"id": SERVER}, body={"assisted_snapshot": {"id": SET, "wait": 5}})
    api.create(call)
    assert call.api.bus.asked[0][1]["wanted"] == {"volumes": "all", "set_id": SET, "wait": 5}


def test_labels_are_given_on_and_the_set_is_answered(asked: Any) -> None:
    given = {"name": "n", "description": None, "metadata": {"keep": "true", "a": "b"}}
    call = asked({"set_id": SET.upper()}, body={"assisted_snapshot": given})
    assert api.update(call)["assisted_snapshot"]["id"] == SET
    assert call.api.bus.asked == [("change_assisted_snapshot", {"set_id": SET, "changes": given})]


def test_metadata_that_is_null_is_none(asked: Any) -> None:
    call = asked({"set_id": SET}, body={"assisted_snapshot": {"metadata": None}})
    api.update(call)
    assert call.api.bus.asked[0][1]["changes"] == {"metadata": {}}


def test_another_projects_set_is_not_labelled(asked: Any) -> None:
    call = asked({"set_id": SET}, "member", project="other", body={"assisted_snapshot": {"name": "mine"}})
    with pytest.raises(NotFound):
        api.update(call)
    assert call.api.bus.asked == []


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"status": "available"},
        {"policy_id": POLICY},
        {"policy_id": None},
        {"retired_at": None},
        {"metadata": {"keep": True}},
        {"metadata": {"stillframe:policy": POLICY}},
        {"metadata": ["keep"]},
        {"name": 5},
    ],
)
def test_a_label_that_does_not_fit_never_reaches_the_worker(database: Database, tmp_path: Path, given: Any) -> None:
    site = Site(database, tmp_path, SERVICES["compute"])
    assert site.ask("PUT", f"/v2.1/os-assisted-snapshots/{SET}", json={"assisted_snapshot": given}).status_code == 400
    assert site.bus.asked == []
