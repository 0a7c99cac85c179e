"""A parked operation that a person ends where it stands: one of two who try wins, and what it held is free."""

from dataclasses import replace
from typing import Any

import pytest

from stillframe.db import operations
from stillframe.db.engine import Database
from stillframe.errors import Busy, Conflict, Parked, ShareUnavailable, StepFailed
from stillframe.journal import abandoning, record, runner, typed
from stillframe.journal.operation import Kind, Verb, begun_key
from stillframe.journal.record import Journal, Request
from stillframe.journal.typed import Args, Intent
from tests.unit.builders import new_id
from tests.unit.journal.fakes import LEASE, Clock, WorkerContext, owner, row_of, settle, settled


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock().install(monkeypatch)


@pytest.fixture
def journal(database: Database, clock: Clock) -> Journal:
    return Journal(database, "volumes", owner(), LEASE)


class Asked(Intent, frozen=True, kw_only=True):
    volume_id: str = ""
    disks: tuple[dict[str, str], ...] = ()


class One(Args, frozen=True, kw_only=True):
    verb = "one"
    name: str


class Two(Args, frozen=True, kw_only=True):
    verb = "two"
    name: str
    info: dict[str, str] | None = None


def kind_of(mark: Any = "done", does: bool = True) -> Kind:
    """Two steps; the second one asks for a person, once it was begun if ``does``."""

    def park(*_arguments: Any) -> Any:
        raise Parked("a mixture")

    one = Verb(lambda *_: None, lambda *_: {}, args=One)
    two = Verb((lambda *_: None) if does else park, park, None, mark, args=Two)
    return Kind({"one": one, "two": two}, settle, afterwards="look", intent=Asked)


def parked(journal: Journal, kind: Kind) -> Any:
    plan = typed.numbered([One(name="a"), Two(name="b", info={"file_to_merge": "c"}), One(name="never")])
    request = Request("volumes", "k", Asked(volume_id="v"), plan, ["volume:v"], "r", new_id(), ("volume:w",))
    with journal.database.write() as connection:
        operation_id = record.submit(connection, request)
    for operation in journal.claim_all():
        runner.run(journal, kind, WorkerContext(), operation)
    row = row_of(journal.database, operation_id)
    assert row["state"] == "parked"
    return row


def abandon(journal: Journal, row: Any, kind: Kind) -> Any:
    with journal.database.write() as connection:
        abandoning.abandon(connection, row, kind, ["b", "other"])
    return row_of(journal.database, row["id"])


def test_it_ends_with_what_it_met_and_where_to_look(journal: Journal) -> None:
    kind = kind_of()
    row = abandon(journal, parked(journal, kind), kind)
    assert (row["state"], row["owner"]) == ("undone", None)
    fault = row["fault"]
    assert fault["message"] == "a person abandoned it: a mixture; nothing was put back: look at a, b, c"
    wanted = {"kind": "k", "begun": True, "files": ["a", "b", "c"], "next": "look", "present": ["b"]}
    assert (fault["code"], fault["details"]) == ("abandoned", wanted)
    assert settled(journal.database, row["id"]) == {"parked": 1, "abandoned": 1}


def test_what_it_held_is_free_and_the_next_one_begins(journal: Journal) -> None:
    kind = kind_of()
    row = parked(journal, kind)
    with journal.database.read() as connection, pytest.raises(Busy):
        record.refuse_if_busy(connection, "volume:v")
    abandon(journal, row, kind)
    with journal.database.write() as connection:
        for resource in ("volume:v", "volume:w"):
            record.refuse_if_busy(connection, resource)
        after = record.submit(connection, Request("volumes", "k", Asked(), [], ["volume:v"], "r"))
    assert [each.id for each in journal.claim_all()] == [after]


@pytest.mark.parametrize("quicker", ["retried", "taken", "abandoned", "parked again"])
def test_of_two_who_decide_one_wins(journal: Journal, quicker: str) -> None:
    kind = kind_of()
    row = parked(journal, kind)
    if quicker == "abandoned":
        abandon(journal, row, kind)
    else:
        with journal.database.write() as connection:
            assert operations.unpark_one(connection, row)
    if quicker in ("taken", "parked again"):
        (operation,) = journal.claim_all()
        if quicker == "parked again":
            runner.run(journal, kind, WorkerContext(), operation)
    before = row_of(journal.database, row["id"]), settled(journal.database, row["id"])
    with pytest.raises(Conflict, match="look at it again"):
        abandon(journal, row, kind)
    assert (row_of(journal.database, row["id"]), settled(journal.database, row["id"])) == before


