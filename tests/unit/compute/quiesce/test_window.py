"""Quiescing: what is asked of the agent in which order, and what may be claimed afterwards."""

import base64
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from stillframe.compute.quiesce import bounded, hooks
from stillframe.compute.quiesce import record as freeze_record
from stillframe.compute.quiesce import window as quiesce_window
from stillframe.compute.quiesce.filesystems import Disk, Filesystem, Layout
from stillframe.compute.quiesce.outcome import Outcome, Timings
from stillframe.compute.quiesce.window import Preflight, Times, Window
from stillframe.errors import (
    AgentFailed,
    AnotherJob,
    HookFailed,
    HypervisorUnavailable,
    Parked,
    ServiceUnavailable,
    StepFailed,
    StillframeError,
)
from tests.unit.builders import SERVER
from tests.unit.compute.fakes import ALL, Agent, Domain, Guard

TIMES = Times(deadline=10.0, agent=2, flush=5, expedite=False)
EXPEDITED = replace(TIMES, expedite=True)
KNOB = ["guest-file-open", "guest-file-read", "guest-file-write", "guest-file-close"]
TIMEOUT = AgentFailed("timeout")
TWO = [("/", "vda1", "ext4", ("vda",)), ("/data", "vdb1", "xfs", ("vdb",))]
EFI = ("/boot/efi", "vdb1", "vfat", ("vdb",))
ROOT = Filesystem(("/",), "ext4", ("vda",))
DATA = Filesystem(("/data",), "xfs", ("vdb",))
ONE = Layout(("vda",), (ROOT,))
BOTH = Layout(("vda", "vdb"), (ROOT, DATA))


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(quiesce_window, "time", made)
    return made


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Agent:
    return Agent().install(monkeypatch)


def preflight(*targets: str, allowed: tuple[str, ...] = ()) -> Preflight:
    return quiesce_window.preflight(Domain(), Layout(targets or ("vda",), allowed=allowed), TIMES)


def without(*commands: str) -> tuple[str, ...]:
    return tuple(command for command in ALL if command not in commands)


def test_an_agent_that_answers_is_ready_and_nothing_in_the_guest_was_changed(agent: Agent) -> None:
    found = preflight()
    assert found.reason is None
    assert found.commands == frozenset(ALL)
    assert agent.said == ["guest-ping", "guest-info", "guest-fsfreeze-status"]


@pytest.mark.parametrize("command", ["guest-ping", "guest-info", "guest-fsfreeze-status"])
def test_a_silent_agent_is_the_reason(agent: Agent, command: str) -> None:
    agent.failures[command] = TIMEOUT
    assert preflight().reason == "the guest agent does not answer: timeout"


@pytest.mark.parametrize(
    "info",
    [None, {}, [], "text", {"supported_commands": None}, {"supported_commands": ["guest-ping"]}, {"supported_commands": [{}]}],
)
def test_nonsense_from_the_agent_is_a_reason_and_no_error(agent: Agent, info: Any) -> None:
    agent.answers["guest-info"] = info
    assert preflight().reason is not None


@pytest.mark.parametrize("command", ["guest-fsfreeze-freeze", "guest-fsfreeze-thaw", "guest-fsfreeze-status"])
def test_an_agent_that_may_not_freeze_or_thaw_is_the_reason(agent: Agent, command: str) -> None:
    agent.commands = without(command)
    assert preflight().reason == "the guest agent does not allow freezing"


def test_a_command_that_is_switched_off_is_none(agent: Agent) -> None:
    agent.answers["guest-info"] = {"supported_commands": [{"name": name, "enabled": False} for name in ALL]}
    assert preflight().reason == "the guest agent does not allow freezing"


def test_a_guest_somebody_else_has_frozen_is_left_alone(agent: Agent) -> None:
    agent.frozen = 1
    assert preflight().reason == "the guest is frozen already, by another program"


