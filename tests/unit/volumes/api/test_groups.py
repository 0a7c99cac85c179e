"""Volume groups: which volumes are in them, and how they are deleted."""

from typing import Any

import pytest

from stillframe.db import volume_groups, volumes
from tests.unit.builders import SET
from tests.unit.volumes.rest import ADMIN, OTHER, Rest


def kind(rest: Rest, name: str = "group type", **more: Any) -> str:
    return str(rest.ok("POST", "/group_types", {"group_type": {"name": name, **more}}, who=ADMIN)["group_type"]["id"])


def group(rest: Rest, group_type: str = "", who: str = "", **more: Any) -> str:
    known = [each["name"] for each in rest.ok("GET", "/group_types")["group_types"]]
    wanted = {"group_type": group_type or ("group type" if known else kind(rest)), "volume_types": ["local"], **more}
    made = rest.ok("POST", "/groups", {"group": wanted}, **({"who": who} if who else {}))["group"]
    return str(made["id"])


def show(rest: Rest, group_id: str, **more: Any) -> dict[str, Any]:
    shown: dict[str, Any] = rest.ok("GET", f"/groups/{group_id}?list_volume=true", **more)["group"]
    return shown


def delete(rest: Rest, group_id: str, with_volumes: bool = False) -> None:
    rest.ok("POST", f"/groups/{group_id}/action", {"delete": {"delete-volumes": with_volumes}})


def members(rest: Rest, group_id: str) -> list[str]:
    return list(show(rest, group_id)["volumes"])


def test_a_group_is_shown_as_the_microversion_has_it(rest: Rest) -> None:
    made = group(rest, kind(rest), name=" mine ", description="d")
    shown = show(rest, made)
    assert (shown["name"], shown["description"], shown["status"]) == ("mine", "d", "available")
    assert shown["volume_types"] == [rest.ok("GET", "/types/local")["volume_type"]["id"]]
    assert (shown["group_type"], shown["volumes"]) == (rest.ok("GET", "/group_types")["group_types"][0]["id"], [])
    early = show(rest, made, version="3.13")
    assert set(shown) - set(early) == {"group_snapshot_id", "source_group_id", "volumes", "replication_status"}
    assert rest.ask("GET", f"/groups/{made}", version="3.12").status_code == 404
    assert rest.ok("GET", "/groups")["groups"] == [{"id": made, "name": "mine"}]
    assert rest.ok("GET", "/groups/detail?list_volume=true&status=available")["groups"] == [shown]
    assert rest.ok("GET", "/groups/detail?name=other")["groups"] == []


def test_a_volume_is_made_in_a_group_of_its_project_that_takes_its_type(rest: Rest) -> None:
    made = group(rest)
    held = rest.volume(group_id=made)
    assert members(rest, made) == [held]
    assert rest.ok("GET", f"/volumes/{held}")["volume"]["group_id"] == made
    assert [each["id"] for each in rest.ok("GET", f"/volumes?group_id={made}")["volumes"]] == [held]
    rest.ok("POST", "/types", {"volume_type": {"name": "gold"}}, who=ADMIN)
    body = {"volume": {"size": 1, "group_id": made}}
    said = rest.refused(400, "POST", "/volumes", {"volume": {**body["volume"], "volume_type": "gold"}})
    assert "does not take volumes" in said
    rest.refused(404, "POST", "/volumes", body, who=OTHER)
    rest.refused(404, "POST", "/volumes", {"volume": {"size": 1, "group_id": SET}})
    assert rest.ok("POST", "/volumes", body, version="3.12")["volume"].get("group_id") is None
    assert members(rest, made) == [held]


def test_volumes_are_added_and_removed_all_or_none(rest: Rest) -> None:
    made, free, other = group(rest), rest.volume(), rest.volume()
    body = {"group": {"name": "new", "description": "said", "add_volumes": f"{free},{other}"}}
    rest.ok("PUT", f"/groups/{made}", body)
    shown = show(rest, made)
    assert (shown["name"], shown["description"], shown["volumes"]) == ("new", "said", [free, other])
    third = rest.volume()
    theirs = rest.volume(who=OTHER)
    for added in (free, theirs, SET):
        rest.refused(400, "PUT", f"/groups/{made}", {"group": {"add_volumes": f"{third},{added}"}})
    for removed in (third, theirs, SET):
        rest.refused(400, "PUT", f"/groups/{made}", {"group": {"remove_volumes": f"{free},{removed}"}})
    rest.refused(400, "PUT", f"/groups/{made}", {"group": {"add_volumes": free, "remove_volumes": free}})
    assert members(rest, made) == [free, other]
    rest.ok("PUT", f"/groups/{made}", {"group": {"add_volumes": third, "remove_volumes": free}})
    assert members(rest, made) == [other, third]
    assert rest.ok("GET", f"/volumes/{free}")["volume"]["group_id"] is None


def test_a_change_of_nothing_and_a_volume_that_is_not_ready_are_refused(rest: Rest) -> None:
    made, broken = group(rest), rest.volume()
    rest.act(broken, "os-reset_status", {"status": "error"}, who=ADMIN)
    rest.refused(400, "PUT", f"/groups/{made}", {"group": {"add_volumes": broken}})
    for nothing in ({"name": None}, {"add_volumes": " , "}, {"remove_volumes": None}):
        rest.refused(400, "PUT", f"/groups/{made}", {"group": nothing})
    wrong: tuple[dict[str, Any], ...] = (
        {"volume_types": []},
        {"volume_types": ["none"]},
        {"group_type": "none"},
        {"group_type": SET},
    )
    for missing in wrong:
        body = {"group": {"group_type": "group type", "volume_types": ["local"], **missing}}
        assert rest.ask("POST", "/groups", body).status_code in (400, 404), missing


