"""Snapshots of groups: of all volumes or of none, and deleted together."""

from typing import Any

import pytest

from stillframe.db import group_snapshots, operations, snapshots
from stillframe.errors import StepFailed
from tests.unit.builders import SET
from tests.unit.volumes.api.test_groups import group, show
from tests.unit.volumes.rest import ADMIN, OTHER, Rest


def filled(rest: Rest, count: int = 2) -> tuple[str, list[str]]:
    """A group with so many volumes; returns its id and theirs."""
    made = group(rest)
    return made, [rest.volume(group_id=made) for _ in range(count)]


def take(rest: Rest, group_id: str, **more: Any) -> str:
    body = {"group_snapshot": {"group_id": group_id, **more}}
    return str(rest.ok("POST", "/group_snapshots", body)["group_snapshot"]["id"])


def parts(rest: Rest, group_snapshot_id: str) -> list[dict[str, Any]]:
    every = rest.ok("GET", "/snapshots/detail?sort=created_at:asc")["snapshots"]
    return [each for each in every if each["group_snapshot_id"] == group_snapshot_id]


def status(rest: Rest, group_snapshot_id: str) -> str:
    return str(rest.ok("GET", f"/group_snapshots/{group_snapshot_id}")["group_snapshot"]["status"])


def test_all_volumes_are_snapshotted_by_one_operation(rest: Rest) -> None:
    made, held = filled(rest)
    outside = rest.volume()
    taken = take(rest, made, name=" monday ", description="d")
    shown = rest.ok("GET", f"/group_snapshots/{taken}")["group_snapshot"]
    assert (shown["name"], shown["description"], shown["status"]) == ("monday", "d", "available")
    assert (shown["group_id"], shown["group_type_id"]) == (made, show(rest, made)["group_type"])
    found = parts(rest, taken)
    assert [each["volume_id"] for each in found] == held
    assert {(each["name"], each["status"]) for each in found} == {("monday", "available")}
    with rest.site.worker.database.read() as connection:
        ids = {operations.newest_on(connection, f"volume:{each}", ("create_group_snapshot",))[0]["id"] for each in held}
        assert len(ids) == 1
        assert snapshots.of_volume(connection, outside) == []
    assert rest.ok("GET", "/group_snapshots/detail?status=available")["group_snapshots"] == [shown]
    assert rest.ok("GET", f"/group_snapshots?group_id={SET}")["group_snapshots"] == []
    assert rest.ask("GET", f"/group_snapshots/{taken}", version="3.13").status_code == 404


def test_an_attached_volume_is_none_that_block_storage_can_snapshot_with_others(rest: Rest) -> None:
    made, held = filled(rest)
    rest.ok("POST", "/attachments", {"attachment": {"volume_uuid": held[1]}})
    said = rest.refused(400, "POST", "/group_snapshots", {"group_snapshot": {"group_id": made}})
    assert "openstack assisted snapshot create" in said
    assert held[1] in said
    assert rest.ok("GET", "/snapshots")["snapshots"] == []
    assert rest.ok("GET", "/group_snapshots")["group_snapshots"] == []


def test_a_group_without_volumes_and_one_that_is_not_ready_are_refused(rest: Rest) -> None:
    made, held = filled(rest, 1)
    rest.ok("POST", f"/groups/{made}/action", {"reset_status": {"status": "error"}}, who=ADMIN)
    rest.refused(400, "POST", "/group_snapshots", {"group_snapshot": {"group_id": made}})
    rest.ok("POST", f"/groups/{made}/action", {"reset_status": {"status": "available"}}, who=ADMIN)
    rest.ok("PUT", f"/groups/{made}", {"group": {"remove_volumes": held[0]}})
    assert "no volumes" in rest.refused(400, "POST", "/group_snapshots", {"group_snapshot": {"group_id": made}})
    rest.refused(404, "POST", "/group_snapshots", {"group_snapshot": {"group_id": SET}})


def test_the_quota_counts_every_volume(rest: Rest) -> None:
    made, _held = filled(rest)
    rest.ok("PUT", "/os-quota-sets/demo", {"quota_set": {"snapshots": 1}}, who=ADMIN)
    rest.refused(413, "POST", "/group_snapshots", {"group_snapshot": {"group_id": made}})
    assert rest.ok("GET", "/snapshots")["snapshots"] == []
    assert rest.ok("GET", "/group_snapshots")["group_snapshots"] == []


