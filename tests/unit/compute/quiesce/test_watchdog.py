"""The watchdog's decisions: what it holds, when it thaws, what it takes up from the dead."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from stillframe.compute.quiesce import record as freeze_record
from stillframe.compute.quiesce import watchdog
from stillframe.compute.quiesce.record import FreezeRecord
from stillframe.compute.quiesce.watchdog import Watchdog
from stillframe.host.hypervisor import Hypervisor
from tests.unit.builders import OTHER_VOLUME, SERVER

DEAD = 1 << 22


class Thread:
    """Runs its work when it is started, in the test's own thread."""

    def __init__(self, target: Any, args: tuple[Any, ...], daemon: bool) -> None:
        assert daemon
        self._target, self._arguments = target, args

    def start(self) -> None:
        self._target(*self._arguments)


@pytest.fixture
def thawed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []

    def try_thaw(_connection: object, directory: Path, record: FreezeRecord) -> bool:
        found.append(record.operation)
        freeze_record.clear(directory, record)
        return True

    monkeypatch.setattr(watchdog, "try_thaw", try_thaw)
    monkeypatch.setattr(threading, "Thread", Thread)
    monkeypatch.setattr(freeze_record, "boot_seconds", lambda: 100.0)
    return found


@pytest.fixture
def dog(tmp_path: Path, thawed: list[str]) -> Watchdog:
    return Watchdog(Hypervisor("test:///default"), tmp_path)


def put(directory: Path, deadline: float, worker: int | None = None, domain: str = SERVER) -> FreezeRecord:
    record = FreezeRecord(domain, f"until {deadline:g}", deadline, os.getpid() if worker is None else worker)
    freeze_record.write(directory, record)
    return record


def test_it_is_armed_only_with_a_record(dog: Watchdog, tmp_path: Path) -> None:
    assert dog._obey("arm", SERVER) == f"refused {SERVER}"
    put(tmp_path, 110.0)
    assert dog._obey("arm", SERVER) == f"armed {SERVER}"
    assert dog._obey("disarm", SERVER) == f"disarmed {SERVER}"
    assert dog._held == {}


def test_it_refuses_words_it_does_not_know(dog: Watchdog, tmp_path: Path) -> None:
    put(tmp_path, 110.0)
    assert dog._obey("nonsense", SERVER) == f"refused {SERVER}"
    assert dog._held == {}


def test_it_sleeps_no_longer_than_to_the_next_deadline(dog: Watchdog, tmp_path: Path) -> None:
    assert dog._until_next() == watchdog.LOOK_SECONDS
    put(tmp_path, 101.5)
    put(tmp_path, 103.0, domain=OTHER_VOLUME)
    for domain in (SERVER, OTHER_VOLUME):
        dog._obey("arm", domain)
    assert dog._until_next() == 1.5


def test_it_thaws_at_the_deadline_and_not_before(
    dog: Watchdog, tmp_path: Path, thawed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, 110.0)
    dog._obey("arm", SERVER)
    dog._thaw_due()
    assert thawed == []
    monkeypatch.setattr(freeze_record, "boot_seconds", lambda: 110.0)
    dog._thaw_due()
    assert thawed == ["until 110"]
    assert (dog._held, dog._thawing) == ({}, set())


def test_a_guest_that_was_disarmed_is_left_alone(
    dog: Watchdog, tmp_path: Path, thawed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = put(tmp_path, 110.0)
    dog._obey("arm", SERVER)
    freeze_record.clear(tmp_path, record)
    dog._obey("disarm", SERVER)
    monkeypatch.setattr(freeze_record, "boot_seconds", lambda: 200.0)
    dog._thaw_due()
    assert thawed == []


def test_the_end_of_its_input_is_its_workers_death(dog: Watchdog, tmp_path: Path, thawed: list[str]) -> None:
    put(tmp_path, 110.0)
    dog._obey("arm", SERVER)
    dog._worker_lives = False
    dog._thaw_due()
    assert thawed == ["until 110"]


def test_what_a_dead_worker_left_is_taken_up(dog: Watchdog, tmp_path: Path, thawed: list[str]) -> None:
    put(tmp_path, 110.0, worker=DEAD)
    dog._adopt_orphans()
    assert thawed == ["until 110"]


def test_what_a_living_worker_holds_is_its_own_until_long_after_the_deadline(
    dog: Watchdog, tmp_path: Path, thawed: list[str]
) -> None:
    put(tmp_path, 100.0 - watchdog.OVERDUE_SECONDS)
    dog._adopt_orphans()
    assert thawed == []
    put(tmp_path, 99.9 - watchdog.OVERDUE_SECONDS)
    dog._adopt_orphans()
    assert thawed == ["until 97.9"]


def test_it_tries_until_the_guest_is_thawed(dog: Watchdog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = [False, False, True]
    waited: list[float] = []

    class Event:
        def wait(self, seconds: float) -> None:
            waited.append(seconds)

    monkeypatch.setattr(threading, "Event", Event)
    monkeypatch.setattr(watchdog, "try_thaw", lambda *_: outcomes.pop(0))
    dog._thaw(put(tmp_path, 1.0))
    assert waited == [watchdog.AGAIN_SECONDS] * 2
    assert outcomes == []


def test_a_worker_may_move_the_deadline_while_it_lives(dog: Watchdog, tmp_path: Path, thawed: list[str]) -> None:
    put(tmp_path, 170.0)  # 60 s for hooks and 10 s for what is frozen, at 100
    dog._obey("arm", SERVER)
    assert dog._obey("wait", f"{SERVER} 10") == f"waits {SERVER}"
    dog._thaw_due()
    assert thawed == []
    assert dog._deadline(dog._held[SERVER]) == 110.0
    assert dog._obey("wait", f"{SERVER} 0") == f"waits {SERVER}"
    dog._thaw_due()
    assert thawed == ["until 170"]


def test_a_deadline_that_was_moved_ends_with_its_freeze(dog: Watchdog, tmp_path: Path, thawed: list[str]) -> None:
    put(tmp_path, 170.0)
    dog._obey("arm", SERVER)
    dog._obey("wait", f"{SERVER} 0")
    dog._obey("disarm", SERVER)
    dog._obey("arm", SERVER)
    dog._thaw_due()
    assert thawed == []
