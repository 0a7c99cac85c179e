"""A verb that comes several times in one plan has a key of its own each time: its evidence, its failpoints."""

from typing import Any

import pytest
from sqlalchemy import Connection

from stillframe.db.engine import Database
from stillframe.errors import Cancelled, StepFailed
from stillframe.journal import failpoints, record, runner, typed
from stillframe.journal.operation import BEGINS_NOTED, Document, Kind, Operation, Verb
from stillframe.journal.record import Journal, Request
from stillframe.journal.typed import Args, Intent
from tests.unit.builders import new_id
from tests.unit.journal.fakes import LEASE, Clock, found, kind_with, owner, row_of, settle, settled, told, verb_of


class Copy(Args, frozen=True, kw_only=True):
    verb = "copy"
    name: str


PLAN = typed.numbered([Copy(name="a"), told("mark")(), Copy(name="b")])


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock().install(monkeypatch)


@pytest.fixture
def journal(database: Database, clock: Clock) -> Journal:
    return Journal(database, "volumes", owner(), LEASE, {"copies": Copies().kind()})


class Copies:
    """Files that are copied; the world does not tell whether one was, only the evidence does."""

    def __init__(self, fails: str = "") -> None:
        self.log: list[str] = []
        self.fails = fails

    def kind(self, no_return: Any = "never") -> Kind:
        def done(_worker: Any, operation: Operation, args: Copy) -> Document | None:
            known = operation.evidence.get(operation.at, {})
            return known if "bytes" in known else None

        def do(_worker: Any, operation: Operation, args: Copy) -> Document:
            self.log.append(f"{args.name} after {sorted({*operation.evidence} - {BEGINS_NOTED})}")
            if args.name == self.fails:
                raise StepFailed("no")
            return {"bytes": len(self.log)}

        def undo(_worker: Any, _operation: Operation, args: Copy) -> None:
            self.log.append(f"undo {args.name}")

        marks = verb_of("mark", lambda *_: None, lambda *_: {})
        return kind_with([Verb(done, do, undo, no_return, args=Copy), marks], settle)


def run(journal: Journal, kind: Kind) -> Any:
    with journal.database.write() as connection:
        operation_id = record.submit(connection, Request("volumes", "copies", Intent(), PLAN, [], "r", new_id()))
    again(journal, kind)
    return row_of(journal.database, operation_id)


def again(journal: Journal, kind: Kind) -> None:
    for operation in journal.claim_all():
        runner.run(journal, kind, None, operation)


def test_a_step_without_a_key_goes_by_its_verb() -> None:
    assert [step.key for step in PLAN] == ["copy", "mark", "copy-2"]


def test_each_step_keeps_its_own_evidence(journal: Journal) -> None:
    copies = Copies()
    row = run(journal, copies.kind())
    assert found(row) == {"copy": {"bytes": 1}, "mark": {}, "copy-2": {"bytes": 2}}
    assert row["bytes"] == 3
    assert copies.log == ["a after []", "b after ['copy', 'mark']"]


def test_what_fails_the_second_time_is_undone_step_by_step(journal: Journal) -> None:
    copies = Copies(fails="b")
    row = run(journal, copies.kind())
    assert row["state"] == "undone"
    assert copies.log[2:] == ["undo b", "undo a"]


def test_the_second_of_two_is_begun_on_its_own(journal: Journal) -> None:
    """That the first one was done says nothing about the second one."""
    copies = Copies(fails="b")
    row = run(journal, copies.kind("start"))
    assert (row["state"], found(row)) == ("running", {"copy": {"bytes": 1}, "mark": {}, "copy-2": {}})


def test_a_failpoint_is_named_by_the_key(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    reached: list[str] = []
    monkeypatch.setattr(runner, "reached", lambda name, _about: reached.append(name))
    run(journal, Copies(fails="b").kind())
    names = ["copies/copy", "copies/mark", "copies/copy-2"]
    forward = [f"{name}/{phase}" for name in names for phase in failpoints.PHASES][:-2]
    back = [f"{name}/{phase}" for name in ("copies/copy-2", "copies/copy") for phase in failpoints.UNDO_PHASES]
    assert reached == forward + back


def test_what_somebody_gave_up_ends_where_it_is(journal: Journal) -> None:
    """Neither back nor on: what was begun stays as it is, and the rows follow once."""

    def abandoned_operations(*_arguments: Any) -> Any:
        raise Cancelled("enough", merged=True)

    copies = Copies()
    kind = copies.kind("start")
    kind = kind_with([*kind.verbs.values(), verb_of("mark", lambda *_: None, abandoned_operations)], settle)
    row = run(journal, kind)
    assert (row["state"], row["step"], row["fault"]["code"]) == ("undone", 1, "cancelled")
    assert row["fault"]["details"] == {"merged": True}
    assert copies.log == ["a after ['copy']"]
    assert settled(journal.database, row["id"]) == {"undone": 1}
    again(journal, kind)
    assert row_of(journal.database, row["id"])["state"] == "undone"


def test_the_rows_see_how_far_it_came(journal: Journal) -> None:
    seen: list[tuple[str, int]] = []

    def watch(_connection: Connection, operation: Operation, outcome: str, _fault: Document | None) -> None:
        seen.append((outcome, operation.step))

    for fails, wanted in (("", ("done", 3)), ("b", ("undone", 0))):
        run(journal, kind_with(Copies(fails).kind().verbs.values(), watch))
        assert seen[-1] == wanted
