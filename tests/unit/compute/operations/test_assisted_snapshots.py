"""What a set says of itself when its operation ends: never more than is known (I10)."""

from datetime import datetime
from types import SimpleNamespace
from typing import Any

import pytest

from stillframe.compute import kinds
from stillframe.compute.operations import assisted_snapshots as assisted_snapshot_operations
from stillframe.compute.operations import switch
from stillframe.compute.operations.snapshot_intents import AssistedSnapshot
from stillframe.compute.quiesce import instant
from stillframe.compute.quiesce.filesystems import Disk
from stillframe.compute.quiesce.outcome import Outcome
from stillframe.db import assisted_snapshots
from stillframe.db.engine import Database
from stillframe.db.rows import AssistedSnapshotRow
from stillframe.db.values import NewAssistedSnapshot
from stillframe.errors import Parked
from stillframe.journal import typed
from stillframe.journal.operation import Document, Operation
from stillframe.volumes.api import snapshots
from stillframe.web import body
from tests.unit.builders import OTHER_SNAPSHOT, OTHER_VOLUME, SERVER, SET, SNAPSHOT
from tests.unit.compute import intents

CRASH = {"level": "crash", "degraded_reason": "why"}
WHOLE = {"level": "filesystem", "degraded_reason": None}
DISKS = (
    intents.disk(overlay="volume-a.b"),
    intents.disk(volume_id=OTHER_VOLUME, snapshot_id=OTHER_SNAPSHOT, target="vdb", overlay="volume-c.d"),
)
STEPS = ["record", "overlays", "instant", "switch", "thaw", "verify", "finalize"]


def operation(evidence: Document | None = None, **changes: Any) -> Operation[AssistedSnapshot]:
    asked = intents.assisted_snapshot(disks=DISKS, **changes)
    steps = [typed.step(args) for args in assisted_snapshot_operations.plan_of(asked)]
    return Operation("op", "assisted_snapshot", "running", asked, steps, 3, evidence or {}, 1, 0, "req-1")


@pytest.fixture
def settled(database: Database) -> Any:
    """Ends an operation and returns the set's row."""
    row: NewAssistedSnapshot = {
        "id": SET,
        "project_id": "demo",
        "user_id": "u",
        "server_id": SERVER,
        "metadata": {},
        "status": "creating",
        "progress": 0,
        "quiesce": "preferred",
        "volumes": [],
        "excluded_disks": [],
    }
    with database.write() as connection:
        assisted_snapshots.insert(connection, row)

    def end(ended: Operation, outcome: str, fault: Document | None = None) -> AssistedSnapshotRow:
        with database.write() as connection:
            assisted_snapshot_operations.KIND.settle(connection, ended, outcome, fault)
            found = assisted_snapshots.get(connection, SET, None)
        assert found is not None
        return found

    return end


def switched(outcome: Document, **disks: Document) -> Document:
    return {"switch": {"switched": True, "outcome": outcome, "disks": disks}}


def test_every_step_of_every_plan_is_known() -> None:
    request = assisted_snapshot_operations.request(intents.assisted_snapshot(), "req-1")
    assert (request.id, request.resources) == (SET, [f"server:{SERVER}"])
    assert [step.verb for step in request.plan] == STEPS
    assert set(STEPS) <= set(assisted_snapshot_operations.KIND.verbs)
    assert kinds.KINDS["assisted_snapshot"] is assisted_snapshot_operations.KIND


def test_there_is_no_way_back_once_the_disks_are_switched_and_one_before() -> None:
    verbs = assisted_snapshot_operations.KIND.verbs
    assert {name: verb.no_return for name, verb in verbs.items() if verb.no_return != "never"} == {
        "switch": "done",
        "commit_back": "start",
    }
    for name in STEPS[: STEPS.index("switch") + 1]:
        assert verbs[name].undo is not None or name == "instant", name  # which only takes the time


def test_a_set_that_is_done_says_how_consistent_it_is(settled: Any) -> None:
    row = settled(operation(switched(WHOLE, vda=WHOLE, vdb=CRASH)), "done")
    assert (row["status"], row["progress"], row["consistency"], row["fault"]) == ("available", 100, WHOLE, None)
    assert [entry["status"] for entry in row["volumes"]] == ["available", "available"]
    assert [entry["consistency"] for entry in row["volumes"]] == ["filesystem", "crash"]


