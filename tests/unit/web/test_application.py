"""The shell around every route: who, which version, which project, what a body must be, and what errors look like."""

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from falcon.constants import COMBINED_METHODS

from stillframe.db.engine import AWAY, Database
from stillframe.errors import (
    AccessRefused,
    BadConfiguration,
    Conflict,
    HostCommandFailed,
    HypervisorRefused,
    ImageLocked,
    InternalError,
    QuotaExceeded,
    ServiceFailed,
    ServiceUnavailable,
    StepFailed,
    StillframeError,
)
from stillframe.web import body
from tests.unit import builders
from tests.unit.builders import OTHER_VOLUME, SERVER, SNAPSHOT, VOLUME, new_id
from tests.unit.web.shell import SERVICES, Site, fault

MakeSite = Callable[..., Site]
V3, V21 = "/v3", "/v2.1"


@pytest.fixture
def volumes(database: Database, tmp_path: Path) -> MakeSite:
    return lambda **answers: Site(database, tmp_path, SERVICES["volumes"], answers)


@pytest.fixture
def compute(database: Database, tmp_path: Path) -> MakeSite:
    return lambda **answers: Site(database, tmp_path, SERVICES["compute"], answers)


@pytest.fixture
def volume(database: Database) -> str:
    with database.write() as connection:
        builders.volume_row(connection, metadata={"k": "v"})
    return VOLUME


def test_discovery_needs_no_credentials(volumes: MakeSite, compute: MakeSite) -> None:
    for site, path in ((volumes(), V3), (compute(), V21)):
        for asked in ("/", path, f"{path}/", "/healthcheck"):
            answer = site.ask("GET", asked, who=None)
            assert answer.status_code in (200, 300), asked
            assert "OpenStack-API-Version" not in answer.headers


def test_block_storage_says_which_versions_it_has(volumes: MakeSite) -> None:
    root, own = volumes().ask("GET", "/", who=None), volumes().ask("GET", V3, who=None)
    assert root.status_code == 300
    assert root.json == own.json
    (entry,) = own.json["versions"]
    assert (entry["id"], entry["status"]) == ("v3.0", "CURRENT")
    low, high = SERVICES["volumes"].minimum, SERVICES["volumes"].maximum
    assert (entry["min_version"], entry["version"]) == (f"{low[0]}.{low[1]}", f"{high[0]}.{high[1]}")
    assert {"rel": "self", "href": "http://falconframework.org/v3/"} in entry["links"]


def test_compute_says_which_versions_it_has(compute: MakeSite) -> None:
    root, own = compute().ask("GET", "/", who=None), compute().ask("GET", V21, who=None)
    assert root.status_code == own.status_code == 200
    assert root.json["versions"] == [own.json["version"]]
    low, high = SERVICES["compute"].minimum, SERVICES["compute"].maximum
    assert own.json["version"]["version"] == f"{high[0]}.{high[1]}"
    assert own.json["version"]["min_version"] == f"{low[0]}.{low[1]}"


def test_a_request_without_credentials_is_told_how_to_send_them(volumes: MakeSite) -> None:
    for path in ("/volumes", "/nothing", "/demo/volumes"):
        answer = volumes().ask("GET", V3 + path, who=None)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Basic realm=")
        assert fault(answer)["code"] == 401


@pytest.mark.parametrize("path", ["/v2/volumes", "/nothing", "/v3x/volumes", "/v3/nothing", "/v3/volumes/a/b/c/d"])
def test_a_path_that_is_no_ones_is_404(volumes: MakeSite, path: str) -> None:
    answer = volumes().ask("GET", path)
    assert answer.status_code == 404
    assert fault(answer)["code"] == 404


def test_every_answer_carries_a_request_id_of_its_own(volumes: MakeSite, compute: MakeSite) -> None:
    found = set()
    for path, who in (("/", None), (f"{V3}/volumes", "reader"), (f"{V3}/volumes", None), (f"{V3}/nothing", "reader")):
        request_id = volumes().ask("GET", path, who=who).headers["x-openstack-request-id"]
        assert re.fullmatch(r"req-[0-9a-f-]{36}", request_id)
        found.add(request_id)
    assert len(found) == 4
    answer = compute(list_servers=[]).ask("GET", f"{V21}/servers")
    assert answer.headers["x-compute-request-id"] == answer.headers["x-openstack-request-id"]