def test_only_the_filesystems_on_the_sets_disks_are_chosen(agent: Agent) -> None:
    agent.filesystems = [*TWO, ("/other", "vdc1", "ext4", ("vdc",)), ("/both", "dm-0", "ext4", ("vda", "vdb"))]
    found = preflight("vda", "vdb", "vdd").layout
    assert found is not None
    assert sorted(found.mountpoints or ()) == ["/", "/both", "/data"]


def test_an_agent_that_freezes_no_list_freezes_all(agent: Agent) -> None:
    agent.commands = without("guest-fsfreeze-freeze-list")
    agent.filesystems = list(TWO)
    found = preflight("vda")
    assert (found.reason, found.unmet) == (None, None)
    assert found.layout is not None
    assert (found.layout.mountpoints, len(found.layout.to_freeze)) == (None, 2)


def test_an_agent_that_cannot_list_filesystems_freezes_all_and_proves_nothing(agent: Agent) -> None:
    agent.commands = without("guest-get-fsinfo")
    found = preflight()
    assert (found.reason, found.layout and found.layout.mountpoints) == (None, None)
    assert "cannot say which filesystems lie on which disk: its command guest-get-fsinfo is not allowed" in str(found.unmet)
    agent.commands, agent.filesystems = ALL, TIMEOUT
    assert str(preflight().unmet).endswith("which disk: timeout")


def test_what_cannot_be_frozen_stands_in_the_way_of_required_alone(agent: Agent) -> None:
    agent.filesystems = [TWO[0], EFI]
    found = preflight("vda", "vdb")
    assert found.reason is None
    assert "the vfat filesystem /boot/efi on vdb cannot be frozen; name mount points or types in" in str(found.unmet)
    assert preflight("vda").unmet is None
    for name in ("vfat", "/boot/efi"):
        assert preflight("vda", "vdb", allowed=("ext4", name)).unmet is None


def test_a_set_of_nothing_but_what_cannot_be_frozen_is_not_frozen_and_may_be_allowed(agent: Agent) -> None:
    agent.filesystems = [TWO[0], EFI, ("/loop", "loop0", "ext4", ())]
    found = preflight("vdb")
    assert found.reason == "the vfat filesystem /boot/efi on vdb cannot be frozen"
    assert found.unmet is not None
    assert preflight("vdb", allowed=("vfat",)).unmet is None


def test_a_set_of_disks_without_filesystems_cannot_be_quiesced(agent: Agent) -> None:
    for targets in (("vdz",), ("vdy", "vdz")):
        found = preflight(*targets, allowed=("vfat",))
        assert found.reason == found.unmet == "no filesystem is mounted on the set's disks"


def test_a_flush_is_waited_for(agent: Agent, clock: Clock) -> None:
    states = [{"exited": False}, {"exited": False}, {"exited": True, "exitcode": 0}]
    agent.answers["guest-exec-status"] = lambda: states.pop(0)
    assert quiesce_window.flush(Domain(), frozenset(ALL), 5)
    assert agent.asked["guest-exec"] == {"path": "sync"}
    assert agent.asked["guest-exec-status"] == {"pid": 7}
    assert clock.now == pytest.approx(2 * quiesce_window.FLUSH_POLL_SECONDS)


def test_a_flush_that_takes_too_long_is_given_up(agent: Agent, clock: Clock) -> None:
    agent.answers["guest-exec-status"] = {"exited": False}
    assert not quiesce_window.flush(Domain(), frozenset(ALL), 5)
    assert clock.now == pytest.approx(5, abs=0.1)


@pytest.mark.parametrize(
    "status", [{"exited": True, "exitcode": 1}, {"exited": True}, {"exited": True, "signal": 9}, {}, None, []]
)
def test_a_flush_that_did_not_succeed_is_none(agent: Agent, status: Any) -> None:
    agent.answers["guest-exec-status"] = status
    assert not quiesce_window.flush(Domain(), frozenset(ALL), 5)


def test_no_flush_is_tried_when_it_is_off_or_not_allowed(agent: Agent) -> None:
    assert not quiesce_window.flush(Domain(), frozenset(ALL), 0)
    assert not quiesce_window.flush(Domain(), frozenset(without("guest-exec")), 5)
    assert not quiesce_window.flush(Domain(), frozenset(without("guest-exec-status")), 5)
    assert agent.said == []
    agent.failures["guest-exec"] = TIMEOUT
    assert not quiesce_window.flush(Domain(), frozenset(ALL), 5)


