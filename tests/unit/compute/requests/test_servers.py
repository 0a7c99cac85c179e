"""Power actions: which are allowed when, and that a server never writes behind a snapshot."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stillframe.compute.libvirt import definitions, server_lock, servers
from stillframe.compute.libvirt.servers import Server
from stillframe.compute.quiesce import record as freeze_record
from stillframe.compute.quiesce.record import FreezeRecord
from stillframe.compute.requests import servers as server_requests
from stillframe.db.engine import Database
from stillframe.errors import BadRequest, Conflict
from stillframe.host import hypervisor
from stillframe.journal import record
from tests.unit.builders import OTHER_VOLUME, SERVER, SNAPSHOT, VOLUME, context
from tests.unit.compute import fakes
from tests.unit.compute.fakes import Storage

BASE = f"volume-{VOLUME}"
STATES = {1: "ACTIVE", 2: "ACTIVE", 3: "PAUSED", 4: "ACTIVE", 5: "SHUTOFF", 6: "ERROR", 7: "SUSPENDED", 0: "UNKNOWN"}
ALLOWED = {
    "ACTIVE": {"stop", "pause", "reboot"},
    "PAUSED": {"unpause"},
    "SHUTOFF": {"start"},
    "ERROR": set[str](),
    "SUSPENDED": {"resume"},
    "UNKNOWN": set[str](),
}


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(hypervisor, "power", lambda _domain, action: found.append(action))
    return found


@pytest.fixture
def world(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a world with one server in a state, whose volume block storage records as ``recorded``."""

    def make(state: int = 5, recorded: str = BASE) -> Any:
        xml = fakes.domain_xml(fakes.disk_xml("vda", f"/srv/{BASE}"))
        storage = Storage([{"volume_id": VOLUME, "connection_info": {"name": recorded}}])
        view = fakes.view(xml, xml, state, active=state != 5)
        return fakes.world(database, tmp_path, [view], monkeypatch, storage)

    return make


@pytest.mark.parametrize("state", STATES)
def test_only_what_a_state_allows_is_done(world: Any, done: list[str], state: int) -> None:
    for action in server_requests.ACTIONS:
        if action in ALLOWED[STATES[state]]:
            server_requests.power(world(state), context(), SERVER, action)
        else:
            with pytest.raises(Conflict, match=STATES[state]):
                server_requests.power(world(state), context(), SERVER, action)
    assert set(done) == {"wake" if each == "resume" else each for each in ALLOWED[STATES[state]]}


def test_an_action_nobody_knows_is_refused(world: Any, done: list[str]) -> None:
    with pytest.raises(BadRequest):
        server_requests.power(world(), context(), SERVER, "explode")
    assert done == []


def test_a_server_that_would_write_behind_a_snapshot_is_not_started(world: Any, done: list[str]) -> None:
    with pytest.raises(Conflict, match="would write into a snapshot"):
        server_requests.power(world(recorded=f"{BASE}.{SNAPSHOT}"), context(), SERVER, "start")
    assert done == []


@pytest.mark.parametrize("attachments", [[], [{"volume_id": VOLUME, "connection_info": {}}]])
@pytest.mark.parametrize("known", [True, False])
def test_a_server_whose_volume_nobody_can_tell_of_is_not_started(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: list[str], known: bool, attachments: list[Any]
) -> None:
    xml = fakes.domain_xml(fakes.disk_xml("vda", f"/srv/{BASE}.{SNAPSHOT}"), fakes.disk_xml("vdb", "/srv/copy", OTHER_VOLUME))
    volumes = {each: {"id": each} for each in (VOLUME, OTHER_VOLUME)} if known else {}
    view = fakes.view(xml, xml, 5, active=False)
    there = fakes.world(database, tmp_path, [view], monkeypatch, Storage(attachments, volumes))
    monkeypatch.setattr(definitions, "forget_chains", lambda *_: None)
    if known:
        with pytest.raises(Conflict, match=f"a file of volume {VOLUME}, but the volume is not attached to it"):
            server_requests.power(there, context(), SERVER, "start")
    else:  # a file that is called like a volume's
        server_requests.power(there, context(), SERVER, "start")
    assert done == [] if known else ["start"]


def test_a_server_an_operation_holds_is_left_alone(world: Any, done: list[str], database: Database) -> None:
    with database.write() as connection:
        record.submit(connection, record.Request("compute", "k", {}, [], [f"server:{SERVER}"], "req-1"))
    with pytest.raises(Conflict, match="is busy"):
        server_requests.power(world(), context(), SERVER, "start")
    assert done == []


def held(there: Any) -> FreezeRecord:
    """What a worker wrote down that suspended the server for a moment."""
    record = FreezeRecord(SERVER, "op", freeze_record.boot_seconds() + 10, 1, None, suspended=True)
    there.guard.held.append(record)
    return record


