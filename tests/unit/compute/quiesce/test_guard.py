"""The worker's side of the watchdog: nothing may be frozen before it holds the record."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stillframe.compute.quiesce import guard
from stillframe.compute.quiesce import record as freeze_record
from stillframe.compute.quiesce.guard import Guard
from stillframe.compute.quiesce.record import FreezeRecord
from stillframe.errors import Conflict, ServiceUnavailable
from tests.unit.builders import SERVER

SILENT = object()


class Helper:
    """The watchdog process: remembers what it was told."""

    made: list["Helper"] = []
    answer: Callable[[str], Any] = staticmethod(lambda line: {"arm": "armed", "disarm": "disarmed"}.get(line, line))

    def __init__(self, module: str, arguments: list[str]) -> None:
        self.module, self.arguments = module, arguments
        self.alive = True
        self.lines: list[str] = []
        Helper.made.append(self)

    def ask(self, line: str, _seconds: float) -> str:
        word, _, rest = line.partition(" ")
        self.lines.append(line)
        answer = Helper.answer(word)
        if answer is SILENT:
            raise ServiceUnavailable("no answer")
        return f"{answer} {rest}".strip()

    def close(self) -> None:
        self.lines.append("close")


class Libvirt:
    uri = "test:///default"


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Guard:
    monkeypatch.setattr(guard, "Helper", Helper)
    monkeypatch.setattr(Helper, "made", [])
    monkeypatch.setattr(freeze_record, "boot_seconds", lambda: 100.0)
    connection: Any = Libvirt()
    return Guard(connection, None, tmp_path / "freeze", tmp_path / "log")


def answers(monkeypatch: pytest.MonkeyPatch, **words: Any) -> None:
    monkeypatch.setattr(Helper, "answer", staticmethod(lambda word: words.get(word, word)))


def test_arming_makes_the_record_durable_before_the_watchdog_is_told(watched: Guard, tmp_path: Path) -> None:
    record = watched.arm(SERVER, "operation", 10.0, None)
    assert (record.deadline, record.operation) == (110.0, "operation")
    assert freeze_record.read(tmp_path / "freeze", SERVER) == record == watched.pending(SERVER)
    (helper,) = Helper.made
    assert helper.lines == ["ready", f"arm {SERVER}"]
    assert helper.module == "stillframe.compute.quiesce.watchdog"
    assert helper.arguments == ["test:///default", "", str(tmp_path / "freeze"), str(tmp_path / "log")]


@pytest.mark.parametrize("arm", ["refused", "nonsense", SILENT])
def test_without_an_armed_watchdog_nothing_may_be_frozen(watched: Guard, monkeypatch: pytest.MonkeyPatch, arm: Any) -> None:
    answers(monkeypatch, arm=arm)
    with pytest.raises(ServiceUnavailable):
        watched.arm(SERVER, "operation", 10.0, None)
    assert watched.pending(SERVER) is None


def test_a_watchdog_that_does_not_come_up_is_told(watched: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, ready=SILENT)
    with pytest.raises(ServiceUnavailable):
        watched.start()


def test_what_is_to_be_put_back_is_in_the_record_from_the_start(watched: Guard) -> None:
    record = watched.arm(SERVER, "operation", 10.0, "0")
    assert record.rcu_expedited == "0"
    assert watched.pending(SERVER) == record


def test_renewing_moves_the_deadline_and_tells_the_watchdog(watched: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    record = watched.arm(SERVER, "operation", 10.0, "0")
    monkeypatch.setattr(freeze_record, "boot_seconds", lambda: 107.0)
    later = watched.renew(record, 10.0)
    assert (later.deadline, later.rcu_expedited) == (117.0, "0")
    assert watched.pending(SERVER) == later
    assert Helper.made[0].lines[-2:] == [f"arm {SERVER}"] * 2


def test_a_record_that_cannot_be_renewed_stays(watched: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    record = watched.arm(SERVER, "operation", 10.0, "0")
    answers(monkeypatch, arm="refused")
    with pytest.raises(ServiceUnavailable):
        watched.renew(record, 10.0)
    kept = watched.pending(SERVER)
    assert kept is not None
    assert kept.rcu_expedited == "0"


def test_while_an_earlier_freeze_is_not_over_there_is_no_other(
    watched: Guard, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    earlier = FreezeRecord(SERVER, "earlier", 1.0, 1)
    freeze_record.write(tmp_path / "freeze", earlier)
    monkeypatch.setattr(guard, "try_thaw", lambda *_: False)
    with pytest.raises(Conflict, match="may still be frozen by operation earlier"):
        watched.arm(SERVER, "operation", 10.0, None)
    assert watched.pending(SERVER) == earlier
    monkeypatch.setattr(guard, "try_thaw", lambda *_: True)
    assert watched.arm(SERVER, "operation", 10.0, None).operation == "operation"


def test_a_guest_that_was_left_suspended_is_resumed(watched: Guard, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[FreezeRecord] = []
    monkeypatch.setattr(guard, "try_thaw", lambda _connection, _directory, record: asked.append(record))
    watched.resume(SERVER)
    frozen = FreezeRecord(SERVER, "earlier", 1.0, 1)
    freeze_record.write(tmp_path / "freeze", frozen)
    watched.resume(SERVER)  # by its agent: that is for whoever freezes next
    assert asked == []
    suspended = replace(frozen, suspended=True)
    freeze_record.write(tmp_path / "freeze", suspended)
    with pytest.raises(Conflict, match="operation earlier\\) still keeps"):
        watched.resume(SERVER)
    assert asked == [suspended]


def test_disarming_takes_the_record_and_lets_the_watchdog_go(watched: Guard) -> None:
    watched.disarm(watched.arm(SERVER, "operation", 10.0, None))
    assert watched.pending(SERVER) is None
    assert Helper.made[0].lines[-1] == f"disarm {SERVER}"


def test_a_watchdog_that_died_is_started_again(watched: Guard) -> None:
    record = watched.arm(SERVER, "operation", 10.0, None)
    Helper.made[0].alive = False
    watched.disarm(record)
    watched.start()
    watched.start()
    assert len(Helper.made) == 2


def test_closing_ends_the_watchdogs_input_once_there_is_one(watched: Guard) -> None:
    watched.close()
    watched.start()
    watched.close()
    assert Helper.made[0].lines == ["ready", "close"]
