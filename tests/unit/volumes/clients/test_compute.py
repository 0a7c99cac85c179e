"""Block storage's question to compute: which servers name a volume (I4)."""

from pathlib import Path
from typing import Any

import pytest

from stillframe.errors import ServiceUnavailable
from stillframe.volumes.clients.compute import ComputeClient
from tests.unit.builders import OTHER_VOLUME, VOLUME, settings

ATTACHED = "os-extended-volumes:volumes_attached"


class Session:
    """Compute's answers by path, and what was asked."""

    def __init__(self, pages: dict[str, Any]) -> None:
        self._pages = pages
        self.asked: list[str] = []

    def call(self, method: str, path: str, body: Any = None) -> Any:
        assert method == "GET"
        self.asked.append(path)
        found = self._pages["first" if len(self.asked) == 1 else "second"]
        if isinstance(found, Exception):
            raise found
        return found


def server(name: str, *volumes: str) -> dict[str, Any]:
    return {"id": name, ATTACHED: [{"id": volume} for volume in volumes]}


def client(tmp_path: Path, session: Any) -> ComputeClient:
    made = ComputeClient(settings(tmp_path))
    made._session = session
    return made


def test_servers_of_every_project_that_name_the_volume_are_told(tmp_path: Path) -> None:
    session = Session({"first": {"servers": [server("a", VOLUME, OTHER_VOLUME), server("b", OTHER_VOLUME), server("c")]}})
    assert client(tmp_path, session).servers_with(VOLUME) == ["a"]
    assert "all_tenants=1" in session.asked[0]


def test_a_server_on_a_later_page_counts_too(tmp_path: Path) -> None:
    link = [{"rel": "next", "href": "http://here/v2.1/servers/detail?all_tenants=1&marker=a"}]
    first = {"servers": [server("a")], "servers_links": link}
    session = Session({"first": first, "second": {"servers": [server("b", VOLUME)]}})
    assert client(tmp_path, session).servers_with(VOLUME) == ["b"]


def test_a_server_is_a_projects_when_its_list_has_it_to_the_letter(tmp_path: Path) -> None:
    pages = {"first": {"servers": [{"id": "a", "tenant_id": "demo"}, {"id": "b", "tenant_id": "DEMO"}]}}
    for name, expected in (("a", True), ("b", False), ("c", False)):
        session = Session(pages)
        assert client(tmp_path, session).has_server("demo", name) is expected
        assert session.asked == ["/servers/detail?all_tenants=1&project_id=demo"]  # the same, whosever it is
    session = Session({"first": {"servers": []}})
    assert not client(tmp_path, session).has_server("a&all/b=c#", "a")
    assert session.asked == ["/servers/detail?all_tenants=1&project_id=a%26all%2Fb%3Dc%23"]


def test_a_compute_service_that_does_not_answer_is_never_taken_for_no(tmp_path: Path) -> None:
    with pytest.raises(ServiceUnavailable):
        client(tmp_path, Session({"first": ServiceUnavailable("away")})).servers_with(VOLUME)


@pytest.mark.parametrize(("sure", "more"), [(False, ""), (True, "&sure=1")])
def test_the_directory_is_asked_about_as_surely_as_wanted(tmp_path: Path, sure: bool, more: str) -> None:
    session = Session({"first": {"files": {"one": ["a"]}}})
    assert client(tmp_path, session).named_files(Path("/a share"), sure) == {"one": ["a"]}
    assert session.asked == [f"/os-assisted-volumes?directory=%2Fa%20share{more}"]