def test_the_version_is_said_back(volumes: MakeSite, compute: MakeSite) -> None:
    answer = volumes().ask("GET", f"{V3}/volumes", headers={"OpenStack-API-Version": "volume 3.27"})
    assert answer.headers["OpenStack-API-Version"] == "volume 3.27"
    assert "OpenStack-API-Version" in answer.headers["Vary"]
    answer = compute(list_servers=[]).ask("GET", f"{V21}/servers", headers={"X-OpenStack-Nova-API-Version": "2.60"})
    assert answer.headers["OpenStack-API-Version"] == "compute 2.60"
    assert answer.headers["X-OpenStack-Nova-API-Version"] == "2.60"
    assert volumes().ask("GET", f"{V3}/volumes").headers["OpenStack-API-Version"] == "volume 3.0"


def test_an_error_says_the_version_back_too(volumes: MakeSite) -> None:
    answer = volumes().ask("GET", f"{V3}/volumes/{VOLUME}", headers={"OpenStack-API-Version": "volume latest"})
    assert (answer.status_code, answer.headers["OpenStack-API-Version"]) == (404, "volume 3.71")


def test_a_path_that_is_not_there_is_told_from_a_thing_that_is_not_there(volumes: MakeSite) -> None:
    """The other service concludes that a thing is gone; of a path of a newer release it must not."""
    headers = {"OpenStack-API-Version": "volume latest"}
    thing, *paths = (
        volumes().ask("GET", path, headers=headers)
        for path in (f"{V3}/volumes/{VOLUME}", f"{V3}/volumes/{VOLUME}/of-a-newer-release", f"{V3}/nothing", "/v9/volumes")
    )
    assert (thing.status_code, fault(thing)["error_code"]) == (404, "not_found")
    assert {(each.status_code, fault(each)["error_code"]) for each in paths} == {(404, "path_not_found")}


@pytest.mark.parametrize(("text", "status"), [("volume 3.72", 406), ("volume 3.x", 400)])
def test_a_version_that_cannot_be_had_is_refused(volumes: MakeSite, text: str, status: int) -> None:
    assert volumes().ask("GET", f"{V3}/volumes", headers={"OpenStack-API-Version": text}).status_code == status


def test_a_route_newer_than_the_version_asked_for_is_not_there(volumes: MakeSite) -> None:
    for version, status in (("3.26", 404), ("3.27", 200)):
        headers = {"OpenStack-API-Version": f"volume {version}"}
        assert volumes().ask("GET", f"{V3}/attachments", headers=headers).status_code == status


def test_an_action_newer_than_the_version_asked_for_is_not_there(volumes: MakeSite) -> None:
    path = f"{V3}/attachments/{new_id()}/action"
    old = volumes().ask("POST", path, json={"os-complete": None}, headers={"OpenStack-API-Version": "volume 3.43"})
    assert (old.status_code, fault(old)["summary"]) == (404, "The resource could not be found.")
    assert fault(old)["error_code"] == "path_not_found"
    new = volumes().ask("POST", path, json={"os-complete": None}, headers={"OpenStack-API-Version": "volume 3.44"})
    assert "attachment" in fault(new)["message"]


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"os-nonsense": {}}, "There is no such action: os-nonsense"),
        ({"os-create_snapshot_metadata": {}, "os-more": {}}, "exactly one key"),
        ({}, "exactly one key"),
        ([], "exactly one key"),
        ("os-create_snapshot_metadata", "exactly one key"),
        (None, "exactly one key"),
    ],
)
def test_an_action_that_is_none_is_refused(volumes: MakeSite, document: Any, told: str) -> None:
    site = volumes()
    answer = site.ask("POST", f"{V3}/volumes/{VOLUME}/action", who="service", body=json.dumps(document))
    assert answer.status_code == 400
    assert told in fault(answer)["message"]
    assert site.bus.asked == []


def test_the_name_of_an_unknown_action_is_cut(volumes: MakeSite) -> None:
    answer = volumes().ask("POST", f"{V3}/volumes/{VOLUME}/action", json={"x" * 5000: 1})
    assert len(fault(answer)["message"]) < 400


