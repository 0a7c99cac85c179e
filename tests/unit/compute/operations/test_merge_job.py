"""The stillness around a pivot or a flush, by what libvirt is told."""

from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest

from stillframe.chain.image import Image
from stillframe.compute.libvirt import servers
from stillframe.compute.libvirt.servers import Server
from stillframe.compute.operations import merge_job
from stillframe.compute.worker.merges import Merges
from stillframe.errors import Cancelled, Conflict, HypervisorUnavailable
from stillframe.host import block_jobs, hypervisor, qcow2
from stillframe.journal.operation import NotYet
from tests.unit.builders import SERVER, VOLUME
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


@pytest.mark.parametrize(
    ("job", "over", "gone", "outcome"),
    [
        (True, False, False, "cancelled"),
        (True, True, False, "done"),  # it ended while it was aborted
        (False, True, False, "done"),  # it had ended just before
        (True, False, True, "offline"),  # QEMU is gone with what it had not written out
    ],
)
def test_a_merge_that_was_over_before_it_was_given_up_is_made_to_last(
    monkeypatch: pytest.MonkeyPatch, job: bool, over: bool, gone: bool, outcome: str
) -> None:
    """A pull ends with a flush: until then its header speaks of what is only in QEMU's memory."""
    states, said = [1, 5 if gone else 1, 5], list[str]()
    monkeypatch.setattr(hypervisor, "view", lambda _: fakes.view("<domain/>", state=states[0], active=states.pop(0) != 5))
    found: Any = SimpleNamespace(done=1, total=2, is_active_commit=False) if job else None
    monkeypatch.setattr(block_jobs, "find", lambda _domain, _target: found)
    monkeypatch.setattr(block_jobs, "abort", lambda _domain, _target: said.append("abort"))
    monkeypatch.setattr(merge_job, "_wait_closed", lambda _operation: None)
    monkeypatch.setattr(servers, "look", lambda _world, _id: Server(fakes.view("<domain/>", active=False), "demo", "u"))
    merges, intent = Merges(), {"server_id": SERVER, "target": "vda", "kind": "pull", "volume_id": VOLUME}
    merges.give_up("operation")
    libvirt: Any = SimpleNamespace(domain=lambda _server: None)
    world: Any = SimpleNamespace(merges=merges, hypervisor=libvirt, stopping=Event())
    operation: Any = SimpleNamespace(id="operation", epoch=1, attempts=0, intent=intent)

    def run() -> None:
        merge_job.run(world, operation, said.append, lambda _: said.append("offline"), lambda: over)

    if outcome == "cancelled":
        with pytest.raises(Cancelled, match="as it was"):
            run()
        assert not merges.is_unwanted("operation")
    else:
        run()
    assert said == (["abort"] if job else []) + (["offline"] if outcome == "offline" else [])


def under_a_saved_guest(monkeypatch: pytest.MonkeyPatch, unwanted: bool, backed_by: str) -> list[Any]:
    """Lets a commit of b into a, below c, find its guest saved; returns what it did to the disks."""
    saved = fakes.saved_view("<domain/>", "<domain/>")
    monkeypatch.setattr(hypervisor, "view", lambda _: saved)
    monkeypatch.setattr(servers, "look", lambda _world, _id: Server(saved, "demo", "u"))
    monkeypatch.setattr(qcow2, "read", lambda _share, name: Image(name, "qcow2", 1, backed_by, "qcow2"))
    intent = {"server_id": SERVER, "target": "vda", "kind": "commit", "volume_id": VOLUME, "directory": "/", "base": "a"}
    operation: Any = SimpleNamespace(id="operation", epoch=2, attempts=0, intent={**intent, "top": "b", "above": "c"})
    world: Any = SimpleNamespace(merges=Merges(), hypervisor=SimpleNamespace(domain=lambda _server: None))
    if unwanted:
        world.merges.give_up("operation")
    said: list[Any] = []
    merge_job.run(world, operation, said.append, said.append, lambda: False)
    return said


def test_under_a_saved_guest_a_merge_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its memory goes on with the files as they are."""
    with pytest.raises(NotYet) as waiting:
        under_a_saved_guest(monkeypatch, unwanted=False, backed_by="b")
    assert "managed save" in str(waiting.value.why)


def test_under_a_saved_guest_a_merge_can_be_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has to be changed for that, so nobody has to restore the guest first."""
    with pytest.raises(Cancelled, match="only deleted") as given_up:
        under_a_saved_guest(monkeypatch, unwanted=True, backed_by="b")
    assert given_up.value.details == {"merged": True}


def test_what_is_merged_already_is_not_given_up_under_a_saved_guest(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotYet):
        under_a_saved_guest(monkeypatch, unwanted=True, backed_by="a")
