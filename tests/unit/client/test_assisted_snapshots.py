"""The client library: names to ids, and waiting."""

import uuid
from typing import Any
from urllib.parse import quote

import pytest
from keystoneauth1.exceptions import ConnectFailure

from stillframe.client import waiting
from stillframe.client.assisted_snapshots import AssistedSnapshots
from stillframe.errors import BadRequest, Conflict, NotFound, ServiceUnavailable, StepFailed, StillRunning
from tests.unit.builders import SERVER, SET, VOLUME
from tests.unit.client.fakes import Adapter, Answer, fault

SERVERS = "GET /servers"
VOLUMES = "GET /volumes"
SETS = "GET /os-assisted-snapshots"
ONE = f"GET /os-assisted-snapshots/{SET}"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(waiting, "time", made)
    return made


def client(**answers: Any) -> tuple[AssistedSnapshots, Adapter, Adapter]:
    compute, volumes = Adapter(answers.get("compute")), Adapter(answers.get("volumes"))
    return AssistedSnapshots(compute, volumes), compute, volumes


def named(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"id": identifier, "name": name} for identifier, name in pairs]


def the_set(status: str = "available", **more: Any) -> Answer:
    return Answer(200, {"assisted_snapshot": {"id": SET, "server_id": SERVER, "name": "n", "status": status, **more}})


def test_a_server_and_a_volume_are_found_by_name_and_by_id() -> None:
    servers = {SERVERS: Answer(200, {"servers": named((SERVER, "web"), (SET, "db"))})}
    servers[f"GET /servers/{SERVER}"] = Answer(200, {"server": {"id": SERVER, "name": "web"}})
    found = {f"{VOLUMES}?name=data": Answer(200, {"volumes": named((VOLUME, "data"))})}
    found[f"GET /volumes/{VOLUME}"] = Answer(200, {"volume": {"id": VOLUME, "name": "data"}})
    made, compute, volumes = client(compute=servers, volumes=found)
    assert made.find_server("web") == made.find_server(SERVER) == SERVER
    assert made.find_volume("data") == made.find_volume(VOLUME) == VOLUME
    assert len(compute.sent) == len(volumes.sent) == 2


def test_a_name_nobody_has_is_not_found() -> None:
    made, _, _ = client(compute={SERVERS: Answer(200, {"servers": named((SERVER, "web"))})})
    with pytest.raises(NotFound, match="no server has the name or id 'we'"):
        made.find_server("we")


def test_a_name_several_have_is_refused_with_all_of_them() -> None:
    made, _, _ = client(compute={SERVERS: Answer(200, {"servers": named((SERVER, "web"), (SET, "web"))})})
    with pytest.raises(BadRequest, match=f"2 servers have the name 'web': {SERVER}, {SET}"):
        made.find_server("web")


def test_creating_sends_what_is_wanted() -> None:
    path = f"/servers/{SERVER}/os-assisted-snapshots"
    made, compute, _ = client(compute={f"POST {path}": the_set("creating")})
    assert made.create(SERVER, {"name": "n", "id": SET})["id"] == SET
    assert compute.sent == [("POST", path, {"assisted_snapshot": {"name": "n", "id": SET}})]


def test_a_request_whose_answer_is_lost_is_sent_again_under_the_same_id(clock: Clock) -> None:
    path = f"/servers/{SERVER}/os-assisted-snapshots"
    made, compute, _ = client(compute={f"POST {path}": [ConnectFailure("reset"), fault(503, "starting"), the_set("creating")]})
    assert made.create(SERVER, {"name": "n"})["id"] == SET
    bodies = [body for _method, _path, body in compute.sent]
    assert len(bodies) == 3
    assert bodies[0] == bodies[1] == bodies[2]
    assert uuid.UUID(bodies[0]["assisted_snapshot"]["id"])
    made, compute, _ = client(compute={f"POST {path}": fault(503, "away")})
    with pytest.raises(ServiceUnavailable):
        made.create(SERVER, {})
    assert len(compute.sent) == waiting.REPEATS


def test_an_error_of_the_service_is_ours() -> None:
    path = f"/servers/{SERVER}/os-assisted-snapshots"
    made, _, _ = client(compute={f"POST {path}": fault(409, "busy")})
    with pytest.raises(Conflict, match="busy"):
        made.create(SERVER, {})


def test_sets_are_listed_whole_or_of_one_server() -> None:
    sets = Answer(200, {"assisted_snapshots": [{"id": SET}]})
    made, compute, _ = client(compute={SETS: sets, f"GET /servers/{SERVER}/os-assisted-snapshots": sets})
    assert made.list() == made.list(SERVER) == [{"id": SET}]
    assert len(compute.sent) == 2


