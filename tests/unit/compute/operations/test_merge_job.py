"""A merge, one look at a time: when its job begins, ends and begins again; the suspension around a pivot or a flush."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stillframe.chain.image import Image
from stillframe.compute.libvirt import server_lock, servers
from stillframe.compute.libvirt.servers import Server
from stillframe.compute.operations import merge_job
from stillframe.compute.operations.merge_intents import MergeVolume
from stillframe.db import operations
from stillframe.db.engine import Database
from stillframe.errors import Cancelled, Conflict, HypervisorUnavailable, ShareUnavailable
from stillframe.host import block_jobs, files, hypervisor, qcow2
from stillframe.journal import record
from stillframe.journal.operation import AT_WORK, Document, NotYet, Operation, notes_key
from stillframe.journal.typed import Intent
from tests.unit.builders import SERVER
from tests.unit.compute import fakes, intents

OPERATION: Any = SimpleNamespace(id="operation", intent=intents.pull())


class Machine:
    """One guest and the watchdog's door."""

    def __init__(self, state: int, left: bool = False) -> None:
        self.state, self.left = state, left
        self.said: list[str] = []

    def view(self) -> Any:
        return fakes.view("<domain/>", state=self.state, active=self.state != 5)

    def resume(self, _domain: str) -> None:
        if self.left:
            self.state, self.left = 1, False

    def arm_suspend(self, _domain: str, _operation: str, _seconds: float) -> str:
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
def settings(tmp_path: Path) -> Any:
    return SimpleNamespace(state_dir=tmp_path)


