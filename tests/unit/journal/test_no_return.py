"""Which steps were begun is recorded before they are: one that never was turns the operation round, whatever is found."""

from collections.abc import Callable
from typing import Any, Literal

import pytest
from sqlalchemy import update

from stillframe.db.engine import Database
from stillframe.db.tables import operations
from stillframe.errors import BadImage, Parked, ServiceUnavailable, StepFailed
from stillframe.journal import runner
from stillframe.journal.operation import BEGINS_NOTED, Document, Kind, Operation, begun_key
from stillframe.journal.record import Journal
from tests.unit.journal.fakes import (
    LEASE,
    Clock,
    Crash,
    Step,
    WorkerContext,
    kind_with,
    owner,
    row_of,
    settle,
    settled,
    submit,
    verb_of,
)

Mark = Literal["start", "done"]
MARKS: tuple[Mark, ...] = ("start", "done")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock().install(monkeypatch)


@pytest.fixture
def journal(database: Database, clock: Clock) -> Journal:
    return Journal(database, "volumes", owner(), LEASE)


def raises(error: Exception) -> Callable[..., Any]:
    def function(*_arguments: Any) -> Any:
        raise error

    return function


class Switch:
    """A second step of no return, which tells nothing but ``error`` from the look numbered ``blind_from`` on."""

    def __init__(self, error: Exception, blind_from: int = 1, act: Callable[[], None] = lambda: None) -> None:
        self.error, self.blind_from, self.act = error, blind_from, act
        self.looks = 0
        self.seen: list[set[str]] = []

    def kind(self, mark: Mark) -> Kind:
        return kind_with([Step("one").verb(), verb_of("two", self._done, self._do, lambda *_: None, mark)], settle)

    def _done(self, *_arguments: Any) -> None:
        self.looks += 1
        if self.looks >= self.blind_from:
            raise self.error

    def _do(self, _worker: WorkerContext, operation: Operation, _args: Document) -> Document:
        self.seen.append({*operation.evidence} - {BEGINS_NOTED, "one"})
        self.act()
        return {}


def made(journal: Journal, **evidence: Document) -> str:
    """An operation of two steps; with ``evidence`` as an older release left it, which noted no beginning of a switch."""
    operation_id = submit(journal.database, ["one", "two"])
    if evidence:
        with journal.database.write() as connection:
            connection.execute(update(operations).where(operations.c.id == operation_id).values(evidence=evidence, step=1))
    return operation_id


def once(journal: Journal, clock: Clock, kind: Kind, operation_id: str, worker: WorkerContext | None = None) -> Any:
    clock.now += 2 * LEASE
    journal.take_over()
    for operation in journal.claim_all():
        runner.run(journal, kind, worker or WorkerContext(), operation)
    return row_of(journal.database, operation_id)


def to_its_end(journal: Journal, clock: Clock, kind: Kind, operation_id: str) -> Any:
    worker = WorkerContext(facts={"one"})
    for _ in range(3 * runner.MOST_ATTEMPTS):
        clock.now += 2 * LEASE
        for operation in journal.claim_all():
            runner.run(journal, kind, worker, operation)
    return row_of(journal.database, operation_id)


def die() -> None:
    raise Crash


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("error", [BadImage("it is damaged"), FileNotFoundError("gone"), Parked("the disk is not there")])
def test_a_step_that_was_never_begun_and_cannot_be_seen_ends_at_once(
    journal: Journal, clock: Clock, mark: Mark, error: Exception
) -> None:
    switch, worker, operation_id = Switch(error), WorkerContext(), made(journal)
    row = once(journal, clock, switch.kind(mark), operation_id, worker)
    assert (row["state"], row["attempts"]) == ("undone", 0)
    assert str(error).split("\n")[0] in row["fault"]["message"]
    assert row["fault"]["code"] != "parked", "nobody has to look at it"
    assert (worker.facts, switch.seen) == (set(), [])
    assert settled(journal.database, operation_id) == {"undone": 1}


@pytest.mark.parametrize("mark", MARKS)
def test_what_waiting_helps_is_waited_for_a_while_before_it_was_begun(journal: Journal, clock: Clock, mark: Mark) -> None:
    switch, operation_id = Switch(ServiceUnavailable("away")), made(journal)
    assert once(journal, clock, switch.kind(mark), operation_id)["state"] == "running"
    assert to_its_end(journal, clock, switch.kind(mark), operation_id)["state"] == "undone"


@pytest.mark.parametrize(("mark", "noted"), [("start", {"two"}), ("done", {begun_key("two")})])
def test_that_a_step_begins_is_durable_before_it_does(journal: Journal, clock: Clock, mark: Mark, noted: set[str]) -> None:
    switch, operation_id = Switch(BadImage("damaged"), blind_from=2, act=die), made(journal)
    with pytest.raises(Crash):
        once(journal, clock, switch.kind(mark), operation_id)
    assert switch.seen == [noted]
    assert noted <= {*row_of(journal.database, operation_id)["evidence"]}
    row = to_its_end(Journal(journal.database, "volumes", owner(1), LEASE), clock, switch.kind(mark), operation_id)
    assert (row["state"], settled(journal.database, operation_id)) == ("parked", {"parked": 1})


def test_a_step_that_was_begun_and_is_seen_not_to_be_done_turns_round(journal: Journal, clock: Clock) -> None:
    switch, operation_id = Switch(StepFailed("never"), blind_from=99, act=die), made(journal)
    with pytest.raises(Crash):
        once(journal, clock, switch.kind("done"), operation_id)
    switch.act = raises(StepFailed("refused"))
    row = once(Journal(journal.database, "volumes", owner(1), LEASE), clock, switch.kind("done"), operation_id)
    assert (row["state"], row["fault"]["message"]) == ("undone", "refused")


def test_a_begun_step_that_needs_a_person_is_parked(journal: Journal, clock: Clock) -> None:
    switch, operation_id = Switch(Parked("a mixture"), blind_from=2, act=die), made(journal)
    with pytest.raises(Crash):
        once(journal, clock, switch.kind("done"), operation_id)
    row = once(Journal(journal.database, "volumes", owner(1), LEASE), clock, switch.kind("done"), operation_id)
    assert (row["state"], row["fault"]["message"]) == ("parked", "a mixture")


@pytest.mark.parametrize("error", [BadImage("it is damaged"), Parked("a mixture")])
def test_what_an_older_release_began_is_not_taken_for_never_begun(journal: Journal, clock: Clock, error: Exception) -> None:
    switch, operation_id = Switch(error), made(journal, one={})
    row = to_its_end(journal, clock, switch.kind("done"), operation_id)
    assert (row["state"], row["fault"]["code"]) == ("parked", "parked")
    assert error.args[0] in row["fault"]["message"]


def test_what_an_older_release_never_began_goes_back_as_any(journal: Journal, clock: Clock) -> None:
    """One that goes only forward from its start was noted by every release."""
    switch, operation_id = Switch(Parked("the disk is not there")), made(journal, one={})
    assert once(journal, clock, switch.kind("start"), operation_id)["state"] == "undone"


def test_past_an_earlier_step_of_no_return_a_person_is_needed_all_the_same(journal: Journal, clock: Clock) -> None:
    kind = kind_with(
        [
            Step("one", mark="done").verb(),
            verb_of("two", raises(Parked("look")), raises(StepFailed("no")), None, "start"),
        ],
        settle,
    )
    row = once(journal, clock, kind, made(journal))
    assert (row["state"], row["fault"]["message"]) == ("parked", "look")