def test_the_own_project_may_stand_in_the_path(volumes: MakeSite, volume: str) -> None:
    for path in (f"{V3}/volumes/{volume}", f"{V3}/demo/volumes/{volume}", f"{V3}/demo/volumes/{volume}/"):
        assert volumes().ask("GET", path).json["volume"]["id"] == volume
    assert volumes().ask("GET", f"{V3}/demo/volumes/{volume}/metadata").json == {"metadata": {"k": "v"}}


def test_a_foreign_project_in_the_path_is_refused_before_anything_is_looked_for(volumes: MakeSite, volume: str) -> None:
    for path in (f"{V3}/other/volumes/{volume}", f"{V3}/other/volumes"):
        answer = volumes().ask("GET", path)
        assert answer.status_code == 400
        assert "Malformed request url" in fault(answer)["message"]


def test_a_path_that_is_none_is_not_taken_for_one_with_a_project(volumes: MakeSite) -> None:
    """As clients ask for what this service does not have: groups, transfers."""
    for path in (f"{V3}/groups/detail", f"{V3}/volume-transfers/detail", f"{V3}/other/nothing"):
        assert volumes().ask("GET", path).status_code == 404


def test_admins_and_the_service_may_name_any_project_in_the_path(volumes: MakeSite, volume: str) -> None:
    for who in ("admin", "service"):
        assert volumes().ask("GET", f"{V3}/other/volumes/{volume}", who=who).status_code == 200


def test_links_name_no_project_twice(volumes: MakeSite, volume: str) -> None:
    shown = volumes().ask("GET", f"{V3}/demo/volumes/{volume}").json["volume"]["links"]
    assert shown[0] == {"rel": "self", "href": f"http://falconframework.org/v3/volumes/{volume}"}


def test_a_configured_endpoint_stands_in_every_link_whatever_a_request_says(
    database: Database, tmp_path: Path, volume: str
) -> None:
    site = Site(database, tmp_path, SERVICES["volumes"], endpoint="https://cloud.example.org/volume")
    shown = site.ask("GET", f"{V3}/volumes/{volume}").json["volume"]["links"]
    assert [each["href"] for each in shown] == [
        f"https://cloud.example.org/volume/v3/volumes/{volume}",
        f"https://cloud.example.org/volume/volumes/{volume}",
    ]
    page = site.ask("GET", f"{V3}/volumes?limit=1", headers={"Host": "elsewhere"}).json
    assert page["volumes_links"][0]["href"].startswith("https://cloud.example.org/volume/v3/volumes?limit=1&marker=")
    for path in ("/", V3):
        (entry,) = site.ask("GET", path, who=None).json["versions"]
        assert {"rel": "self", "href": "https://cloud.example.org/volume/v3/"} in entry["links"]


def test_a_slash_at_the_end_changes_nothing(volumes: MakeSite, volume: str) -> None:
    for path in ("/volumes/detail", f"/volumes/{volume}", "/limits"):
        assert volumes().ask("GET", f"{V3}{path}/").json == volumes().ask("GET", f"{V3}{path}").json


@pytest.mark.parametrize("method", ["HEAD", "PATCH", "DELETE"])
def test_a_method_a_path_does_not_have_is_405_and_says_which_it_has(volumes: MakeSite, method: str) -> None:
    answer = volumes().ask(method, f"{V3}/volumes")
    assert answer.status_code == 405
    assert {"GET", "POST"} <= set(re.split(", *", answer.headers["Allow"]))
    if method != "HEAD":
        assert answer.json["badMethod"]["code"] == 405


@pytest.mark.filterwarnings("ignore:Unknown REQUEST_METHOD")  # of wsgiref, which looks at what the test sends
@pytest.mark.parametrize("path", ["/", V3, "/healthcheck", f"{V3}/volumes", "/nowhere"])
def test_no_method_is_an_unexpected_error(volumes: MakeSite, path: str, caplog: pytest.LogCaptureFixture) -> None:
    """Nor where nobody has said who they are: Falcon refuses WEBSOCKET before any of our code sees the request."""
    site = volumes()
    for method in sorted({*COMBINED_METHODS, "PRI", "FOO"}):
        for answer in (site.ask(method, path), site.ask(method, path, who=None)):
            assert answer.status_code < 500, method
            assert answer.headers["x-openstack-request-id"].startswith("req-")
    assert [each.message for each in caplog.records if each.levelname == "ERROR"] == []