@pytest.fixture
def hold(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    def one(machine: Machine) -> list[str]:
        monkeypatch.setattr(
            hypervisor, "view", lambda _: fakes.view("<domain/>", state=machine.state, active=machine.state != 5)
        )
        monkeypatch.setattr(hypervisor, "suspend", lambda _: machine.said.append("hold"))
        monkeypatch.setattr(hypervisor, "flush", lambda _: machine.said.append("flush"))
        worker: Any = SimpleNamespace(settings=settings, guard=machine)
        merge_job.suspended(worker, OPERATION, None, machine.act)
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
    monkeypatch.setattr(machine, "resume", not_now)
    with pytest.raises(Conflict):
        hold(machine)
    assert machine.said == []


def test_nobody_is_held_during_a_power_action_and_no_thread_waits_for_its_end(hold: Any, settings: Any) -> None:
    machine = Machine(1)
    with server_lock.at_once(SimpleNamespace(settings=settings), SERVER), pytest.raises(NotYet):  # type: ignore[arg-type]
        hold(machine)
    assert machine.said == []


RUNNING: Any = SimpleNamespace(done=1, total=2, is_active_commit=False)


class Merge:
    """One merge, its row in the journal, and a guest with a block job or none. ``said`` is what was done to the disks."""

    def __init__(self, database: Database, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.database, self.said = database, list[str]()
        self.job: Any = None
        self.over = False
        self.run_id, self.attempts = 7, 0
        self.view: Callable[[], Any] = lambda: fakes.view("<domain/>")
        self.notes: Document = {}
        self.intent: MergeVolume = intents.pull()
        monkeypatch.setattr(hypervisor, "view", lambda _: self.view())
        monkeypatch.setattr(hypervisor, "run_id", lambda _: self.run_id)
        monkeypatch.setattr(block_jobs, "find", lambda _domain, _target: self.job)
        monkeypatch.setattr(block_jobs, "abort", lambda _domain, _target: self.said.append("abort"))
        monkeypatch.setattr(files, "free_bytes", lambda _share: 1 << 40)
        monkeypatch.setattr(files, "is_locked", lambda _share, _name: False)
        monkeypatch.setattr(servers, "look", lambda _worker, _id: Server(self.view(), "demo", "u"))
        libvirt: Any = SimpleNamespace(domain=lambda _server: None)
        self.worker: Any = SimpleNamespace(database=database, settings=settings, hypervisor=libvirt)
        with database.write() as connection:
            self.id = record.submit(connection, record.Request("compute", "merge_volume", Intent(), [], [], "r"))

    def cancel(self) -> None:
        with self.database.write() as connection:
            operations.ask_to_cancel(connection, self.id)

    def look(self) -> Document:
        evidence = {notes_key("work"): {**self.notes, AT_WORK: True}} if self.notes else {}
        operation: Operation[MergeVolume] = Operation(
            self.id, "merge_volume", "running", self.intent, [], 1, evidence, 1, self.attempts, "r", at="work"
        )
        return merge_job.run(self.worker, operation, self._start, lambda _: self.said.append("offline"), lambda: self.over)

    def _start(self, _domain: Any) -> None:
        self.said.append("start")
        self.job = RUNNING

    def wait(self) -> NotYet:
        with pytest.raises(NotYet) as told:
            self.look()
        self.notes = told.value.notes
        return told.value


@pytest.fixture
def merge(database: Database, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Merge:
    return Merge(database, settings, monkeypatch)


def test_a_job_that_runs_needs_no_thread(merge: Merge) -> None:
    first = merge.wait()
    assert (first.seconds, first.notes, merge.said) == (0.0, {"run": 7}, []), "noted before it begins"
    waits = [merge.wait() for _ in range(200)]
    assert merge.said == ["start"]
    assert all(each.at_work for each in waits)
    assert waits[0].seconds == merge_job.SHORTEST_LOOK_SECONDS
    assert [each.seconds for each in waits] == sorted(each.seconds for each in waits)
    assert waits[-1].seconds == merge_job.LONGEST_LOOK_SECONDS
    assert (merge.notes["done"], merge.notes["total"]) == (1, 2)
    merge.job, merge.over = None, True
    assert merge.look() == {"bytes": 2}


def test_a_job_that_a_dead_worker_began_is_taken_up(merge: Merge) -> None:
    merge.wait()
    merge.job = RUNNING  # it died between the start and the note of it
    for _ in range(3):
        merge.wait()
    assert merge.said == []


def test_a_job_that_ended_without_its_work_done_is_begun_again_once_each_attempt(merge: Merge) -> None:
    for attempt in range(3):
        merge.attempts, merge.job = attempt, None
        while merge.job is None:
            merge.wait()
        merge.wait()
        merge.job = None
        with pytest.raises(ShareUnavailable, match="begun again"):
            merge.look()
        assert merge.said == ["start"] * (attempt + 1)


def test_a_guest_that_was_started_anew_is_noted_before_its_job(merge: Merge) -> None:
    merge.wait()
    merge.run_id = 8
    assert (merge.wait().notes["run"], merge.said) == (8, [])
    merge.wait()
    assert merge.said == ["start"]


def test_a_guest_that_stopped_is_merged_offline_when_qemus_locks_are_gone(
    merge: Merge, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge.wait()
    merge.wait()
    merge.view = lambda: fakes.view("<domain/>", active=False)
    monkeypatch.setattr(files, "is_locked", lambda _share, _name: True)
    for _ in range(3):
        merge.wait()
    assert merge.said == ["start"]
    monkeypatch.setattr(files, "is_locked", lambda _share, _name: False)
    merge.look()
    assert merge.said == ["start", "offline"]


def test_locks_that_stay_are_told(merge: Merge, monkeypatch: pytest.MonkeyPatch) -> None:
    merge.view = lambda: fakes.view("<domain/>", active=False)
    monkeypatch.setattr(files, "is_locked", lambda _share, _name: True)
    merge.notes = {"closing": merge_job.CLOSING_SECONDS}
    with pytest.raises(Conflict, match="still open"):
        merge.look()


@pytest.mark.parametrize(
    ("job", "over", "gone", "outcome"),
    [
        (True, False, False, "cancelled"),
        (True, True, False, "done"),  # it ended while it was aborted
        (False, True, False, "done"),  # it had ended just before
        (True, False, True, "offline"),  # QEMU is gone with what it had not written out
    ],
)
def test_a_merge_that_was_over_before_it_was_cancelled_is_made_to_last(
    merge: Merge, monkeypatch: pytest.MonkeyPatch, job: bool, over: bool, gone: bool, outcome: str
) -> None:
    """A pull ends with a flush: until then its header speaks of what is only in QEMU's memory."""
    said = merge.said

    def abort(_domain: Any, _target: str) -> None:
        said.append("abort")
        if gone:
            merge.job, merge.view = None, lambda: fakes.view("<domain/>", active=False)

    monkeypatch.setattr(block_jobs, "abort", abort)
    merge.job, merge.over = RUNNING if job else None, over
    merge.cancel()
    if outcome == "cancelled":
        with pytest.raises(Cancelled, match="as it was"):
            merge.look()
    else:
        if gone:
            merge.wait()
        merge.look()
    assert said == (["abort"] if job else []) + (["offline"] if outcome == "offline" else [])


@pytest.mark.parametrize(("noted", "merged"), [(True, True), (False, False)])
def test_a_cancelled_commit_that_may_have_begun_leaves_no_usable_snapshot(merge: Merge, noted: bool, merged: bool) -> None:
    merge.intent = intents.commit()
    if noted:
        merge.wait()
    merge.cancel()
    with pytest.raises(Cancelled) as told:
        merge.look()
    assert told.value.details == {"merged": merged}
    assert merge.said == []


def under_a_saved_guest(merge: Merge, monkeypatch: pytest.MonkeyPatch, unwanted: bool, backed_by: str) -> None:
    """Lets a commit of b into a, below c, find its guest saved, after its job may have begun."""
    merge.intent = intents.commit()
    merge.wait()
    merge.view = lambda: fakes.saved_view("<domain/>", "<domain/>")
    monkeypatch.setattr(qcow2, "read", lambda _share, name: Image(name, "qcow2", 1, backed_by, "qcow2"))
    if unwanted:
        merge.cancel()
    merge.look()


def test_under_a_saved_guest_a_merge_waits(merge: Merge, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its memory goes on with the files as they are. Others may be merged meanwhile."""
    with pytest.raises(NotYet) as waiting:
        under_a_saved_guest(merge, monkeypatch, unwanted=False, backed_by="b")
    assert "managed save" in str(waiting.value.why)
    assert not waiting.value.at_work
    assert waiting.value.notes == {"run": 7}
    assert merge.said == []


def test_under_a_saved_guest_a_merge_can_be_given_up(merge: Merge, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has to be changed for that, so nobody has to restore the guest first."""
    with pytest.raises(Cancelled, match="only deleted") as abandoned_operations:
        under_a_saved_guest(merge, monkeypatch, unwanted=True, backed_by="b")
    assert abandoned_operations.value.details == {"merged": True}


def test_what_is_merged_already_is_not_given_up_under_a_saved_guest(merge: Merge, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotYet):
        under_a_saved_guest(merge, monkeypatch, unwanted=True, backed_by="a")