@pytest.mark.parametrize(("state", "status"), STATES.items())
def test_a_server_that_is_held_still_is_shown_as_one_that_runs(world: Any, state: int, status: str) -> None:
    there = world(state)
    held(there)
    shown = server_requests.show_server(there, context(), SERVER)
    assert shown["status"] == ("ACTIVE" if state == 3 else status)
    assert (shown["power_state"] == 1) == (shown["status"] == "ACTIVE")


def test_a_frozen_server_that_is_paused_is_shown_so(world: Any) -> None:
    there = world(3)
    there.guard.arm(SERVER, "op", 10, None)
    assert server_requests.show_server(there, context(), SERVER)["status"] == "PAUSED"


def test_a_moment_of_stillness_that_ends_between_two_looks_is_not_shown(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    there = world(3)
    found = servers.look(there, SERVER)
    monkeypatch.setattr(servers, "look", lambda _world, _id: replace(found, view=replace(found.view, state=1)))
    assert server_requests.document(there, found)["status"] == "ACTIVE"


def test_a_server_that_is_held_still_for_ever_is_refused(world: Any, done: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_lock, "SECONDS", 0.01)
    there = world(1)
    with server_lock.at_once(there, SERVER) as ours, pytest.raises(Conflict, match="takes longer than"):
        assert ours
        server_requests.power(there, context(), SERVER, "stop")
    assert done == []
    server_requests.power(there, context(), SERVER, "stop")
    assert done == ["stop"]


def test_a_reboot_does_not_wait(world: Any, done: list[str]) -> None:
    there = world(3)
    held(there)
    with server_lock.at_once(there, SERVER):
        server_requests.power(there, context(), SERVER, "reboot")
    assert done == ["reboot"]


def test_what_a_dead_worker_held_still_goes_on_first(world: Any, done: list[str]) -> None:
    there = world(1)
    held(there)
    server_requests.power(there, context(), SERVER, "stop")
    assert there.guard.agent.said == ["let go on"]
    assert done == ["stop"]


def test_what_began_while_an_action_waited_holds_it_up(world: Any, done: list[str], database: Database) -> None:
    there = world(5)
    with ThreadPoolExecutor(1) as pool, ExitStack() as turn:
        turn.enter_context(server_lock.at_once(there, SERVER))
        answer = pool.submit(server_requests.power, there, context(), SERVER, "start")
        time.sleep(0.3)  # it has found nothing in its way, and waits
        with database.write() as connection:
            record.submit(connection, record.Request("compute", "k", {}, [], [f"server:{SERVER}"], "req-1"))
        turn.close()
        with pytest.raises(Conflict, match="is busy"):
            answer.result(10)
    assert done == []


@pytest.mark.parametrize(("state", "number"), [(1, 1), (3, 3), (5, 4), (6, 6), (7, 7), (0, 0)])
def test_a_server_is_described_in_novas_words(world: Any, state: int, number: int) -> None:
    xml = fakes.domain_xml(fakes.disk_xml("vda", f"/srv/{BASE}"))
    document = server_requests.document(world(state), Server(fakes.view(xml, state=state, active=state != 5), "demo", "u"))
    assert (document["status"], document["power_state"]) == (STATES[state], number)
    assert (document["memory_mib"], document["vcpus"], document["project_id"]) == (512, 2, "demo")
    assert document["volumes"] == [{"id": VOLUME, "device": "/dev/vda"}]


def test_a_copy_that_kept_the_serial_is_not_described_as_the_volume(world: Any) -> None:
    xml = fakes.domain_xml(fakes.disk_xml("vda", "/srv/copy.qcow2", VOLUME))
    assert server_requests.document(world(1), Server(fakes.view(xml), "demo", "u"))["volumes"] == []


def test_a_start_forgets_the_chain_libvirt_wrote_into_the_definition(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: list[str]
) -> None:
    """A file of it may have been merged away since, and then libvirt would not start the server."""
    stale = f"<backingStore type='file'><format type='qcow2'/><source file='/srv/{BASE}'/><backingStore/></backingStore>"
    disk = fakes.disk_xml("vda", f"/srv/{BASE}.{SNAPSHOT}", VOLUME).replace("</disk>", f"{stale}</disk>")
    xml = fakes.domain_xml(disk)
    storage = Storage([{"volume_id": VOLUME, "connection_info": {"name": f"{BASE}.{SNAPSHOT}"}}])
    there = fakes.world(database, tmp_path, [fakes.view(xml, xml, 5, active=False)], monkeypatch, storage)
    told: list[str] = []
    monkeypatch.setattr(hypervisor, "update_definition", lambda _domain, disk_xml: told.append(disk_xml))
    server_requests.power(there, context(), SERVER, "start")
    assert done == ["start"]
    (written,) = told
    assert f"/srv/{BASE}.{SNAPSHOT}" in written and "backingStore" not in written
