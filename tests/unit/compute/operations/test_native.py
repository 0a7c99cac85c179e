"""Native volumes of a set: each snapshot is asked for once and waited for within bounds; what comes too late does not count."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stillframe.compute.operations import native, switch
from stillframe.compute.operations.assisted_snapshots import plan_of, taken, volume_entries
from stillframe.compute.operations.frozen_native import LEVEL_KEY, TOKEN_KEY
from stillframe.compute.operations.snapshot_intents import AssistedSnapshot, NativeDisk
from stillframe.errors import Busy, Conflict, ServiceUnavailable, ShareUnavailable
from stillframe.host import files, scratch
from stillframe.journal.operation import Document, NotYet, Operation, notes_key
from stillframe.journal.typed import verb_of
from tests.unit.builders import OTHER_VOLUME, VOLUME
from tests.unit.compute import intents

FIRST = NativeDisk(volume_id=VOLUME, target="vdb", before="iscsi iqn/1", size=1 << 30, directory="/s", scratch="one")
SECOND = NativeDisk(volume_id=OTHER_VOLUME, target="vdc", before="iscsi iqn/2", size=1 << 30, directory="/s", scratch="two")
STOPPED_DISKS = native._stopped_disks
STOPPED = NativeDisk(volume_id=VOLUME, target="vdb", before="iscsi iqn/1", size=1 << 30)


class Storage:
    """Block storage: its snapshots, what it answers, and what it was asked for."""

    def __init__(self) -> None:
        self.snapshots: dict[str, Document] = {}
        self.made: list[Document] = []
        self.deleted: list[str] = []
        self.refuses: dict[str, Exception] = {}
        self.status = "creating"
        self.undeletable = False

    def snapshot(self, snapshot_id: str) -> Document | None:
        return self.snapshots.get(snapshot_id)

    def snapshot_labelled(self, volume_id: str, key: str, value: str) -> Document | None:
        wanted = (volume_id, value)
        return next(
            (each for each in self.snapshots.values() if (each["volume_id"], each["metadata"].get(key)) == wanted), None
        )

    def create_snapshot(self, volume_id: str, wanted: Document) -> Document:
        if volume_id in self.refuses:
            raise self.refuses[volume_id]
        found = {"id": f"snapshot of {volume_id}", "volume_id": volume_id, "status": self.status, **wanted}
        self.snapshots[found["id"]] = found
        self.made.append(wanted)
        return found

    def delete_snapshot(self, snapshot_id: str) -> None:
        if self.undeletable:
            raise Conflict("it is being made")
        self.deleted.append(snapshot_id)

    def all_are(self, status: str) -> None:
        for each in self.snapshots.values():
            each["status"] = status


@pytest.fixture
def storage() -> Storage:
    return Storage()


def asked(*natives: NativeDisk) -> AssistedSnapshot:
    return intents.assisted_snapshot(disks=(), natives=natives)


def take(storage: Storage, notes: Document | None = None, disks: tuple[NativeDisk, ...] = (FIRST, SECOND)) -> Document:
    options = SimpleNamespace(native_timeout_seconds=600, scratch_limit_mib=1)
    worker: Any = SimpleNamespace(storage=storage, settings=SimpleNamespace(compute=options))
    evidence = {"switch": {"disks": {"vdb": {"level": "filesystem"}}}, notes_key("native"): notes or {}}
    operation = Operation("op", "assisted_snapshot", "running", asked(*disks), [], 6, evidence, 1, 0, "r", at="native")
    return native.VERBS["native"].do(worker, operation, native.TakeSnapshots(token="t"))


def waits(storage: Storage, notes: Document | None = None) -> NotYet:
    with pytest.raises(NotYet) as told:
        take(storage, notes)
    return told.value


@pytest.fixture(autouse=True)
def _room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "bytes_in", lambda _directory, _name: 1000)
    monkeypatch.setattr(native, "_stopped_disks", lambda _worker, _operation: [])


def test_a_set_has_the_steps_that_its_volumes_need() -> None:
    usual = ["record", "overlays", "instant", "switch", "thaw", "verify", "finalize"]
    assert [verb_of(each) for each in plan_of(asked())] == usual
    stopped = intents.assisted_snapshot(disks=(), natives=(STOPPED,), active=False)
    assert [verb_of(each) for each in plan_of(stopped)] == [*usual[:6], "native", "finalize"]
    running = ["record", "overlays", "scratch", "instant", "switch", "thaw", "verify", "native", "commit_back", "finalize"]
    assert [verb_of(each) for each in plan_of(asked(FIRST))] == running
    in_window = ["record", "overlays", "discard", "instant", "switch", "thaw", "verify", "native", "finalize"]
    assert [verb_of(each) for each in plan_of(asked(STOPPED))] == in_window


def test_each_snapshot_is_asked_for_once_and_labelled_with_its_set(storage: Storage) -> None:
    notes = waits(storage).notes
    assert [each["metadata"].get(LEVEL_KEY) for each in storage.made] == ["filesystem", None]
    assert {each["metadata"][TOKEN_KEY] for each in storage.made} == {"t"}
    for lost in ({}, notes):  # notes may be lost with the worker
        waits(storage, lost)
    assert len(storage.made) == 2
    storage.all_are("available")
    found = take(storage, notes)
    assert (set(found["snapshots"]), found["errors"]) == ({VOLUME, OTHER_VOLUME}, {})


def test_one_that_fails_does_not_spoil_the_other(storage: Storage) -> None:
    storage.refuses[VOLUME] = Conflict("over quota")
    storage.status = "available"
    found = take(storage)
    assert (list(found["snapshots"]), found["errors"]) == ([OTHER_VOLUME], {VOLUME: "over quota"})
    storage.snapshots[f"snapshot of {OTHER_VOLUME}"]["status"] = "error"
    assert set(take(storage)["errors"]) == {VOLUME, OTHER_VOLUME}


@pytest.mark.parametrize("refusal", [ServiceUnavailable("away"), ShareUnavailable("away"), Busy("volume is busy")])
def test_what_may_pass_is_asked_again(storage: Storage, refusal: Exception) -> None:
    storage.refuses[VOLUME] = refusal
    storage.status = "available"
    assert waits(storage).why is storage.refuses[VOLUME]
    storage.refuses.clear()
    assert take(storage)["errors"] == {}


def test_what_comes_too_late_is_deleted_and_does_not_count(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = waits(storage).notes
    storage.snapshots[f"snapshot of {OTHER_VOLUME}"]["status"] = "available"
    found = take(storage, {**notes, "waited": 601.0})
    assert list(found["errors"]) == [VOLUME]
    assert "native_timeout_seconds" in found["errors"][VOLUME]
    assert storage.deleted == [f"snapshot of {VOLUME}"]
    monkeypatch.setattr(scratch, "bytes_in", lambda _directory, _name: 800 << 10)  # a fifth is left for the way back
    assert "scratch_limit_mib" in take(storage, notes)["errors"][VOLUME]


def test_a_guest_that_stands_still_for_want_of_room_is_not_kept_waiting(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "_stopped_disks", lambda _worker, _operation: ["vdb"])
    assert "the guest is stopped until its writes to vdb are committed back" in take(storage)["errors"][VOLUME]
    storage.all_are("available")
    assert take(storage)["errors"] == {}  # nothing is waited for any more


class Domain:
    """A libvirt domain by its state and the disks that have failed."""

    def __init__(self, state: list[int], errors: dict[str, int]) -> None:
        self.UUIDString, self.state, self.diskErrors = (lambda: "u"), (lambda: state), (lambda _flags: errors)


@pytest.mark.parametrize(("state", "stopped"), [([3, 5], ["vdb"]), ([3, 1], []), ([1, 1], [])])
def test_only_a_disk_of_the_set_that_stops_the_guest_now_counts(state: list[int], stopped: list[str]) -> None:
    domain = Domain(state, {"vdb": 2, "vdz": 1})
    worker: Any = SimpleNamespace(hypervisor=SimpleNamespace(domain=lambda _id: domain))
    operation = Operation("op", "assisted_snapshot", "running", asked(FIRST, SECOND), [], 6, {}, 1, 0, "r")
    assert STOPPED_DISKS(worker, operation) == stopped


def test_a_set_has_no_snapshot_of_a_volume_whose_own_could_not_be_made() -> None:
    entries = volume_entries(intents.assisted_snapshot(natives=(SECOND,)), "error")
    assert [(each["method"], each["snapshot_id"] is None) for each in entries] == [("assisted", False), ("native", True)]
    assert taken(entries) == entries[:1]


def test_one_whose_id_was_lost_with_an_answer_is_found_by_its_token(storage: Storage) -> None:
    waits(storage)
    storage.all_are("available")
    worker: Any = SimpleNamespace(storage=storage)
    operation = Operation("op", "assisted_snapshot", "running", asked(FIRST, SECOND), [], 6, {}, 1, 0, "r")
    for token, deleted in (("another", []), ("t", sorted(storage.snapshots))):
        place = operation, native.TakeSnapshots(token=token)
        assert set(native._end_waiting(worker, place, {}, "late")) == {VOLUME, OTHER_VOLUME}
        assert sorted(storage.deleted) == deleted


def test_disks_that_come_back_say_nothing_of_the_switch_any_more() -> None:
    operation = Operation("op", "assisted_snapshot", "running", asked(FIRST), [], 6, {"commit_back": {}}, 1, 0, "r")
    assert switch.is_coming_back(operation)
    assert not switch.is_coming_back(Operation("op", "assisted_snapshot", "running", asked(FIRST), [], 6, {}, 1, 0, "r"))


def test_a_scratch_overlay_that_is_opened_alone_names_a_file_that_is_not_there() -> None:
    image = FIRST.overlay.image
    assert (image.size, image.backing, image.backing_format) == (1 << 30, "one.below", "raw")
    assert FIRST.overlay.directory == Path("/s")


def test_a_guest_that_still_stands_still_is_not_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker died between the pivot and the resume."""
    monkeypatch.setattr(native, "_server", lambda _worker, _operation: None)
    monkeypatch.setattr(files, "exists", lambda _directory, _name: False)
    operation = Operation("op", "assisted_snapshot", "running", asked(FIRST), [], 7, {}, 1, 0, "r", at="commit_back")
    assert native.VERBS["commit_back"].done(None, operation, native.CommitBack()) == {}
    monkeypatch.setattr(native, "_stopped_disks", lambda _worker, _operation: ["vdb"])
    assert native.VERBS["commit_back"].done(None, operation, native.CommitBack()) is None


