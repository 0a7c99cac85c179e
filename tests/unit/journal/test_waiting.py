"""An operation that waits: for how long, and who may say that it is over."""

import pytest

from stillframe.db import operations
from stillframe.db.engine import Database
from stillframe.db.tables import operations as table
from stillframe.errors import ServiceUnavailable
from stillframe.journal import record
from stillframe.journal.operation import NotYet, Operation
from stillframe.journal.record import Journal
from tests.unit.journal.fakes import LEASE, Clock, kind_of, owner, row_of, submit


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock().install(monkeypatch)


@pytest.fixture
def journal(database: Database, clock: Clock) -> Journal:
    assert clock
    return Journal(database, "volumes", owner(), LEASE)


def claimed(journal: Journal) -> Operation:
    submit(journal.database, ["one"])
    (operation,) = journal.claim_all()
    return operation


def until(journal: Journal, operation: Operation) -> float:
    return float(row_of(journal.database, operation.id)["lease_until"])


def test_a_crowd_costs_no_more_looks_than_a_few(journal: Journal, clock: Clock) -> None:
    """A thousand that would each be looked at every second."""
    few, many = record.FEW, record.FEW + 60
    for number in range(many):
        each = claimed(journal)
        journal.wait(each, "one waits", NotYet(1.0))
        assert until(journal, each) == clock.now + max(1.0, (number - few) / record.LOOKS_A_SECOND)
    at_work = claimed(journal)
    journal.wait(at_work, "one waits", NotYet(1.0, at_work=True))
    assert until(journal, at_work) == clock.now + 1.0


def test_those_that_are_left_of_a_crowd_do_not_wait_as_if_it_were_there(journal: Journal, clock: Clock) -> None:
    crowd = [claimed(journal) for _ in range(record.FEW + 60)]
    for operation in crowd:
        journal.wait(operation, "one waits", NotYet(1.0))
    patient = claimed(journal)
    journal.wait(patient, "one waits", NotYet(500.0))
    journal.spread()
    assert until(journal, crowd[-1]) == pytest.approx(clock.now + 59 / record.LOOKS_A_SECOND)
    clock.now += 10
    assert len(journal.claim_all()) < len(crowd)
    with journal.database.write() as connection:
        left = {crowd[-1].id, patient.id}
        connection.execute(table.update().where(table.c.id.not_in(left)).values(state="done", owner=None))
    clock.now += 1
    for operation in crowd[:-1]:
        journal._due.pop(operation.id, None)
    journal.spread()
    assert [each.id for each in journal.claim_all()] == [crowd[-1].id]
    assert until(journal, patient) == clock.now - 11 + 500.0


def test_what_is_told_is_looked_at_at_once(journal: Journal, clock: Clock) -> None:
    operation = claimed(journal)
    journal.wait(operation, "one waits", NotYet(100.0))
    assert journal.claim_all() == []
    assert journal.next_due() == pytest.approx(100.0)
    journal.tell(operation.id)
    assert [each.id for each in journal.claim_all()] == [operation.id]


def test_what_is_told_during_a_look_is_looked_at_once_more(journal: Journal) -> None:
    """The event came after the look and before the operation waited."""
    operation = claimed(journal)
    journal.tell(operation.id)
    journal.wait(operation, "one waits", NotYet(100.0))
    (again,) = journal.claim_all()
    journal.wait(again, "one waits", NotYet(100.0))
    assert journal.claim_all() == []


def test_what_has_ended_is_not_begun_because_it_is_told(journal: Journal) -> None:
    operation = claimed(journal)
    with journal.database.write() as connection:
        connection.execute(table.update().values(state="done", owner=None))
    journal.tell(operation.id)
    assert journal.claim_all() == []


def test_a_wish_to_cancel_is_in_the_row_and_ends_the_pause(journal: Journal) -> None:
    operation = claimed(journal)
    journal.wait(operation, "one waits", NotYet(100.0))
    with journal.database.write() as connection:
        operations.ask_to_cancel(connection, operation.id)
    assert [each.id for each in journal.claim_all()] == [operation.id]
    assert row_of(journal.database, operation.id)["cancel_asked"] == 1


def test_attempts_of_what_is_at_work_still_count(journal: Journal) -> None:
    for at_work, left in ((True, 3), (False, 0)):
        operation = claimed(journal)
        with journal.database.write() as connection:
            connection.execute(table.update().values(attempts=3))
        journal.wait(journal.fresh(operation), "one waits", NotYet(100.0, {"seen": 1}, at_work=at_work))
        known = journal.fresh(operation)
        assert (known.attempts, known.is_at_work, known.has_waited) == (left, at_work, True)
        assert known.notes("one") == {"seen": 1}
        assert [each.id for each in journal.at_work()] == ([operation.id] if at_work else [])
        with journal.database.write() as connection:
            connection.execute(table.update().values(state="done"))


