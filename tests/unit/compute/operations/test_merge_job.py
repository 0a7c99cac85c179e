"""The stillness around a pivot or a flush, by what libvirt is told."""

from types import SimpleNamespace
from typing import Any

import pytest

from stillframe.compute.merges import Merges
from stillframe.compute.operations import merge_job
from stillframe.errors import Conflict, HypervisorUnavailable
from stillframe.host import hypervisor
from tests.unit.builders import SERVER
from tests.unit.compute import fakes

OPERATION: Any = SimpleNamespace(id="operation", intent={"server_id": SERVER})


class Machine:
    """One guest and the watchdog's door."""

    def __init__(self, state: int, left: bool = False) -> None:
        self.state, self.left = state, left
        self.said: list[str] = []

    def view(self) -> Any:
        return fakes.view("<domain/>", state=self.state, active=self.state != 5)

    def let_go_on(self, _domain: str) -> None:
        if self.left:
            self.state, self.left = 1, False

    def arm_hold(self, _domain: str, _operation: str, _seconds: float) -> str:
        self.said.append("arm")
        return "record"

    def try_thaw(self, _record: str) -> bool:
        self.said.append("go on")
        return True

    def disarm(self, _record: str) -> None:
        self.said.append("disarm")

    def act(self) -> None:
        self.said.append("act")


@pytest.fixture
def hold(monkeypatch: pytest.MonkeyPatch) -> Any:
    def one(machine: Machine) -> list[str]:
        monkeypatch.setattr(
            hypervisor, "view", lambda _: fakes.view("<domain/>", state=machine.state, active=machine.state != 5)
        )
        monkeypatch.setattr(hypervisor, "hold", lambda _: machine.said.append("hold"))
        monkeypatch.setattr(hypervisor, "flush", lambda _: machine.said.append("flush"))
        world: Any = SimpleNamespace(merges=Merges(), guard=machine)
        merge_job.held(world, OPERATION, None, machine.act)
        return machine.said

    return one


WHOLE = ["arm", "hold", "act", "go on", "disarm"]


def test_a_guest_that_runs_is_held_and_let_go(hold: Any) -> None:
    assert hold(Machine(1)) == WHOLE


def test_a_guest_that_somebody_paused_stays_so(hold: Any) -> None:
    assert hold(Machine(3)) == ["flush", "act"]


def test_one_that_a_dead_worker_left_held_is_not_taken_for_paused(hold: Any) -> None:
    """Its watchdog would let it go on in the middle of the pivot, or nobody ever."""
    assert hold(Machine(3, left=True)) == WHOLE


def test_one_that_is_gone_is_told(hold: Any) -> None:
    with pytest.raises(HypervisorUnavailable, match="stopped before"):
        hold(Machine(5))


def test_what_cannot_be_let_go_is_not_held_anew(hold: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_now(_domain: str) -> None:
        raise Conflict("still held")

    machine = Machine(3)
    monkeypatch.setattr(machine, "let_go_on", not_now)
    with pytest.raises(Conflict):
        hold(machine)
    assert machine.said == []