@pytest.mark.parametrize("evidence", [{}, {"switch": {"switched": True}}])
def test_an_outcome_nobody_saw_is_crash_consistent(settled: Any, evidence: Document) -> None:
    row = settled(operation(evidence), "done")
    assert (row["status"], row["consistency"]["level"]) == ("available", "crash")
    assert row["consistency"]["degraded_reason"] == switch.LOST_OUTCOME
    for disk in DISKS:
        outcome = switch.outcome_of(operation(evidence), disk.target)
        assert outcome is not None
        assert outcome["level"] == "crash"


def test_a_server_that_did_not_run_is_exact(settled: Any) -> None:
    ended = operation({"switch": {"switched": True, "outcome": None}}, active=False)
    row = settled(ended, "done")
    assert (row["status"], row["consistency"]) == ("available", None)
    assert switch.outcome_of(ended, "vda") is None


@pytest.mark.parametrize("evidence", [switched(CRASH, vda=CRASH, vdb=CRASH), {"switch": {"switched": True}}])
def test_quiescing_that_was_required_and_did_not_hold_is_told_and_the_snapshots_stay(settled: Any, evidence: Document) -> None:
    row = settled(operation(evidence, quiesce="required"), "done")
    assert row["status"] == "error"
    assert "did not hold" in row["fault"]
    assert [entry["status"] for entry in row["volumes"]] == ["available", "available"]


NOON = 1767355200.0


@pytest.mark.parametrize(
    ("evidence", "note"),
    [
        (
            {"switch": {"outcome": WHOLE, "disks": {"vda": WHOLE, "vdb": WHOLE}, "not_before": NOON, "not_after": NOON + 0.1}},
            None,
        ),
        ({"instant": {"not_before": NOON}, "switch": {"not_after": NOON + 0.1}}, instant.DIED),
    ],
)
@pytest.mark.parametrize(("outcome", "at_once"), [("done", True), ("done", False), ("parked", True)])
def test_the_instant_of_the_switch_is_on_the_set_and_on_every_snapshot(
    settled: Any, evidence: Document, note: str | None, outcome: str, at_once: bool
) -> None:
    ended, told = operation(evidence), {"message": "look"} if outcome == "parked" else None
    row = settled(ended, outcome, told)
    found = (row["switched_at"], row["switched_at_uncertainty_ms"], row["switched_at_note"])
    assert found == (datetime(2026, 1, 2, 12), 100.0, note)
    storage = Finalizing(at_once)
    assisted_snapshot_operations.KIND.verbs["finalize"].do(SimpleNamespace(storage=storage), ended, None)
    assert {each["created_at"] for each in storage.seen.values()} == {"2026-01-02T12:00:00.000000"}
    assert set(storage.seen) == {SNAPSHOT, OTHER_SNAPSHOT}


def test_the_moment_before_the_window_is_kept_when_the_switch_is_done_and_taken_anew_when_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[Document | None] = [None, {"switched": True}]
    monkeypatch.setattr(switch, "_switched", lambda *_: done.pop(0))
    note, noted = assisted_snapshot_operations.KIND.verbs["instant"], {"not_before": NOON}
    again = note.do(None, operation({"instant": noted}), None)
    assert again["not_before"] > NOON
    assert note.do(None, operation({"instant": noted}), None) == noted
    assert note.do(None, operation(), None)["not_before"] > NOON  # the first time nobody needs to look
    assert done == []


def test_what_fits_neither_before_nor_after_the_switch_is_for_the_switch_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    def mixed(*_arguments: Any) -> None:
        raise Parked("neither before nor after the switch")

    monkeypatch.setattr(switch, "_switched", mixed)
    noted = {"not_before": NOON}
    assert assisted_snapshot_operations.KIND.verbs["instant"].do(None, operation({"instant": noted}), None) == noted