def test_a_body_that_is_too_long_is_413_however_its_length_is_told(volumes: MakeSite) -> None:
    site = volumes()
    long = '{"volume": {"size": 1, "name": "' + "x" * body.LIMIT + '"}}'
    answer = site.ask("POST", f"{V3}/volumes", body=long)
    assert (answer.status_code, list(answer.json)) == (413, ["overLimit"])
    answer = site.ask("POST", f"{V3}/volumes", headers={"Content-Length": str(1 << 40)})
    assert answer.status_code == 413
    assert site.bus.asked == []


@pytest.mark.parametrize("kind", ["text/plain", "application/xml", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_a_body_that_is_called_anything_but_json_is_415(volumes: MakeSite, kind: str) -> None:
    answer = volumes().ask("POST", f"{V3}/volumes", body='{"volume": {"size": 1}}', headers={"Content-Type": kind})
    assert (answer.status_code, list(answer.json)) == (415, ["badMediaType"])


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "application/vnd.api+json", None])
def test_a_body_that_is_called_json_or_nothing_is_read(volumes: MakeSite, volume: str, kind: str | None) -> None:
    headers = {"Content-Type": kind} if kind else {}
    answer = volumes(create_volume=volume).ask("POST", f"{V3}/volumes", body='{"volume": {"size": 1}}', headers=headers)
    assert answer.status_code == 202


@pytest.mark.parametrize(
    "raw", ["{", "[" * 5000, '{"volume": {"size": 1, "size": 2}}', '{"volume": {"size": NaN}}', '{"volume": {"size": 0}}', "[]"]
)
def test_a_body_that_does_not_fit_is_400_and_never_reaches_the_worker(volumes: MakeSite, raw: str) -> None:
    site = volumes()
    answer = site.ask("POST", f"{V3}/volumes", body=raw)
    assert (answer.status_code, list(answer.json)) == (400, ["badRequest"])
    assert site.bus.asked == []


def test_a_route_that_wants_a_body_says_so_when_there_is_none(volumes: MakeSite) -> None:
    assert "Invalid input for field/attribute body" in fault(volumes().ask("POST", f"{V3}/volumes"))["message"]


@pytest.mark.parametrize("field", ["status", "host", "project_id", "active_file", "format", "id", "attachments"])
def test_fields_that_are_not_the_users_cannot_be_written(volumes: MakeSite, volume: str, field: str) -> None:
    site, strict = volumes(create_volume=volume), {"OpenStack-API-Version": "volume 3.53"}
    assert site.ask("POST", f"{V3}/volumes", json={"volume": {"size": 1, field: "x"}}, headers=strict).status_code == 400
    assert site.ask("PUT", f"{V3}/volumes/{volume}", json={"volume": {"name": "n", field: "x"}}).status_code == 400
    assert site.bus.asked == []
    assert site.ask("POST", f"{V3}/volumes", json={"volume": {"size": 1, field: "x"}}).status_code == 202  # passed over
    assert site.bus.asked == [("create_volume", {"wanted": {"size": 1}})]


@pytest.mark.parametrize("field", ["status", "snapshot_id", "server_id", "created_at", "consistency", "overlay", "size"])
def test_fields_of_a_snapshot_that_are_not_the_users_cannot_be_written(volumes: MakeSite, volume: str, field: str) -> None:
    site = volumes()
    answer = site.ask("POST", f"{V3}/snapshots", json={"snapshot": {"volume_id": volume, field: "x"}})
    assert answer.status_code == 400
    assert site.bus.asked == []


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Conflict("busy"), 409),
        (QuotaExceeded("full"), 413),
        (ServiceUnavailable("away"), 503),
        (InternalError("the canary"), 500),
        (BadConfiguration("the canary"), 500),
        (StillframeError("the canary"), 500),
        (RuntimeError("the canary"), 500),
        (KeyError("the canary"), 500),
    ],
)
def test_an_error_of_the_worker_has_its_status_and_tells_no_internals(
    volumes: MakeSite, volume: str, error: Exception, status: int
) -> None:
    answer = volumes(delete_volume=error).ask("DELETE", f"{V3}/volumes/{volume}")
    assert answer.status_code == status
    assert fault(answer)["code"] == status
    assert "canary" not in answer.text
    assert ("Retry-After" in answer.headers) is (status == 503)


