"""Power actions: which are allowed when, and that a server never writes behind a snapshot."""

from pathlib import Path
from typing import Any

import pytest

from stillframe.compute import powering
from stillframe.compute.servers import Server
from stillframe.db.engine import Database
from stillframe.errors import BadRequest, Conflict
from stillframe.host import hypervisor
from stillframe.journal import record
from tests.unit.builders import SERVER, SNAPSHOT, VOLUME, context
from tests.unit.compute import fakes
from tests.unit.compute.fakes import Storage

BASE = f"volume-{VOLUME}"
STATES = {1: "ACTIVE", 2: "ACTIVE", 3: "PAUSED", 4: "ACTIVE", 5: "SHUTOFF", 6: "ERROR", 7: "SUSPENDED", 0: "UNKNOWN"}
ALLOWED = {
    "ACTIVE": {"stop", "destroy", "pause", "reboot"},
    "PAUSED": {"destroy", "unpause"},
    "SHUTOFF": {"start"},
    "ERROR": {"start", "destroy"},
    "SUSPENDED": set[str](),
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
    for action in hypervisor.POWER:
        if action in ALLOWED[STATES[state]]:
            powering.power(world(state), context(), SERVER, action)
        else:
            with pytest.raises(Conflict, match=STATES[state]):
                powering.power(world(state), context(), SERVER, action)
    assert set(done) == ALLOWED[STATES[state]]


def test_an_action_nobody_knows_is_refused(world: Any, done: list[str]) -> None:
    with pytest.raises(BadRequest):
        powering.power(world(), context(), SERVER, "explode")
    assert done == []


def test_a_server_that_would_write_behind_a_snapshot_is_not_started(world: Any, done: list[str]) -> None:
    with pytest.raises(Conflict, match="would write behind a snapshot"):
        powering.power(world(recorded=f"{BASE}.{SNAPSHOT}"), context(), SERVER, "start")
    assert done == []


def test_a_server_an_operation_holds_is_left_alone(world: Any, done: list[str], database: Database) -> None:
    with database.write() as connection:
        record.submit(connection, record.Request("compute", "k", {}, [], [f"server:{SERVER}"], "req-1"))
    with pytest.raises(Conflict, match="is busy"):
        powering.power(world(), context(), SERVER, "start")
    assert done == []


@pytest.mark.parametrize(("state", "number"), [(1, 1), (3, 3), (5, 4), (6, 6), (7, 7), (0, 0)])
def test_a_server_is_described_in_novas_words(state: int, number: int) -> None:
    xml = fakes.domain_xml(fakes.disk_xml("vda", f"/srv/{BASE}"))
    document = powering.document(Server(fakes.view(xml, state=state), "demo", "u"))
    assert (document["status"], document["power_state"]) == (STATES[state], number)
    assert (document["memory_mib"], document["vcpus"], document["project_id"]) == (512, 2, "demo")
    assert document["volumes"] == [{"id": VOLUME, "device": "/dev/vda"}]


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
    powering.power(there, context(), SERVER, "start")
    assert done == ["start"]
    (written,) = told
    assert f"/srv/{BASE}.{SNAPSHOT}" in written and "backingStore" not in written