def in_vain(journal: Journal, clock: Clock, way: str) -> tuple[Any, Kind]:
    """An operation on a share that is gone for good, before or after the point of no return."""

    def away(*_arguments: Any) -> Any:
        raise ShareUnavailable("the share is gone")

    def refuse(*_arguments: Any) -> Any:
        raise StepFailed("no")

    one = Verb(lambda *_: None, lambda *_: {}, away, args=One)
    two = Verb(lambda *_: None, away if way == "running" else refuse, None, "start", args=Two)
    kind = Kind({"one": one, "two": two}, settle, intent=Asked)
    if way == "undoing":
        kind = replace(kind, verbs={"one": one, "two": Verb(lambda *_: None, refuse, args=Two)})
    plan = typed.numbered([One(name="a"), Two(name="b")])
    with journal.database.write() as connection:
        operation_id = record.submit(
            connection, Request("volumes", "k", Asked(volume_id="v"), plan, ["volume:v"], "r", new_id())
        )
    for tried in range(40):
        row = row_of(journal.database, operation_id)
        if tried < runner.MOST_ATTEMPTS:
            with pytest.raises(Conflict, match="automatically"):
                abandon(journal, row, kind)
        for operation in journal.claim_all():
            runner.run(journal, kind, WorkerContext(), operation)
        clock.now += 31
    row = row_of(journal.database, operation_id)
    assert (row["state"], row["attempts"] > runner.MOST_ATTEMPTS) == (way, True)
    return row, kind


@pytest.mark.parametrize("way", ["running", "undoing"])
def test_what_waits_for_what_never_comes_can_be_abandoned(journal: Journal, clock: Clock, way: str) -> None:
    row, kind = in_vain(journal, clock, way)
    ended = abandon(journal, row, kind)
    assert (ended["state"], ended["fault"]["code"]) == ("undone", "abandoned")
    assert (operations.BACK in ended["evidence"]) is (way == "undoing")
    assert settled(journal.database, row["id"]) == {"abandoned": 1}
    clock.now += 31
    assert journal.claim_all() == []
    with journal.database.read() as connection:
        record.refuse_if_busy(connection, "volume:v")


def test_what_a_worker_tries_at_this_moment_is_not_abandoned(journal: Journal, clock: Clock) -> None:
    row, kind = in_vain(journal, clock, "running")
    (operation,) = journal.claim_all()
    with pytest.raises(Conflict, match="look at it again"):
        abandon(journal, row, kind)
    with pytest.raises(Conflict, match="at this moment"):
        abandon(journal, row_of(journal.database, row["id"]), kind)
    runner.run(journal, kind, WorkerContext(), operation)
    assert abandon(journal, row_of(journal.database, row["id"]), kind)["state"] == "undone"


def test_who_was_abandoned_cannot_be_retried_or_taken(journal: Journal) -> None:
    kind = kind_of()
    row = parked(journal, kind)
    abandon(journal, row, kind)
    with journal.database.write() as connection:
        assert not operations.unpark_one(connection, row)
    journal.take_over()
    assert journal.claim_all() == []


@pytest.mark.parametrize(("state", "told"), [("running", "automatically"), ("pending", "automatically"), ("done", "has ended")])
def test_only_what_is_parked_is_abandoned(journal: Journal, state: str, told: str) -> None:
    kind = kind_of()
    row = parked(journal, kind) | {"state": state}
    with pytest.raises(Conflict, match=told) as refusal:
        abandon(journal, row, kind)
    assert f"is {state}" in refusal.value.message
    assert row_of(journal.database, row["id"])["state"] == "parked"


@pytest.mark.parametrize(
    ("mark", "evidence", "begun"),
    [
        ("start", {}, False),
        ("start", {"two": {}}, True),
        ("done", {"what begins is noted": {}}, False),
        ("done", {"what begins is noted": {}, begun_key("two"): {}}, True),
        ("done", {}, True),  # an older release noted nothing
        ("never", {"two": {}}, False),
    ],
)
def test_what_may_have_begun(journal: Journal, mark: Any, evidence: dict[str, Any], begun: bool) -> None:
    row = parked(journal, kind_of()) | {"evidence": evidence}
    assert abandoning.fault_of(row, kind_of(mark)).details["begun"] is begun


def test_the_overlays_of_a_set_are_named(journal: Journal) -> None:
    row = parked(journal, kind_of()) | {"intent": {"disks": [{"overlay": "volume-a.b"}, {"overlay": "a"}]}}
    assert abandoning.fault_of(row, kind_of()).details["files"] == ["a", "b", "c", "volume-a.b"]
    assert abandoning.fault_of(row | {"step": 0, "plan": []}, kind_of()).details["files"] == []


def test_the_newest_that_were_abandoned_are_listed(journal: Journal) -> None:
    kind = kind_of()
    row = abandon(journal, parked(journal, kind), kind)
    ended = parked(journal, kind)
    with journal.database.write() as connection:
        assert operations.unpark_one(connection, ended)
    (operation,) = journal.claim_all()
    journal.finish(operation, kind, "undone", StepFailed("no"))
    with journal.database.read() as connection:
        assert [each["id"] for each in operations.abandoned(connection)] == [row["id"]]


def test_a_step_of_another_release_may_have_done_anything(journal: Journal) -> None:
    kind = kind_of("never")
    row = parked(journal, kind)
    unknown = replace(kind, verbs={"one": kind.verbs["one"]})
    details = abandoning.fault_of(row, unknown).details
    assert (details["begun"], details["files"]) == (True, ["a", "b", "c"])


def test_what_this_release_does_not_understand_is_ended_by_the_one_that_began_it(journal: Journal) -> None:
    """The rows would follow what nobody here can read."""
    kind = kind_of()
    row = {**parked(journal, kind), "version": 2}
    with pytest.raises(Conflict, match=r"version 2.* abandon it with the release that began it"):
        abandon(journal, row, kind)
    assert (row_of(journal.database, row["id"])["state"], settled(journal.database, row["id"])) == ("parked", {"parked": 1})
