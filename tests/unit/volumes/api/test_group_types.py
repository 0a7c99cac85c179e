"""Group types: who sees them, what they say of their groups, and when they may go."""

from typing import Any

from tests.unit.builders import SET
from tests.unit.volumes.rest import ADMIN, MEMBER, Rest

CONSISTENT = {"consistent_group_snapshot_enabled": "<is> True"}


def make(rest: Rest, name: str, **more: Any) -> str:
    return str(rest.ok("POST", "/group_types", {"group_type": {"name": name, **more}}, who=ADMIN)["group_type"]["id"])


def names(rest: Rest, query: str = "", who: str = ADMIN) -> list[str]:
    return [each["name"] for each in rest.ok("GET", f"/group_types{query}", who=who)["group_types"]]


def test_a_type_is_made_shown_changed_and_deleted(rest: Rest) -> None:
    made = make(rest, " gold ", description="d", group_specs=CONSISTENT)
    shown = rest.ok("GET", f"/group_types/{made}", who=ADMIN)["group_type"]
    assert shown == {"id": made, "name": "gold", "description": "d", "is_public": True, "group_specs": CONSISTENT}
    changed = rest.ok("PUT", f"/group_types/{made}", {"group_type": {"name": "new", "is_public": "false"}}, who=ADMIN)
    assert (changed["group_type"]["name"], changed["group_type"]["is_public"]) == ("new", False)
    assert changed["group_type"]["description"] == "d"
    rest.ok("DELETE", f"/group_types/{made}", who=ADMIN)
    rest.refused(404, "GET", f"/group_types/{made}", who=ADMIN)
    rest.refused(404, "GET", "/group_types/default", who=ADMIN)


def test_a_name_is_had_once_and_a_change_says_something(rest: Rest) -> None:
    made, other = make(rest, "gold"), make(rest, "silver")
    rest.refused(409, "POST", "/group_types", {"group_type": {"name": "gold"}}, who=ADMIN)
    rest.refused(409, "PUT", f"/group_types/{other}", {"group_type": {"name": "gold"}}, who=ADMIN)
    rest.ok("PUT", f"/group_types/{made}", {"group_type": {"name": "gold"}}, who=ADMIN)
    nothing: tuple[dict[str, Any], ...] = ({}, {"name": None}, {"name": ""}, {"is_public": "maybe"}, {"group_specs": {}})
    for wanted in nothing:
        rest.refused(400, "PUT", f"/group_types/{made}", {"group_type": wanted}, who=ADMIN)


def test_members_see_public_types_without_their_specs(rest: Rest) -> None:
    made, hidden = make(rest, "gold", group_specs=CONSISTENT), make(rest, "hidden", is_public=False)
    assert set(rest.ok("GET", f"/group_types/{made}")["group_type"]) == {"id", "name", "description", "is_public"}
    rest.refused(404, "GET", f"/group_types/{hidden}")
    assert names(rest, "?is_public=None", who=MEMBER) == ["gold"]
    rest.refused(403, "POST", "/group_types", {"group_type": {"name": "mine"}})
    rest.refused(403, "GET", f"/group_types/{made}/group_specs")
    rest.refused(403, "DELETE", f"/group_types/{made}")


def test_administrators_list_by_publicity_in_an_order_and_by_pages(rest: Rest) -> None:
    made = [make(rest, "b"), make(rest, "a"), make(rest, "c", is_public=False)]
    assert (names(rest), names(rest, "?is_public=False")) == (["a", "b"], ["c"])
    assert names(rest, "?is_public=None&sort=name:asc") == ["a", "b", "c"]
    assert names(rest, "?is_public=None&sort=name:desc") == ["c", "b", "a"]
    page = rest.ok("GET", f"/group_types?is_public=None&sort=name:asc&limit=1&marker={made[1]}", who=ADMIN)
    assert [each["name"] for each in page["group_types"]] == ["b"]
    assert made[0] in page["group_type_links"][0]["href"]
    rest.refused(404, "GET", f"/group_types?marker={SET}", who=ADMIN)
    rest.refused(400, "GET", "/group_types?is_public=perhaps", who=ADMIN)
    assert rest.ask("GET", "/group_types", version="3.10").status_code == 404


def test_specs_are_set_one_by_one_or_several_at_once(rest: Rest) -> None:
    made = make(rest, "gold")
    path = f"/group_types/{made}/group_specs"
    given = {"group_specs": {"a": "1", "b": "2"}}
    assert rest.ok("POST", path, given, who=ADMIN) == given
    assert rest.ok("PUT", f"{path}/b", {"b": "3"}, who=ADMIN) == {"b": "3"}
    rest.refused(400, "PUT", f"{path}/b", {"c": "3"}, who=ADMIN)
    assert rest.ok("GET", f"{path}/b", who=ADMIN) == {"b": "3"}
    assert rest.ok("GET", path, who=ADMIN) == {"group_specs": {"a": "1", "b": "3"}}
    rest.ok("DELETE", f"{path}/a", who=ADMIN)
    for method in ("GET", "DELETE"):
        rest.refused(404, method, f"{path}/a", who=ADMIN)
        rest.refused(404, method, f"/group_types/{SET}/group_specs/a", who=ADMIN)
    assert rest.ok("GET", path, who=ADMIN) == {"group_specs": {"b": "3"}}
