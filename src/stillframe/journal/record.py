"""Writes the journal: every function is one short transaction or part of the caller's."""

import logging
import math
import os
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sqlalchemy import Connection

from stillframe.db import clock, finished, operations
from stillframe.db.engine import Database
from stillframe.db.rows import OperationRow
from stillframe.db.values import NewOperation
from stillframe.errors import Busy, StillframeError
from stillframe.journal import typed
from stillframe.journal.about import about
from stillframe.journal.operation import AT_WORK, BEGINS_NOTED, Kind, NotYet, Operation
from stillframe.journal.short_waits import ShortWaits
from stillframe.journal.typed import Intent, Step

LOG = logging.getLogger(__name__)
FEW = 25  # that wait: each is looked at when it says
LOOKS_A_SECOND = 2.0  # at all together, when more wait than a few
SHORT_WAIT_SECONDS = 0.2
SET_BACK_SECONDS = 5.0  # a clock that is behind by more was set; a busy machine is late, and never early
LONGEST_CROWD_SECONDS = operations.LONGEST_PAUSE_SECONDS / 2


@dataclass(frozen=True)
class _Due:
    """When an operation that waits is looked at again, and when its step wished to be, by ``time.monotonic``."""

    until: float
    wished: float


class LostLease(Exception):
    """Another worker has the operation now; this one must not touch anything more."""


@dataclass(frozen=True)
class Owner:
    """A worker process, named so that another one on the same host can tell whether it is dead."""

    host: str
    pid: int
    started: str

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}:{self.started}"


def this_process(host: str) -> Owner:
    return Owner(host, os.getpid(), _started(os.getpid()) or "0")


def is_dead(owner: str, host: str) -> bool:
    """Tells whether the owner is a process of this host that runs no more; False for other hosts."""
    name, pid, started = owner.rsplit(":", 2)
    return name == host and _started(int(pid)) != started