def test_what_came_too_late_is_deleted_as_soon_as_it_is_made(storage: Storage) -> None:
    """Block storage deletes nothing that it still makes; a set does not wait for that for ever."""
    evidence: Document = {"native": {"snapshots": {VOLUME: "late", OTHER_VOLUME: "in time"}, "errors": {VOLUME: "too long"}}}
    worker: Any = SimpleNamespace(storage=storage)

    def drop(waited: float) -> None:
        known = {**evidence, notes_key("finalize"): {"waited": waited}}
        found = Operation("op", "assisted_snapshot", "running", asked(FIRST, SECOND), [], 9, known, 1, 0, "r", at="finalize")
        native.drop_late(worker, found)

    storage.snapshots = {each: {"status": "creating"} for each in ("late", "in time")}
    storage.undeletable = True
    with pytest.raises(NotYet, match="look again"):
        drop(0.0)
    drop(native.LATE_SECONDS)
    storage.undeletable = False
    drop(0.0)
    assert storage.deleted == ["late"]
    storage.snapshots.clear()
    drop(0.0)
    assert storage.deleted == ["late"]


@pytest.mark.parametrize("status", ["extending", "reverting", "restoring-backup"])
def test_no_set_begins_while_a_volume_changes(status: str) -> None:
    native.refuse_if_changing([{"id": VOLUME, "status": "in-use"}, {"id": OTHER_VOLUME, "status": "backing-up"}])
    with pytest.raises(Busy, match=f"{VOLUME} is {status}"):
        native.refuse_if_changing([{"id": VOLUME, "status": status}])
