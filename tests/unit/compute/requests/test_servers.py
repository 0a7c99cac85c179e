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
from stillframe.errors import BadRequest, ChainConflict, Conflict, TargetUnreachable
from stillframe.host import hypervisor, iscsi
from stillframe.host.iscsi import Unit
from stillframe.journal import record
from stillframe.journal.typed import Intent
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
def worker(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a world with one server in a state, whose volume block storage records as ``recorded``."""

    def make(state: int = 5, recorded: str = BASE) -> Any:
        xml = fakes.domain_xml(fakes.disk_xml("vda", f"/srv/{BASE}"))
        storage = Storage([{"volume_id": VOLUME, "connection_info": {"name": recorded}}])
        view = fakes.view(xml, xml, state, active=state != 5)
        return fakes.worker(database, tmp_path, [view], monkeypatch, storage)

    return make


@pytest.mark.parametrize("state", STATES)
def test_only_what_a_state_allows_is_done(worker: Any, done: list[str], state: int) -> None:
    for action in server_requests.ACTIONS:
        if action in ALLOWED[STATES[state]]:
            server_requests.power(worker(state), context(), SERVER, action)
        else:
            with pytest.raises(Conflict, match=STATES[state]):
                server_requests.power(worker(state), context(), SERVER, action)
    assert set(done) == {"wake" if each == "resume" else each for each in ALLOWED[STATES[state]]}


def test_an_action_nobody_knows_is_refused(worker: Any, done: list[str]) -> None:
    with pytest.raises(BadRequest):
        server_requests.power(worker(), context(), SERVER, "explode")
    assert done == []


def test_a_server_that_would_write_behind_a_snapshot_is_not_started(worker: Any, done: list[str]) -> None:
    with pytest.raises(Conflict, match="would write into a snapshot"):
        server_requests.power(worker(recorded=f"{BASE}.{SNAPSHOT}"), context(), SERVER, "start")
    assert done == []


def test_a_file_that_would_be_opened_as_another_format_than_its_own_is_not_started(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: list[str]
) -> None:
    """A raw disk read as qcow2 is whatever its guest wrote, and names whatever file the guest likes."""
    xml = fakes.domain_xml(fakes.disk_xml("vda", f"/srv/{BASE}", format_="qcow2"))
    storage = Storage([{"volume_id": VOLUME, "connection_info": {"name": BASE, "format": "raw"}}])
    there = fakes.worker(database, tmp_path, [fakes.view(xml, xml, 5, active=False)], monkeypatch, storage)
    with pytest.raises(ChainConflict, match="as qcow2, but block storage records raw"):
        server_requests.power(there, context(), SERVER, "start")
    assert done == []


@pytest.mark.parametrize("attachments", [[], [{"volume_id": VOLUME, "connection_info": {}}]])
@pytest.mark.parametrize("known", [True, False])
def test_a_server_whose_volume_nobody_can_tell_of_is_not_started(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: list[str], known: bool, attachments: list[Any]
) -> None:
    xml = fakes.domain_xml(fakes.disk_xml("vda", f"/srv/{BASE}.{SNAPSHOT}"), fakes.disk_xml("vdb", "/srv/copy", OTHER_VOLUME))
    volumes = {each: {"id": each} for each in (VOLUME, OTHER_VOLUME)} if known else {}
    view = fakes.view(xml, xml, 5, active=False)
    there = fakes.worker(database, tmp_path, [view], monkeypatch, Storage(attachments, volumes))
    monkeypatch.setattr(definitions, "forget_chains", lambda *_: None)
    if known:
        with pytest.raises(Conflict, match=f"a file of volume {VOLUME}, but the volume is not attached to it"):
            server_requests.power(there, context(), SERVER, "start")
    else:  # a file that is called like a volume's
        server_requests.power(there, context(), SERVER, "start")
    assert done == [] if known else ["start"]


def test_a_server_an_operation_holds_is_left_alone(worker: Any, done: list[str], database: Database) -> None:
    with database.write() as connection:
        record.submit(connection, record.Request("compute", "k", Intent(), [], [f"server:{SERVER}"], "req-1"))
    with pytest.raises(Conflict, match="is busy"):
        server_requests.power(worker(), context(), SERVER, "start")
    assert done == []


def held(there: Any) -> FreezeRecord:
    """What a worker wrote down that suspended the server for a moment."""
    record = FreezeRecord(SERVER, "op", freeze_record.boot_seconds() + 10, 1, None, suspended=True)
    there.guard.held.append(record)
    return record


@pytest.mark.parametrize(("state", "status"), STATES.items())
def test_a_suspended_server_is_shown_as_running(worker: Any, state: int, status: str) -> None:
    there = worker(state)
    held(there)
    shown = server_requests.show_server(there, context(), SERVER)
    assert shown["status"] == ("ACTIVE" if state == 3 else status)
    assert (shown["power_state"] == 1) == (shown["status"] == "ACTIVE")


def test_a_frozen_server_that_is_paused_is_shown_so(worker: Any) -> None:
    there = worker(3)
    there.guard.arm(SERVER, "op", 10, None)
    assert server_requests.show_server(there, context(), SERVER)["status"] == "PAUSED"


def test_a_suspension_that_ends_between_two_looks_is_not_shown(worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    there = worker(3)
    found = servers.look(there, SERVER)
    monkeypatch.setattr(servers, "look", lambda _worker, _id: replace(found, view=replace(found.view, state=1)))
    assert server_requests.document(there, found)["status"] == "ACTIVE"


def test_a_server_that_stays_suspended_is_refused(worker: Any, done: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_lock, "SECONDS", 0.01)
    there = worker(1)
    with server_lock.at_once(there, SERVER) as ours, pytest.raises(Conflict, match="takes longer than"):
        assert ours
        server_requests.power(there, context(), SERVER, "stop")
    assert done == []
    server_requests.power(there, context(), SERVER, "stop")
    assert done == ["stop"]


def test_a_reboot_does_not_wait(worker: Any, done: list[str]) -> None:
    there = worker(3)
    held(there)
    with server_lock.at_once(there, SERVER):
        server_requests.power(there, context(), SERVER, "reboot")
    assert done == ["reboot"]


def test_a_guest_that_a_dead_worker_suspended_is_resumed_first(worker: Any, done: list[str]) -> None:
    there = worker(1)
    held(there)
    server_requests.power(there, context(), SERVER, "stop")
    assert there.guard.agent.said == ["let go on"]
    assert done == ["stop"]


def test_what_began_while_an_action_waited_holds_it_up(worker: Any, done: list[str], database: Database) -> None:
    there = worker(5)
    with ThreadPoolExecutor(1) as pool, ExitStack() as turn:
        turn.enter_context(server_lock.at_once(there, SERVER))
        answer = pool.submit(server_requests.power, there, context(), SERVER, "start")
        time.sleep(0.3)  # it has found nothing in its way, and waits
        with database.write() as connection:
            record.submit(connection, record.Request("compute", "k", Intent(), [], [f"server:{SERVER}"], "req-1"))
        turn.close()
        with pytest.raises(Conflict, match="is busy"):
            answer.result(10)
    assert done == []


@pytest.mark.parametrize(("state", "number"), [(1, 1), (3, 3), (5, 4), (6, 6), (7, 7), (0, 0)])
def test_a_server_is_described_in_novas_words(worker: Any, state: int, number: int) -> None:
    xml = fakes.domain_xml(fakes.disk_xml("vda", f"/srv/{BASE}"))
    document = server_requests.document(worker(state), Server(fakes.view(xml, state=state, active=state != 5), "demo", "u"))
    assert (document["status"], document["power_state"]) == (STATES[state], number)
    assert (document["memory_mib"], document["vcpus"], document["project_id"]) == (512, 2, "demo")
    assert document["volumes"] == [{"id": VOLUME, "device": "/dev/vda"}]


def test_a_copy_that_kept_the_serial_is_not_described_as_the_volume(worker: Any) -> None:
    xml = fakes.domain_xml(fakes.disk_xml("vda", "/srv/copy.qcow2", VOLUME))
    assert server_requests.document(worker(1), Server(fakes.view(xml), "demo", "u"))["volumes"] == []


def test_a_start_forgets_the_chain_libvirt_wrote_into_the_definition(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: list[str]
) -> None:
    """A file of it may have been merged away since, and then libvirt would not start the server."""
    stale = f"<backingStore type='file'><format type='qcow2'/><source file='/srv/{BASE}'/><backingStore/></backingStore>"
    disk = fakes.disk_xml("vda", f"/srv/{BASE}.{SNAPSHOT}", VOLUME).replace("</disk>", f"{stale}</disk>")
    xml = fakes.domain_xml(disk)
    storage = Storage([{"volume_id": VOLUME, "connection_info": {"name": f"{BASE}.{SNAPSHOT}"}}])
    there = fakes.worker(database, tmp_path, [fakes.view(xml, xml, 5, active=False)], monkeypatch, storage)
    told: list[str] = []
    monkeypatch.setattr(hypervisor, "update_definition", lambda _domain, disk_xml: told.append(disk_xml))
    server_requests.power(there, context(), SERVER, "start")
    assert done == ["start"]
    (written,) = told
    assert f"/srv/{BASE}.{SNAPSHOT}" in written and "backingStore" not in written


def test_when_one_target_is_away_nothing_of_a_start_is_done(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: list[str]
) -> None:
    """The first disk could be started with; its definition and its secret stay as they are all the same."""
    infos = {VOLUME: in_network(VOLUME, "192.0.2.1"), OTHER_VOLUME: in_network(OTHER_VOLUME, "192.0.2.2")}
    disks = [
        f'<disk type="network"><source protocol="iscsi" name="{info["target_iqn"]}/1"/><target dev="vd{letter}"/>'
        f"<serial>{volume_id}</serial></disk>"
        for letter, (volume_id, info) in zip("ab", infos.items(), strict=True)
    ]
    xml = fakes.domain_xml(*disks)
    storage = Storage([{"volume_id": volume_id, "connection_info": info} for volume_id, info in infos.items()])
    there = fakes.worker(database, tmp_path, [fakes.view(xml, xml, 5, active=False)], monkeypatch, storage)
    away, changed = {"192.0.2.2:3260"}, []

    def log_in(unit: Unit, _password: str | None) -> int:
        if unit.portal in away:
            raise TargetUnreachable(f"{unit.target} does not answer")
        return 1 << 30

    monkeypatch.setattr(iscsi, "size_of", log_in)
    monkeypatch.setattr(hypervisor, "update_definition", lambda _domain, disk: changed.append(disk))
    with pytest.raises(TargetUnreachable, match=OTHER_VOLUME):
        server_requests.power(there, context(), SERVER, "start")
    assert (done, changed) == ([], [])
    away.clear()
    server_requests.power(there, context(), SERVER, "start")
    assert (done, len(changed)) == (["start"], 2)


def in_network(volume_id: str, address: str) -> dict[str, Any]:
    target = {
        "target_portal": f"{address}:3260",
        "target_iqn": f"iqn.2010-10.org.openstack:volume-{volume_id}",
        "target_lun": 1,
    }
    return {"driver_volume_type": "iscsi", **target}