def test_a_group_snapshot_is_deleted_with_its_parts_and_they_only_with_it(rest: Rest) -> None:
    made, held = filled(rest)
    taken, later = take(rest, made), take(rest, made)
    part = parts(rest, taken)[0]
    assert f"a part of group snapshot {taken}" in rest.refused(400, "DELETE", f"/snapshots/{part['id']}")
    body = {"delete": {"delete-volumes": True}}
    assert "still has 2 group snapshots" in rest.refused(400, "POST", f"/groups/{made}/action", body)
    rest.ok("DELETE", f"/group_snapshots/{taken}")
    rest.refused(404, "GET", f"/group_snapshots/{taken}")
    assert parts(rest, taken) == []
    assert [each["volume_id"] for each in parts(rest, later)] == held
    rest.ok("DELETE", f"/group_snapshots/{later}")
    rest.ok("POST", f"/groups/{made}/action", body)
    rest.refused(404, "GET", f"/groups/{made}")


def test_a_part_stays_when_its_volume_is_reverted_removed_or_transferred(rest: Rest) -> None:
    made, (held,) = filled(rest, 1)
    first = rest.ok("POST", "/snapshots", {"snapshot": {"volume_id": held}})["snapshot"]["id"]
    taken = take(rest, made)
    revert = {"revert": {"snapshot_id": first, "newer_snapshots": "remove"}}
    rest.refused(400, "POST", f"/volumes/{held}/action", revert)
    rest.ok("PUT", f"/groups/{made}", {"group": {"remove_volumes": held}})
    rest.refused(400, "DELETE", f"/volumes/{held}?cascade=true")
    rest.refused(400, "POST", "/volume-transfers", {"transfer": {"volume_id": held}})
    assert len(parts(rest, taken)) == 1
    rest.ok("DELETE", f"/group_snapshots/{taken}")
    rest.ok("DELETE", f"/volumes/{held}?cascade=true")


def test_a_failure_at_one_volume_takes_back_what_was_done_to_the_others(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    made, held = filled(rest)
    before, create = set(rest.site.share.entries), rest.site.share.create_overlay

    def fails_at_the_second(volume_id: str, *more: Any) -> None:
        if volume_id == held[1]:
            raise StepFailed("the share has no room")
        create(volume_id, *more)

    monkeypatch.setattr(rest.site.share, "create_overlay", fails_at_the_second)
    taken = take(rest, made)
    assert (status(rest, taken), {each["status"] for each in parts(rest, taken)}) == ("error", {"error"})
    assert set(rest.site.share.entries) == before
    rest.ok("DELETE", f"/group_snapshots/{taken}")
    rest.refused(404, "GET", f"/group_snapshots/{taken}")
    assert rest.ok("GET", "/snapshots")["snapshots"] == []


def test_one_that_could_not_be_deleted_says_so_and_is_deleted_again(rest: Rest) -> None:
    made, held = filled(rest)
    taken = take(rest, made)
    with rest.site.worker.database.write() as connection:
        for each in group_snapshots.members(connection, taken):
            snapshots.change(connection, each["id"], status="error_deleting")
        group_snapshots.change(connection, taken, status="deleting")
        group_snapshots.end_deletion(connection, [taken], whole=False)
    assert status(rest, taken) == "error_deleting"
    rest.ok("DELETE", f"/group_snapshots/{taken}")
    rest.refused(404, "GET", f"/group_snapshots/{taken}")
    assert [rest.status(each) for each in held] == ["available", "available"]


def test_a_group_snapshot_is_its_projects(rest: Rest) -> None:
    made, _held = filled(rest, 1)
    taken = take(rest, made)
    for method in ("GET", "DELETE"):
        rest.refused(404, method, f"/group_snapshots/{taken}", who=OTHER)
    rest.refused(404, "POST", "/group_snapshots", {"group_snapshot": {"group_id": made}}, who=OTHER)
    assert rest.ok("GET", "/group_snapshots/detail", who=OTHER)["group_snapshots"] == []
    body = {"reset_status": {"status": "error"}}
    rest.refused(403, "POST", f"/group_snapshots/{taken}/action", body)
    rest.ok("POST", f"/group_snapshots/{taken}/action", body, who=ADMIN)
    assert status(rest, taken) == "error"
