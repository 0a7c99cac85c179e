"""Operations that only read a resource run side by side; one that changes it waits for them, and they for it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillframe.db import finished, operations
from stillframe.db.engine import Database
from stillframe.errors import Conflict
from stillframe.journal import record
from stillframe.journal.operation import Operation
from stillframe.journal.record import Journal, Request
from stillframe.journal.typed import Intent
from tests.unit.builders import new_id
from tests.unit.journal.fakes import KIND, LEASE, Clock, kind_of, owner, row_of


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock().install(monkeypatch)


@pytest.fixture
def journal(database: Database, clock: Clock) -> Journal:
    return Journal(database, "volumes", owner(), LEASE)


def submit(journal: Journal, changes: Sequence[str] = (), reads: Sequence[str] = (), kind: str = KIND, pause: float = 0) -> str:
    request = Request("volumes", kind, Intent(), [], list(changes), "r", new_id(), tuple(reads), pause)
    with journal.database.write() as connection:
        return record.submit(connection, request)


def claimed(journal: Journal) -> list[str]:
    return [operation.id for operation in journal.claim_all()]


def finish(journal: Journal, *ids: str, outcome: str = "done") -> None:
    for each in ids:
        journal.finish(Operation.from_row(row_of(journal.database, each)), kind_of(()), outcome, None)


def test_readers_run_side_by_side(journal: Journal) -> None:
    readers = [submit(journal, [f"volume:{number}"], ["volume:source"]) for number in range(3)]
    assert claimed(journal) == readers


def test_a_change_waits_for_readers_and_later_readers_wait_for_it(journal: Journal) -> None:
    first, second = submit(journal, reads=["a"]), submit(journal, reads=["a"])
    change, later = submit(journal, ["a"]), submit(journal, reads=["a"])
    assert claimed(journal) == [first, second]
    finish(journal, first)
    assert claimed(journal) == []
    finish(journal, second)
    assert claimed(journal) == [change]
    finish(journal, change)
    assert claimed(journal) == [later]


def test_what_is_parked_stays_in_the_way_of_readers(journal: Journal) -> None:
    change, reader = submit(journal, ["a"]), submit(journal, reads=["a"])
    assert claimed(journal) == [change]
    finish(journal, change, outcome="parked")
    assert claimed(journal) == []
    assert row_of(journal.database, reader)["state"] == "pending"


def test_one_reads_what_another_one_reads_and_changes_what_is_its_own(journal: Journal) -> None:
    first = submit(journal, ["a"], ["b"])
    second = submit(journal, ["b"], ["a"])
    third = submit(journal, ["c"], ["b"])
    assert claimed(journal) == [first]
    finish(journal, first)
    assert claimed(journal) == [second]
    finish(journal, second)
    assert claimed(journal) == [third]


def test_what_is_not_due_yet_waits_and_what_comes_after_it_waits_for_it(journal: Journal, clock: Clock) -> None:
    later, change = submit(journal, reads=["a"], pause=5.0), submit(journal, ["a"])
    assert claimed(journal) == []
    clock.now += 6
    assert claimed(journal) == [later]
    finish(journal, later)
    assert claimed(journal) == [change]


def test_who_is_refused_a_busy_resource(journal: Journal) -> None:
    def refused(shared: bool) -> str | None:
        with journal.database.read() as connection:
            try:
                record.refuse_if_busy(connection, "volume:a", shared)
            except Conflict as error:
                return str(error.details["operation_id"])
        return None

    submit(journal, reads=["volume:a"], kind="record_chain")
    assert (refused(True), refused(False)) == (None, None), "what runs in the background is in nobody's way"
    reader = submit(journal, reads=["volume:a"])
    assert (refused(True), refused(False)) == (None, reader)
    change = submit(journal, ["volume:a"])
    assert (refused(True), refused(False)) == (change, reader)


def test_a_kind_that_has_yet_to_begin_is_known(journal: Journal) -> None:
    def waits(resource: str = "volume:a", kind: str = "record_chain") -> bool:
        with journal.database.read() as connection:
            return operations.of_kind_on(connection, resource, kind)

    assert not waits()
    made = submit(journal, reads=["volume:a"], kind="record_chain")
    assert waits()
    assert not waits("volume:b")
    assert not waits(kind="other")
    assert claimed(journal) == [made]
    assert not waits()


@dataclass
class Line:
    """What the journal must do, said in a few words: who came earlier and holds the same in another way is waited for."""

    waiting: list[tuple[str, frozenset[str], frozenset[str]]] = field(default_factory=list)
    running: set[str] = field(default_factory=set)

    def free(self) -> list[str]:
        found = []
        for number, (name, changes, reads) in enumerate(self.waiting):
            earlier = self.waiting[:number]
            blocked = any(changes & (c | r) or reads & c for _name, c, r in earlier)
            if name not in self.running and not blocked:
                found.append(name)
        return found


RESOURCES = st.frozensets(st.sampled_from("abc"), max_size=2)


@settings(max_examples=60)
@given(st.lists(st.one_of(st.tuples(RESOURCES, RESOURCES), st.integers(0, 9)), max_size=14))
def test_the_line_is_kept_whatever_comes_and_goes(
    database: Database, clock: Clock, moves: list[tuple[frozenset[str], frozenset[str]] | int]
) -> None:
    journal, line = Journal(database, "volumes", owner(), 3600), Line()
    mark = new_id()  # resources of this example's own
    for move in moves:
        if isinstance(move, int):
            if line.running:
                ended = sorted(line.running)[move % len(line.running)]
                finish(journal, ended)
                line.running.discard(ended)
                line.waiting = [each for each in line.waiting if each[0] != ended]
        else:
            changes, reads = move[0], move[1] - move[0]
            made = submit(journal, [mark + each for each in changes], [mark + each for each in reads])
            line.waiting.append((made, changes, reads))
        free = line.free()
        assert claimed(journal) == free
        line.running |= set(free)
    for each in sorted(line.running):
        finish(journal, each)
    for each in [name for name, _c, _r in line.waiting if name not in line.running]:
        finish_pending(journal, each)


def finish_pending(journal: Journal, operation_id: str) -> None:
    with journal.database.write() as connection:
        finished.ended(connection, operation_id)
        row = operations.get(connection, operation_id)
        assert row is not None
        operations.claim(connection, row, "x", 0)
        operations.change(connection, operation_id, "x", row["epoch"] + 1, state="done")


def test_only_what_has_not_begun_can_be_withdrawn(journal: Journal) -> None:
    first, second = submit(journal, ["a"]), submit(journal, ["a"])
    assert claimed(journal) == [first]
    with journal.database.write() as connection:
        assert not record.withdraw(connection, first, Conflict("not wanted"))
        assert record.withdraw(connection, second, Conflict("not wanted"))
    row = row_of(journal.database, second)
    assert (row["state"], row["fault"]["message"]) == ("undone", "not wanted")
    finish(journal, first)
    assert claimed(journal) == []
    with journal.database.read() as connection:
        record.refuse_if_busy(connection, "a")
