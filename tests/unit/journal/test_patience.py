"""How long the runner waits, when it gives up, and what is parked until a person has looked."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from stillframe.db import operations
from stillframe.db.engine import Database
from stillframe.errors import Busy, Parked, ServiceFailed, ShareUnavailable, StepFailed, StillframeError
from stillframe.journal import runner
from stillframe.journal.operation import Document, Kind, NotYet, Operation
from stillframe.journal.record import Journal
from tests.unit.journal.fakes import (
    LEASE,
    Clock,
    Step,
    WorkerContext,
    drive,
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


def fails_so_often(times: int, error: type[StillframeError]) -> Callable[..., Any]:
    left = [times]

    def function(*_arguments: Any) -> Any:
        if left[0] > 0:
            left[0] -= 1
            raise error("not yet")
        return {}

    return function


def to_its_end(journal: Journal, clock: Clock, kind: Kind, names: Sequence[str]) -> str:
    operation_id = submit(journal.database, names)
    for _ in range(60):
        for operation in journal.claim_all():
            runner.run(journal, kind, WorkerContext(), operation)
        clock.now += 31
    return str(row_of(journal.database, operation_id)["state"])


def parking(verb: str) -> Kind:
    """A kind whose only step says in one of its functions that a person has to look."""

    def park(*_arguments: Any) -> Any:
        raise Parked("look at this")

    def fail(*_arguments: Any) -> Any:
        raise StepFailed("no")

    functions = {
        "done": verb_of("one", park, fail),
        "do": verb_of("one", lambda *_: None, park),
        "undo": verb_of("one", lambda *_: None, fail, park),
    }
    return kind_with([functions[verb]], settle)


def test_an_error_that_a_repeat_can_help_is_waited_out(journal: Journal, clock: Clock) -> None:
    worker = WorkerContext()
    steps = (Step("one"), Step("two", fault="waits"))
    row = run(journal, steps, worker)
    assert (row["state"], row["owner"], row["attempts"]) == ("running", None, 1)
    assert row["fault"]["message"] == "two waits"
    assert "undo one" not in worker.log
    assert journal.claim_all() == []
    assert drive(journal.database, clock, steps, worker, row["id"])["state"] == "done"
    assert row_of(journal.database, row["id"])["fault"] is None


def test_a_step_that_waits_gives_its_thread_back_and_no_attempt_is_counted(journal: Journal, clock: Clock) -> None:
    seen: list[Document] = []

    def look(_worker: WorkerContext, operation: Operation, _args: Document) -> Document:
        seen.append(operation.notes("one"))
        if len(seen) > 2 * runner.MOST_ATTEMPTS:
            return {}
        raise NotYet(5.0, {"looks": len(seen)}, Busy("a merge holds the volume"))

    kind = kind_with([verb_of("one", lambda *_: None, look)], settle)
    operation_id = submit(journal.database, ["one"])
    for operation in journal.claim_all():
        runner.run(journal, kind, WorkerContext(), operation)
    row = row_of(journal.database, operation_id)
    assert (row["state"], row["owner"], row["attempts"], row["lease_until"]) == ("running", None, 0, clock.now + 5)
    assert row["fault"]["message"] == "a merge holds the volume"
    assert journal.next_due() == 5.0
    assert journal.claim_all() == []
    while row_of(journal.database, operation_id)["state"] == "running":
        clock.now += 5
        for operation in journal.claim_all():
            runner.run(journal, kind, WorkerContext(), operation)
    assert seen[:3] == [{}, {"looks": 1}, {"looks": 2}]
    assert row_of(journal.database, operation_id)["fault"] is None


def test_a_step_may_wait_on_its_way_back_too(journal: Journal, clock: Clock) -> None:
    left = [2]

    def undo(*_arguments: Any) -> None:
        if left[0]:
            left[0] -= 1
            raise NotYet(1.0)

    kind = kind_with([verb_of("one", lambda *_: None, fails_so_often(9, StepFailed), undo)], settle)
    assert to_its_end(journal, clock, kind, ["one"]) == "undone"
    assert left == [0]


def test_who_was_withdrawn_while_it_waited_is_not_looked_for_again(journal: Journal, clock: Clock) -> None:
    operation_id = submit(journal.database, ["one"])
    (operation,) = journal.claim_all()
    journal.wait(operation, "one waits", NotYet(1.0))
    Journal(journal.database, "volumes", owner(1), LEASE).take_over()
    clock.now += 1
    assert Journal(journal.database, "volumes", owner(1), LEASE).claim_all()[0].id == operation_id
    assert journal.next_due() == 0.0
    assert journal.claim_all() == []
    assert journal.next_due() == math.inf


def test_the_wait_grows_and_stays_below_half_a_minute(journal: Journal, clock: Clock) -> None:
    submit(journal.database, ["one"])
    waits = []
    for _ in range(12):
        (operation,) = journal.claim_all()
        journal.postpone(operation, StepFailed("later"))
        waits.append(row_of(journal.database, operation.id)["lease_until"] - clock.now)
        clock.now += 31
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (0.25, 30)


def test_an_error_that_no_repeat_helped_for_minutes_is_undone(journal: Journal, clock: Clock) -> None:
    def away(*_arguments: Any) -> Any:
        raise ShareUnavailable("away")

    kind = kind_with([verb_of("one", lambda *_: None, away)], settle)
    operation_id = submit(journal.database, ["one"])
    began = clock.now
    while row_of(journal.database, operation_id)["state"] in ("pending", "running"):
        for operation in journal.claim_all():
            runner.run(journal, kind, WorkerContext(), operation)
        clock.now += 1
    row = row_of(journal.database, operation_id)
    assert (row["state"], row["fault"]["message"]) == ("undone", "away")
    assert 120 < clock.now - began < 900


def test_past_no_return_an_error_that_a_repeat_can_help_never_turns_it_round(journal: Journal, clock: Clock) -> None:
    def away(*_arguments: Any) -> Any:
        raise ShareUnavailable("away")

    kind = kind_with([Step("one", mark="done").verb(), verb_of("two", lambda *_: None, away)], settle)
    operation_id, worker = submit(journal.database, ["one", "two"]), WorkerContext()
    for _ in range(3 * runner.MOST_ATTEMPTS):
        for operation in journal.claim_all():
            runner.run(journal, kind, worker, operation)
        clock.now += 31
    row = row_of(journal.database, operation_id)
    assert row["state"] in ("running", "parked")
    assert "away" in row["fault"]["message"]
    assert worker.log == ["do one"]


def test_a_step_that_may_have_begun_and_needs_a_person_parks_the_operation(journal: Journal, clock: Clock) -> None:
    looks = WorkerContext()

    def look(*_arguments: Any) -> None:
        if looks.count("look") > 3:
            raise Parked("look at this")

    one = Step("one", sees=False, refuses_from=2)
    kind = kind_with([one.verb(), verb_of("two", look, fails_so_often(1, ShareUnavailable), no_return="done")], settle)
    operation_id, worker = submit(journal.database, ["one", "two"]), WorkerContext()
    for wanted in ("running", "parked"):
        for operation in journal.claim_all():
            runner.run(journal, kind, worker, operation)
        assert row_of(journal.database, operation_id)["state"] == wanted
        clock.now += 60
    assert worker.facts == {"one"}


def test_a_step_that_cannot_have_begun_is_not_asked_which_way_to_go(journal: Journal) -> None:
    def park(*_arguments: Any) -> Any:
        raise Parked("look at this")

    worker = WorkerContext()
    kind = kind_with([Step("one", fault="half").verb(), verb_of("two", park, park, no_return="done")], settle)
    operation_id = submit(journal.database, ["one", "two"])
    for operation in journal.claim_all():
        runner.run(journal, kind, worker, operation)
    assert row_of(journal.database, operation_id)["state"] == "undone"
    assert worker.facts == set()


def test_an_operation_parked_on_its_way_back_goes_on_back(journal: Journal, clock: Clock) -> None:
    needs_a_person, refusals = [True], [True]
    done: list[str] = []

    def undo(*_arguments: Any) -> None:
        if needs_a_person:
            needs_a_person.clear()
            raise Parked("look at this")
        done.append("undone")

    def refuse_once(*_arguments: Any) -> Document:
        if refusals:
            refusals.clear()
            raise StepFailed("refused")
        done.append("went on")
        return {}

    kind = kind_with(
        [verb_of("one", lambda *_: None, lambda *_: {}, undo), verb_of("two", lambda *_: None, refuse_once)], settle
    )
    operation_id = submit(journal.database, ["one", "two"])
    for wanted in ("parked", "undone"):
        worker = Journal(journal.database, "volumes", owner(), LEASE)
        worker.take_over()
        for operation in worker.claim_all():
            runner.run(worker, kind, WorkerContext(), operation)
        assert row_of(journal.database, operation_id)["state"] == wanted
    assert done == ["undone"]


def test_patience_begins_anew_on_the_way_back(journal: Journal, clock: Clock) -> None:
    away = fails_so_often(1000, ShareUnavailable)
    kind = kind_with([verb_of("one", lambda *_: None, away, fails_so_often(1, StepFailed))], settle)
    assert to_its_end(journal, clock, kind, ["one"]) == "undone"


def test_patience_begins_anew_with_each_step(journal: Journal, clock: Clock) -> None:
    kind = kind_with(
        [
            verb_of("one", lambda *_: None, fails_so_often(runner.ATTEMPTS_PAST_NO_RETURN, ShareUnavailable)),
            verb_of("two", lambda *_: None, lambda *_: {}, no_return="done"),
            verb_of("three", lambda *_: None, fails_so_often(2, StepFailed)),
        ],
        settle,
    )
    assert to_its_end(journal, clock, kind, ["one", "two", "three"]) == "done"


@pytest.mark.parametrize("mark", ["start", "done"])
def test_past_no_return_a_failure_is_tried_again_and_then_parked(journal: Journal, clock: Clock, mark: Any) -> None:
    worker = WorkerContext()
    steps = (Step("one", mark=mark), Step("two", fault="refuses"))
    row = run(journal, steps, worker)
    assert row["state"] == "running"
    row = drive(journal.database, clock, steps, worker, row["id"])
    assert row["state"] == "parked"
    assert "two" in row["fault"]["message"]
    assert "undo one" not in worker.log
    assert worker.log.count("do two") == runner.ATTEMPTS_PAST_NO_RETURN + 1


@pytest.mark.parametrize(
    ("error", "least", "most"),
    [
        (KeyError("a defect of ours"), 120, 900),
        (ServiceFailed("the other service answered 500"), 120, 900),
        (StepFailed("refused"), 4, 30),
    ],
)
def test_past_no_return_a_defect_is_given_minutes_and_a_refusal_seconds(
    journal: Journal, clock: Clock, error: Exception, least: int, most: int
) -> None:
    """A service that is being upgraded answers 500 for a while; nobody should have to come and retry what it held up."""

    def fail(*_arguments: Any) -> Any:
        raise error

    kind = kind_with([Step("one", mark="done").verb(), verb_of("two", lambda *_: None, fail)], settle)
    operation_id, began, worker = submit(journal.database, ["one", "two"]), clock.now, WorkerContext()
    while row_of(journal.database, operation_id)["state"] in ("pending", "running"):
        for operation in journal.claim_all():
            runner.run(journal, kind, worker, operation)
        clock.now += 1
    assert row_of(journal.database, operation_id)["state"] == "parked"
    assert least < clock.now - began < most
    assert worker.log == ["do one"]


@pytest.mark.parametrize("verb", ["done", "do", "undo"])
def test_a_parked_operation_keeps_its_resource_and_its_sentence(journal: Journal, verb: str) -> None:
    first = submit(journal.database, ["one"], resources=["volume:a"])
    second = submit(journal.database, ["one"], resources=["volume:a"])
    for operation in journal.claim_all():
        runner.run(journal, parking(verb), WorkerContext(), operation)
    row = row_of(journal.database, first)
    assert (row["state"], row["owner"], row["fault"]["message"]) == ("parked", None, "look at this")
    assert settled(journal.database, first) == {"parked": 1}
    assert journal.claim_all() == []
    assert row_of(journal.database, second)["state"] == "pending"


def test_a_parked_operation_is_looked_at_again_when_a_worker_starts(journal: Journal, clock: Clock) -> None:
    operation_id = submit(journal.database, ["one"])
    for operation in journal.claim_all():
        runner.run(journal, parking("do"), WorkerContext(), operation)
    worker = WorkerContext(facts={"one"})
    assert drive(journal.database, clock, (Step("one"),), worker, operation_id)["state"] == "done"


def test_past_no_return_what_was_waited_for_does_not_count_against_another_failure(journal: Journal, clock: Clock) -> None:
    errors: list[StillframeError] = [ShareUnavailable("away")] * 12 + [StepFailed("refused")] * 4

    def function(*_arguments: Any) -> Any:
        if errors:
            raise errors.pop(0)
        return {}

    kind = kind_with([verb_of("one", lambda *_: None, function, no_return="start")], settle)
    assert to_its_end(journal, clock, kind, ["one"]) == "done"


@pytest.mark.parametrize("way", ["forward", "back"])
def test_what_another_release_planned_is_parked_at_once(journal: Journal, way: str) -> None:
    """Nothing of it is done, and nothing put back: each step may be anything."""
    worker, steps = WorkerContext(), (Step("one"),)
    operation_id = submit(journal.database, ["one", "of another release"])
    (operation,) = journal.claim_all()
    if way == "back":
        operation = journal.change(operation, state="undoing", step=2)
    runner.run(journal, kind_of(steps), worker, operation)
    row = row_of(journal.database, operation_id)
    assert (row["state"], worker.log) == ("parked", [])
    assert "does not know step of another release of operations of the kind fake" in row["fault"]["message"]
    with journal.database.write() as connection:
        assert operations.unpark_one(connection, row)
    assert row_of(journal.database, operation_id)["state"] == {"forward": "running", "back": "undoing"}[way]


def test_a_defect_behind_the_last_step_is_not_tried_for_ever(journal: Journal, clock: Clock) -> None:
    def broken(*_arguments: Any) -> None:
        raise KeyError("what rows follow")

    assert to_its_end(journal, clock, kind_with([verb_of("one", lambda *_: {}, lambda *_: {})], broken), ["one"]) == "parked"