def test_a_look_within_moments_costs_the_database_nothing(journal: Journal, clock: Clock) -> None:
    operation = claimed(journal)
    before = row_of(journal.database, operation.id)
    for number in range(3):
        journal.wait(operation, "one waits", NotYet(0.1, {"number": number}, at_work=True))
        assert journal.claim_all() == [], "its thread is still with it"
        journal.release(operation)
        assert journal.claim_all() == []
        assert journal.next_due() == pytest.approx(0.1)
        clock.now += 0.1
        (operation,) = journal.claim_all()
        assert operation.notes("one") == {"number": number}
        assert row_of(journal.database, operation.id) == before
    clock.now += LEASE / 2
    journal.renew()
    assert until(journal, operation) == clock.now + LEASE
    journal.change(operation, step=1)  # it is ours all the time


@pytest.mark.parametrize("set_by", [-3600.0, -600.0, 3600.0])
def test_a_moment_does_not_become_an_hour_because_the_clock_is_set(journal: Journal, clock: Clock, set_by: float) -> None:
    operation = claimed(journal)
    journal.wait(operation, "one waits", NotYet(0.1, at_work=True))
    journal.release(operation)
    clock.set_by = set_by
    clock.now += 0.1
    assert journal.next_due() == 0
    assert [each.id for each in journal.claim_all()] == [operation.id]


@pytest.mark.parametrize("set_by", [-3600.0, -600.0, -60.0])
def test_no_pause_is_longer_because_the_clock_is_set_back(journal: Journal, clock: Clock, set_by: float) -> None:
    clock.now += 10_000
    operations_of = [claimed(journal), claimed(journal)]
    journal.renew()
    journal.wait(operations_of[0], "one waits", NotYet(20.0))
    journal.postpone(operations_of[1], ServiceUnavailable("why"))
    clock.set_by = set_by
    clock.now += LEASE / 3
    journal.renew()
    assert {each.id for each in journal.claim_all()} == {each.id for each in operations_of}
    journal.renew()
    assert journal.claim_all() == []


def test_a_pause_is_kept_while_nobody_sets_the_clock(journal: Journal, clock: Clock) -> None:
    journal.wait(claimed(journal), "one waits", NotYet(100.0))
    for _ in range(3):
        journal.renew()
        clock.now += 20
        assert journal.claim_all() == []


def test_what_must_be_durable_is_recorded(journal: Journal) -> None:
    for waiting in (NotYet(0.0, {"run": 1}), NotYet(0.1, {"run": 1}, ServiceUnavailable("why")), NotYet(1.0, {"run": 1})):
        operation = claimed(journal)
        journal.wait(operation, "one waits", waiting)
        journal.release(operation)
        assert journal.fresh(operation).notes("one") == {"run": 1}
        assert row_of(journal.database, operation.id)["owner"] is None
        with journal.database.write() as connection:
            connection.execute(table.update().values(state="done"))


def test_what_was_told_is_looked_at_before_its_moment(journal: Journal) -> None:
    for told_first in (True, False):
        operation = claimed(journal)
        if told_first:
            journal.tell(operation.id)
        journal.wait(operation, "one waits", NotYet(0.1))
        journal.release(operation)
        if not told_first:
            journal.tell(operation.id)
        assert [each.id for each in journal.claim_all()] == [operation.id]
        journal.finish(operation, kind_of([]), "done", None)


def test_a_worker_that_ends_gives_back_what_it_would_have_looked_at(journal: Journal) -> None:
    operation = claimed(journal)
    journal.wait(operation, "one waits", NotYet(0.1, {"seen": 1}))
    journal.release(operation)
    journal.close()
    (again,) = Journal(journal.database, "volumes", owner(1), LEASE).claim_all()
    assert (again.id, again.notes("one")) == (operation.id, {"seen": 1})


def test_of_a_crowd_none_is_kept_for_a_moment(journal: Journal) -> None:
    for _ in range(record.FEW):
        journal.wait(claimed(journal), "one waits", NotYet(0.1))
    last = claimed(journal)
    journal.wait(last, "one waits", NotYet(0.1))
    assert row_of(journal.database, last.id)["owner"] is None
