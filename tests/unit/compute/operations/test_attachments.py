"""An attachment or a detachment that ends without success tells the volume's owner why."""

from pathlib import Path
from typing import Any

import pytest

from stillframe.chain.image import Image
from stillframe.compute.libvirt import servers
from stillframe.compute.operations import attachments
from stillframe.compute.operations.attachments import AttachVolume, DetachVolume, Release, Unplug
from stillframe.db.engine import Database
from stillframe.errors import HypervisorRefused, NotSound, StepFailed
from stillframe.host import hypervisor, inspection, libvirt_secrets, reach, soundness
from stillframe.journal.operation import Document, Kind, NotYet, Operation, notes_key
from tests.unit.builders import SERVER, VOLUME
from tests.unit.compute import fakes

FAULT = HypervisorRefused("libvirt says no").to_document()


class Storage(fakes.Storage):
    """Block storage that keeps what it is told, in order."""

    def __init__(self, attached: bool) -> None:
        super().__init__()
        self.attached = attached
        self.told: list[tuple[str, ...]] = []

    def attachment(self, volume_id: str, server_id: str) -> Document | None:
        assert (volume_id, server_id) == (VOLUME, SERVER)
        return {"id": "a"} if self.attached else None

    def note_fault(self, volume_id: str, fault: str) -> None:
        self.told.append(("fault", volume_id, fault))

    def release(self, attachment_id: str) -> None:
        self.told.append(("release", attachment_id))


def asked(kind: Kind[Any]) -> AttachVolume | DetachVolume:
    if kind is attachments.ATTACH:
        return AttachVolume(server_id=SERVER, volume_id=VOLUME, target="vdb")
    return DetachVolume(server_id=SERVER, volume_id=VOLUME)


def undone(
    place: tuple[Database, Path, pytest.MonkeyPatch], kind: Kind, verb: str, fault: Document | None, attached: bool = True
) -> list[tuple[str, ...]]:
    """Returns what block storage is told when the step is taken back."""
    database, directory, monkeypatch = place
    storage = Storage(attached)
    worker = fakes.worker(database, directory, [], monkeypatch, storage)
    known: dict[str, Any] = {"state": "undoing", "intent": asked(kind), "plan": (), "step": 0, "evidence": {}, "epoch": 0}
    operation = Operation(id="o", kind="k", attempts=0, request_id="r", fault=fault, **known)
    undo = kind.verbs[verb].undo
    assert undo is not None
    args = kind.verbs[verb].args
    assert args is not None
    undo(worker, operation, args())
    return storage.told


@pytest.fixture
def place(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Database, Path, pytest.MonkeyPatch]:
    return database, tmp_path, monkeypatch


def test_the_reason_is_there_before_the_volume_is_available_again(place: Any) -> None:
    told = undone(place, attachments.ATTACH, "reserve", FAULT)
    assert told == [("fault", VOLUME, "libvirt says no"), ("release", "a")]


def test_a_volume_that_was_not_reserved_is_let_be(place: Any) -> None:
    assert undone(place, attachments.ATTACH, "reserve", FAULT, attached=False) == []


@pytest.mark.parametrize("kind", ["iscsi", "local", "rbd"])
def test_a_password_is_forgotten_before_the_volume_is_released(place: Any, kind: str) -> None:
    database, directory, monkeypatch = place
    storage = Storage(True)
    known = {"id": "a", "connection_info": {"driver_volume_type": kind}}
    monkeypatch.setattr(storage, "attachment", lambda *_: known)
    monkeypatch.setattr(libvirt_secrets, "remove", lambda _, id_: storage.told.append(("forget", id_)))
    worker = fakes.worker(database, directory, [], monkeypatch, storage)
    given: dict[str, Any] = {"intent": asked(attachments.DETACH), "plan": (), "step": 0, "evidence": {}, "epoch": 0}
    operation = Operation(id="o", kind="k", state="running", attempts=0, request_id="r", fault=None, **given)
    attachments.DETACH.verbs["release"].do(worker, operation, Release())
    assert storage.told == [*([("forget", "a")] if kind == "iscsi" else []), ("release", "a")]


@pytest.mark.parametrize(
    ("kind", "verb"), [(attachments.ATTACH, "turn"), (attachments.DETACH, "turn"), (attachments.DETACH, "unplug")]
)
def test_what_was_not_done_is_told(place: Any, kind: Kind, verb: str) -> None:
    assert undone(place, kind, verb, FAULT) == [("fault", VOLUME, "libvirt says no")]
    assert undone(place, kind, verb, None) == []


def test_a_guest_that_keeps_a_disk_holds_no_thread_and_is_told_of_at_the_end(place: Any) -> None:
    database, directory, monkeypatch = place
    disk = fakes.disk_xml("vda", f"/srv/volume-{VOLUME}", VOLUME).replace("</disk>", '<alias name="ua-1"/></disk>')
    xml = fakes.domain_xml(disk)
    worker = fakes.worker(database, directory, [fakes.view(xml)], monkeypatch, Storage(True))
    told: list[str] = []
    monkeypatch.setattr(hypervisor, "ask_to_release", lambda _domain, alias: told.append(alias))
    known: dict[str, Any] = {"state": "running", "intent": asked(attachments.DETACH), "plan": (), "step": 0}
    notes: Document = {}
    waits: list[float] = []
    with pytest.raises(StepFailed, match="did not release disk vda"):
        while True:
            evidence = {notes_key("unplug"): notes}
            operation = Operation(
                id="o", kind="k", attempts=0, request_id="r", evidence=evidence, epoch=0, at="unplug", **known
            )
            try:
                attachments.DETACH.verbs["unplug"].do(worker, operation, Unplug())
            except NotYet as waiting:
                notes, waits = waiting.notes, [*waits, waiting.seconds]
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (attachments.SHORTEST_LOOK_SECONDS, attachments.LONGEST_LOOK_SECONDS)
    assert sum(waits) == pytest.approx(worker.settings.compute.detach_timeout_seconds, abs=1.0)
    assert set(told) == {"ua-1"}
    assert 2 <= len(told) <= sum(waits) / attachments.ASK_AGAIN_SECONDS + 1


def test_a_disk_whose_files_qemu_would_crash_over_is_not_detached(
    place: tuple[Database, Path, pytest.MonkeyPatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    database, directory, patch = place
    name = f"volume-{VOLUME}"
    xml = fakes.domain_xml(fakes.disk_xml("vdb", str(directory / name), VOLUME))

    def refuse(_share: Path, closing: str, _format: str) -> None:
        raise NotSound(f"{closing} is dirty")

    monkeypatch.setattr(inspection, "chain_of", lambda _share, _name, _format: (Image(name, "qcow2", 1),))
    monkeypatch.setattr(soundness, "require_for_closing", refuse)
    for active in (True, False):
        worker = fakes.worker(database, directory, [fakes.view(xml, xml, active=active)], patch)
        if active:
            with pytest.raises(NotSound, match="dirty"):
                attachments.check_closable(servers.look(worker, SERVER), VOLUME)
        else:
            attachments.check_closable(servers.look(worker, SERVER), VOLUME)
    monkeypatch.setattr(reach, "followed", lambda _path: None)  # its share is away: that keeps nobody's disk
    worker = fakes.worker(database, directory, [fakes.view(xml, xml)], patch)
    attachments.check_closable(servers.look(worker, SERVER), VOLUME)