@pytest.mark.parametrize(
    ("error", "status", "name"),
    [
        (StepFailed("in its own words"), 409, "conflictingRequest"),
        (HypervisorRefused("in its own words"), 409, "conflictingRequest"),
        (HostCommandFailed("in its own words"), 409, "conflictingRequest"),
        (ImageLocked("in its own words"), 409, "conflictingRequest"),
        (AccessRefused("in its own words"), 403, "forbidden"),
        (ServiceFailed("in its own words"), 502, "badGateway"),
    ],
)
def test_a_refusal_is_told_in_the_words_of_who_said_it(
    volumes: MakeSite, volume: str, error: StillframeError, status: int, name: str
) -> None:
    answer = volumes(delete_volume=error).ask("DELETE", f"{V3}/volumes/{volume}")
    assert (answer.status_code, list(answer.json)) == (status, [name])
    told = fault(answer)
    assert (told["summary"], told["error_code"], told["hint"]) == ("in its own words", error.code, error.hint)


def test_a_database_that_is_away_is_waited_for_and_tells_no_internals(volumes: MakeSite, volume: str) -> None:
    away = AWAY("the canary", None, Exception("the canary"))
    answer = volumes(delete_volume=away).ask("DELETE", f"{V3}/volumes/{volume}")
    assert answer.status_code == 503
    assert "Retry-After" in answer.headers
    assert "canary" not in answer.text


