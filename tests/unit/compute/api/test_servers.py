"""Servers as clients read them, at every microversion that changes something."""

from pathlib import Path
from typing import Any

import pytest

from stillframe.compute.api import servers
from stillframe.db.engine import Database
from stillframe.errors import BadRequest
from stillframe.web.body import check
from stillframe.web.route import Call, Version
from tests.unit import builders
from tests.unit.builders import SERVER, VOLUME, Bus, context

DOCUMENT: dict[str, Any] = {
    "id": SERVER,
    "name": "guest",
    "status": "ACTIVE",
    "power_state": 1,
    "project_id": "demo",
    "user_id": "u",
    "memory_mib": 512,
    "vcpus": 2,
    "volumes": [{"id": VOLUME, "device": "/dev/vda"}],
}
FIELDS = {
    "locked": (2, 9),
    "description": (2, 19),
    "tags": (2, 26),
    "trusted_image_certificates": (2, 63),
    "server_groups": (2, 71),
    "locked_reason": (2, 73),
}


@pytest.fixture
def asked(database: Database, tmp_path: Path) -> Any:
    """Makes a call; ``found`` are the servers the worker shows."""

    def make(version: Version = (2, 1), *roles: str, found: list[dict[str, Any]] | None = None, **query: str) -> Call:
        answers = {"list_servers": found or [], "show_server": DOCUMENT}
        urls = {"base_url": "http://here/v2.1", "collection_url": "http://here/v2.1/servers"}
        api = builders.api(database, tmp_path, answers)
        return builders.call(api, version, context(*roles), query=query, path={"id": SERVER}, **urls)

    return make


@pytest.mark.parametrize(("name", "since"), FIELDS.items())
def test_a_field_is_shown_from_its_version_on(asked: Any, name: str, since: Version) -> None:
    assert name not in servers.view(asked((since[0], since[1] - 1)), DOCUMENT)
    assert name in servers.view(asked(since), DOCUMENT)
    assert name in servers.view(asked((2, 100)), DOCUMENT)


def test_the_flavor_becomes_a_description_of_the_server(asked: Any) -> None:
    assert servers.view(asked((2, 46)), DOCUMENT)["flavor"] == {"id": "libvirt", "links": []}
    flavor = servers.view(asked((2, 47)), DOCUMENT)["flavor"]
    assert (flavor["original_name"], flavor["vcpus"], flavor["ram"]) == ("libvirt", 2, 512)
    assert "id" not in flavor


def test_attached_volumes_say_that_they_outlive_the_server(asked: Any) -> None:
    key = "os-extended-volumes:volumes_attached"
    assert servers.view(asked((2, 2)), DOCUMENT)[key] == [{"id": VOLUME}]
    assert servers.view(asked((2, 3)), DOCUMENT)[key] == [{"id": VOLUME, "delete_on_termination": False}]


@pytest.mark.parametrize(
    ("roles", "shown"), [(("member", "reader"), False), (("reader",), False), (("admin",), True), (("service",), True)]
)
def test_hosts_are_shown_to_admins_and_the_service(asked: Any, roles: tuple[str, ...], shown: bool) -> None:
    view = servers.view(asked((2, 1), *roles), DOCUMENT)
    assert ("OS-EXT-SRV-ATTR:host" in view) is shown
    assert ("OS-EXT-SRV-ATTR:instance_name" in view) is shown


@pytest.mark.parametrize(
    ("status", "state"), [("ACTIVE", "active"), ("SHUTOFF", "stopped"), ("PAUSED", "paused"), ("ERROR", "error")]
)
def test_the_state_has_novas_words(asked: Any, status: str, state: str) -> None:
    assert servers.view(asked(), {**DOCUMENT, "status": status})["OS-EXT-STS:vm_state"] == state


def test_links_lead_back_here(asked: Any) -> None:
    assert servers.show(asked())["server"]["links"] == [
        {"rel": "self", "href": f"http://here/v2.1/servers/{SERVER}"},
        {"rel": "bookmark", "href": f"http://here/servers/{SERVER}"},
    ]


def many(count: int) -> list[dict[str, Any]]:
    return [{**DOCUMENT, "id": f"{number:08d}-0000-4000-8000-000000000000"} for number in range(count)]


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
def test_pages_of_servers_visit_each_once(asked: Any, limit: int) -> None:
    found: list[str] = []
    query = {"limit": str(limit)}
    for _ in range(9):
        answer = servers.list_brief(asked(found=list(reversed(many(7))), **query))
        found += [each["id"] for each in answer["servers"]]
        if "servers_links" not in answer:
            break
        href = answer["servers_links"][0]["href"]
        query = dict(part.split("=") for part in href.partition("?")[2].split("&"))
    assert found == [each["id"] for each in many(7)]


@pytest.mark.parametrize("query", [{}, {"limit": "5000"}, {"limit": "1000"}])
def test_a_list_that_was_cut_links_to_the_rest(asked: Any, query: dict[str, str]) -> None:
    answer = servers.list_detail(asked(found=many(1001), **query))
    assert len(answer["servers"]) == 1000
    assert "servers_links" in answer


def test_the_link_keeps_the_filter(asked: Any) -> None:
    answer = servers.list_brief(asked(found=many(3), limit="1", name="guest"))
    assert "name=guest" in answer["servers_links"][0]["href"]


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ({"name": "GUEST"}, 1),
        ({"name": "gues"}, 0),
        ({"status": "active"}, 1),
        ({"status": "SHUTOFF"}, 0),
        ({"project_id": "other"}, 0),
        ({"deleted": "true"}, 0),
        ({"deleted": "false"}, 1),
    ],
)
def test_servers_are_filtered(asked: Any, query: dict[str, str], shown: int) -> None:
    assert len(servers.list_brief(asked(found=[DOCUMENT], **query))["servers"]) == shown


@pytest.mark.parametrize(("query", "wanted"), [({}, False), ({"all_tenants": "0"}, False), ({"all_projects": "True"}, True)])
def test_all_projects_are_asked_for_in_words(asked: Any, query: dict[str, str], wanted: bool) -> None:
    call = asked(**query)
    servers.list_brief(call)
    bus: Bus = call.api.bus
    assert bus.asked == [("list_servers", {"all_projects": wanted})]


def test_unknown_parameters_are_refused(asked: Any) -> None:
    with pytest.raises(BadRequest, match="evil"):
        servers.list_brief(asked(evil="1"))


@pytest.mark.parametrize(("body", "hard"), [({"type": "HARD"}, True), ({"type": "SOFT"}, False), ({}, False), (None, False)])
def test_only_a_hard_reboot_is_possible(asked: Any, body: Any, hard: bool) -> None:
    route = next(route for route in servers.ROUTES if route.action == "reboot")
    assert route.newest_schema is not None
    if hard:
        check({"reboot": body}, route.newest_schema)
        call = asked()
        servers.reboot(call)
        assert call.api.bus.asked == [("power", {"server_id": SERVER, "action": "reboot"})]
    else:
        with pytest.raises(BadRequest):
            check({"reboot": body}, route.newest_schema)
