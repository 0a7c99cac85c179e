"""The worker: finds work, runs it, lets it end."""

import queue
import threading
from collections.abc import Iterator

import pytest
from sqlalchemy import Connection

from stillframe.db import operations
from stillframe.db.engine import Database
from stillframe.journal.operation import Document, NotYet, Operation
from stillframe.journal.record import Journal, this_process
from stillframe.journal.slots import Lanes
from stillframe.journal.worker import Worker
from tests.unit.journal.fakes import (
    KIND,
    LEASE,
    Step,
    WorkerContext,
    intent_of,
    kind_with,
    owner,
    row_of,
    settle,
    submit,
    verb_of,
)

WAIT = 20.0


class Watched:
    """A worker over one fake step, and the event that its operation ended."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.ended, self.looked = threading.Event(), threading.Event()
        journal = Journal(database, "volumes", this_process("here"), LEASE)

        def end(connection: Connection, operation: Operation, outcome: str, fault: Document | None) -> None:
            settle(connection, operation, outcome, fault)
            self.ended.set()

        kind = kind_with([Step("one").verb()], end)
        self.worker = Worker(journal, {KIND: kind}, WorkerContext(), Lanes(2), self.looked.set)


@pytest.fixture
def watched(database: Database) -> Iterator[Watched]:
    made = Watched(database)
    yield made
    if not made.worker._stopping:
        made.worker.stop()


def test_what_waits_at_the_start_is_run(watched: Watched) -> None:
    operation_id = submit(watched.database, ["one"])
    watched.worker.start()
    assert watched.ended.wait(WAIT)
    watched.worker.stop()
    assert row_of(watched.database, operation_id)["state"] == "done"


def test_what_a_dead_worker_held_is_run(watched: Watched) -> None:
    operation_id = submit(watched.database, ["one"])
    assert Journal(watched.database, "volumes", owner(), 3600).claim_all()
    watched.worker.start()
    assert watched.ended.wait(WAIT)
    watched.worker.stop()
    assert row_of(watched.database, operation_id)["state"] == "done"


def test_a_worker_that_is_woken_looks_for_work(watched: Watched) -> None:
    watched.worker.start()
    assert watched.looked.wait(WAIT)
    submit(watched.database, ["one"])
    watched.worker.wake()
    assert watched.ended.wait(WAIT)


def test_a_timer_that_fails_does_not_end_the_worker(watched: Watched) -> None:
    def broken() -> None:
        watched.looked.set()
        raise RuntimeError("broken")

    watched.worker.on_timer = broken
    watched.worker.start()
    assert watched.looked.wait(WAIT)
    watched.worker.on_timer = lambda: None
    submit(watched.database, ["one"])
    watched.worker.wake()
    assert watched.ended.wait(WAIT)


def test_what_one_lane_waits_for_holds_up_no_other(database: Database) -> None:
    """A share that hangs, and a thousand operations on it."""
    hangs, ended, begun = threading.Event(), threading.Event(), threading.Semaphore(0)

    def do(_worker: object, operation: Operation, _args: Document) -> Document:
        if operation.intent["lane"] == "dead":
            begun.release()
            assert hangs.wait(WAIT)
        else:
            ended.set()
        return {}

    kind = kind_with([verb_of("one", lambda *_: None, do)], settle)
    journal = Journal(database, "volumes", this_process("here"), LEASE)
    lanes = Lanes(1, {KIND: 2}, lambda operation: str(operation.intent["lane"]))
    worker = Worker(journal, {KIND: kind}, None, lanes, lambda: None)
    for _ in range(5):
        submit(database, ["one"], intent=intent_of(lane="dead"))
    submit(database, ["one"], intent=intent_of(lane="alive"))
    worker.start()
    try:
        assert ended.wait(WAIT)
        for _ in range(2):
            assert begun.acquire(timeout=WAIT)
        assert not begun.acquire(blocking=False), "a lane has as many threads as it may"
    finally:
        hangs.set()
        worker.stop()


def test_operations_that_wait_hold_up_nobody(database: Database) -> None:
    """Four threads, two hundred deletions that wait for somebody else: a snapshot runs all the same, and then they go on."""
    done, ran, allowed = threading.Semaphore(0), threading.Event(), threading.Event()

    def wait(_worker: object, _operation: Operation, _args: Document) -> Document:
        if not allowed.is_set():
            raise NotYet(0.05)
        done.release()
        return {}

    def snapshot(_worker: object, _operation: Operation, _args: Document) -> Document:
        ran.set()
        return {}

    kind = kind_with([verb_of("wait", lambda *_: None, wait), verb_of("snapshot", lambda *_: None, snapshot)], settle)
    worker = Worker(Journal(database, "compute", this_process("here"), LEASE), {KIND: kind}, None, Lanes(4), lambda: None)
    deletions = [submit(database, ["wait"], service="compute") for _ in range(200)]
    worker.start()
    try:
        submit(database, ["snapshot"], service="compute")
        worker.wake()
        assert ran.wait(WAIT)
        allowed.set()
        for _ in deletions:
            assert done.acquire(timeout=WAIT)
    finally:
        worker.stop()


def test_a_kind_is_limited_in_all_lanes_together(database: Database) -> None:
    """Merges: two on one share at most, three on the host."""
    go_on, begun = threading.Event(), threading.Semaphore(0)
    running: list[str] = []

    def do(_worker: object, operation: Operation, _args: Document) -> Document:
        running.append(operation.intent["lane"])
        begun.release()
        assert go_on.wait(WAIT)
        return {}

    kind = kind_with([verb_of("one", lambda *_: None, do)], settle)
    journal = Journal(database, "volumes", this_process("here"), LEASE)
    lanes = Lanes(1, {KIND: 2}, lambda operation: str(operation.intent["lane"]), {KIND: 3})
    worker = Worker(journal, {KIND: kind}, None, lanes, lambda: None)
    for lane in ["nfs1"] * 4 + ["nfs2"] * 4:
        submit(database, ["one"], intent=intent_of(lane=lane))
    worker.start()
    try:
        for _ in range(3):
            assert begun.acquire(timeout=WAIT)
        assert sorted(running) in (["nfs1", "nfs1", "nfs2"], ["nfs1", "nfs2", "nfs2"])
        assert not begun.acquire(timeout=0.2), "a fourth has begun"
        go_on.set()
        for _ in range(5):
            assert begun.acquire(timeout=WAIT)
    finally:
        go_on.set()
        worker.stop()


def test_a_worker_that_stops_begins_nothing_more(database: Database) -> None:
    stopping, begun, ran = threading.Event(), threading.Event(), []

    def do(_worker: object, operation: Operation, _args: Document) -> Document:
        ran.append(operation.id)
        begun.set()
        assert stopping.wait(WAIT)
        return {}

    kind = kind_with([verb_of("one", lambda *_: None, do)], settle)
    worker = Worker(Journal(database, "volumes", this_process("here"), LEASE), {KIND: kind}, None, Lanes(1), lambda: None)
    for _ in range(3):
        submit(database, ["one"])
    worker.start()
    assert begun.wait(WAIT)
    threading.Timer(0.1, stopping.set).start()
    worker.stop()
    assert len(ran) == 1


def test_an_operation_of_a_kind_of_another_release_is_parked(watched: Watched) -> None:
    operation_id = submit(watched.database, [], kind="another")
    watched.worker.start()
    submit(watched.database, ["one"], resources=[f"volume:{operation_id}"])
    after = submit(watched.database, ["one"])
    watched.worker.wake()
    assert watched.ended.wait(WAIT)
    watched.worker.stop()
    row = row_of(watched.database, operation_id)
    assert (row["state"], row_of(watched.database, after)["state"]) == ("parked", "done")
    assert "does not know operations of the kind another" in row["fault"]["message"]


def test_one_that_cannot_be_begun_holds_up_none_of_the_others(database: Database) -> None:
    """The database is away right after they were claimed, when the lane of one is asked for."""
    ended, asked = threading.Event(), threading.Event()

    def lane(operation: Operation) -> str:
        if "lost" in operation.intent and not asked.is_set():
            asked.set()
            raise OSError("away")
        return ""

    def end(connection: Connection, operation: Operation, outcome: str, fault: Document | None) -> None:
        settle(connection, operation, outcome, fault)
        if "lost" in operation.intent:
            ended.set()

    lost, other = submit(database, ["one"], intent=intent_of(lost=1)), submit(database, ["one"])
    journal = Journal(database, "volumes", this_process("here"), 1)
    worker = Worker(journal, {KIND: kind_with([Step("one").verb()], end)}, WorkerContext(), Lanes(2, of=lane), lambda: None)
    worker.start()
    try:
        assert ended.wait(WAIT)
    finally:
        worker.stop()
    assert [row_of(database, each)["state"] for each in (lost, other)] == ["done", "done"]


class AtWork:
    """Operations of which two may be at work at once, that go on without a thread until ``over``."""

    def __init__(self, database: Database) -> None:
        self.database, self.over = database, threading.Event()
        self.looked: queue.Queue[str] = queue.Queue()
        self.ended: queue.Queue[str] = queue.Queue()
        kind = kind_with([verb_of("one", lambda *_: None, self._do)], settle)
        self.kinds = {KIND: kind, "other": kind_with([verb_of("one", lambda *_: None, lambda *_: {})], self._end)}

    def _do(self, _worker: object, operation: Operation, _args: Document) -> Document:
        self.looked.put(operation.id)
        if not self.over.is_set():
            raise NotYet(600, at_work=True)
        return {}

    def _end(self, _connection: Connection, operation: Operation, _outcome: str, _fault: Document | None) -> None:
        self.ended.put(operation.id)

    def worker(self) -> Worker:
        lanes = Lanes(1, {KIND: 2}, lambda operation: "merges" if operation.kind == KIND else "")
        return Worker(Journal(self.database, "volumes", this_process("here"), LEASE), self.kinds, None, lanes, lambda: None)


def test_what_goes_on_without_a_thread_counts_as_one_at_work(database: Database) -> None:
    there = AtWork(database)
    worker = there.worker()
    ids = [submit(database, ["one"]) for _ in range(4)]
    worker.start()
    try:
        assert sorted(there.looked.get(timeout=WAIT) for _ in range(2)) == sorted(ids[:2])
        other = submit(database, ["one"], kind="other")
        worker.wake()
        assert there.ended.get(timeout=WAIT) == other
        with pytest.raises(queue.Empty):
            there.looked.get(timeout=0.3)
        there.over.set()
        worker.tell(ids[0])
        assert sorted(there.looked.get(timeout=WAIT) for _ in range(3)) == sorted([ids[0], *ids[2:]])
    finally:
        worker.stop()


def test_what_was_at_work_when_a_worker_ended_is_known_to_the_next(database: Database) -> None:
    there = AtWork(database)
    first = there.worker()
    ids = [submit(database, ["one"]) for _ in range(2)]
    first.start()
    assert sorted(there.looked.get(timeout=WAIT) for _ in range(2)) == sorted(ids)
    first.stop()
    assert all(row_of(database, each)["owner"] is None for each in ids)
    later, second = submit(database, ["one"]), there.worker()
    second.start()
    try:
        with pytest.raises(queue.Empty):
            there.looked.get(timeout=0.3)
        with database.write() as connection:  # whoever looks at it: it has ended, and nobody here was with it
            operations.abandon(connection, row_of(database, ids[0]), {"code": "abandoned"})
        second._leave_slots()
        assert there.looked.get(timeout=WAIT) == later
    finally:
        second.stop()


@pytest.mark.parametrize("common", ["share", "server", "volume", "project"])
def test_nothing_that_hangs_takes_all_threads(database: Database, common: str) -> None:
    """Eight threads, two hundred operations that have one thing in common, which does not answer; another one runs."""
    hangs, ran, begun = threading.Event(), threading.Event(), threading.Semaphore(0)

    def do(_worker: object, operation: Operation, _args: Document) -> Document:
        if operation.intent.get("dead"):
            begun.release()
            assert hangs.wait(WAIT)
        else:
            ran.set()
        return {}

    kind = kind_with([verb_of("one", lambda *_: None, do)], settle)
    lanes = Lanes(8, places=lambda operation: tuple(operation.intent["places"]))
    worker = Worker(Journal(database, "volumes", this_process("here"), LEASE), {KIND: kind}, None, lanes, lambda: None)
    dead = [intent_of(dead=True, places=[f"{common} x" if common != "project" else f"server {n}"]) for n in range(200)]
    for intent in dead:
        submit(database, ["one"], intent=intent, project="p")
    worker.start()
    try:
        for _ in range(8):
            assert begun.acquire(timeout=WAIT)
        intent = intent_of(places=["server other", "share other"])
        submit(database, ["one"], intent=intent, project="q" if common == "project" else "p")
        worker.wake()
        assert ran.wait(WAIT)
    finally:
        hangs.set()
        worker.stop()
