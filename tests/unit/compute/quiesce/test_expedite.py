"""Hastening the freeze: what is believed of the guest, what is changed in it, and how long anybody waits for it."""

import base64
from types import SimpleNamespace
from typing import Any

import pytest

from stillframe.compute.quiesce import expedite
from stillframe.errors import AgentFailed, HypervisorUnavailable
from stillframe.host import hypervisor
from tests.unit.compute.fakes import ALL, HANDLE, Agent, Domain

EVERYTHING = frozenset(ALL)
TIMEOUT = AgentFailed("timeout")


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Agent:
    return Agent().install(monkeypatch)


def encoded(content: bytes) -> dict[str, str]:
    return {"buf-b64": base64.b64encode(content).decode()}


def test_the_knob_is_opened_so_that_no_file_is_made_or_emptied(agent: Agent) -> None:
    assert expedite.former_value(Domain(), EVERYTHING, 2) == "0"
    assert agent.asked["guest-file-open"] == {"path": "/sys/kernel/rcu_expedited", "mode": "r+"}
    assert agent.asked["guest-file-close"] == {"handle": HANDLE}
    assert agent.said == ["guest-file-open", "guest-file-read", "guest-file-close"]


@pytest.mark.parametrize("command", sorted(expedite.COMMANDS))
def test_an_agent_that_opens_no_files_is_asked_for_nothing(agent: Agent, command: str) -> None:
    assert expedite.former_value(Domain(), EVERYTHING - {command}, 2) is None
    assert agent.said == []


@pytest.mark.parametrize("command", sorted(expedite.COMMANDS - {"guest-file-write"}))
def test_a_guest_without_an_answer_is_not_changed(agent: Agent, command: str) -> None:
    agent.failures[command] = TIMEOUT
    assert expedite.former_value(Domain(), EVERYTHING, 2) is None


@pytest.mark.parametrize(
    "answer",
    [
        None,
        {},
        [],
        "0",
        {"buf-b64": None},
        {"buf-b64": 0},
        {"buf-b64": "not base64"},
        {"buf-b64": "0"},
        encoded(b""),
        encoded(b"1\n"),
        encoded(b"00"),
        encoded(b"-1"),
        encoded(b"0; reboot"),
        encoded(b"\xff"),
        encoded("\u0660".encode()),
    ],
)
def test_only_a_zero_is_believed_to_be_one(agent: Agent, answer: Any) -> None:
    agent.answers["guest-file-read"] = answer
    assert expedite.former_value(Domain(), EVERYTHING, 2) is None
    assert agent.said[-1] == "guest-file-close"


@pytest.mark.parametrize("handle", [None, "1000", True, 1.5, {}, [1]])
def test_a_handle_that_is_none_is_not_used(agent: Agent, handle: Any) -> None:
    agent.answers["guest-file-open"] = handle
    assert expedite.former_value(Domain(), EVERYTHING, 2) is None
    assert agent.said == ["guest-file-open"]


def test_the_knob_is_set(agent: Agent) -> None:
    assert expedite.begin(Domain(), 2)
    assert agent.knob == "1"
    assert base64.b64decode(agent.asked["guest-file-write"]["buf-b64"]) == b"1\n"


@pytest.mark.parametrize("command", ["guest-file-open", "guest-file-write", "guest-file-close"])
def test_a_guest_that_refuses_is_not_said_to_be_expedited(agent: Agent, command: str) -> None:
    """The kernel's refusal is the answer to the close, because the agent writes through a buffer."""
    agent.failures[command] = TIMEOUT
    assert not expedite.begin(Domain(), 2)


def test_the_file_is_closed_whatever_happened(agent: Agent) -> None:
    agent.failures["guest-file-write"] = TIMEOUT
    expedite.begin(Domain(), 2)
    assert agent.said[-1] == "guest-file-close"
    agent.failures["guest-file-close"] = TIMEOUT
    assert not expedite.begin(Domain(), 2)


def test_the_former_value_is_put_back_as_often_as_asked(agent: Agent) -> None:
    agent.knob = "1"
    expedite.put_back(Domain(), "0", 2)
    assert agent.knob == "0"
    agent.said.clear()
    expedite.put_back(Domain(), "0", 2)
    assert agent.said == ["guest-file-open", "guest-file-read", "guest-file-close"]


@pytest.mark.parametrize("command", sorted(expedite.COMMANDS))
def test_a_knob_that_could_not_be_put_back_is_told(agent: Agent, command: str) -> None:
    agent.knob = "1"
    agent.failures[command] = TIMEOUT
    with pytest.raises(AgentFailed):
        expedite.put_back(Domain(), "0", 2)


def test_a_libvirt_that_goes_away_is_no_answer_of_the_guest(agent: Agent) -> None:
    agent.failures["guest-file-read"] = HypervisorUnavailable("away")
    with pytest.raises(HypervisorUnavailable):
        expedite.former_value(Domain(), EVERYTHING, 2)
    assert agent.said[-1] == "guest-file-close"


def test_nobody_waits_longer_than_was_said(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    now, limits = [0.0], []
    monkeypatch.setattr(expedite, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def slow(domain: Any, command: str, arguments: Any, timeout: int) -> Any:
        limits.append(timeout)
        now[0] += 1.5
        return agent.command(domain, command, arguments, timeout)

    monkeypatch.setattr(hypervisor, "agent_command", slow)
    assert expedite.begin(Domain(), 2)
    assert limits == [2, 1, expedite.CLOSE_SECONDS]
    agent.said.clear()
    assert not expedite.begin(Domain(), 1)
    assert agent.said == ["guest-file-open", "guest-file-close"]
