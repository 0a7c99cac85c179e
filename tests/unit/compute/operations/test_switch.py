"""Before and after a switch: an overlay is removed only when it is known that nobody needs it; a thaw is waited for."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stillframe.compute.libvirt import other_jobs
from stillframe.compute.operations import assisted_snapshots as assisted_snapshot_operations
from stillframe.compute.operations import switch
from stillframe.compute.operations.snapshot_intents import AssistedSnapshot
from stillframe.compute.quiesce import bounded
from stillframe.db.engine import Database
from stillframe.errors import HypervisorUnavailable, Parked
from stillframe.host import files
from stillframe.journal.operation import Document, NotYet, Operation, notes_key
from stillframe.journal.typed import step
from tests.unit.builders import OTHER_SERVER, SERVER
from tests.unit.compute import fakes, intents


class Guard:
    """The watchdog's door: the guest's agent answers at the look numbered ``thaws_at``."""

    def __init__(self, thaws_at: int) -> None:
        self.thaws_at, self.looks = thaws_at, 0

    def pending(self, _server: str) -> str | None:
        return "record"

    def try_thaw(self, _record: str) -> bool:
        self.looks += 1
        return self.looks >= self.thaws_at


def ends_with(guard: Guard) -> tuple[Document, int]:
    """Returns what the step ends with, and how often it gave its thread back."""
    worker: Any = SimpleNamespace(guard=guard)
    notes: Document = {}
    for waited in range(100):
        asked, evidence = intents.assisted_snapshot(), {notes_key("thaw"): notes}
        operation = Operation("o", "k", "running", asked, [], 0, evidence, 1, 0, "r", at="thaw")
        try:
            return switch.VERBS["thaw"].do(worker, operation, switch.Thaw()), waited
        except NotYet as waiting:
            assert waiting.seconds == switch.THAW_LOOK_SECONDS
            notes = waiting.notes
    raise AssertionError("the step does not end")


def test_a_thaw_is_looked_at_without_a_thread() -> None:
    assert ends_with(Guard(thaws_at=4)) == ({}, 3)


def test_a_guest_whose_agent_stays_silent_is_left_to_the_watchdog() -> None:
    document, waited = ends_with(Guard(thaws_at=1000))
    assert document == {"left_to_watchdog": True}
    assert waited * switch.THAW_LOOK_SECONDS == pytest.approx(switch.THAW_SECONDS, abs=switch.THAW_LOOK_SECONDS)


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Operation[AssistedSnapshot]:
    """A set of one volume whose overlay was made."""
    disk = intents.disk(directory=str(tmp_path))
    (tmp_path / disk.overlay).write_bytes(b"")
    monkeypatch.setattr(files, "is_locked", lambda _share, _name: False)
    intent = intents.assisted_snapshot(active=False, disks=(disk,))
    steps = [step(args) for args in assisted_snapshot_operations.plan_of(intent)]
    return Operation("op", "assisted_snapshot", "undoing", intent, steps, 3, {}, 1, 0, "req-1")


def worker(database: Database, directory: Path, monkeypatch: pytest.MonkeyPatch, saved: str | None) -> Any:
    """A stopped server, and another one whose saved memory has the description ``saved``."""
    stopped = fakes.view("<domain/>", "<domain/>", active=False)
    other = replace(fakes.saved_view("<domain/>", saved), uuid=OTHER_SERVER)
    return fakes.worker(database, directory / "state", [stopped, other], monkeypatch)


def there(asked: Operation[AssistedSnapshot]) -> bool:
    return Path(asked.intent.disks[0].path_after).exists()


def test_a_saved_memory_that_cannot_be_read_may_need_the_overlay(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: Operation[AssistedSnapshot]
) -> None:
    undo = switch.VERBS["overlays"].undo
    assert undo is not None
    with pytest.raises(HypervisorUnavailable, match="not known which files it needs"):
        undo(worker(database, tmp_path, monkeypatch, None), asked, None)
    assert there(asked)
    with pytest.raises(Parked, match="is named by a description"):
        named = fakes.domain_xml(fakes.disk_xml("vda", asked.intent.disks[0].path_after))
        undo(worker(database, tmp_path, monkeypatch, named), asked, None)
    assert there(asked)
    undo(worker(database, tmp_path, monkeypatch, "<domain/>"), asked, None)
    assert not there(asked)


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    for name in ("BOUND_SECONDS", "FINISH_SECONDS"):
        monkeypatch.setattr(bounded, name, 0.0)
    answer = threading.Event()
    yield answer
    answer.set()


def test_the_overlay_stays_while_libvirt_may_still_switch_to_it(
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked: Operation[AssistedSnapshot],
    hanging: threading.Event,
) -> None:
    found = worker(database, tmp_path, monkeypatch, "<domain/>")
    undo = switch.VERBS["switch"].undo
    assert undo is not None

    def switch_disks() -> None:
        hanging.wait()

    call = found.switches.keep(SERVER, bounded.Call(switch_disks, lambda: False))
    with pytest.raises(Parked):
        bounded.patiently(call)
    with pytest.raises(HypervisorUnavailable, match="has not answered"):
        undo(found, asked, None)
    hanging.set()
    monkeypatch.setattr(bounded, "FINISH_SECONDS", 60.0)
    call.finish()
    undo(found, asked, None)


def test_an_operation_that_is_retried_meanwhile_is_parked_again_and_does_not_turn_round(
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked: Operation[AssistedSnapshot],
    hanging: threading.Event,
) -> None:
    """The job that another look at libvirt would find is its own call."""

    def switch_disks() -> None:
        hanging.wait()

    found = worker(database, tmp_path, monkeypatch, "<domain/>")
    monkeypatch.setattr(switch, "_check_unchanged", lambda _server, _operation: None)
    monkeypatch.setattr(other_jobs, "refuse_if_at_work", lambda *_arguments: pytest.fail("the call is still pending"))
    with pytest.raises(Parked):
        bounded.patiently(found.switches.keep(SERVER, bounded.Call(switch_disks, lambda: False)))
    with pytest.raises(Parked, match="has not answered"):
        switch.VERBS["switch"].do(found, asked, switch.SwitchDisks())