def test_an_unexpected_error_names_the_request_so_that_the_log_can_be_searched(
    volumes: MakeSite, volume: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = volumes(delete_volume=RuntimeError("the canary")).ask("DELETE", f"{V3}/volumes/{volume}")
    assert answer.headers["x-openstack-request-id"] in fault(answer)["message"]
    assert "the canary" in caplog.text


def test_a_query_parameter_given_twice_counts_as_its_last(volumes: MakeSite, database: Database) -> None:
    with database.write() as connection:
        for name in ("a", "b"):
            builders.volume_row(connection, id=new_id(), name=name)
    found = volumes().ask("GET", f"{V3}/volumes", query_string="name=a&name=b").json["volumes"]
    assert [each["name"] for each in found] == ["b"]
    assert volumes().ask("GET", f"{V3}/volumes", query_string="name=a,b").json["volumes"] == []


def test_a_volume_of_another_project_is_answered_exactly_as_a_missing_one(volumes: MakeSite, volume: str) -> None:
    for method, path, document in (
        ("GET", "", None),
        ("PUT", "", {"volume": {"name": "x"}}),
        ("DELETE", "", None),
        ("GET", "/metadata", None),
        ("PUT", "/metadata/k", {"meta": {"k": "v"}}),
    ):
        site = volumes()
        answers = [
            site.ask(method, f"{V3}/volumes/{each}{path}", who="other:member reader", json=document)
            for each in (volume, OTHER_VOLUME)
        ]
        assert [answer.status_code for answer in answers] == [404, 404]
        assert answers[0].text.replace(volume, OTHER_VOLUME) == answers[1].text
        assert site.bus.asked == []


def test_a_log_line_names_the_request_and_its_answer(volumes: MakeSite, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "stillframe"):
        volumes().ask("GET", f"{V3}/volumes/nothing")
    assert "GET /v3/volumes/nothing -> 404" in caplog.text


@pytest.mark.parametrize("text", ["%0a", "%1b[2J", "%e2%80%ae", "%00"])
def test_paths_and_queries_hold_no_control_characters(volumes: MakeSite, text: str) -> None:
    """A quota could be kept for a project of such a name, and was shown as it came."""
    site = volumes()
    wanted = {"quota_set": {"volumes": 3}}
    assert site.ask("PUT", f"/v3/os-quota-sets/a{text}", json=wanted, who="admin").status_code == 404
    for query in (f"name={text}", f"{text}=1", f"marker={text}"):
        assert site.ask("GET", f"/v3/volumes?{query}").status_code == 400


def test_a_log_line_is_short_however_long_the_path(volumes: MakeSite, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "stillframe"):
        volumes().ask("GET", "/v3/" + "x" * 60_000, who=None)
    assert "-> 401" in caplog.text
    assert len(caplog.text) < 1_000


def test_the_worker_is_asked_as_the_user_that_asks(volumes: MakeSite, volume: str) -> None:
    seen: list[Any] = []
    site = volumes(delete_volume=lambda context, **more: seen.append((context.roles, context.project_id, more)))
    assert site.ask("DELETE", f"{V3}/volumes/{volume}").status_code == 202
    assert seen == [(("member", "reader"), "demo", {"volume_id": volume, "cascade": False, "force": False})]


def test_an_upper_case_id_is_the_same_id(volumes: MakeSite, database: Database) -> None:
    lower = "abcdefab-cdef-4abc-8def-abcdefabcdef"
    with database.write() as connection:
        builders.volume_row(connection, id=lower)
    for text in (lower.upper(), lower.replace("-", "")):
        assert volumes().ask("GET", f"{V3}/volumes/{text}").json["volume"]["id"] == lower


@pytest.mark.parametrize("hostile", ["..%2f..%2fetc", "%00", "x" * 3000, "%ff", "'%20or%201=1", "{id}"])
def test_a_hostile_id_is_not_found(volumes: MakeSite, hostile: str) -> None:
    for noun in ("volumes", "snapshots"):
        assert volumes().ask("GET", f"{V3}/{noun}/{hostile}").status_code == 404


@pytest.mark.parametrize("query", ["limit=²", "limit=x", "limit=-1", f"limit={'9' * 5000}", "offset=x", "offset=-1"])
@pytest.mark.parametrize("path", [f"/servers/{SERVER}/os-volume_attachments", "/servers", "/servers/detail"])
def test_a_limit_that_is_no_number_is_the_callers_mistake(compute: MakeSite, path: str, query: str) -> None:
    site = compute(list_attached=[], list_servers=[])
    assert site.ask("GET", V21 + path, query_string=query).status_code == 400


@pytest.mark.parametrize("path", ["/volumes", "/volumes/detail", "/snapshots", "/snapshots/detail"])
@pytest.mark.parametrize("query", ["sort=name&limit=1", "sort_key=updated_at&sort_dir=asc&limit=1", "limit=1"])
def test_a_list_can_be_followed_by_its_links_to_the_end(volumes: MakeSite, database: Database, path: str, query: str) -> None:
    with database.write() as connection:
        for name in ("a", None, "a"):
            volume_id = str(builders.volume_row(connection, id=new_id(), name=name)["id"])
            builders.snapshot_row(connection, id=new_id(), volume_id=volume_id, name=name)
    noun = path.split("/")[1]
    found: list[str] = []
    site = volumes()
    for _ in range(4):
        answer = site.ask("GET", V3 + path, query_string=query)
        assert answer.status_code == 200, answer.text
        found += [each["id"] for each in answer.json[noun]]
        if f"{noun}_links" not in answer.json:
            break
        query = answer.json[f"{noun}_links"][0]["href"].partition("?")[2]
    assert len(found) == len(set(found)) == 3


def test_a_snapshot_with_half_a_character_in_it_cannot_be_made(volumes: MakeSite, volume: str) -> None:
    raw = '{"snapshot": {"volume_id": "' + volume + '", "metadata": {"k": "\\ud800"}}}'
    site = volumes(create_snapshot=SNAPSHOT)
    assert site.ask("POST", f"{V3}/snapshots", body=raw).status_code == 400
    assert site.bus.asked == []


def test_a_request_for_the_cost_is_never_carried_out(volumes: MakeSite, volume: str) -> None:
    told = {"possible": True, "bytes": 7}
    site = volumes(explain_backup=told)
    answer = site.ask("POST", f"{V3}/backups?explain=1", json={"backup": {"volume_id": volume}})
    assert (answer.status_code, answer.json) == (200, {"explanation": told})
    for method, path, asked in (
        ("DELETE", f"{V3}/volumes/{volume}?explain=1", None),
        ("POST", f"{V3}/volumes/{volume}/action?explain=true", {"os-extend": {"new_size": 2}}),
        ("PUT", f"{V3}/volumes/{volume}?explain=1", {"volume": {"name": "new"}}),
    ):
        refused = site.ask(method, path, json=asked)
        assert refused.status_code == 400 and "has no cost to explain" in fault(refused)["message"]