class Finalizing:
    """Block storage that takes all of a set at once, or one after the other."""

    def __init__(self, at_once: bool) -> None:
        self.seen: dict[str, Document] = {}
        self._at_once = at_once

    def finalize_set_metadata(self, documents: list[Document]) -> bool:
        if self._at_once:
            self.seen = {each["snapshot_id"]: each for each in documents}
        return self._at_once

    def finalize_snapshot_metadata(self, snapshot_id: str, document: Document) -> None:
        self.seen[snapshot_id] = document


def test_quiescing_that_was_required_and_held_is_available(settled: Any) -> None:
    assert settled(operation(switched(WHOLE, vda=WHOLE, vdb=WHOLE), quiesce="required"), "done")["status"] == "available"


@pytest.mark.parametrize(("held", "status"), [(True, "available"), (False, "error")])
def test_what_is_allowed_to_stay_unfrozen_makes_a_required_set_say_less_and_not_fail(
    settled: Any, held: bool, status: str
) -> None:
    evidence = switched(CRASH, vda=CRASH, vdb=WHOLE)
    evidence["switch"]["held"] = held
    row = settled(operation(evidence, quiesce="required"), "done")
    assert (row["status"], row["consistency"]["level"]) == (status, "crash")


def test_required_on_a_server_that_did_not_run_is_available(settled: Any) -> None:
    ended = operation({"switch": {"switched": True, "outcome": None}}, active=False, quiesce="required")
    assert settled(ended, "done")["status"] == "available"


def test_a_set_that_was_undone_says_why(settled: Any) -> None:
    row = settled(operation(), "undone", {"message": "the share is full"})
    assert (row["status"], row["fault"]) == ("error", "the share is full")
    assert {(entry["status"], entry["error"]) for entry in row["volumes"]} == {("error", "the share is full")}


def test_a_set_that_is_parked_past_the_switch_does_not_say_its_snapshots_failed(settled: Any) -> None:
    row = settled(operation(switched(WHOLE)), "parked", {"message": "look"})
    assert row["status"] == "error"
    assert {entry["status"] for entry in row["volumes"]} == {"creating"}


@pytest.mark.parametrize(("begun", "shown"), [(True, "creating"), (False, "error")])
def test_a_set_that_was_abandoned_is_an_error_and_says_what_its_snapshots_may_be(settled: Any, begun: bool, shown: str) -> None:
    fault = {"message": "a person abandoned it: a mixture", "details": {"begun": begun}}
    row = settled(operation(), "abandoned", fault)
    assert (row["status"], row["fault"]) == ("error", "a person abandoned it: a mixture")
    assert {(entry["status"], entry["error"]) for entry in row["volumes"]} == {(shown, fault["message"])}


def test_progress_rises_with_the_steps_and_ends_below_a_hundred(database: Database, settled: Any) -> None:
    assert assisted_snapshot_operations.KIND.progressed is not None
    shown = []
    for step in range(len(STEPS) + 1):
        with database.write() as connection:
            assisted_snapshot_operations.KIND.progressed(connection, Operation(**{**vars(operation()), "step": step}))
            found = assisted_snapshots.get(connection, SET, None)
        assert found is not None
        shown.append(found["progress"])
    assert shown == sorted(set(shown))
    assert shown[-1] < 100


@pytest.mark.parametrize(
    "outcome",
    [
        None,
        Outcome(
            120.0, 2, None, True, {"vda": Disk(("ext4 filesystem /",)), "vdb": Disk((), ("vfat filesystem /efi",), "why")}, True
        ),
    ],
)
def test_block_storage_takes_what_is_said_of_each_disk(outcome: Outcome | None) -> None:
    known = {target: outcome.for_target(target) for target in ("vda", "vdb")} if outcome else {}
    ended = operation(switched(outcome.document(), **known) if outcome else None)
    for disk in DISKS:
        consistency = {**(switch.outcome_of(ended, disk.target) or {}), "set_id": SET}
        finalize = {"os-finalize_snapshot_metadata": {"status": "available", "consistency": consistency}}
        (route,) = [each for each in snapshots.ROUTES if each.action == "os-finalize_snapshot_metadata"]
        assert route.newest_schema is not None
        body.check(finalize, route.newest_schema)
