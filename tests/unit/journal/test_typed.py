"""Intents and steps are typed values; what another release stored is parked with a sentence and changes nothing."""

from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import update

from stillframe.db.engine import Database
from stillframe.db.tables import operations
from stillframe.journal import record, runner, typed
from stillframe.journal.operation import Document, Kind, Operation, Verb
from stillframe.journal.record import Journal, Request
from stillframe.journal.typed import Args, Intent, NotUnderstood, Step
from tests.unit.journal.fakes import KIND, LEASE, WorkerContext, owner, row_of, settle, settled

DISK = {"name": "vda"}


class Disk(Args, frozen=True, kw_only=True):
    name: str


class Copy(Intent, frozen=True, kw_only=True):
    volume_id: str
    disks: tuple[Disk, ...] = ()
    limit: int | None = None


class NextCopy(Copy, frozen=True, kw_only=True):
    version = 3
    reads = frozenset({2})


class Up(Intent, frozen=True, kw_only=True, tag_field="way", tag="up"):
    name: str
    to: int


class Down(Intent, frozen=True, kw_only=True, tag_field="way", tag="down"):
    version = 2
    name: str
    into: str


class Write(Args, frozen=True, kw_only=True):
    verb = "write"
    name: str
    bytes: int = 0


@dataclass(frozen=True)
class Commit:
    top: str
    base: str | None


def do(worker: WorkerContext, operation: Operation[Copy], args: Write) -> Document:
    worker.facts.add(f"{operation.at} {args.name} of {operation.intent.volume_id}")
    return {"bytes": args.bytes}


KINDS = {KIND: Kind({"write": Verb(lambda *_: None, do, args=Write)}, settle, intent=Copy)}


def submit(database: Database, **changes: Any) -> str:
    """Stores an operation of two steps; ``changes`` are columns as another release would have written them."""
    asked = Copy(volume_id="v", disks=(Disk(name="vda"),))
    plan = typed.numbered([Write(name="a", bytes=7), Write(name="b")])
    with database.write() as connection:
        operation_id = record.submit(connection, Request("volumes", KIND, asked, plan, ["volume:v"], "req-1"))
        if changes:
            connection.execute(update(operations).values(**changes))
    return operation_id


def run(database: Database) -> tuple[WorkerContext, dict[str, Any]]:
    journal, worker = Journal(database, "volumes", owner(), LEASE, KINDS), WorkerContext()
    (operation,) = journal.claim_all()
    runner.run(journal, KINDS[KIND], worker, operation)
    return worker, dict(row_of(database, operation.id))


def test_what_is_stored_is_plain_and_says_its_version(database: Database) -> None:
    row = row_of(database, submit(database))
    assert (row["version"], row["intent"]) == (1, {"volume_id": "v", "disks": [DISK]})
    assert row["plan"] == [
        {"verb": "write", "key": "write", "args": {"name": "a", "bytes": 7}},
        {"verb": "write", "key": "write-2", "args": {"name": "b"}},
    ]


def test_verbs_get_values(database: Database) -> None:
    submit(database)
    worker, row = run(database)
    assert (worker.facts, row["state"], row["bytes"]) == ({"write a of v", "write-2 b of v"}, "done", 7)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"version": 2}, "its plan has version 2, and this release knows 1"),
        ({"intent": {}}, "what was asked: .*`volume_id`"),
        ({"intent": {"volume_id": 7}}, "what was asked: Expected `str`, got `int`"),
        ({"intent": {"volume_id": "v", "hurry": True}}, "what was asked: .*`hurry`"),
        ({"intent": {"volume_id": "v", "disks": [{"name": "vda", "size": 1}]}}, "what was asked: .*`size`"),
        ({"plan": [{"verb": "write", "args": {"name": "a", "sync": True}}]}, "step write: .*`sync`"),
        ({"plan": [{"verb": "write", "args": {}}]}, "step write: .*`name`"),
    ],
)
def test_what_another_release_wrote_is_parked_and_nothing_is_done(
    database: Database, changes: dict[str, Any], why: str
) -> None:
    operation_id = submit(database, **changes)
    worker, row = run(database)
    assert (worker.facts, row["state"], settled(database, operation_id)) == (set(), "parked", {})
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(row["fault"]["message"])
    assert "another release began it" in row["fault"]["message"]


def test_a_release_may_know_older_versions() -> None:
    assert typed.read_intent(NextCopy, {"volume_id": "v"}, 2) == NextCopy(volume_id="v")
    with pytest.raises(NotUnderstood, match="version 1, and this release knows 2, 3"):
        typed.read_intent(NextCopy, {"volume_id": "v"}, 1)


def read_way(stored: Document, version: int = 1) -> Up | Down:
    return typed.read_intent(Up | Down, stored, version)


def test_a_tag_tells_the_ways_of_a_kind_apart() -> None:
    up, down = Up(name="a", to=7), Down(name="a", into="b")
    assert [typed.document(each)["way"] for each in (up, down)] == ["up", "down"]
    assert read_way(typed.document(up)) == up
    assert read_way(typed.document(down), 2) == down
    for stored in ({"way": "up", "name": "a", "into": "b"}, {"way": "aside", "name": "a"}, {"name": "a", "into": "b"}):
        with pytest.raises(NotUnderstood, match="what was asked"):
            read_way(stored)
    with pytest.raises(NotUnderstood, match="version 3, and this release knows 1, 2"):
        read_way(typed.document(up), 3)


def test_a_step_of_the_chain_is_read_as_strictly() -> None:
    assert typed.read(Commit, {"top": "a", "base": None}, "step Commit") == Commit("a", None)
    with pytest.raises(NotUnderstood, match="step Commit has the field depth"):
        typed.read(Commit, {"top": "a", "base": None, "depth": 3}, "step Commit")
    with pytest.raises(NotUnderstood, match=r"step Commit: .*`base`"):
        typed.read(Commit, {"top": "a"}, "step Commit")


def test_a_verb_is_called_like_its_class_unless_that_says_otherwise() -> None:
    assert [typed.verb_of(each) for each in (Commit, Write, Disk(name="vda"))] == ["Commit", "write", "Disk"]
    assert typed.step(Commit("a", "b"), "merge") == Step("Commit", "merge", Commit("a", "b"))


def test_the_key_that_older_releases_had_among_the_arguments_is_the_steps(database: Database) -> None:
    submit(database, plan=[{"verb": "write", "args": {"key": "mine", "name": "a"}}])
    assert run(database)[0].facts == {"mine a of v"}


def test_a_verb_goes_by_the_name_that_its_steps_are_stored_with() -> None:
    with pytest.raises(ValueError, match=r"\{'copy': 'write'\}"):
        Kind({"copy": Verb(lambda *_: None, do, args=Write)}, settle, intent=Copy)
