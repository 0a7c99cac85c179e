"""The journal's rows: first in line, held by a lease, taken over from the dead only."""

import os
from typing import Any

import pytest

from stillframe.db import finished, operations
from stillframe.db.engine import Database
from stillframe.errors import Busy, Conflict, ShareUnavailable, StepFailed
from stillframe.journal import record, runner
from stillframe.journal.operation import Operation
from stillframe.journal.record import Journal, LostLease, Owner, is_dead, this_process
from stillframe.journal.typed import Intent
from tests.unit.journal.fakes import (
    LEASE,
    Clock,
    Step,
    WorkerContext,
    intent_of,
    kind_of,
    owner,
    plan_of,
    row_of,
    run_once,
    submit,
)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock().install(monkeypatch)


@pytest.fixture
def journal(database: Database, clock: Clock) -> Journal:
    return Journal(database, "volumes", owner(), LEASE)


def ids(journal: Journal) -> list[str]:
    return [operation.id for operation in journal.claim_all()]


def test_an_operation_is_stored_pending_in_the_callers_transaction(database: Database) -> None:
    request = record.Request("volumes", "k", intent_of(a=1), plan_of("v"), ["volume:a"], "req-9")
    with pytest.raises(RuntimeError), database.write() as connection:
        refused = record.submit(connection, request)
        raise RuntimeError
    with database.write() as connection:
        assert operations.get(connection, refused) is None
        operation_id = record.submit(connection, request)
    row = row_of(database, operation_id)
    assert (row["state"], row["epoch"], row["owner"], row["step"]) == ("pending", 0, None, 0)
    assert (row["intent"], row["plan"], row["request_id"]) == ({"a": 1}, [{"verb": "v", "key": "v", "args": {}}], "req-9")


def test_operations_on_one_resource_run_in_the_order_they_came(journal: Journal) -> None:
    first = submit(journal.database, ["one"], resources=["volume:a"])
    second = submit(journal.database, ["one"], resources=["volume:a"])
    other = submit(journal.database, ["one"], resources=["volume:b"])
    assert ids(journal) == [first, other]
    assert ids(journal) == []
    (mine, _) = [Operation.from_row(row_of(journal.database, each)) for each in (first, other)]
    journal.finish(mine, kind_of(()), "done", None)
    assert ids(journal) == [second]


def test_an_operation_waits_for_all_of_its_resources(journal: Journal) -> None:
    first = submit(journal.database, ["one"], resources=["volume:a"])
    second = submit(journal.database, ["one"], resources=["volume:b"])
    both = submit(journal.database, ["one"], resources=["volume:a", "volume:b"])
    behind = submit(journal.database, ["one"], resources=["volume:b"])
    for done, free in ((first, []), (second, [both]), (both, [behind])):
        if done in (first, both):
            ids(journal)
        journal.finish(Operation.from_row(row_of(journal.database, done)), kind_of(()), "done", None)
        assert ids(journal) == free


def test_an_operation_of_another_service_is_waited_for_too(database: Database, clock: Clock) -> None:
    submit(database, ["one"], resources=["server:a"])
    with database.write() as connection:
        request = record.Request("compute", "k", Intent(), [], ["server:a"], "req-1")
        record.submit(connection, request)
    assert ids(Journal(database, "compute", owner(), LEASE)) == []


def test_a_service_takes_only_its_own_operations(database: Database, clock: Clock) -> None:
    submit(database, ["one"])
    assert ids(Journal(database, "compute", owner(), LEASE)) == []
    assert len(ids(Journal(database, "volumes", owner(), LEASE))) == 1


def test_a_held_operation_is_nobody_elses_until_its_lease_ends(journal: Journal, clock: Clock) -> None:
    operation_id = submit(journal.database, ["one"])
    other = Journal(journal.database, "volumes", owner(2), LEASE)
    assert ids(journal) == [operation_id]
    assert ids(other) == []
    clock.now += LEASE - 1
    journal.renew()
    clock.now += LEASE - 1
    assert ids(other) == []
    clock.now += 2
    assert ids(other) == [operation_id]
    assert row_of(journal.database, operation_id)["epoch"] == 2


def test_renewing_prolongs_nobody_elses_lease(journal: Journal, clock: Clock) -> None:
    operation_id = submit(journal.database, ["one"])
    ids(journal)
    clock.now += LEASE - 1
    Journal(journal.database, "volumes", owner(2), LEASE).renew()
    clock.now += 2
    assert ids(Journal(journal.database, "volumes", owner(3), LEASE)) == [operation_id]


def test_of_two_that_claim_the_same_operation_one_wins(journal: Journal, clock: Clock) -> None:
    operation_id = submit(journal.database, ["one"])
    seen = row_of(journal.database, operation_id)
    with journal.database.write() as connection:
        assert operations.claim(connection, seen, "a", clock.now + 1)
        assert not operations.claim(connection, seen, "b", clock.now + 1)
    assert row_of(journal.database, operation_id)["owner"] == "a"


def test_of_two_that_take_over_the_same_operation_one_wins(journal: Journal, clock: Clock) -> None:
    operation_id = submit(journal.database, ["one"])
    ids(journal)
    seen = row_of(journal.database, operation_id)
    assert seen["state"] == "running"
    with journal.database.write() as connection:
        assert operations.claim(connection, seen, "a", clock.now + 1)
        assert not operations.claim(connection, seen, "b", clock.now + 1)


def test_a_worker_that_took_its_own_operation_up_again_records_nothing_under_the_old_lease(
    journal: Journal, clock: Clock
) -> None:
    submit(journal.database, ["one"])
    (old,) = journal.claim_all()
    clock.now += LEASE + 1
    assert journal.claim_all() == []  # it is being worked on, whatever the clock says
    journal.release(old)
    (new,) = journal.claim_all()
    with pytest.raises(LostLease):
        journal.change(old, step=1)
    assert journal.change(new, step=1).step == 1


