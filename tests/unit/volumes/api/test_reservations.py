"""Attaching as clients of old do, read-only volumes, and statuses of snapshots that somebody sets."""

import pytest

from stillframe.db import snapshots
from tests.unit.builders import SERVER, SET
from tests.unit.volumes.rest import ADMIN, MEMBER, OTHER, Rest


def refused(rest: Rest, status: int, volume_id: str, action: str, document: object = None, who: str = MEMBER) -> str:
    return rest.refused(status, "POST", f"/volumes/{volume_id}/action", {action: document}, who=who)


def test_a_volume_is_reserved_and_released(rest: Rest) -> None:
    made = rest.volume()
    rest.act(made, "os-reserve", {})
    assert rest.status(made) == "attaching"
    refused(rest, 400, made, "os-reserve", {})
    rest.act(made, "os-unreserve")
    assert rest.status(made) == "available"
    refused(rest, 400, made, "os-unreserve", {})
    refused(rest, 404, SET, "os-reserve", {})
    refused(rest, 404, made, "os-reserve", {}, OTHER)


def test_a_volume_that_an_attachment_holds_is_not_unreserved(rest: Rest) -> None:
    made = rest.volume()
    body = {"attachment": {"volume_uuid": made, "instance_uuid": SERVER, "connector": {"host": "h"}}}
    rest.ok("POST", "/attachments", body)
    assert rest.status(made) == "attaching"
    assert "attachment" in refused(rest, 400, made, "os-unreserve", {})


def test_what_a_member_attached_a_member_detaches_while_no_server_has_it(rest: Rest) -> None:
    made = rest.volume()
    rest.act(made, "os-attach", {"instance_uuid": SERVER, "mountpoint": "/dev/vdc"})
    (shown,) = rest.ok("GET", f"/volumes/{made}")["volume"]["attachments"]
    assert (shown["server_id"], shown["device"]) == (SERVER, "/dev/vdc")
    rest.act(made, "os-begin_detaching")
    assert rest.status(made) == "detaching"
    rest.act(made, "os-roll_detaching")
    assert rest.status(made) == "in-use"
    refused(rest, 404, made, "os-detach", {"attachment_id": SET})
    rest.act(made, "os-detach", {})
    assert rest.status(made) == "available"
    refused(rest, 400, made, "os-detach", {})


def test_a_volume_that_a_server_has_is_not_detached_behind_its_back(rest: Rest) -> None:
    made = rest.volume()
    rest.act(made, "os-attach", {"instance_uuid": SERVER, "mountpoint": "/dev/vdc"})
    rest.site.worker.compute.servers[made] = {"id": SERVER, "active": True, "file": f"volume-{made}"}  # type: ignore[attr-defined]
    refused(rest, 409, made, "os-detach", {})
    assert rest.status(made) == "in-use"


def test_a_server_of_another_project_is_not_attached_to(rest: Rest) -> None:
    made = rest.volume(who=OTHER)
    refused(rest, 404, made, "os-attach", {"instance_uuid": SERVER, "mountpoint": "/dev/vdc"}, OTHER)
    refused(rest, 400, made, "os-attach", {"mountpoint": "/dev/vdc"}, OTHER)


@pytest.mark.parametrize("flag", [True, "true", "1"])
def test_a_volume_that_is_only_read_is_given_to_no_server(rest: Rest, flag: object) -> None:
    made = rest.volume(metadata={"k": "v"})
    assert rest.ok("GET", f"/volumes/{made}")["volume"]["metadata"] == {"k": "v"}
    rest.act(made, "os-update_readonly_flag", {"readonly": flag})
    assert rest.ok("GET", f"/volumes/{made}")["volume"]["metadata"] == {"k": "v", "readonly": "True"}
    assert "read only" in rest.refused(400, "POST", "/attachments", {"attachment": {"volume_uuid": made}})
    rest.act(made, "os-update_readonly_flag", {"readonly": False})
    assert rest.ok("GET", f"/volumes/{made}")["volume"]["metadata"] == {"k": "v", "readonly": "False"}
    refused(rest, 400, made, "os-update_readonly_flag", {"readonly": "perhaps"})


@pytest.mark.parametrize("status", ["creating", "deleting", "error", "error_deleting"])
def test_a_snapshot_is_force_deleted_whatever_its_status_was_set_to(rest: Rest, status: str) -> None:
    made = rest.volume()
    kept, gone = (rest.ok("POST", "/snapshots", {"snapshot": {"volume_id": made}})["snapshot"]["id"] for _ in range(2))
    rest.ok("POST", f"/snapshots/{gone}/action", {"os-reset_status": {"status": status}}, who=ADMIN)
    rest.ok("POST", f"/snapshots/{gone}/action", {"os-force_delete": {}}, who=ADMIN)
    assert [each["id"] for each in rest.ok("GET", "/snapshots")["snapshots"]] == [kept]
    rest.ok("DELETE", f"/snapshots/{kept}")
    rest.ok("DELETE", f"/volumes/{made}")


def test_only_who_takes_a_snapshot_says_how_far_it_is(rest: Rest) -> None:
    made = rest.volume()
    snapshot = rest.ok("POST", "/snapshots", {"snapshot": {"volume_id": made}})["snapshot"]["id"]
    path, report = f"/snapshots/{snapshot}/action", {"os-update_snapshot_status": {"status": "error", "progress": "80%"}}
    rest.ok("POST", path, {"os-reset_status": {"status": "creating"}}, who=ADMIN)
    rest.ok("POST", path, report)  # its data is there: the owner may say what it is
    shown = rest.ok("GET", f"/snapshots/{snapshot}")["snapshot"]
    assert (shown["status"], shown["os-extended-snapshot-attributes:progress"]) == ("error", "80%")
    with rest.site.worker.database.write() as connection:
        snapshots.change(connection, snapshot, status="creating", fault=None)
    rest.refused(403, "POST", path, report)
    rest.refused(404, "POST", path, report, who=OTHER)
    rest.ok("POST", path, report, who=ADMIN)