def test_a_group_without_volumes_goes_at_once_and_one_with_volumes_when_that_is_asked_for(rest: Rest) -> None:
    made = group(rest)
    held = [rest.volume(group_id=made), rest.volume(group_id=made)]
    body = {"delete": {"delete-volumes": False}}
    assert "still has 2 volumes" in rest.refused(400, "POST", f"/groups/{made}/action", body)
    delete(rest, made, with_volumes=True)
    for each in held:
        rest.refused(404, "GET", f"/volumes/{each}")
    rest.refused(404, "GET", f"/groups/{made}")
    empty = group(rest)
    delete(rest, empty)
    rest.refused(404, "GET", f"/groups/{empty}")


def test_no_volume_goes_when_one_of_the_group_may_not(rest: Rest) -> None:
    made = group(rest)
    held = [rest.volume(group_id=made), rest.volume(group_id=made)]
    rest.ok("POST", "/snapshots", {"snapshot": {"volume_id": held[1]}})
    rest.refused(409, "POST", f"/groups/{made}/action", {"delete": {"delete-volumes": True}})
    assert [rest.status(each) for each in held] == ["available", "available"]
    assert show(rest, made)["status"] == "available"


def test_a_group_whose_volume_could_not_be_deleted_says_so_and_is_deleted_again(rest: Rest) -> None:
    made = group(rest)
    held = rest.volume(group_id=made)
    with rest.site.worker.database.write() as connection:
        volumes.change(connection, held, status="error_deleting")
        volume_groups.change(connection, made, status="deleting")
        volume_groups.end_deletion(connection, made, whole=False)
    assert show(rest, made)["status"] == "error_deleting"
    delete(rest, made, with_volumes=True)
    rest.refused(404, "GET", f"/groups/{made}")


def test_a_volume_leaves_its_group_before_anything_else_becomes_of_it(rest: Rest) -> None:
    made = group(rest)
    held = rest.volume(group_id=made)
    rest.ok("POST", "/types", {"volume_type": {"name": "gold"}}, who=ADMIN)
    asked: list[tuple[str, str, Any]] = [
        ("DELETE", f"/volumes/{held}", None),
        ("POST", "/volume-transfers", {"transfer": {"volume_id": held}}),
        ("POST", f"/volumes/{held}/action", {"os-retype": {"new_type": "gold", "migration_policy": "never"}}),
        ("POST", f"/volumes/{held}/action", {"os-force_delete": {}}),
        ("POST", f"/volumes/{held}/action", {"os-unmanage": {}}),
    ]
    for method, path, body in asked:
        who = ADMIN if "action" in path else "member reader"
        assert f"belongs to group {made}" in rest.refused(400, method, path, body, who=who)
    rest.ok("PUT", f"/groups/{made}", {"group": {"remove_volumes": held}})
    rest.ok("DELETE", f"/volumes/{held}")


def test_a_group_is_its_projects(rest: Rest) -> None:
    made = group(rest)
    rest.refused(404, "GET", f"/groups/{made}", who=OTHER)
    rest.refused(404, "PUT", f"/groups/{made}", {"group": {"name": "n"}}, who=OTHER)
    rest.refused(404, "POST", f"/groups/{made}/action", {"delete": {}}, who=OTHER)
    assert rest.ok("GET", "/groups/detail", who=OTHER)["groups"] == []
    body = {"reset_status": {"status": "error"}}
    rest.refused(403, "POST", f"/groups/{made}/action", body)
    rest.ok("POST", f"/groups/{made}/action", body, who=ADMIN)
    assert show(rest, made)["status"] == "error"
    assert rest.ask("POST", f"/groups/{made}/action", body, who=ADMIN, version="3.19").status_code in (400, 404)


@pytest.mark.parametrize("limit", [0, 1])
def test_a_project_has_so_many_groups_and_no_more(rest: Rest, limit: int) -> None:
    kind(rest)
    rest.ok("PUT", "/os-quota-sets/demo", {"quota_set": {"groups": limit}}, who=ADMIN)
    for _ in range(limit):
        group(rest)
    body = {"group": {"group_type": "group type", "volume_types": ["local"]}}
    assert "groups allowed" in rest.refused(413, "POST", "/groups", body)
    used = rest.ok("GET", "/os-quota-sets/demo?usage=true", who=ADMIN)["quota_set"]["groups"]
    assert used == {"limit": limit, "in_use": limit, "reserved": 0}


def test_types_stay_as_long_as_a_group_is_of_them(rest: Rest) -> None:
    made, hidden = kind(rest), kind(rest, "hidden", is_public=False)
    rest.ok("POST", "/types", {"volume_type": {"name": "gold"}}, who=ADMIN)
    taken = group(rest, made, volume_types=["gold"])
    assert "still in use" in rest.refused(400, "DELETE", f"/group_types/{made}", who=ADMIN)
    assert "still in use" in rest.refused(400, "DELETE", "/types/gold", who=ADMIN)
    rest.refused(404, "POST", "/groups", {"group": {"group_type": hidden, "volume_types": ["gold"]}})
    delete(rest, taken)
    rest.ok("DELETE", f"/group_types/{made}", who=ADMIN)
    rest.ok("DELETE", "/types/gold", who=ADMIN)
