"""One attempt to thaw, and that only the agent's own word ends it."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stillframe.compute.quiesce import record as freeze_record
from stillframe.compute.quiesce import thaw
from stillframe.compute.quiesce.record import FreezeRecord
from stillframe.errors import AgentFailed, HypervisorUnavailable, NotFound
from stillframe.host import hypervisor
from tests.support.stack import wait_for
from tests.unit.builders import SERVER
from tests.unit.compute import fakes
from tests.unit.compute.fakes import Agent

RECORD = FreezeRecord(SERVER, "operation", 1.0, 1)
HASTENED = replace(RECORD, rcu_expedited="0")


class Libvirt:
    def __init__(self, error: Exception | None = None) -> None:
        self._error = error

    def domain(self, _uuid: str) -> Any:
        if self._error is not None:
            raise self._error
        return fakes.Domain()


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Agent:
    monkeypatch.setattr(hypervisor, "view", lambda _domain: fakes.view("<domain/>"))
    return Agent(frozen=1).install(monkeypatch)


def attempt(directory: Path, error: Exception | None = None, record: FreezeRecord = RECORD) -> bool:
    freeze_record.write(directory, record)
    connection: Any = Libvirt(error)
    return thaw.try_thaw(connection, directory, record)


def held(directory: Path) -> bool:
    return freeze_record.read(directory, SERVER) is not None


def test_a_guest_that_says_thawed_is_let_go(tmp_path: Path, agent: Agent) -> None:
    assert attempt(tmp_path)
    assert agent.said == ["guest-fsfreeze-thaw", "guest-fsfreeze-status"]
    assert not held(tmp_path)


def test_a_thaw_that_is_not_answered_is_followed_by_a_look(tmp_path: Path, agent: Agent) -> None:
    agent.failures["guest-fsfreeze-thaw"] = AgentFailed("timeout")
    assert not attempt(tmp_path)
    assert held(tmp_path)
    agent.frozen = 0
    assert attempt(tmp_path)


@pytest.mark.parametrize("answer", ["frozen", None, "", {}, ["thawed"]])
def test_any_other_word_than_thawed_keeps_the_record(tmp_path: Path, agent: Agent, answer: Any) -> None:
    agent.answers["guest-fsfreeze-status"] = answer
    assert not attempt(tmp_path)
    assert held(tmp_path)


def test_a_silent_agent_keeps_the_record(tmp_path: Path, agent: Agent) -> None:
    agent.failures["guest-fsfreeze-status"] = AgentFailed("timeout")
    assert not attempt(tmp_path)
    assert held(tmp_path)


def test_a_libvirt_that_does_not_answer_keeps_the_record(tmp_path: Path, agent: Agent) -> None:
    assert not attempt(tmp_path, HypervisorUnavailable("away"))
    assert held(tmp_path)


def test_a_guest_that_runs_no_more_is_not_frozen(tmp_path: Path, agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    assert attempt(tmp_path, NotFound("gone"))
    assert not held(tmp_path)
    monkeypatch.setattr(hypervisor, "view", lambda _domain: fakes.view("<domain/>", state=5, active=False))
    assert attempt(tmp_path)
    assert agent.said == []


def test_a_record_that_is_no_more_asks_for_nothing(tmp_path: Path, agent: Agent) -> None:
    freeze_record.write(tmp_path, FreezeRecord(SERVER, "another", 1.0, 1))
    connection: Any = Libvirt()
    assert thaw.try_thaw(connection, tmp_path, RECORD)
    assert agent.said == []
    assert held(tmp_path)


def test_what_was_changed_for_the_freeze_is_put_back_once_the_guest_is_thawed(tmp_path: Path, agent: Agent) -> None:
    agent.knob = "1"
    assert attempt(tmp_path, record=HASTENED)
    assert agent.said[:2] == ["guest-fsfreeze-thaw", "guest-fsfreeze-status"]
    assert (agent.knob, held(tmp_path)) == ("0", False)


def test_a_knob_the_guest_has_put_back_itself_is_left_alone(tmp_path: Path, agent: Agent) -> None:
    agent.knob = "0"
    assert attempt(tmp_path, record=HASTENED)
    assert "guest-file-write" not in agent.said


def test_a_guest_that_is_still_frozen_is_asked_for_nothing_else(tmp_path: Path, agent: Agent) -> None:
    agent.answers["guest-fsfreeze-status"] = "frozen"
    assert not attempt(tmp_path, record=HASTENED)
    assert "guest-file-open" not in agent.said


@pytest.mark.parametrize("command", ["guest-file-open", "guest-file-read", "guest-file-write", "guest-file-close"])
def test_the_record_is_kept_until_the_knob_is_put_back(
    tmp_path: Path, agent: Agent, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent.knob = "1"
    monkeypatch.setattr(freeze_record, "boot_seconds", lambda: HASTENED.deadline + thaw.PUT_BACK_SECONDS - 1)
    agent.failures[command] = AgentFailed("timeout")
    assert not attempt(tmp_path, record=HASTENED)
    assert held(tmp_path)
    agent.failures.clear()
    assert attempt(tmp_path, record=HASTENED)
    assert (agent.knob, held(tmp_path)) == ("0", False)


def test_a_guest_that_never_takes_its_knob_back_is_let_go_in_the_end(
    tmp_path: Path, agent: Agent, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(freeze_record, "boot_seconds", lambda: HASTENED.deadline + thaw.PUT_BACK_SECONDS)
    agent.failures["guest-file-open"] = AgentFailed("not allowed")
    assert attempt(tmp_path, record=HASTENED)
    assert not held(tmp_path)
    assert "could not be put back to 0" in caplog.text


SUSPENDED = replace(RECORD, suspended=True)


@pytest.fixture
def resumed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    found: list[Any] = []
    monkeypatch.setattr(hypervisor, "view", lambda _domain: fakes.view("<domain/>"))
    monkeypatch.setattr(hypervisor, "resume_suspended", found.append)
    return found


def test_a_suspended_guest_goes_on_and_its_agent_is_not_asked(tmp_path: Path, agent: Agent, resumed: list[Any]) -> None:
    assert attempt(tmp_path, record=SUSPENDED)
    assert (len(resumed), agent.said) == (1, [])
    assert not held(tmp_path)


def test_a_suspended_guest_that_libvirt_does_not_find_stays_on_record(tmp_path: Path, resumed: list[Any]) -> None:
    assert not attempt(tmp_path, HypervisorUnavailable("libvirt went away"), SUSPENDED)
    assert held(tmp_path)


def test_who_waited_while_somebody_else_let_a_guest_go_on_leaves_it_alone(tmp_path: Path, resumed: list[Any]) -> None:
    """The next suspension, or a pause, may have come meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        with freeze_record.alone(tmp_path, SERVER):
            answer = pool.submit(attempt, tmp_path, None, SUSPENDED)
            wait_for(lambda: held(tmp_path), "the attempt")
            freeze_record.write(tmp_path, replace(SUSPENDED, deadline=2.0))
        assert answer.result(10)
    assert resumed == []
    assert held(tmp_path)


def test_a_lock_file_is_no_record(tmp_path: Path) -> None:
    with freeze_record.alone(tmp_path, SERVER):
        assert freeze_record.read_all(tmp_path) == []
