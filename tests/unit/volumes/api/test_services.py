"""The workers as Cinder's clients know them, what administrators set of them, and what that stops."""

import pytest

from stillframe.db import services
from tests.unit.volumes.rest import ADMIN, Rest

BACKEND = {"host": "here@local"}


@pytest.fixture(autouse=True)
def seen(rest: Rest) -> None:
    with rest.site.worker.database.write() as connection:
        services.beat(connection, "stillframe-volumes", "here")


def listed(rest: Rest, query: str = "") -> list[tuple[str, str, str]]:
    found = rest.ok("GET", f"/os-services{query}", who=ADMIN)["services"]
    return sorted((each["binary"], each["host"], each["status"]) for each in found)


def test_one_worker_is_shown_as_the_three_programs_of_cinder(rest: Rest) -> None:
    three = [(f"cinder-{name}", host, "enabled") for name, host in (("backup", "here"), ("scheduler", "here"))]
    three.append(("cinder-volume", "here@local", "enabled"))
    assert listed(rest) == listed(rest, "?host=here") == three
    assert listed(rest, "?binary=cinder-volume") == listed(rest, "?host=here@local") == three[2:]
    assert listed(rest, "?host=elsewhere") == listed(rest, "?binary=nova-compute") == []


def test_a_disabled_backend_takes_no_new_volumes(rest: Rest) -> None:
    named = {"binary": "cinder-volume", **BACKEND}
    told = rest.ok("PUT", "/os-services/disable-log-reason", {**named, "disabled_reason": "disks"}, who=ADMIN)
    assert (told["disabled"], told["status"], told["disabled_reason"]) == (True, "disabled", "disks")
    assert listed(rest, "?binary=cinder-volume")[0][2] == "disabled"
    assert rest.status(rest.volume()) == "error"
    told = rest.ok("PUT", "/os-services/enable", named, who=ADMIN)
    assert (told["disabled"], told["status"]) == (False, "enabled")
    assert rest.status(rest.volume()) == "available"


def test_a_frozen_backend_keeps_its_volumes_as_they_are(rest: Rest) -> None:
    made = rest.volume()
    rest.ok("PUT", "/os-services/freeze", BACKEND, who=ADMIN)
    for method, path, body in (
        ("DELETE", f"/volumes/{made}", None),
        ("POST", f"/volumes/{made}/action", {"os-extend": {"new_size": 2}}),
        ("POST", "/snapshots", {"snapshot": {"volume_id": made}}),
    ):
        assert "frozen" in rest.refused(409, method, path, body)
    rest.ok("PUT", "/os-services/thaw", BACKEND, who=ADMIN)
    rest.ok("DELETE", f"/volumes/{made}")


def test_disabled_backups_are_refused(rest: Rest) -> None:
    made = rest.volume()
    rest.ok("PUT", "/os-services/disable", {"binary": "cinder-backup", "host": "here"}, who=ADMIN)
    assert "disabled" in rest.refused(409, "POST", "/backups", {"backup": {"volume_id": made}})


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("enable", {"binary": "cinder-volume", "host": "elsewhere"}, 404),
        ("disable", {"binary": "nova-compute", **BACKEND}, 404),
        ("disable", {"binary": "cinder-scheduler", "host": "here"}, 400),
        ("disable", BACKEND, 400),
        ("disable-log-reason", {"binary": "cinder-volume", **BACKEND}, 400),
        ("disable-log-reason", {"binary": "cinder-volume", **BACKEND, "disabled_reason": None}, 400),
        ("freeze", {"host": "elsewhere"}, 400),
        ("thaw", {}, 400),
    ],
)
def test_what_names_no_service_changes_none(rest: Rest, path: str, body: dict[str, str], status: int) -> None:
    before = listed(rest)
    rest.refused(status, "PUT", f"/os-services/{path}", body, who=ADMIN)
    assert listed(rest) == before


def test_hosts_say_what_lies_on_them(rest: Rest) -> None:
    made = rest.volume(size=2)
    rest.ok("POST", "/snapshots", {"snapshot": {"volume_id": made}})
    hosts = rest.ok("GET", "/os-hosts", who=ADMIN)["hosts"]
    assert {each["host_name"] for each in hosts} == {"here", "here@local"}
    total, mine = (each["resource"] for each in rest.ok("GET", "/os-hosts/here@local", who=ADMIN)["host"])
    assert (total["project"], mine["project"]) == ("(total)", "demo")
    assert total["total_volume_gb"] == mine["total_snapshot_gb"] == "2"
    rest.refused(404, "GET", "/os-hosts/here", who=ADMIN)


def test_a_backend_says_what_it_is(rest: Rest) -> None:
    found = rest.ok("GET", "/capabilities/here@local", who=ADMIN)
    assert (found["vendor_name"], found["storage_protocol"]) == ("Stillframe", "local")
    rest.refused(404, "GET", "/capabilities/elsewhere", who=ADMIN)


def test_a_quota_class_holds_where_a_project_has_no_limit_of_its_own(rest: Rest) -> None:
    rest.ok("PUT", "/os-quota-class-sets/default", {"quota_class_set": {"volumes": 1}}, who=ADMIN)
    assert rest.ok("GET", "/os-quota-class-sets/default", who=ADMIN)["quota_class_set"]["volumes"] == 1
    assert rest.ok("GET", "/os-quota-sets/demo/defaults")["quota_set"]["volumes"] == 1
    rest.volume()
    rest.refused(413, "POST", "/volumes", {"volume": {"size": 1}})
    rest.ok("PUT", "/os-quota-sets/demo", {"quota_set": {"volumes": 2}}, who=ADMIN)
    rest.volume()
    rest.refused(400, "PUT", "/os-quota-class-sets/default", {"quota_class_set": {"shiny": 1}}, who=ADMIN)


def test_lists_of_what_there_is_none_of_are_there(rest: Rest) -> None:
    for path, key in (("/groups/detail", "groups"), ("/group_types", "group_types"), ("/group_snapshots", "group_snapshots")):
        assert rest.ok("GET", path) == {key: []}
    found = {each["resource"]: each["filters"] for each in rest.ok("GET", "/resource_filters")["resource_filters"]}
    assert "bootable" in found["volume"]
    assert [each["resource"] for each in rest.ok("GET", "/resource_filters?resource=backup")["resource_filters"]] == ["backup"]