def window(agent: Agent, layout: Layout = ONE, times: Times = TIMES) -> Window:
    guard: Any = Guard(agent)
    ready = Preflight(None, None, frozenset(ALL), layout)
    return quiesce_window.frozen(guard, Domain(), "operation", ready, times)


def held(entered: Window) -> bool:
    guard: Any = entered.guard
    return bool(guard.held)


def switching(agent: Agent, then: Callable[[], None] | None = None) -> Callable[[], None]:
    def switch() -> None:
        agent.said.append(f"switch while {'frozen' if agent.frozen else 'thawed'}")
        if then is not None:
            then()

    return switch


def failing() -> None:
    raise StepFailed("the switch failed")


def late(agent: Agent, error: Exception | None = None) -> Callable[[], None]:
    """A switch that has not got its turn, and what its call ends with."""

    def finish() -> None:
        agent.said.append(f"the call ends while {'frozen' if agent.frozen else 'thawed'}")
        if error is not None:
            raise error

    def switch() -> None:
        raise bounded.Late(finish)

    return switch


@pytest.mark.parametrize("unfrozen_too", [True, False])
def test_a_switch_that_has_to_wait_for_its_turn_is_waited_for_when_the_guest_is_thawed(
    agent: Agent, unfrozen_too: bool
) -> None:
    entered = window(agent)
    agent.said.clear()
    outcome = entered.around(late(agent), unfrozen_too)
    assert agent.said[1:4] == ["guest-fsfreeze-thaw", "guest-fsfreeze-status", "disarm"]
    assert agent.said[4:] == ["the call ends while thawed"]
    assert (outcome.level, outcome.degraded_reason, outcome.held) == ("crash", bounded.LATE, False)
    assert not held(entered)


@pytest.mark.parametrize("error", [AnotherJob("a lock"), Parked("no answer")])
def test_a_switch_that_never_got_its_turn_leaves_the_guest_thawed_and_tells_why(agent: Agent, error: StillframeError) -> None:
    entered = window(agent)
    with pytest.raises(type(error)):
        entered.around(late(agent, error), unfrozen_too=True)
    assert agent.frozen == 0
    assert not held(entered)


def test_after_a_freeze_that_failed_a_late_switch_is_waited_for(agent: Agent) -> None:
    agent.failures["guest-fsfreeze-freeze-list"] = TIMEOUT
    assert window(agent).around(late(agent), unfrozen_too=True).level == "crash"
    assert agent.said[-1] == "the call ends while thawed"


def test_a_window_that_is_given_up_lets_the_watchdog_go(agent: Agent) -> None:
    entered = window(agent)
    entered.cancel()
    assert "guest-fsfreeze-freeze-list" not in agent.said
    assert not held(entered)


def test_the_flush_and_the_watchdog_come_before_the_freeze_and_only_the_switch_inside_it(agent: Agent) -> None:
    entered = window(agent)
    assert agent.said == ["guest-exec", "guest-exec-status", "arm"]
    assert entered.record.domain == SERVER
    agent.said.clear()
    entered.around(switching(agent), unfrozen_too=False)
    assert agent.said == [
        "guest-fsfreeze-freeze-list",
        "switch while frozen",
        "guest-fsfreeze-thaw",
        "guest-fsfreeze-status",
        "disarm",
    ]
    assert agent.asked["guest-fsfreeze-freeze-list"] == {"mountpoints": ["/"]}
    assert not held(entered)


def test_all_filesystems_are_frozen_when_none_can_be_named_but_nothing_is_claimed(agent: Agent) -> None:
    agent.filesystems = list(TWO)
    outcome = window(agent, Layout(("vda",), unknown="nobody knows")).around(switching(agent), unfrozen_too=False)
    assert "guest-fsfreeze-freeze" in agent.said
    assert (outcome.level, outcome.filesystems, outcome.degraded_reason) == ("crash", 2, "nobody knows")
    assert not outcome.held


