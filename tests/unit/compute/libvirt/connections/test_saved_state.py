"""A saved server is restored only onto the files its memory goes on with."""

from pathlib import Path
from typing import Any

import pytest

from stillframe.chain.image import Image, Recorded
from stillframe.compute.libvirt import repair, servers
from stillframe.compute.libvirt.connections import saved_state
from stillframe.compute.libvirt.domain_xml import Disk
from stillframe.compute.requests import servers as server_requests
from stillframe.db.engine import Database
from stillframe.errors import ChainConflict, Conflict, NotSound
from stillframe.host import files, hypervisor, qcow2
from stillframe.journal import record
from stillframe.journal.typed import Intent
from tests.unit.builders import GIB, SERVER, SNAPSHOT, VOLUME, context
from tests.unit.compute import fakes
from tests.unit.compute.fakes import Storage

BASE = f"volume-{VOLUME}"
OVERLAY = f"{BASE}.{SNAPSHOT}"
BACKING = f"<backingStore type='file'><format type='qcow2'/><source file='/srv/{BASE}'/><backingStore/></backingStore>"


def described(name: str, backing: str = "") -> str:
    return fakes.domain_xml(fakes.disk_xml("vda", f"/srv/{name}", VOLUME).replace("</disk>", f"{backing}</disk>"))


@pytest.fixture
def worker(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(saved: str | None, defined: str = OVERLAY, recorded: str | None = OVERLAY, below: str = BASE) -> Any:
        attached = [{"volume_id": VOLUME, "connection_info": {"name": recorded}}] if recorded else []
        views = [fakes.saved_view(described(defined), saved)]
        image = Image(OVERLAY, "qcow2", GIB, below, "qcow2")
        monkeypatch.setattr(qcow2, "read", lambda _share, _name: image)
        monkeypatch.setattr(files, "exists", lambda _share, _name: True)
        return fakes.worker(database, tmp_path, views, monkeypatch, Storage(attached))

    return make


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(hypervisor, "power", lambda _domain, action: found.append(action))
    return found


@pytest.mark.parametrize("action", ["start", "resume"])
@pytest.mark.parametrize("backing", ["", BACKING])
def test_onto_its_own_files_it_is_restored(worker: Any, done: list[str], action: str, backing: str) -> None:
    server_requests.power(worker(described(OVERLAY, backing)), context(), SERVER, action)
    assert done == ["start"]


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"saved": described(BASE)}, (BASE, OVERLAY)),
        ({"saved": described(BASE), "defined": BASE}, (BASE, OVERLAY)),
        ({"saved": described(OVERLAY), "defined": BASE}, (OVERLAY, BASE)),
        ({"saved": described(OVERLAY), "recorded": None}, (OVERLAY, "attached to this server")),
        ({"saved": described(OVERLAY, BACKING), "below": "other"}, (BASE, "other")),
    ],
)
def test_onto_other_files_it_is_not_and_both_are_named(
    worker: Any, done: list[str], given: dict[str, Any], names: tuple[str, str]
) -> None:
    with pytest.raises(ChainConflict) as refused:
        server_requests.power(worker(**given), context(), SERVER, "start")
    assert all(name in refused.value.message for name in names)
    assert done == []


@pytest.mark.parametrize("sound", [True, False])
def test_its_files_are_made_sound_before(worker: Any, done: list[str], monkeypatch: pytest.MonkeyPatch, sound: bool) -> None:
    def mend(disk: Disk, volume_id: str, known: Recorded) -> None:
        done.append(f"mend {disk.name} of {volume_id} over {known.parent_image}")
        if not sound:
            raise NotSound("more is damaged than its reference counts")

    monkeypatch.setattr(repair, "before_start", mend)
    there = worker(described(OVERLAY))
    if sound:
        server_requests.power(there, context(), SERVER, "start")
    else:
        with pytest.raises(NotSound):
            server_requests.power(there, context(), SERVER, "start")
    assert done == [f"mend {OVERLAY} of {VOLUME} over None", *(["start"] if sound else [])]


def test_a_memory_that_cannot_be_read_is_not_thrown_away(worker: Any, done: list[str]) -> None:
    with pytest.raises(Conflict, match="throw it away"):
        server_requests.power(worker(None), context(), SERVER, "start")
    assert done == []


def test_a_merge_that_waits_for_the_guest_does_not_keep_it_from_coming_back(
    worker: Any, done: list[str], database: Database
) -> None:
    with database.write() as connection:
        record.submit(connection, record.Request("compute", "merge", Intent(), [], [], "req-1", shared=(f"server:{SERVER}",)))
    server_requests.power(worker(described(OVERLAY)), context(), SERVER, "start")
    assert done == ["start"]


def test_a_saved_server_names_the_files_its_memory_goes_on_with(worker: Any) -> None:
    found = servers.look(worker(described(BASE)), SERVER)
    assert found.names_file(f"/srv/{BASE}") and found.names_file(f"/srv/{OVERLAY}")
    assert len(found.descriptions) == 3
    saved_state.check_files(worker(described(OVERLAY)), servers.look(worker(described(OVERLAY)), SERVER))
