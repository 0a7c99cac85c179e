"""Kinds of operation over a world that a test can look at and break; workers that die where they are told to."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, cast

import msgspec
import pytest
from sqlalchemy import Connection

from stillframe.db import clock, operations, quotas
from stillframe.db.engine import Database
from stillframe.errors import BadImage, ServiceUnavailable, ShareUnavailable, StepFailed, StillframeError
from stillframe.journal import record, runner, typed
from stillframe.journal.operation import BEGINS_NOTED, Document, Kind, NotYet, Operation, Verb
from stillframe.journal.record import Journal, Owner, Request
from stillframe.journal.typed import Args, Intent
from tests.unit.builders import new_id

KIND = "fake"
LEASE = 30
Fault = Literal["none", "refuses", "lies", "half", "waits", "not yet", "does not see"]


class Crash(BaseException):
    """The worker dies here: nothing of it runs any more, only the world and the database stay."""


class Clock:
    """``now`` passes, and ``set_by`` is by how much somebody has set the clock meanwhile, in seconds."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.set_by = 0.0

    def time(self) -> float:
        return self.now + self.set_by

    def monotonic(self) -> float:
        return self.now

    def install(self, monkeypatch: pytest.MonkeyPatch) -> "Clock":
        monkeypatch.setattr(clock, "now", lambda _connection: self.time())
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
        return verb_of(self.name, self._done, self._do, self._undo if self.undoes else None, self.mark)

    def _done(self, worker: WorkerContext, _operation: Operation, _args: Document) -> Document | None:
        worker.moment()
        looked = worker.count(f"look {self.name}")
        if self.fault == "does not see" and looked <= 2:
            raise ServiceUnavailable(f"{self.name} cannot be seen")
        if self.blind_from is not None and looked >= self.blind_from:
            raise BadImage(f"{self.name} is damaged")
        return {"seen": True} if self.sees and self.name in worker.facts else None

    def _do(self, worker: WorkerContext, operation: Operation, _args: Document) -> Document:
        worker.moment()
        tried = worker.count(f"do {self.name}")
        worker.log.append(f"do {self.name}")
        if self.fault == "refuses" or (self.refuses_from is not None and tried >= self.refuses_from):
            raise StepFailed(f"{self.name} refuses")
        if self.fault == "waits" and tried <= 2:
            raise ShareUnavailable(f"{self.name} waits")
        if self.fault == "not yet" and tried <= 2:
            raise NotYet(1.0, {"tried": operation.notes(self.name).get("tried", 0) + 1})
        worker.facts.add(f"half of {self.name}")
        worker.moment(f"half of {self.name}")
        if self.fault == "half":
            raise StepFailed(f"{self.name} broke half-way")
        worker.facts.discard(f"half of {self.name}")
        worker.facts.add(self.name)
        worker.moment(self.name)
        if self.fault == "lies":
            raise StepFailed(f"{self.name} says it failed")
        return {"bytes": 1}

    def _undo(self, worker: WorkerContext, _operation: Operation, _args: Document) -> None:
        worker.moment(f"undoing {self.name}")
        worker.log.append(f"undo {self.name}")
        worker.facts.discard(self.name)
        worker.moment()
        worker.facts.discard(f"half of {self.name}")
        worker.moment()


def told(name: str) -> type[Args]:
    """The class of what a step of that name is told: nothing."""
    made: Any = msgspec.defstruct(name, [], bases=(Args,), namespace={"verb": name}, frozen=True, kw_only=True)
    return cast("type[Args]", made)


def intent_of(**fields: Any) -> Intent:
    """What is asked, of a class of its own."""
    made: Any = msgspec.defstruct("Asked", [(name, Any) for name in fields], bases=(Intent,), frozen=True, kw_only=True)
    return cast("Intent", made(**fields))


def step_of(verb: str, key: str = "", **fields: Any) -> typed.Step:
    """A step that is told something."""
    wanted, more = [(name, Any) for name in fields], {"verb": verb}
    made: Any = msgspec.defstruct(verb, wanted, bases=(Args,), namespace=more, frozen=True, kw_only=True)
    return typed.step(made(**fields), key)


def verb_of(name: str, done: Any, do: Any, undo: Any = None, no_return: Any = "never") -> Verb:
    """A verb of that name, which is told nothing."""
    return Verb(done, do, undo, no_return, args=told(name))