def test_all_filesystems_are_frozen_and_counted_where_the_agent_takes_no_list(agent: Agent) -> None:
    agent.filesystems = list(TWO)
    layout = Layout(("vda",), (ROOT, DATA), by_point=False)
    assert window(agent, layout).around(switching(agent), unfrozen_too=False).level == "filesystem"
    agent.answers.update({"guest-fsfreeze-freeze": 1, "guest-fsfreeze-thaw": 1})
    assert window(agent, layout).around(switching(agent), unfrozen_too=False).level == "crash"


def test_a_freeze_that_held_is_filesystem_consistent(agent: Agent, clock: Clock) -> None:
    def slowly() -> None:
        clock.now += 0.25

    outcome = window(agent).around(switching(agent, slowly), unfrozen_too=False)
    timings = Timings(0.0, 0.0, 0.25, 0.0, 0.0)
    assert outcome == Outcome(250.0, 1, None, True, {"vda": Disk(("ext4 filesystem /",))}, held=True, timings=timings)
    assert outcome.level == "filesystem"


def judged(agent: Agent, layout: Layout = ONE, **answers: Any) -> Outcome:
    agent.answers.update({f"guest-fsfreeze-{name.replace('_', '-')}": answer for name, answer in answers.items()})
    return window(agent, layout).around(switching(agent), unfrozen_too=False)


def test_a_freeze_of_fewer_filesystems_than_asked_for_is_crash_consistent(agent: Agent) -> None:
    outcome = judged(agent, BOTH, freeze_list=1, thaw=1)
    told = "the agent froze 1 of 2 filesystems, and nobody knows which"
    assert (outcome.level, outcome.degraded_reason, outcome.held) == ("crash", told, False)
    assert outcome.for_target("vda")["level"] == "crash"


def test_a_freeze_of_nothing_is_crash_consistent(agent: Agent) -> None:
    outcome = judged(agent, freeze_list=0, thaw=0)
    assert (outcome.level, outcome.held) == ("crash", False)


@pytest.mark.parametrize("thawed", [0, 1])
def test_a_guest_that_was_thawed_by_somebody_else_is_crash_consistent(agent: Agent, thawed: int) -> None:
    outcome = judged(agent, BOTH, freeze_list=2, thaw=thawed)
    assert outcome.level == "crash"
    assert "thawed before the switch was done" in str(outcome.degraded_reason)


@pytest.mark.parametrize("error", [TIMEOUT, HypervisorUnavailable("away")])
def test_a_thaw_that_is_not_answered_is_crash_consistent(agent: Agent, error: Exception) -> None:
    agent.failures["guest-fsfreeze-thaw"] = error
    entered = window(agent)
    outcome = entered.around(switching(agent), unfrozen_too=False)
    assert outcome.level == "crash"
    assert "did not answer the thaw" in str(outcome.degraded_reason)
    assert held(entered), "the watchdog must go on"


def test_the_watchdog_keeps_a_guest_that_does_not_say_thawed(agent: Agent) -> None:
    agent.answers["guest-fsfreeze-status"] = "frozen"
    entered = window(agent)
    assert entered.around(switching(agent), unfrozen_too=False).level == "filesystem"
    assert held(entered)
    agent.answers.clear()
    agent.failures["guest-fsfreeze-status"] = TIMEOUT
    entered = window(agent)
    entered.around(switching(agent), unfrozen_too=False)
    assert held(entered)