def _started(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


@dataclass(frozen=True)
class Request:
    """What an operation is made from. ``resources`` are "volume:<id>" or "server:<id>"; others wait for them."""

    service: str
    kind: str
    intent: Intent
    plan: Sequence[Step]
    resources: Sequence[str]
    request_id: str
    id: str | None = None
    shared: Sequence[str] = ()  # resources that are only read
    pause: float = 0.0  # seconds; for work that may wait until something more urgent has ended
    project_id: str = ""  # the owner; projects take turns

    def of(self, project_id: str) -> "Request":
        """The same, as the project's."""
        return replace(self, project_id=project_id)


def submit(connection: Connection, request: Request) -> str:
    """Stores the operation in the caller's transaction, before anything of it happens; returns its id."""
    operation_id = request.id or str(uuid.uuid4())
    row: NewOperation = {
        "id": operation_id,
        "service": request.service,
        "kind": request.kind,
        "state": "pending",
        "intent": typed.document(request.intent),
        "version": request.intent.version,
        "plan": [each.document() for each in request.plan],
        "step": 0,
        "evidence": {BEGINS_NOTED: {}},
        "epoch": 0,
        "lease_until": clock.now(connection) + request.pause if request.pause else 0.0,
        "attempts": 0,
        "bytes": 0,
        "request_id": request.request_id,
        "project_id": request.project_id,
    }
    operations.insert(connection, row, request.resources, request.shared)
    return operation_id


def withdraw(connection: Connection, operation_id: str, error: StillframeError) -> bool:
    """Ends an operation that nobody has begun; False when somebody has. Only for kinds whose ``settle`` has nothing to do."""
    if not operations.withdraw(connection, operation_id, error.to_document()):
        return False
    finished.ended(connection, operation_id)
    return True


def refuse_if_busy(connection: Connection, resource: str, shared: bool = False) -> None:
    """Raises Busy naming the unfinished operation that holds the resource; with ``shared`` for one that only reads."""
    row = operations.on_resource(connection, resource, shared)
    if row is not None:
        waits = ""
        if row["state"] == "parked":  # nobody's waiting ends that
            waits = f", and waits for an administrator: 'stillframe operation show {row['id']}' tells for what"
        raise Busy(
            f"{resource.replace(':', ' ')} is busy: operation {row['id']} ({row['kind']}) is {row['state']}{waits}",
            operation_id=row["id"],
            kind=row["kind"],
            state=row["state"],
            intent_id=about(row["intent"]).set_id,
        )


def line_of(connection: Connection, resource: str, kinds: Sequence[str]) -> list[OperationRow]:
    """Returns the unfinished operations that a new one would wait for, on a resource where those of ``kinds`` end soon. Raises
    Busy when an operation of another kind has the resource, or one of them makes no progress."""
    found = operations.line(connection, resource)
    if any(row["kind"] not in kinds or row["state"] == "parked" for row in found):
        refuse_if_busy(connection, resource)
    return found


class Journal:
    """The operations of one service, as one worker claims, records and ends them."""

    def __init__(
        self,
        database: Database,
        service: str,
        owner: Owner,
        lease_seconds: int,
        kinds: Mapping[str, Kind[Any]] = MappingProxyType({}),
    ) -> None:
        self.kinds = kinds
        self.database = database
        self.service = service
        self.owner = owner
        self.lease_seconds = lease_seconds
        self._held: set[str] = set()
        self._woken: set[str] = set()  # of those, what is to be looked at once more
        self._due: dict[str, _Due] = {}  # those that wait here; the rows say the same
        self._short_waits = ShortWaits()
        self._ahead = -math.inf  # how far the database's clock was ahead of time.monotonic

    @property
    def keeps(self) -> int:
        """How many operations are looked at again within moments, without having been given back."""
        return len(self._short_waits)

    def _operation(self, row: OperationRow) -> Operation:
        return Operation.from_row(row, self.kinds.get(row["kind"]))

    def claim_all(self) -> list[Operation]:
        """Claims every operation that is free and whose turn it is, but none that runs in this process already."""
        taken = self._short_waits.take(time.monotonic())
        self._forget_due(time.monotonic())
        with self.database.read() as connection:
            candidates = [row for row in operations.claimable(connection, self.service) if row["id"] not in self._held]
        if not candidates:
            return taken
        with self.database.write() as connection:
            until = clock.now(connection) + self.lease_seconds
            for row in candidates:
                if operations.claim(connection, row, str(self.owner), until):
                    fresh = operations.get(connection, row["id"])
                    assert fresh is not None
                    taken.append(self._operation(fresh))
        self._held |= {operation.id for operation in taken}
        return taken

    def release(self, operation: Operation) -> None:
        """Forgets an operation that this process does not work on any more: its lease is not renewed, and it may be claimed
        again. Not of one that is looked at again within moments."""
        if not self._short_waits.left(operation.id):
            self._held.discard(operation.id)
        elif operation.id in self._woken:
            self._woken.discard(operation.id)
            self._short_waits.make_due(operation.id)

    def close(self) -> None:
        """When no thread works any more: gives back what would have been looked at within moments."""
        for operation in self._short_waits.take():
            with suppress(LostLease), self.database.write() as connection:
                self._change(connection, operation, {"owner": None, "lease_until": 0.0, "evidence": operation.evidence})
            self.release(operation)

    def renew(self) -> None:
        """Keeps what this process works on. When the clock was set back, every pause is over: it would last an hour longer by a
        clock that was set back by an hour."""
        with self.database.write() as connection:
            moment = clock.now(connection)
            before, self._ahead = self._ahead, moment - time.monotonic()
            if self._ahead < before - SET_BACK_SECONDS:
                LOG.warning("the clock was set back by %.0f s: all that waits is looked at now", before - self._ahead)
                operations.make_all_due(connection, self.service)
            operations.renew(connection, str(self.owner), sorted(self._held), moment + self.lease_seconds)

    def fresh(self, operation: Operation) -> Operation:
        """Returns the operation as it is recorded now."""
        with self.database.read() as connection:
            row = operations.get(connection, operation.id)
        assert row is not None
        return self._operation(row)

    def take_over(self) -> None:
        """At start: ends the leases of dead workers of this host, and looks at parked operations once more."""
        with self.database.write() as connection:
            for owner in operations.owners(connection, self.service):
                if is_dead(owner, self.owner.host):
                    operations.free(connection, self.service, owner)
            operations.unpark(connection, self.service)

    def change(self, operation: Operation, kind: Kind | None = None, **values: Any) -> Operation:
        """Records progress; raises LostLease when the operation is not ours any more."""
        with self.database.write() as connection:
            self._change(connection, operation, values)
            fresh = operations.get(connection, operation.id)
            assert fresh is not None
            changed = self._operation(fresh)
            if kind is not None and kind.progressed is not None:
                kind.progressed(connection, changed)
        return changed

    def finish(self, operation: Operation, kind: Kind, outcome: str, error: StillframeError | None) -> None:
        """Ends the operation and changes the rows it is about, in one transaction."""
        fault = error.to_document() if error else None
        with self.database.write() as connection:
            known = operations.get(connection, operation.id)
            assert known is not None
            self._change(connection, operation, {"state": outcome, "fault": fault, "owner": None, **_way(known, outcome)})
            if outcome != "parked":
                finished.ended(connection, operation.id)
            fresh = operations.get(connection, operation.id)
            assert fresh is not None
            kind.settle(connection, self._operation(fresh), outcome, fault)

    def postpone(self, operation: Operation, error: StillframeError) -> None:
        """Gives the operation back, to be taken up later, because something did not answer."""
        delay = min(30.0, 0.25 * 2 ** min(operation.attempts, 10))
        with self.database.write() as connection:
            until = clock.now(connection) + delay
            values: dict[str, Any] = {"owner": None, "attempts": operation.attempts + 1, "lease_until": until}
            if operation.state != "undoing":  # an operation that goes back keeps the error that made it do so
                values["fault"] = error.to_document()
            self._change(connection, operation, values)
        self.release(operation)

    def wait(self, operation: Operation, name: str, waiting: NotYet) -> None:
        """Gives the operation back until ``waiting.seconds`` have passed; ``name`` is what its notes are kept by. Where many
        wait for others each is looked at less often, so that all of them together cost no more than a few."""
        notes = {**waiting.notes, **({AT_WORK: True} if waiting.at_work else {})}
        evidence = {**operation.evidence, name: notes}
        if self._is_short(operation, waiting):
            self._short_waits.keep(replace(operation, evidence=evidence), time.monotonic() + waiting.seconds)
            return
        crowd = 0.0 if waiting.at_work else self._crowd()
        pause = max(waiting.seconds, crowd)
        attempts = operation.attempts if waiting.at_work else 0
        values: dict[str, Any] = {"owner": None, "attempts": attempts, "evidence": evidence}
        if operation.state != "undoing":  # going back keeps the error that turned it round
            values["fault"] = waiting.why.to_document() if waiting.why else None
        with self.database.write() as connection:
            until = clock.now(connection) + pause
            self._change(connection, operation, {**values, "lease_until": until})
        self._due[operation.id] = _Due(time.monotonic() + pause, time.monotonic() + waiting.seconds)
        self.release(operation)
        if operation.id in self._woken:
            self._woken.discard(operation.id)
            self.tell(operation.id)

    def _is_short(self, operation: Operation, waiting: NotYet) -> bool:
        """Whether nothing has to be recorded for the moment until the next look."""
        same = operation.state == "running" and operation.fault is None and waiting.why is None
        same = same and (waiting.at_work or not operation.attempts)
        return same and 0 < waiting.seconds <= SHORT_WAIT_SECONDS and len(self._due) + len(self._short_waits) < FEW

    def tell(self, operation_id: str) -> None:
        """Wakes a waiting operation, because what it waits for may have ended: it runs at once instead of at its time; if it
        runs already, it runs once more. This is lost when the process dies; its time comes anyway."""
        if self._short_waits.make_due(operation_id):
            return
        with self.database.write() as connection:
            due = operations.make_due(connection, operation_id)
        if not due and operation_id in self._held:
            self._woken.add(operation_id)
        self._due.pop(operation_id, None)

    def _crowd(self) -> float:
        """After how many seconds one of many that wait is looked at again."""
        return min(LONGEST_CROWD_SECONDS, max(0, len(self._due) - FEW) / LOOKS_A_SECOND)

    def spread(self) -> None:
        """From time to time: where most of a crowd have ended, the others do not wait as if they were still there."""
        now, crowd = time.monotonic(), self._crowd()
        late = sorted(each for each, due in list(self._due.items()) if due.until > max(due.wished, now + crowd))
        if not late:
            return
        with self.database.write() as connection:
            moment = clock.now(connection)
            for number, operation_id in enumerate(late):
                due = self._due.get(operation_id, _Due(now, now))
                pause = max(due.wished - now, crowd * number / len(late))
                if operations.make_due(connection, operation_id, moment + pause):
                    self._due[operation_id] = replace(due, until=now + pause)

    def ours(self, ids: Collection[str]) -> set[str]:
        """Returns those that have not ended and that no other worker holds."""
        with self.database.read() as connection:
            found = [operations.get(connection, operation_id) for operation_id in ids]
        mine = (None, str(self.owner))
        return {row["id"] for row in found if row and row["state"] in operations.CLAIMABLE and row["owner"] in mine}

    def at_work(self) -> list[Operation]:
        """Returns the operations that wait for work which they began and which continues without them, whichever worker had
        them."""
        with self.database.read() as connection:
            found = [self._operation(row) for row in operations.unfinished(connection, self.service)]
        return [each for each in found if each.state != "parked" and each.is_at_work]

    def next_due(self) -> float:
        """Returns in how many seconds the first of those that wait is to be looked at; infinite when none waits."""
        waiting = min((due.until for due in list(self._due.values())), default=math.inf)
        return max(0.0, min(waiting, self._short_waits.next()) - time.monotonic())

    def _forget_due(self, moment: float) -> None:
        """Takes what is due from the rows; an operation that was withdrawn or belongs to another worker is not waited for
        again."""
        for operation_id in [each for each, due in list(self._due.items()) if due.until <= moment]:
            self._due.pop(operation_id, None)

    def _change(self, connection: Connection, operation: Operation, values: dict[str, Any]) -> None:
        if not operations.change(connection, operation.id, str(self.owner), operation.epoch, **values):
            raise LostLease(operation.id)


def _way(row: OperationRow, outcome: str) -> dict[str, Any]:
    """An operation that was parked while it went back continues to go back (``operations.unpark``)."""
    back = outcome == "parked" and row["state"] == "undoing"
    return {"evidence": {**row["evidence"], operations.BACK: {}}} if back else {}
