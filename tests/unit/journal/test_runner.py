"""The runner: the order of steps, which way an error turns it, and that the world is believed."""

import errno
import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from stillframe.db.engine import AWAY, Database
from stillframe.errors import StepFailed
from stillframe.journal import runner
from stillframe.journal.record import Journal, LostLease
from tests.unit.journal.fakes import (
    LEASE,
    Clock,
    Crash,
    Step,
    WorkerContext,
    drive,
    found,
    kind_of,
    kind_with,
    owner,
    row_of,
    run_once,
    settle,
    settled,
    submit,
    verb_of,
)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock().install(monkeypatch)


@pytest.fixture
def journal(database: Database, clock: Clock) -> Journal:
    return Journal(database, "volumes", owner(), LEASE)


def run(journal: Journal, steps: Sequence[Step], worker: WorkerContext) -> Any:
    operation_id = submit(journal.database, [step.name for step in steps])
    run_once(journal, steps, worker)
    return row_of(journal.database, operation_id)


def test_steps_are_done_in_order_and_the_rows_follow_once(journal: Journal) -> None:
    worker = WorkerContext()
    row = run(journal, (Step("one"), Step("two")), worker)
    assert worker.log == ["do one", "do two"]
    assert (row["state"], row["step"], row["bytes"], row["owner"], row["fault"]) == ("done", 2, 2, None, None)
    assert settled(journal.database, row["id"]) == {"done": 1}


def test_a_step_the_world_shows_as_done_is_not_done_again(journal: Journal) -> None:
    worker = WorkerContext(facts={"one"})
    row = run(journal, (Step("one"), Step("two")), worker)
    assert worker.log == ["do two"]
    assert found(row) == {"one": {"seen": True}, "two": {"bytes": 1}}


def test_progress_is_told_in_the_transaction_that_records_it(journal: Journal) -> None:
    seen: list[int] = []
    steps = (Step("one"), Step("two"))
    submit(journal.database, ["one", "two"])
    kind = kind_of(steps, lambda _connection, operation: seen.append(operation.step))
    for operation in journal.claim_all():
        runner.run(journal, kind, WorkerContext(), operation)
    assert seen == [1, 2]


def test_a_failure_before_no_return_is_undone_in_reverse_order(journal: Journal) -> None:
    worker = WorkerContext()
    row = run(journal, (Step("one"), Step("two", undoes=False), Step("three"), Step("four", fault="half")), worker)
    assert worker.log[4:] == ["undo four", "undo three", "undo one"]
    assert worker.facts == {"two"}
    assert row["state"] == "undone"
    assert row["fault"]["message"] == "four broke half-way"
    assert settled(journal.database, row["id"]) == {"undone": 1}


def test_a_step_after_the_failed_one_is_neither_done_nor_undone(journal: Journal) -> None:
    worker = WorkerContext()
    run(journal, (Step("one", fault="refuses"), Step("two")), worker)
    assert worker.log == ["do one", "undo one"]


def test_an_error_of_a_step_that_was_done_all_the_same_goes_forward(journal: Journal) -> None:
    worker = WorkerContext()
    row = run(journal, (Step("one"), Step("two", fault="lies", mark="done"), Step("three")), worker)
    assert worker.log == ["do one", "do two", "do three"]
    assert (row["state"], row["evidence"]["two"]) == ("done", {"seen": True})


def test_a_world_that_does_not_answer_after_an_error_is_not_taken_for_undone(journal: Journal, clock: Clock) -> None:
    worker = WorkerContext()
    steps = (Step("one", fault="does not see"),)
    row = run(journal, steps, worker)
    assert row["state"] == "running"
    assert drive(journal.database, clock, steps, worker, row["id"])["state"] == "done"


def test_a_step_without_return_from_its_start_is_never_undone(journal: Journal) -> None:
    worker = WorkerContext()
    row = run(journal, (Step("one"), Step("two", mark="start", fault="half")), worker)
    assert row["state"] == "running"
    assert worker.facts == {"one", "half of two"}