def kind_with(verbs: Iterable[Verb], settle: Any, progressed: Any = None, afterwards: str = "") -> Kind:
    """A kind of which nothing is asked."""
    return Kind({typed.verb_of(verb.args): verb for verb in verbs}, settle, progressed, afterwards, intent=Intent)


def plan_of(*names: str) -> list[typed.Step]:
    return typed.numbered([told(name)() for name in names])


def settle(connection: Connection, operation: Operation, outcome: str, fault: Document | None) -> None:
    """Rows that follow the outcome: one quota each, so that a lost or doubled settling shows."""
    known = quotas.limits(connection, operation.id)
    quotas.set_limits(connection, operation.id, {outcome: known.get(outcome, 0) + 1})


def kind_of(steps: Sequence[Step], progressed: Callable[[Connection, Operation], None] | None = None) -> Kind:
    return kind_with([step.verb() for step in steps], settle, progressed)


def owner(number: int = 0) -> Owner:
    """A worker that is dead by the time anybody asks."""
    return Owner("here", 1, f"never-{number}")


class DyingJournal(Journal):
    """Dies before or after each of its transactions when the world says so."""

    def __init__(
        self, database: Database, owner: Owner, worker: WorkerContext, kinds: Mapping[str, Kind] = MappingProxyType({})
    ) -> None:
        super().__init__(database, "volumes", owner, LEASE, kinds)
        self._worker = worker

    def claim_all(self) -> list[Operation]:
        found = super().claim_all()
        self._worker.moment()
        return found

    def change(self, operation: Operation, kind: Kind | None = None, **values: Any) -> Operation:
        self._worker.moment()
        changed = super().change(operation, kind, **values)
        self._worker.moment()
        return changed

    def finish(self, operation: Operation, kind: Kind, outcome: str, error: StillframeError | None) -> None:
        self._worker.moment()
        super().finish(operation, kind, outcome, error)
        self._worker.moment()

    def postpone(self, operation: Operation, error: StillframeError) -> None:
        self._worker.moment()
        super().postpone(operation, error)
        self._worker.moment()

    def wait(self, operation: Operation, name: str, waiting: NotYet) -> None:
        self._worker.moment()
        super().wait(operation, name, waiting)
        self._worker.moment()


def submit(database: Database, names: Sequence[str], **more: Any) -> str:
    """Stores an operation of the steps named; resources default to one of its own. Returns its id."""
    operation_id = new_id()
    request = Request(
        more.get("service", "volumes"),
        more.get("kind", KIND),
        more.get("intent", Intent()),
        plan_of(*names),
        more.get("resources", [f"volume:{operation_id}"]),
        "req-1",
        operation_id,
        project_id=more.get("project", ""),
    )
    with database.write() as connection:
        return record.submit(connection, request)


def row_of(database: Database, operation_id: str) -> Any:
    with database.read() as connection:
        found = operations.get(connection, operation_id)
    assert found is not None
    return found


def found(row: Any) -> dict[str, Document]:
    """What the steps found or made, without the mark that every operation carries from its beginning."""
    return {name: evidence for name, evidence in row["evidence"].items() if name != BEGINS_NOTED}


def settled(database: Database, operation_id: str) -> dict[str, int]:
    """How often the rows followed each outcome."""
    with database.read() as connection:
        return quotas.limits(connection, operation_id)


def run_once(journal: Journal, steps: Sequence[Step], worker: WorkerContext) -> None:
    """One look for work."""
    for operation in journal.claim_all():
        runner.run(journal, kind_of(steps), worker, operation)
    journal.close()


def drive(database: Database, clock: Clock, steps: Sequence[Step], worker: WorkerContext, operation_id: str) -> Any:
    """Workers come, die and are followed by others, until the operation has ended; returns its row."""
    for number in range(300):
        clock.now += 2 * LEASE
        journal = DyingJournal(database, owner(number), worker)
        try:
            journal.take_over()
            run_once(journal, steps, worker)
        except Crash:
            continue
        row = row_of(database, operation_id)
        if row["state"] in ("done", "undone", "parked"):
            return row
    raise AssertionError(f"the operation does not end: {row_of(database, operation_id)}")
