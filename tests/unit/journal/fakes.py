"""Kinds of operation over a world that a test can look at and break; workers that die where they are told to."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from sqlalchemy import Connection

from stillframe.db import clock, operations, quotas
from stillframe.db.engine import Database
from stillframe.db.rows import Row
from stillframe.errors import BadImage, ServiceUnavailable, ShareUnavailable, StepFailed, StillframeError
from stillframe.journal import record, runner
from stillframe.journal.operation import BEGINS_NOTED, Document, Kind, NotYet, Operation, Verb
from stillframe.journal.record import Journal, Owner, Request
from tests.unit.builders import new_id

KIND = "fake"
LEASE = 30
Fault = Literal["none", "refuses", "lies", "half", "waits", "not yet", "does not see"]


class Crash(BaseException):
    """The worker dies here: nothing of it runs any more, only the world and the database stay."""


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now

    def install(self, monkeypatch: pytest.MonkeyPatch) -> "Clock":
        monkeypatch.setattr(clock, "now", lambda _connection: self.now)
        monkeypatch.setattr(record, "time", self)
        return self


@dataclass
class WorkerContext:
    """The disk (``facts``), what was done in which order (``log``), and when the worker dies: at moments by number, and
    once at each effect named in ``dies_at``."""

    facts: set[str] = field(default_factory=set)
    log: list[str] = field(default_factory=list)
    crashes: frozenset[int] = frozenset()
    dies_at: set[str] = field(default_factory=set)
    moments: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    def moment(self, effect: str = "") -> None:
        self.moments += 1
        if self.moments in self.crashes or effect in self.dies_at:
            self.dies_at.discard(effect)
            raise Crash

    def count(self, what: str) -> int:
        self.counts[what] += 1
        return self.counts[what]


@dataclass(frozen=True)
class Step:
    """How one fake step behaves. ``refuses_from`` and ``blind_from`` count calls over the operation's whole life."""

    name: str
    sees: bool = True
    undoes: bool = True
    mark: Literal["never", "start", "done"] = "never"
    fault: Fault = "none"
    refuses_from: int | None = None
    blind_from: int | None = None

    def verb(self) -> Verb:
        return Verb(self._done, self._do, self._undo if self.undoes else None, self.mark)

    def _done(self, world: WorkerContext, _operation: Operation, _args: Document) -> Document | None:
        world.moment()
        looked = world.count(f"look {self.name}")
        if self.fault == "does not see" and looked <= 2:
            raise ServiceUnavailable(f"{self.name} cannot be seen")
        if self.blind_from is not None and looked >= self.blind_from:
            raise BadImage(f"{self.name} is damaged")
        return {"seen": True} if self.sees and self.name in world.facts else None

    def _do(self, world: WorkerContext, operation: Operation, _args: Document) -> Document:
        world.moment()
        tried = world.count(f"do {self.name}")
        world.log.append(f"do {self.name}")
        if self.fault == "refuses" or (self.refuses_from is not None and tried >= self.refuses_from):
            raise StepFailed(f"{self.name} refuses")
        if self.fault == "waits" and tried <= 2:
            raise ShareUnavailable(f"{self.name} waits")
        if self.fault == "not yet" and tried <= 2:
            raise NotYet(1.0, {"tried": operation.notes(self.name).get("tried", 0) + 1})
        world.facts.add(f"half of {self.name}")
        world.moment(f"half of {self.name}")
        if self.fault == "half":
            raise StepFailed(f"{self.name} broke half-way")
        world.facts.discard(f"half of {self.name}")
        world.facts.add(self.name)
        world.moment(self.name)
        if self.fault == "lies":
            raise StepFailed(f"{self.name} says it failed")
        return {"bytes": 1}

    def _undo(self, world: WorkerContext, _operation: Operation, _args: Document) -> None:
        world.moment(f"undoing {self.name}")
        world.log.append(f"undo {self.name}")
        world.facts.discard(self.name)
        world.moment()
        world.facts.discard(f"half of {self.name}")
        world.moment()


def settle(connection: Connection, operation: Operation, outcome: str, fault: Document | None) -> None:
    """Rows that follow the outcome: one quota each, so that a lost or doubled settling shows."""
    known = quotas.limits(connection, operation.id)
    quotas.set_limits(connection, operation.id, {outcome: known.get(outcome, 0) + 1})


def kind_of(steps: Sequence[Step], progressed: Callable[[Connection, Operation], None] | None = None) -> Kind:
    return Kind({step.name: step.verb() for step in steps}, settle, progressed)


def owner(number: int = 0) -> Owner:
    """A worker that is dead by the time anybody asks."""
    return Owner("here", 1, f"never-{number}")


class DyingJournal(Journal):
    """Dies before or after each of its transactions when the world says so."""

    def __init__(self, database: Database, worker: Owner, world: WorkerContext) -> None:
        super().__init__(database, "volumes", worker, LEASE)
        self._world = world

    def claim_all(self) -> list[Operation]:
        found = super().claim_all()
        self._world.moment()
        return found

    def change(self, operation: Operation, kind: Kind | None = None, **values: Any) -> Operation:
        self._world.moment()
        changed = super().change(operation, kind, **values)
        self._world.moment()
        return changed

    def finish(self, operation: Operation, kind: Kind, outcome: str, error: StillframeError | None) -> None:
        self._world.moment()
        super().finish(operation, kind, outcome, error)
        self._world.moment()

    def postpone(self, operation: Operation, error: StillframeError) -> None:
        self._world.moment()
        super().postpone(operation, error)
        self._world.moment()

    def wait(self, operation: Operation, name: str, waiting: NotYet) -> None:
        self._world.moment()
        super().wait(operation, name, waiting)
        self._world.moment()


def submit(database: Database, names: Sequence[str], **more: Any) -> str:
    """Stores an operation of the steps named; resources default to one of its own. Returns its id."""
    operation_id = new_id()
    request = Request(
        more.get("service", "volumes"),
        more.get("kind", KIND),
        more.get("intent", {}),
        [{"verb": name, "args": {}} for name in names],
        more.get("resources", [f"volume:{operation_id}"]),
        "req-1",
        operation_id,
        project_id=more.get("project", ""),
    )
    with database.write() as connection:
        return record.submit(connection, request)


def row_of(database: Database, operation_id: str) -> Row:
    with database.read() as connection:
        found = operations.get(connection, operation_id)
    assert found is not None
    return found


def found(row: Row) -> dict[str, Document]:
    """What the steps found or made, without the mark that every operation carries from its beginning."""
    return {name: evidence for name, evidence in row["evidence"].items() if name != BEGINS_NOTED}


def settled(database: Database, operation_id: str) -> dict[str, int]:
    """How often the rows followed each outcome."""
    with database.read() as connection:
        return quotas.limits(connection, operation_id)


def run_once(journal: Journal, steps: Sequence[Step], world: WorkerContext) -> None:
    """One look for work."""
    for operation in journal.claim_all():
        runner.run(journal, kind_of(steps), world, operation)
    journal.close()


def drive(database: Database, clock: Clock, steps: Sequence[Step], world: WorkerContext, operation_id: str) -> Row:
    """Workers come, die and are followed by others, until the operation has ended; returns its row."""
    for number in range(300):
        clock.now += 2 * LEASE
        journal = DyingJournal(database, owner(number), world)
        try:
            journal.take_over()
            run_once(journal, steps, world)
        except Crash:
            continue
        row = row_of(database, operation_id)
        if row["state"] in ("done", "undone", "parked"):
            return row
    raise AssertionError(f"the operation does not end: {row_of(database, operation_id)}")