def test_a_step_without_return_once_done_is_undone_while_it_is_not(journal: Journal) -> None:
    worker = WorkerContext()
    row = run(journal, (Step("one"), Step("two", mark="done", fault="half")), worker)
    assert row["state"] == "undone"
    assert worker.facts == set()


def test_an_undo_that_fails_is_tried_again_and_keeps_the_first_error(journal: Journal, clock: Clock) -> None:
    failures = ["first", "second"]

    def undo(*_arguments: Any) -> None:
        if failures:
            raise StepFailed(failures.pop())

    def fail(*_arguments: Any) -> Any:
        raise StepFailed("what went wrong")

    kind = kind_with([verb_of("one", lambda *_: None, fail, undo)], settle)
    operation_id = submit(journal.database, ["one"])
    for _ in range(4):
        for operation in journal.claim_all():
            runner.run(journal, kind, WorkerContext(), operation)
        clock.now += 60
    row = row_of(journal.database, operation_id)
    assert (row["state"], row["fault"]["message"]) == ("undone", "what went wrong")


def test_an_undo_that_was_interrupted_goes_on_where_it_was(journal: Journal, clock: Clock) -> None:
    worker = WorkerContext(dies_at={"undoing one"})
    steps = (Step("one"), Step("two"), Step("three", fault="refuses"))
    assert crash_then_continue(journal, clock, steps, worker)["state"] == "undone"
    assert worker.log[-3:] == ["undo three", "undo two", "undo one"]


def test_an_error_of_the_program_is_told_as_one_and_undone(journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
    def broken(*_arguments: Any) -> Any:
        raise ZeroDivisionError("by hand")

    kind = kind_with([verb_of("one", lambda *_: None, broken)], settle)
    operation_id = submit(journal.database, ["one"])
    for operation in journal.claim_all():
        runner.run(journal, kind, WorkerContext(), operation)
    found = row_of(journal.database, operation_id)
    assert (found["state"], found["fault"]["code"]) == ("undone", "internal_error")
    assert found["fault"]["message"] == "step one failed with an internal error of the service (ZeroDivisionError)"
    assert "by hand" in caplog.text  # the words of a defect may hold anything: they are the operator's


def test_a_file_that_is_not_there_is_named_and_not_waited_for(journal: Journal) -> None:
    def gone(*_arguments: Any) -> Any:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "/srv/canary/volume-1")

    kind = kind_with([verb_of("one", lambda *_: None, gone)], settle)
    operation_id = submit(journal.database, ["one"])
    for operation in journal.claim_all():
        runner.run(journal, kind, WorkerContext(), operation)
    found = row_of(journal.database, operation_id)
    assert (found["state"], found["fault"]["code"]) == ("undone", "chain_conflict")
    assert found["fault"]["message"] == "volume-1 is not there, though the records name it"


def test_a_step_that_finds_no_database_is_tried_again(journal: Journal) -> None:
    def away(*_arguments: Any) -> Any:
        raise AWAY("select", None, Exception("the canary"))

    kind = kind_with([verb_of("one", lambda *_: None, away)], settle)
    operation_id = submit(journal.database, ["one"])
    for operation in journal.claim_all():
        runner.run(journal, kind, WorkerContext(), operation)
    found = row_of(journal.database, operation_id)
    assert (found["state"], found["fault"]["code"]) == ("running", "service_unavailable")
    assert "canary" not in found["fault"]["message"]


def test_an_error_while_the_rows_follow_changes_nothing_and_is_tried_again(journal: Journal, clock: Clock) -> None:
    broken = [True]

    def stumbling(connection: Any, operation: Any, outcome: str, fault: Any) -> None:
        settle(connection, operation, outcome, fault)
        if broken:
            raise ZeroDivisionError(broken.pop())

    kind = kind_with([Step("one").verb()], stumbling)
    operation_id = submit(journal.database, ["one"])
    for wanted in ("running", "done"):
        for operation in journal.claim_all():
            runner.run(journal, kind, WorkerContext(facts={"one"}), operation)
        assert row_of(journal.database, operation_id)["state"] == wanted
        clock.now += 60
    assert settled(journal.database, operation_id) == {"done": 1}