def test_sets_of_one_policy_are_asked_for_by_its_id() -> None:
    made, compute, _ = client(compute={f"{SETS}?policy_id={SET}": Answer(200, {"assisted_snapshots": []})})
    assert made.list(policy_id=SET) == []
    assert len(compute.sent) == 1


def test_a_set_is_changed_under_its_id() -> None:
    path = f"/os-assisted-snapshots/{SET}"
    made, compute, _ = client(compute={f"PUT {path}": the_set()})
    assert made.change(SET, {"metadata": {"keep": "true"}})["id"] == SET
    assert compute.sent == [("PUT", path, {"assisted_snapshot": {"metadata": {"keep": "true"}}})]


def test_a_set_is_shown_by_its_id_and_else_by_its_name() -> None:
    sets = Answer(200, {"assisted_snapshots": named((SET, "nightly"))})
    made, _, _ = client(compute={ONE: the_set(), f"{SETS}?name=nightly": sets})
    assert made.show(SET)["name"] == "n"
    assert made.show("nightly")["id"] == SET


def test_a_name_of_no_set_or_of_several_is_refused() -> None:
    sets = Answer(200, {"assisted_snapshots": named((SET, "a"), (VOLUME, "a"))})
    none = Answer(200, {"assisted_snapshots": []})
    made, _, _ = client(compute={f"{SETS}?name=a": sets, f"{SETS}?name=b": none})
    with pytest.raises(NotFound):
        made.show("b")
    with pytest.raises(BadRequest, match="2 assisted snapshots have the name 'a'"):
        made.show("a")


@pytest.mark.parametrize("name", ["a/b", "a?b=c", "a#b", "../../servers", "..", "", "detail", "a b", "?status=error", "a&b"])
def test_a_name_is_never_read_as_a_part_of_the_address(name: str) -> None:
    path = f"/os-assisted-snapshots?name={quote(name, safe='')}"
    made, compute, _ = client(compute={f"GET {path}": Answer(200, {"assisted_snapshots": named((SET, name))})})
    assert made.show(name)["id"] == SET
    assert compute.sent == [("GET", path, None)]


def test_deleting_names_the_sets_server() -> None:
    path = f"/servers/{SERVER}/os-assisted-snapshots/{SET}"
    made, compute, _ = client(compute={ONE: the_set(), f"DELETE {path}": Answer(202)})
    assert made.delete(SET) == SET
    assert compute.sent[-1] == ("DELETE", path, None)


@pytest.mark.parametrize("end", ["available", "error"])
def test_waiting_ends_with_the_set_and_tells_every_look(clock: Clock, end: str) -> None:
    made, _, _ = client(compute={ONE: [the_set("creating"), the_set("creating"), the_set(end)]})
    seen: list[str] = []
    assert made.wait(SET, 60, lambda found: seen.append(found["status"]))["status"] == end
    assert seen == ["creating", "creating", end]
    assert clock.now == pytest.approx(2 * waiting.SHORTEST_SECONDS)


def test_waiting_has_an_end_only_if_it_was_given_one(clock: Clock) -> None:
    made, _, _ = client(compute={ONE: the_set("creating")})
    with pytest.raises(StillRunning, match="has not ended after 5 s; the work continues"):
        made.wait(SET, 5, lambda _found: None)
    assert 5 <= clock.now < 5.1
    day = 24 * 3600
    made, _, _ = client(compute={ONE: lambda: the_set("creating" if clock.now < day else "available")})
    assert made.wait(SET, None, lambda _found: None)["status"] == "available"
    assert day <= clock.now < day + 2 * waiting.LONGEST_SECONDS


def test_a_service_that_restarts_ends_no_wait_but_one_that_stays_away_does(clock: Clock) -> None:
    looks = [the_set("creating"), ConnectFailure("refused"), fault(503, "starting"), the_set()]
    made, _, _ = client(compute={ONE: looks})
    assert made.wait(SET, None, lambda _found: None)["status"] == "available"
    made, _, _ = client(compute={ONE: fault(503, "away")})
    with pytest.raises(ServiceUnavailable, match="cannot be watched any more: away"):
        made.wait(SET, None, lambda _found: None)
    assert clock.now > waiting.OUTAGE_SECONDS


def test_a_set_that_is_gone_is_what_a_deletion_waits_for() -> None:
    looks = [the_set("deleting", progress=3), fault(404, "gone")]
    made, _, _ = client(compute={ONE: looks})
    seen: list[int] = []
    made.wait_gone(SET, 60, lambda found: seen.append(found["progress"]))
    assert (looks, seen) == ([], [3])


def test_a_deletion_that_failed_is_told() -> None:
    made, _, _ = client(compute={ONE: [the_set("deleting"), the_set("error", fault="still attached")]})
    with pytest.raises(StepFailed, match="was not deleted completely: still attached"):
        made.wait_gone(SET, 60, lambda _found: None)