def test_the_work_of_a_dead_worker_of_this_host_is_taken_over_at_once(journal: Journal) -> None:
    operation_id = submit(journal.database, ["one"])
    ids(journal)
    successor = Journal(journal.database, "volumes", this_process("here"), LEASE)
    assert ids(successor) == []
    successor.take_over()
    assert ids(successor) == [operation_id]


@pytest.mark.parametrize("living", [this_process("here"), Owner("elsewhere", 1, "never")])
def test_the_work_of_a_living_or_a_distant_worker_is_left_alone(database: Database, clock: Clock, living: Owner) -> None:
    submit(database, ["one"])
    ids(Journal(database, "volumes", living, LEASE))
    successor = Journal(database, "volumes", Owner("here", 2, "new"), LEASE)
    successor.take_over()
    assert ids(successor) == []


def test_taking_over_touches_no_other_service(database: Database, clock: Clock) -> None:
    submit(database, ["one"])
    ids(Journal(database, "volumes", owner(), LEASE))
    Journal(database, "compute", owner(2), LEASE).take_over()
    assert ids(Journal(database, "volumes", owner(3), LEASE)) == []


def test_a_process_is_known_by_when_it_started_because_numbers_are_used_again() -> None:
    me = this_process("here")
    assert me.pid == os.getpid()
    assert not is_dead(str(me), "here")
    assert is_dead(str(Owner("here", me.pid, "1")), "here")
    assert is_dead(str(Owner("here", 1 << 22, me.started)), "here")
    assert not is_dead(str(Owner("there", me.pid, "1")), "here")
    assert not is_dead(str(Owner("fe80::1", me.pid, me.started)), "fe80::1")


def test_a_busy_resource_is_refused_with_the_operation_that_holds_it(journal: Journal) -> None:
    operation_id = submit(journal.database, ["one"], resources=["server:a"], intent=intent_of(set_id="x"))
    with (
        journal.database.read() as connection,
        pytest.raises(Conflict, match=f"server a is busy: operation {operation_id}") as told,
    ):
        record.refuse_if_busy(connection, "server:a")
    assert told.value.details == {"operation_id": operation_id, "kind": "fake", "state": "pending", "intent_id": "x"}
    with journal.database.read() as connection:
        record.refuse_if_busy(connection, "server:b")


def test_a_finished_operation_holds_no_resource_and_a_parked_one_does(journal: Journal) -> None:
    for outcome, busy in (("done", False), ("undone", False), ("parked", True)):
        submit(journal.database, ["one"], resources=[f"server:{outcome}"])
        (operation,) = journal.claim_all()
        journal.finish(operation, kind_of(()), outcome, StepFailed("why"))
        with journal.database.read() as connection:
            assert (operations.on_resource(connection, f"server:{outcome}") is not None) is busy
            if busy:  # to wait would be for ever
                with pytest.raises(Busy, match=f"is parked, and waits for an .* 'stillframe operation show {operation.id}'"):
                    record.refuse_if_busy(connection, f"server:{outcome}")


def test_an_operation_that_could_not_be_given_back_is_free_when_its_lease_ends(
    journal: Journal, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_arguments: Any, **_more: Any) -> Any:
        raise OSError("the database is gone")

    operation_id = submit(journal.database, ["one"])
    (operation,) = journal.claim_all()
    with monkeypatch.context() as patch:
        patch.setattr(journal, "change", unreachable)
        patch.setattr(journal, "postpone", unreachable)
        runner.run(journal, kind_of((Step("one"),)), WorkerContext(), operation)
    for _ in range(10):
        clock.now += LEASE / 3
        journal.renew()
    assert ids(journal) == [operation_id]


def test_what_is_unfinished_is_listed_in_order_with_what_is_parked(journal: Journal) -> None:
    first, second = submit(journal.database, ["one"]), submit(journal.database, ["one"])
    run_once(journal, (Step("one", sees=False),), WorkerContext())
    third, fourth = submit(journal.database, ["one"]), submit(journal.database, ["one"])
    held = journal.claim_all()
    journal.finish(held[0], kind_of(()), "parked", StepFailed("why"))
    with journal.database.read() as connection:
        assert [row["id"] for row in operations.unfinished(connection, "volumes")] == [third, fourth]
        totals = {row["state"]: (row["amount"], row["bytes"]) for row in finished.totals(connection)}
    assert totals == {"done": (2, 2), "parked": (1, 0), "running": (1, 0)}
    assert {first, second}.isdisjoint({third, fourth})


def test_one_parked_operation_is_looked_at_again_and_no_other(journal: Journal) -> None:
    first, other = (submit(journal.database, ["one"], resources=[f"server:{each}"]) for each in "ab")
    for operation in journal.claim_all():
        journal.finish(operation, kind_of(()), "parked", StepFailed("why"))
        journal.release(operation)
    with journal.database.write() as connection:
        row = operations.get(connection, first)
        assert row and operations.unpark_one(connection, row)
        assert not operations.unpark_one(connection, row)
    assert ids(journal) == [first]
    assert row_of(journal.database, other)["state"] == "parked"


def test_what_was_given_back_while_the_clock_was_wrong_is_looked_at_again(database: Database, clock: Clock) -> None:
    """A host that boots with a clock years ahead, until it asks somebody for the time."""
    journal = Journal(database, "volumes", owner(), LEASE)
    operation_id = submit(database, ["one"])
    clock.now += 1e8
    (operation,) = journal.claim_all()
    journal.postpone(operation, ShareUnavailable("away"))
    clock.now -= 1e8
    assert [each.id for each in journal.claim_all()] == [operation_id]