def test_whatever_fails_once_the_guest_is_frozen_it_is_thawed(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    entered = window(agent)

    def broken(_window: quiesce_window.Window, _seconds: float) -> None:
        monkeypatch.setattr(quiesce_window.Window, "_watch_for", lambda *_: None)
        raise RuntimeError("no such luck")

    monkeypatch.setattr(quiesce_window.Window, "_watch_for", broken)
    with pytest.raises(RuntimeError, match="no such luck"):
        entered.around(switching(agent), unfrozen_too=False)
    assert (agent.frozen, "guest-fsfreeze-thaw" in agent.said) == (0, True)


def test_a_switch_that_fails_leaves_the_guest_thawed(agent: Agent) -> None:
    entered = window(agent)
    with pytest.raises(StepFailed, match="the switch failed"):
        entered.around(switching(agent, failing), unfrozen_too=True)
    assert agent.frozen == 0
    assert "guest-fsfreeze-thaw" in agent.said


def test_a_freeze_that_fails_switches_nothing_when_quiescing_was_required(agent: Agent) -> None:
    agent.failures["guest-fsfreeze-freeze-list"] = TIMEOUT
    entered = window(agent)
    with pytest.raises(AgentFailed):
        entered.around(switching(agent), unfrozen_too=False)
    assert not any(said.startswith("switch") for said in agent.said)
    assert agent.said[-3:] == ["try thaw", "guest-fsfreeze-thaw", "disarm"]
    assert not held(entered)


def test_a_freeze_that_fails_is_thawed_first_and_then_switched_when_quiescing_was_preferred(agent: Agent) -> None:
    agent.failures["guest-fsfreeze-freeze-list"] = TIMEOUT
    outcome = window(agent).around(switching(agent), unfrozen_too=True)
    assert agent.said.index("guest-fsfreeze-thaw") < agent.said.index("switch while thawed")
    assert (outcome.level, outcome.frozen_ms, outcome.filesystems) == ("crash", None, 0)
    assert outcome.degraded_reason == "the freeze failed: timeout"
    assert outcome.flushed


def test_a_freeze_that_timed_out_and_cannot_be_thawed_stays_with_the_watchdog(agent: Agent) -> None:
    agent.failures.update({"guest-fsfreeze-freeze-list": TIMEOUT, "guest-fsfreeze-thaw": TIMEOUT})
    entered = window(agent)
    entered.around(switching(agent), unfrozen_too=True)
    assert held(entered)


@pytest.mark.parametrize("nonsense", [None, "many", {}, [1]])
def test_an_agent_that_answers_the_freeze_with_nonsense_is_thawed_and_believed_in_nothing(agent: Agent, nonsense: Any) -> None:
    agent.answers["guest-fsfreeze-freeze-list"] = nonsense
    outcome = window(agent).around(switching(agent), unfrozen_too=True)
    assert "guest-fsfreeze-thaw" in agent.said
    assert outcome.level == "crash"


@pytest.mark.parametrize("nonsense", [None, "many", {}, [1]])
def test_an_agent_that_answers_the_thaw_with_nonsense_proves_nothing(agent: Agent, nonsense: Any) -> None:
    agent.answers["guest-fsfreeze-thaw"] = nonsense
    assert window(agent).around(switching(agent), unfrozen_too=True).level == "crash"


def test_a_libvirt_that_goes_away_during_the_freeze_is_still_sent_a_thaw(agent: Agent) -> None:
    agent.failures["guest-fsfreeze-freeze-list"] = HypervisorUnavailable("away")
    entered = window(agent)
    with pytest.raises(HypervisorUnavailable):
        entered.around(switching(agent), unfrozen_too=True)
    assert "guest-fsfreeze-thaw" in agent.said


def test_a_watchdog_that_cannot_be_let_go_does_not_spoil_the_snapshot(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(_self: Guard, _record: object) -> None:
        raise ServiceUnavailable("gone")

    monkeypatch.setattr(Guard, "disarm", gone)
    assert window(agent).around(switching(agent), unfrozen_too=False).level == "filesystem"


def test_a_thaw_hook_that_fails_is_not_a_silent_agent(agent: Agent) -> None:
    agent.failures["guest-fsfreeze-thaw"] = HookFailed("a hook failed: fsfreeze hook has failed with status 3")
    outcome = window(agent).around(switching(agent), unfrozen_too=False)
    assert outcome.level == "crash"
    assert "hook has failed with status 3" in str(outcome.degraded_reason)
    assert "did not answer" not in str(outcome.degraded_reason)


def test_the_guest_is_expedited_after_the_watchdog_knows_and_put_back_after_the_thaw(agent: Agent) -> None:
    def look() -> None:
        assert (agent.knob, held(entered)) == ("1", True)

    entered = window(agent, times=EXPEDITED)
    assert entered.record.rcu_expedited == "0"
    assert agent.said[:2] == ["guest-exec", "guest-exec-status"]
    opened, read, written, closed = KNOB
    assert agent.said[2:] == [opened, read, closed, "arm", opened, written, closed]
    agent.said.clear()
    outcome = entered.around(switching(agent, look), unfrozen_too=False)
    assert (outcome.level, outcome.expedited) == ("filesystem", True)
    frozen = ["guest-fsfreeze-freeze-list", "switch while frozen", "guest-fsfreeze-thaw", "guest-fsfreeze-status"]
    assert agent.said == [*frozen, opened, read, written, closed, "disarm"]
    assert (agent.knob, held(entered)) == ("0", False)


@pytest.mark.parametrize("knob", [None, "1", "2", ""])
def test_a_guest_without_the_knob_or_with_it_set_is_not_changed(agent: Agent, knob: str | None) -> None:
    agent.knob = knob
    entered = window(agent, times=EXPEDITED)
    outcome = entered.around(switching(agent), unfrozen_too=False)
    assert (outcome.level, outcome.expedited, entered.record.rcu_expedited) == ("filesystem", False, None)
    assert "guest-file-write" not in agent.said
    assert not held(entered)


def test_nothing_is_expedited_when_it_is_off(agent: Agent) -> None:
    assert not window(agent).around(switching(agent), unfrozen_too=False).expedited
    assert not set(KNOB) & set(agent.said)


def test_a_guest_that_cannot_be_expedited_is_frozen_all_the_same(agent: Agent) -> None:
    agent.failures["guest-file-write"] = TIMEOUT
    entered = window(agent, times=EXPEDITED)
    outcome = entered.around(switching(agent), unfrozen_too=False)
    assert (outcome.level, outcome.expedited) == ("filesystem", False)
    assert not held(entered), "the knob was never set, so there is nothing to put back"


def test_a_write_that_timed_out_may_have_been_done_and_is_put_back(agent: Agent) -> None:
    def late() -> None:
        agent.knob = "1"

    agent.failures["guest-file-write"] = TIMEOUT
    entered = window(agent, times=EXPEDITED)
    agent.failures.clear()
    assert not entered.around(switching(agent, late), unfrozen_too=False).expedited
    assert (agent.knob, held(entered)) == ("0", False)


def test_the_watchdog_keeps_a_guest_that_is_thawed_but_not_as_before(agent: Agent) -> None:
    entered = window(agent, times=EXPEDITED)
    agent.failures["guest-file-open"] = TIMEOUT
    outcome = entered.around(switching(agent), unfrozen_too=False)
    assert (outcome.level, agent.frozen) == ("filesystem", 0)
    assert held(entered)


def test_a_libvirt_that_goes_away_after_the_thaw_leaves_the_guest_to_the_watchdog(agent: Agent) -> None:
    entered = window(agent, times=EXPEDITED)
    agent.failures["guest-file-open"] = HypervisorUnavailable("away")
    assert entered.around(switching(agent), unfrozen_too=False).level == "filesystem"
    assert held(entered)


def test_a_freeze_that_fails_says_whether_it_was_expedited(agent: Agent) -> None:
    agent.failures["guest-fsfreeze-freeze-list"] = TIMEOUT
    outcome = window(agent, times=EXPEDITED).around(switching(agent), unfrozen_too=True)
    assert (outcome.level, outcome.expedited) == ("crash", True)


def test_a_slow_agent_does_not_eat_up_the_time_of_the_freeze(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]

    def slow() -> dict[str, Any]:
        now[0] += 6
        return {}

    monkeypatch.setattr(freeze_record, "boot_seconds", lambda: now[0])
    agent.answers["guest-file-write"] = slow
    entered = window(agent, times=EXPEDITED)
    assert entered.record.deadline == 106 + TIMES.deadline
    assert agent.said[-1] == "renew"
    guard: Any = entered.guard
    assert guard.held == [entered.record]


HOOKED = replace(TIMES, hooks=60)


def hooked(agent: Agent, clock: Clock, monkeypatch: pytest.MonkeyPatch, code: int = 0) -> None:
    """A guest whose hook takes 20 s before the freeze and 5 s after the thaw, and whose clock is 1,000 s ahead."""
    monkeypatch.setattr(hooks, "time", clock)

    def status() -> dict[str, Any]:
        script = agent.asked["guest-exec"].get("arg", ["", ""])[1]
        if "isfrozen" not in script:
            return {"exited": True, "exitcode": code if "cmdline" in script else 0}
        told = "1000.00\n1020.00\n1020.50\n"
        return {"exited": True, "exitcode": 0, "out-data": base64.b64encode(told.encode()).decode()}

    def freeze() -> int:
        clock.now += 20.3
        return 1

    def thaw() -> int:
        clock.now += 5.1
        return 1

    agent.answers.update({"guest-exec-status": status, "guest-fsfreeze-freeze-list": freeze, "guest-fsfreeze-thaw": thaw})


def test_a_long_hook_counts_neither_as_frozen_nor_against_the_deadline(
    agent: Agent, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly() -> None:
        clock.now += 0.1

    hooked(agent, clock, monkeypatch)
    entered = window(agent, times=HOOKED)
    assert entered.record.deadline > freeze_record.boot_seconds() + 60
    outcome = entered.around(switching(agent, slowly), unfrozen_too=False)
    assert outcome.level == "filesystem"
    assert outcome.timings is not None
    assert outcome.timings.document() == {
        "hooks_before_ms": 20_000.0,
        "freeze_ms": 300.0,
        "switch_ms": 100.0,
        "thaw_ms": 100.0,
        "hooks_after_ms": 5_000.0,
    }
    assert outcome.frozen_ms == 500.0
    told = [said for said in agent.said if said.startswith(("wait", "switch"))]
    assert told == ["wait 10", "switch while thawed", "wait 70"]  # the watchdog's promise is for what is frozen


def test_a_guest_without_hooks_is_given_no_more_time(agent: Agent, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    hooked(agent, clock, monkeypatch, hooks.NO_HOOKS)
    entered = window(agent, times=HOOKED)
    assert entered.record.deadline < freeze_record.boot_seconds() + 11
    assert entered.prepared.hooks == hooks.Hooks()


def test_hooks_that_nobody_can_tell_apart_have_their_time_and_count_as_frozen(
    agent: Agent, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooked(agent, clock, monkeypatch)
    agent.failures["guest-exec"] = TIMEOUT
    outcome = window(agent, times=HOOKED).around(switching(agent), unfrozen_too=False)
    assert (outcome.level, outcome.frozen_ms) == ("filesystem", 25_400.0)
    assert outcome.timings is not None
    assert (outcome.timings.hooks_before, outcome.timings.hooks_after) == (None, None)


def test_a_limit_that_was_reached_is_named(agent: Agent, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def never() -> int:
        clock.now += 100
        raise TIMEOUT

    hooked(agent, clock, monkeypatch)
    agent.answers["guest-fsfreeze-freeze-list"] = never
    with pytest.raises(AgentFailed, match=r"hooks did not end within their timeout of 60 s \(hook_timeout\), or the freeze"):
        window(agent, times=HOOKED).around(switching(agent), unfrozen_too=False)
    with pytest.raises(AgentFailed, match=r"^the freeze did not end within its deadline of 10 s"):
        window(agent).around(switching(agent), unfrozen_too=False)


def test_the_watchdog_of_a_guest_with_hooks_thaws_at_once_when_the_thaw_was_lost(
    agent: Agent, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooked(agent, clock, monkeypatch)
    agent.failures["guest-fsfreeze-thaw"] = TIMEOUT
    assert window(agent, times=HOOKED).around(switching(agent), unfrozen_too=False).level == "crash"
    assert [said for said in agent.said if said.startswith("wait")][-1] == "wait 0"
