"""Where block storage answers as Cinder does, call by call, from the request to the journal's end."""

from typing import Any

import pytest

from tests.unit.builders import SNAPSHOT, VOLUME
from tests.unit.volumes.rest import ADMIN, MEMBER, Rest

HUGE = 999_999_999


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
@pytest.mark.parametrize("path", ["/volumes/", "/snapshots/", "/demo/volumes/", "/types/"])
def test_an_empty_id_names_nothing(rest: Rest, method: str, path: str) -> None:
    rest.refused(404, method, path, {"volume": {"name": "x"}} if method == "PUT" else None, who=ADMIN)


def test_a_slash_after_a_path_that_is_whole_changes_nothing(rest: Rest) -> None:
    made = rest.volume()
    assert rest.ok("GET", f"/volumes/{made}/") == rest.ok("GET", f"/volumes/{made}")
    assert rest.ok("GET", "/volumes/detail/") == rest.ok("GET", "/volumes/detail")


def test_unknown_keys_of_a_new_volume_are_passed_over_until_3_53(rest: Rest) -> None:
    body = {"volume": {"size": 1, "shiny": True, "display_name": "n", "display_description": "d"}}
    made = rest.ok("POST", "/volumes", body, version="3.52")["volume"]
    assert (made["name"], made["description"]) == ("n", "d")
    assert "shiny" in rest.refused(400, "POST", "/volumes", body, version="3.53")


def test_a_change_may_name_nothing_until_3_53(rest: Rest) -> None:
    made = rest.volume(name="before")
    assert rest.ok("PUT", f"/volumes/{made}", {"volume": {}}, version="3.52")["volume"]["name"] == "before"
    rest.refused(400, "PUT", f"/volumes/{made}", {"volume": {}}, version="3.53")
    assert rest.ok("PUT", f"/volumes/{made}", {"volume": {"display_name": "after"}})["volume"]["name"] == "after"


@pytest.mark.parametrize("name", ["nonesuch", VOLUME])
def test_a_type_that_is_not_there_is_404(rest: Rest, name: str) -> None:
    assert name in rest.refused(404, "POST", "/volumes", {"volume": {"size": 1, "volume_type": name}})


def test_a_snapshot_of_no_volume_is_404(rest: Rest) -> None:
    rest.refused(404, "POST", "/snapshots", {"snapshot": {"volume_id": None}})


@pytest.mark.parametrize("path", ["/volumes", "/volumes/detail", "/snapshots", "/snapshots/detail", "/backups"])
def test_a_marker_that_is_not_there_is_404(rest: Rest, path: str) -> None:
    rest.refused(404, "GET", f"{path}?marker={SNAPSHOT}")


def test_bootable_filters(rest: Rest) -> None:
    yes, no = rest.volume(name="yes"), rest.volume(name="no")
    rest.act(yes, "os-set_bootable", {"bootable": True})
    for text, found in (("true", yes), ("True", yes), ("1", yes), ("false", no)):
        assert [each["id"] for each in rest.ok("GET", f"/volumes?bootable={text}")["volumes"]] == [found]
    rest.refused(400, "GET", "/volumes?bootable=perhaps")


def test_display_name_sorts_and_filters_as_name(rest: Rest) -> None:
    for name in ("b", "a", "c"):
        rest.volume(name=name)
    found = rest.ok("GET", "/volumes?sort=display_name:asc")["volumes"]
    assert [each["name"] for each in found] == ["a", "b", "c"]
    assert [each["name"] for each in rest.ok("GET", "/volumes?display_name=b")["volumes"]] == ["b"]


def test_a_spec_is_set_under_the_key_of_the_path_only(rest: Rest) -> None:
    made = rest.ok("POST", "/types", {"volume_type": {"name": "t", "extra_specs": {"a": "1"}}}, who=ADMIN)["volume_type"]
    rest.refused(400, "PUT", f"/types/{made['id']}/extra_specs/a", {"b": "2"}, who=ADMIN)
    assert rest.ok("GET", f"/types/{made['id']}/extra_specs")["extra_specs"] == {"a": "1"}


def test_a_size_that_is_no_size_is_told_by_its_own_name(rest: Rest) -> None:
    for size in (0, -1, "0", "x", 1.5):
        told = rest.refused(400, "POST", "/volumes", {"volume": {"size": size}})
        assert told.startswith("Invalid input for field/attribute size"), told


def test_more_than_the_quota_is_told_before_anything_else(rest: Rest) -> None:
    told = rest.refused(413, "POST", "/volumes", {"volume": {"size": HUGE}})
    assert told.startswith("Requested volume or snapshot exceeds allowed gigabytes quota")
    assert f"Requested {HUGE}G, quota is 100000G and 0G has been consumed" in told


def test_snapshots_count_in_gigabytes(rest: Rest) -> None:
    made = rest.volume(size=2)
    rest.ok("PUT", "/os-quota-sets/demo", {"quota_set": {"gigabytes": 5, "snapshots": 5}}, who=ADMIN)
    rest.ok("POST", "/snapshots", {"snapshot": {"volume_id": made}})
    assert rest.ok("GET", "/limits")["limits"]["absolute"]["totalGigabytesUsed"] == 4
    told = rest.refused(413, "POST", "/snapshots", {"snapshot": {"volume_id": made}})
    assert "Requested 2G, quota is 5G and 4G has been consumed" in told


def test_over_quota_is_told_before_busy(rest: Rest) -> None:
    made = rest.volume()
    rest.ok("PUT", "/os-quota-sets/demo", {"quota_set": {"snapshots": 1}}, who=ADMIN)
    assert rest.ask("POST", "/snapshots", {"snapshot": {"volume_id": made}}).status_code == 202
    told = rest.refused(413, "POST", "/snapshots", {"snapshot": {"volume_id": made}})
    assert told.startswith("Maximum number of snapshots allowed (1) exceeded")


@pytest.mark.parametrize("path", ["/nothing/here", "/volumes/x/y/z", "/types/x/y/z"])
def test_every_path_that_is_not_there_has_the_same_fault(rest: Rest, path: str) -> None:
    found: Any = rest.ask("GET", path, who=MEMBER).json
    assert list(found) == ["itemNotFound"]
    assert found["itemNotFound"]["error_code"] == "path_not_found"
    assert found["itemNotFound"]["message"].startswith("The resource could not be found.")