def test_a_worker_that_lost_its_lease_stops_at_once(journal: Journal, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    steps = (Step("one"), Step("two"), Step("three"))
    operation_id = submit(journal.database, ["one", "two", "three"])
    (mine,) = journal.claim_all()
    clock.now += LEASE + 1
    (theirs,) = Journal(journal.database, "volumes", owner(2), LEASE).claim_all()
    assert (mine.epoch, theirs.epoch) == (1, 2)
    worker = WorkerContext()
    with caplog.at_level(logging.WARNING):
        runner.run(journal, kind_of(steps), worker, mine)
    assert worker.log == ["do one"]
    assert "held by another worker" in caplog.text
    row = row_of(journal.database, operation_id)
    assert (row["epoch"], row["step"], row["state"]) == (2, 0, "running")
    assert settled(journal.database, operation_id) == {}


@pytest.mark.parametrize("verb", ["change", "finish", "postpone"])
def test_nothing_is_recorded_without_the_lease(journal: Journal, clock: Clock, verb: str) -> None:
    submit(journal.database, ["one"])
    (mine,) = journal.claim_all()
    clock.now += LEASE + 1
    Journal(journal.database, "volumes", owner(2), LEASE).claim_all()
    before = row_of(journal.database, mine.id)
    calls: dict[str, Callable[[], object]] = {
        "change": lambda: journal.change(mine, step=1),
        "finish": lambda: journal.finish(mine, kind_of(()), "done", None),
        "postpone": lambda: journal.postpone(mine, StepFailed("later")),
    }
    with pytest.raises(LostLease):
        calls[verb]()
    assert row_of(journal.database, mine.id) == before
    assert settled(journal.database, mine.id) == {}


def crash_then_continue(journal: Journal, clock: Clock, steps: Sequence[Step], worker: WorkerContext) -> Any:
    operation_id = submit(journal.database, [step.name for step in steps])
    return drive(journal.database, clock, steps, worker, operation_id)


def test_past_no_return_an_earlier_step_that_fails_on_the_second_look_turns_nothing_round(
    journal: Journal, clock: Clock
) -> None:
    steps = (Step("one", sees=False, refuses_from=2), Step("two", mark="done"), Step("three"))
    worker = WorkerContext(dies_at={"two"})
    row = crash_then_continue(journal, clock, steps, worker)
    assert "two" in worker.facts
    assert "undo one" not in worker.log
    assert row["state"] != "undone"


def test_a_step_begun_without_return_is_remembered_over_a_crash(journal: Journal, clock: Clock) -> None:
    steps = (Step("one", sees=False, refuses_from=2), Step("two", mark="start"))
    worker = WorkerContext(dies_at={"half of two"})
    row = crash_then_continue(journal, clock, steps, worker)
    assert "half of two" in worker.facts
    assert row["state"] != "undone"


@pytest.mark.parametrize("effect", ["half of three", "three"])
def test_an_earlier_step_that_fails_on_the_second_look_undoes_the_later_ones_too(
    journal: Journal, clock: Clock, effect: str
) -> None:
    steps = (Step("one", sees=False, refuses_from=2), Step("two"), Step("three"))
    worker = WorkerContext(dies_at={effect})
    row = crash_then_continue(journal, clock, steps, worker)
    assert row["state"] == "undone"
    assert worker.facts == set()


def test_a_crash_is_not_taken_for_an_error(journal: Journal) -> None:
    worker = WorkerContext(crashes=frozenset({2}))
    with pytest.raises(Crash):
        run(journal, (Step("one"),), worker)
    assert worker.log == []
