"""Compute's client to block storage: how the volumes of a set are asked for."""

from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from stillframe.compute.clients.block_storage import StorageClient
from stillframe.errors import Busy, NotFound, ServiceUnavailable, StillframeError, TooLarge
from tests.unit.builders import SERVER, new_id, settings

OURS = "demo"


class Service:
    """Block storage: its volumes with their project, and what was asked of it. A page holds the newest ones."""

    def __init__(self, **projects: list[str]) -> None:
        self.volumes = {each: project for project, ids in projects.items() for each in ids}
        self.asked: list[str] = []

    def call(self, _method: str, path: str, _body: Any = None) -> Any:
        self.asked.append(path)
        if path.startswith("/volumes/detail?"):
            wanted = dict(part.split("=") for part in path.partition("?")[2].split("&"))
            found = [each for each in reversed(self.volumes) if self.volumes[each] == wanted["project_id"]]
            return {"volumes": [self._view(each) for each in found[: int(wanted["limit"])]]}
        volume_id = path.removeprefix("/volumes/")
        if volume_id not in self.volumes:
            raise NotFound("no such volume")
        return {"volume": self._view(volume_id)}

    def _view(self, volume_id: str) -> dict[str, Any]:
        return {"id": volume_id, "size": 1, "os-vol-tenant-attr:tenant_id": self.volumes[volume_id]}


def client(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StorageClient:
    made = StorageClient(settings(tmp_path))
    monkeypatch.setattr(made, "_call", service.call)
    return made


def ids(count: int) -> list[str]:
    return [new_id() for _ in range(count)]


def test_one_page_has_all_volumes_of_a_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ids(8)
    service = Service(demo=[*ids(3), *wanted, *ids(3)])
    found = client(service, tmp_path, monkeypatch).volumes_of(OURS, wanted)
    assert found.keys() == set(wanted)
    assert service.asked == ["/volumes/detail?all_tenants=1&project_id=demo&status=in-use&limit=32"]


def test_what_is_not_on_the_page_is_asked_for_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = ids(2)
    service = Service(demo=[old, *ids(50), new])
    found = client(service, tmp_path, monkeypatch).volumes_of(OURS, [old, new])
    assert found.keys() == {old, new}
    assert service.asked[1:] == [f"/volumes/{old}"]


def test_a_single_volume_needs_no_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (only,) = wanted = ids(1)
    service = Service(demo=wanted)
    assert client(service, tmp_path, monkeypatch).volumes_of(OURS, wanted).keys() == {only}
    assert service.asked == [f"/volumes/{only}"]


@pytest.mark.parametrize("count", [1, 2])
def test_missing_volumes_and_those_of_another_project_look_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    foreign, missing, own = ids(count), ids(count), ids(count)
    service = Service(other=foreign, demo=own)
    assert client(service, tmp_path, monkeypatch).volumes_of(OURS, [*foreign, *missing, *own]).keys() == set(own)
    assert client(service, tmp_path, monkeypatch).volumes_of(OURS, foreign) == {}


def test_a_project_is_no_part_of_the_query(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The project comes from the domain's description, where anything may stand."""
    service = Service()
    client(service, tmp_path, monkeypatch).volumes_of("a&all/b=c#", ids(2))
    assert "project_id=a%26all%2Fb%3Dc%23&" in service.asked[0]


class BackupStore:
    """Block storage with many attachments, whose list has no links as Cinder's, and many snapshots that are being deleted."""

    def __init__(self, count: int) -> None:
        self.rows = [{"id": new_id(), "volume_id": new_id()} for _ in range(count)]

    def call(self, _method: str, path: str, _body: Any = None) -> Any:
        query = dict(part.split("=") for part in path.partition("?")[2].split("&"))
        first = next((i + 1 for i, row in enumerate(self.rows) if row["id"] == query.get("marker")), 0)
        page = self.rows[first : first + min(int(query.get("limit", 1000)), 1000)]
        if "/attachments/" in path:
            return {"attachments": page}
        rest = {**query, "marker": page[-1]["id"]} if page else query
        links = [{"rel": "next", "href": f"http://elsewhere/v9/x?{urlencode(rest)}"}]
        return {"snapshots": page, **({"snapshots_links": links} if page else {})}


@pytest.mark.parametrize("count", [0, 1, 50, 51, 2345])
def test_lists_are_read_to_their_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    backup_store = BackupStore(count)
    made = StorageClient(settings(tmp_path))
    monkeypatch.setattr(made, "_call", backup_store.call)
    assert made.attachments_of(SERVER, OURS) == backup_store.rows
    assert made.being_deleted() == {row["volume_id"] for row in backup_store.rows}


def test_attachments_are_asked_for_by_project_and_by_volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, backup_store, asked = StorageClient(settings(tmp_path)), BackupStore(1), list[str]()

    def call(method: str, path: str, _body: Any = None) -> Any:
        asked.append(path)
        return backup_store.call(method, path)

    monkeypatch.setattr(made, "_call", call)
    made.attachments_of(SERVER, "a&b")
    assert made.attachment("v", SERVER) == backup_store.rows[0]
    common = f"/attachments/detail?all_tenants=1&instance_id={SERVER}"
    assert asked == [f"{common}&project_id=a%26b&limit=50", f"{common}&volume_id=v&limit=50"]


def test_a_service_that_does_not_answer_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = StorageClient(settings(tmp_path))

    def away(*_arguments: Any) -> Any:
        raise ServiceUnavailable("away")

    monkeypatch.setattr(made, "_call", away)
    with pytest.raises(ServiceUnavailable):
        made.volumes_of(OURS, ids(2))


def unknown() -> StillframeError:
    """What is raised where another program answers that it has no such path."""
    error = ServiceUnavailable("another service answered")
    error.__cause__ = NotFound("no such path")
    return error


@pytest.mark.parametrize("error", [NotFound("no such volume"), TooLarge("too long"), unknown()])
def test_a_set_is_asked_for_one_by_one_where_it_cannot_be_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: StillframeError
) -> None:
    made = StorageClient(settings(tmp_path))

    def refuse(*_asked: Any) -> None:
        raise error

    monkeypatch.setattr(made, "_call", refuse)
    assert made.create_set_metadata([{}]) is None
    assert not made.finalize_set_metadata([{}])


@pytest.mark.parametrize("error", [ServiceUnavailable("it does not answer"), Busy("the volume is busy")])
def test_another_refusal_of_a_set_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: StillframeError) -> None:
    made = StorageClient(settings(tmp_path))

    def refuse(*_asked: Any) -> None:
        raise error

    monkeypatch.setattr(made, "_call", refuse)
    with pytest.raises(type(error)):
        made.create_set_metadata([{}])
    with pytest.raises(type(error)):
        made.finalize_set_metadata([{}])


def test_a_set_is_asked_for_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def answer(*what: Any) -> Any:
        asked.append(what)
        return {"snapshots": [{"id": "a"}]} if "create" in what[2] else {}

    made = StorageClient(settings(tmp_path))
    monkeypatch.setattr(made, "_call", answer)
    assert made.create_set_metadata([{"volume_id": "v"}]) == [{"id": "a"}]
    assert made.finalize_set_metadata([{"snapshot_id": "a"}])
    assert asked == [
        ("POST", "/os-set-metadata", {"create": {"snapshots": [{"volume_id": "v"}]}}),
        ("POST", "/os-set-metadata", {"finalize": {"snapshots": [{"snapshot_id": "a"}]}}),
    ]
