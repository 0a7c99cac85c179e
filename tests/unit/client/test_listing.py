"""Lists in pages, and things found by name or id among thousands of them."""

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlencode

import pytest

from stillframe.client import listing
from stillframe.client.assisted_snapshots import AssistedSnapshots
from stillframe.client.chains import Chains
from stillframe.client.snapshot_policies import SnapshotPolicies
from stillframe.client.snapshots import Snapshots
from stillframe.errors import BadRequest, NotFound, ServiceFailed
from tests.unit.builders import SERVER, SET, new_id
from tests.unit.client.fakes import Answer, fault

MANY = 2500  # two pages and a half
PAGE = 1000


class Cloud:
    """One service with ``MANY`` of each thing, the wanted one last. It answers at most a thousand at once."""

    def __init__(self, ignores_names: bool = False) -> None:
        self.things = {
            key: [{"id": new_id(), "name": f"n{number}", "volume_id": "v", "server_id": SERVER} for number in range(MANY)]
            for key in ("servers", "volumes", "snapshots", "assisted_snapshots", "snapshot_policies")
        }
        self.ignores_names = ignores_names
        self.sent: list[str] = []

    def last(self, key: str) -> dict[str, Any]:
        return self.things[key][-1]

    def request(self, path: str, _method: str, **_more: Any) -> Answer:
        self.sent.append(path)
        place, _, query = path.partition("?")
        words = place.strip("/").removeprefix("os-").replace("-", "_").split("/")
        key = words[0]
        if words[-1] == "stillframe_chain":
            return Answer(200, {"chain": {"volume_id": words[1].replace("_", "-")}})
        if words[-1] not in (key, "detail"):
            wanted = place.rpartition("/")[2]
            one = next((each for each in self.things[key] if each["id"] == wanted), None)
            singular = key.removesuffix("ies") + "y" if key.endswith("ies") else key.removesuffix("s")
            return Answer(200, {singular: one}) if one else fault(404, "nothing")
        return Answer(200, self._page(key, place, {name: values[0] for name, values in parse_qs(query).items()}))

    def _page(self, key: str, place: str, query: dict[str, str]) -> dict[str, Any]:
        rows = self.things[key]
        if "name" in query and not self.ignores_names:
            rows = [each for each in rows if each["name"] == query["name"]]
        first = next((i + 1 for i, each in enumerate(rows) if each["id"] == query.get("marker")), 0)
        page = rows[first : first + PAGE]
        if first + PAGE >= len(rows):
            return {key: page}
        rest = urlencode({**query, "marker": page[-1]["id"]})
        links = [{"rel": "self", "href": "x"}, {"rel": "next", "href": f"https://proxy.example/v3/p{place}?{rest}"}]
        return {key: page, f"{key}_links": links}


LOOK_UPS: dict[str, Callable[[Any, str], Any]] = {
    "servers": lambda cloud, name: AssistedSnapshots(cloud, cloud).find_server(name),
    "volumes": lambda cloud, name: AssistedSnapshots(cloud, cloud).find_volume(name),
    "snapshots": lambda cloud, name: Snapshots(cloud).find(name)["id"],
    "assisted_snapshots": lambda cloud, name: AssistedSnapshots(cloud, cloud).show(name)["id"],
    "snapshot_policies": lambda cloud, name: SnapshotPolicies(AssistedSnapshots(cloud, cloud)).show(name)["id"],
}


@pytest.mark.parametrize("ignores_names", [False, True])
@pytest.mark.parametrize("key", LOOK_UPS)
def test_the_last_of_thousands_is_found_by_its_name(key: str, ignores_names: bool) -> None:
    cloud = Cloud(ignores_names)
    assert LOOK_UPS[key](cloud, f"n{MANY - 1}") == cloud.last(key)["id"]
    assert len(cloud.sent) == (3 if ignores_names or key == "servers" else 1)


@pytest.mark.parametrize("key", LOOK_UPS)
def test_what_has_an_id_is_asked_for_directly(key: str) -> None:
    cloud = Cloud()
    assert LOOK_UPS[key](cloud, cloud.last(key)["id"]) == cloud.last(key)["id"]
    assert len(cloud.sent) == 1


@pytest.mark.parametrize("key", LOOK_UPS)
def test_a_name_may_look_like_an_id(key: str) -> None:
    cloud = Cloud()
    cloud.last(key)["name"] = SET
    assert LOOK_UPS[key](cloud, SET) == cloud.last(key)["id"]


@pytest.mark.parametrize("key", LOOK_UPS)
def test_a_name_on_the_first_page_and_on_the_last_is_nobodys(key: str) -> None:
    cloud = Cloud()
    cloud.things[key][0]["name"] = cloud.last(key)["name"]
    with pytest.raises(BadRequest, match=f"{cloud.things[key][0]['id']}, {cloud.last(key)['id']}"):
        LOOK_UPS[key](cloud, cloud.last(key)["name"])
    with pytest.raises(NotFound):
        LOOK_UPS[key](cloud, "nobody")


def test_lists_show_what_stands_on_every_page() -> None:
    cloud = Cloud()
    client = AssistedSnapshots(cloud, cloud)
    assert client.list() == cloud.things["assisted_snapshots"]
    assert SnapshotPolicies(client).list() == cloud.things["snapshot_policies"]


def test_the_chain_of_the_last_volume_is_found() -> None:
    cloud = Cloud()
    wanted = cloud.last("volumes")
    assert Chains(cloud).show(wanted["name"]) == Chains(cloud).show(wanted["id"]) == {"volume_id": wanted["id"]}


def test_a_list_whose_pages_go_round_is_an_error() -> None:
    links = [{"rel": "next", "href": "http://here/things?marker=a"}]
    with pytest.raises(ServiceFailed, match="does not end"):
        listing.whole(lambda _path: {"things": [{"id": "a"}], "things_links": links}, "/things", "things")


def test_a_mark_that_was_deleted_meanwhile_begins_the_list_anew() -> None:
    links = [{"rel": "next", "href": "http://here/things?marker=a"}]
    answers: list[Any] = [
        {"things": [{"id": "a"}], "things_links": links},
        BadRequest("the marker was not found"),
        {"things": [{"id": "b"}]},
    ]

    def ask(_path: str) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert listing.whole(ask, "/things", "things") == [{"id": "b"}]


def test_a_list_that_is_refused_is_asked_for_once() -> None:
    asked: list[str] = []

    def refuse(path: str) -> Any:
        asked.append(path)
        raise BadRequest("no such filter")

    with pytest.raises(BadRequest):
        listing.whole(refuse, "/things?x=y", "things")
    assert asked == ["/things?x=y"]
