"""Groups with copies of what another group, or a group snapshot, has."""

from typing import Any

import pytest

from stillframe.errors import StepFailed
from tests.unit.builders import SET
from tests.unit.volumes.api.test_group_snapshots import filled, parts, take
from tests.unit.volumes.api.test_groups import members, show
from tests.unit.volumes.rest import ADMIN, OTHER, Rest


def copy(rest: Rest, **source: Any) -> str:
    return str(rest.ok("POST", "/groups/action", {"create-from-src": source})["group"]["id"])


def sources(rest: Rest, group_id: str, name: str) -> list[Any]:
    return [rest.ok("GET", f"/volumes/{each}")["volume"][name] for each in members(rest, group_id)]


def test_a_copy_of_every_volume_of_a_group_is_in_the_new_one(rest: Rest) -> None:
    made, held = filled(rest)
    new = copy(rest, source_group_id=made, name=" copy ", description="d")
    shown = show(rest, new)
    assert (shown["name"], shown["description"], shown["status"]) == ("copy", "d", "available")
    assert (shown["source_group_id"], shown["group_snapshot_id"]) == (made, None)
    assert (shown["group_type"], shown["volume_types"]) == tuple(
        show(rest, made)[key] for key in ("group_type", "volume_types")
    )
    assert sources(rest, new, "source_volid") == held
    assert sources(rest, new, "status") == ["available", "available"]


def test_a_copy_of_every_part_of_a_group_snapshot_is_in_the_new_one(rest: Rest) -> None:
    made, _held = filled(rest)
    taken = take(rest, made)
    new = copy(rest, group_snapshot_id=taken)
    shown = show(rest, new)
    assert (shown["status"], shown["source_group_id"], shown["group_snapshot_id"]) == ("available", None, taken)
    assert sources(rest, new, "snapshot_id") == [each["id"] for each in parts(rest, taken)]


def test_the_new_group_is_not_available_before_its_volumes_are(rest: Rest) -> None:
    made, _held = filled(rest)
    answer = rest.ask("POST", "/groups/action", {"create-from-src": {"source_group_id": made}})
    new = answer.json["group"]["id"]
    assert rest.ask("GET", f"/groups/{new}").json["group"]["status"] == "creating"
    refused = rest.ask("POST", f"/groups/{new}/action", {"delete": {"delete-volumes": True}})
    assert refused.status_code == 400
    rest.site.end()
    assert show(rest, new)["status"] == "available"


def test_a_group_one_of_whose_volumes_could_not_be_made_says_so(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    made, _held = filled(rest)
    copied, asked = rest.site.share.copy, list[str]()

    def fails_at_the_second(volume_id: str, *more: Any) -> None:
        asked.append(volume_id)
        if volume_id != asked[0]:
            raise StepFailed("the share has no room")
        copied(volume_id, *more)

    monkeypatch.setattr(rest.site.share, "copy", fails_at_the_second)
    new = copy(rest, source_group_id=made)
    assert show(rest, new)["status"] == "error"
    assert sorted(sources(rest, new, "status")) == ["available", "error"]
    rest.ok("POST", f"/groups/{new}/action", {"delete": {"delete-volumes": True}})
    rest.refused(404, "GET", f"/groups/{new}")


def test_nothing_is_made_where_something_is_missing(rest: Rest) -> None:
    made, held = filled(rest)
    taken = take(rest, made)
    wrong: tuple[dict[str, Any], ...] = ({}, {"group_snapshot_id": taken, "source_group_id": made}, {"name": "n"})
    for each in wrong:
        rest.refused(400, "POST", "/groups/action", {"create-from-src": each})
    for each in ({"group_snapshot_id": SET}, {"source_group_id": SET}):
        rest.refused(404, "POST", "/groups/action", {"create-from-src": each})
    for each in ({"group_snapshot_id": taken}, {"source_group_id": made}):
        rest.refused(404, "POST", "/groups/action", {"create-from-src": each}, who=OTHER)
    rest.ok("PUT", "/os-quota-sets/demo", {"quota_set": {"volumes": 3}}, who=ADMIN)
    rest.refused(413, "POST", "/groups/action", {"create-from-src": {"source_group_id": made}})
    rest.ok("POST", "/attachments", {"attachment": {"volume_uuid": held[1]}})
    rest.refused(400, "POST", "/groups/action", {"create-from-src": {"source_group_id": made}})
    assert [each["id"] for each in rest.ok("GET", "/groups")["groups"]] == [made]
    assert len(rest.ok("GET", "/volumes")["volumes"]) == 2
    assert rest.ask("POST", "/groups/action", {"create-from-src": {}}, version="3.13").status_code in (400, 404)
