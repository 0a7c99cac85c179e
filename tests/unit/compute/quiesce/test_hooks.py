"""Whether the agent runs freeze hooks, and what the witness in the guest tells: believed where it makes sense."""

import base64
from typing import Any

import pytest

from stillframe.compute.quiesce import hooks
from stillframe.compute.quiesce.hooks import Hooks
from stillframe.errors import AgentFailed
from tests.unit.compute.fakes import ALL, Agent, Domain

WATCHED = Hooks(60, 7, 5.0)


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Agent:
    return Agent().install(monkeypatch)


def test_an_agent_without_hooks_says_so_and_any_other_is_given_their_time(agent: Agent) -> None:
    commands = frozenset(ALL)
    agent.answers["guest-exec-status"] = {"exited": True, "exitcode": hooks.NO_HOOKS}
    assert hooks.look(Domain(), commands, 60) == Hooks()
    for status in ({"exited": True, "exitcode": 0}, {"exited": True, "signal": 9}, {}, None):
        agent.answers["guest-exec-status"] = status
        assert hooks.look(Domain(), commands, 60) == Hooks(60)
    agent.failures["guest-exec"] = AgentFailed("no such program")
    assert hooks.look(Domain(), commands, 60) == Hooks(60)


@pytest.mark.parametrize("pid", ["seven", "9" * 5_000, float("inf"), None, [], {}, True, 7.5])
def test_what_is_no_number_of_a_process_is_not_taken_for_one(agent: Agent, pid: Any) -> None:
    """A guest whose agent answered so ended its set as a defect of ours, with the watchdog armed."""
    agent.answers["guest-exec"] = {"pid": pid}
    assert hooks.look(Domain(), frozenset(ALL), 60) == Hooks(60)
    assert hooks.watch(Domain(), frozenset(ALL), Hooks(60), 20) == Hooks(60)


def test_an_agent_that_may_run_nothing_is_not_asked(agent: Agent) -> None:
    assert hooks.look(Domain(), frozenset(), 60) == Hooks(60)
    assert hooks.look(Domain(), frozenset(ALL), 0) == Hooks()
    assert hooks.watch(Domain(), frozenset(), Hooks(60), 20) == Hooks(60)
    assert hooks.watch(Domain(), frozenset(ALL), Hooks(), 20) == Hooks()
    assert agent.said == []


@pytest.mark.parametrize(
    ("told", "found"),
    [
        ("10.00\n30.00\n30.50\n", (25.0, 25.5)),
        ("10.00\n9.00\n30.50\n", None),
        ("10.00\n30.00\n20.00\n", None),
        ("10.00\n30.00\n", None),
        ("1e9\n30.00\n31.00\n", None),
        ("", None),
    ],
)
def test_the_witness_is_believed_where_it_makes_sense(agent: Agent, told: str, found: tuple[float, float] | None) -> None:
    answer: Any = {"exited": True, "exitcode": 0, "out-data": base64.b64encode(told.encode()).decode()}
    agent.answers["guest-exec-status"] = answer
    assert hooks.frozen_between(Domain(), WATCHED) == found


@pytest.mark.parametrize("answer", [{"exited": True}, {"exited": True, "out-data": "%"}, {"exited": True, "out-data": 5}, None])
def test_a_witness_that_makes_no_sense_tells_nothing(agent: Agent, answer: Any) -> None:
    agent.answers["guest-exec-status"] = answer
    assert hooks.frozen_between(Domain(), WATCHED) is None
    assert hooks.frozen_between(Domain(), Hooks(60)) is None
