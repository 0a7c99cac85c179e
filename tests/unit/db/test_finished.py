"""Operations that have ended: counted once, pruned when nobody needs them, and no burden meanwhile."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, select

from stillframe.db import clock, finished, holds, operations
from stillframe.db.engine import Database
from stillframe.db.tables import attachments, operation_resources
from stillframe.db.tables import operations as table
from stillframe.errors import Abandoned, StepFailed
from stillframe.journal import pruning, record
from stillframe.journal.record import Request
from stillframe.journal.typed import Intent
from tests.unit import builders
from tests.unit.builders import VOLUME, new_id
from tests.unit.journal.fakes import intent_of

DAY = 86400.0


class Days:
    """The database's clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1.8e9
        monkeypatch.setattr(clock, "now", lambda _connection: self.now)

    def go_by(self, days: float) -> None:
        self.now += days * DAY


@pytest.fixture
def days(monkeypatch: pytest.MonkeyPatch) -> Days:
    return Days(monkeypatch)


def begin(database: Database, kind: str = "k", **more: Any) -> str:
    intent, resources = more.get("intent", Intent()), more.get("resources", [f"volume:{new_id()}"])
    with database.write() as connection:
        return record.submit(connection, Request("volumes", kind, intent, [], resources, "r"))


def end(database: Database, operation_id: str, state: str = "done", fault: dict[str, Any] | None = None) -> str:
    with database.write() as connection:
        connection.execute(table.update().where(table.c.id == operation_id).values(state=state, fault=fault, bytes=7))
        finished.ended(connection, operation_id)
    return operation_id


def left(database: Database) -> set[str]:
    with database.read() as connection:
        return set(connection.execute(select(table.c.id)).scalars())


def totals(database: Database) -> dict[tuple[str, str], tuple[int, int]]:
    with database.read() as connection:
        return {(row["kind"], row["state"]): (row["amount"], int(row["bytes"])) for row in finished.totals(connection)}


def test_what_ended_long_ago_goes_and_stays_counted(database: Database, days: Days) -> None:
    old = [end(database, begin(database)), end(database, begin(database), "undone", StepFailed("no").to_document())]
    days.go_by(29)
    young, waits = end(database, begin(database)), begin(database, "other")
    assert pruning.look(database, 30) == 0
    days.go_by(1.1)
    assert pruning.look(database, 0) == 0
    assert left(database) == {*old, young, waits}
    assert pruning.look(database, 30) == 2
    assert left(database) == {young, waits}
    with database.read() as connection:
        held = set(connection.execute(select(operation_resources.c.operation_id)).scalars())
    assert held == {young, waits}
    assert totals(database) == {("k", "done"): (2, 14), ("k", "undone"): (1, 7), ("other", "pending"): (1, 0)}


def test_who_was_abandoned_or_is_parked_stays(database: Database, days: Days) -> None:
    abandoned = end(database, begin(database), "undone", Abandoned("a person abandoned it").to_document())
    days.go_by(400)
    assert pruning.look(database, 30) == 0
    with database.read() as connection:
        assert [row["id"] for row in operations.abandoned(connection)] == [abandoned]
    parked = end(database, begin(database), "parked")
    days.go_by(400)
    assert pruning.look(database, 30) == 0
    assert left(database) == {abandoned, parked}
    assert totals(database) == {("k", "undone"): (1, 7), ("k", "parked"): (1, 7)}


def test_what_one_that_has_not_ended_may_ask_about_stays(database: Database, days: Days) -> None:
    """A deletion that was parked for months asks for its merge, which ended then."""
    before, asks = end(database, begin(database)), begin(database)
    asked = end(database, begin(database))
    days.go_by(400)
    pruning.look(database, 30)
    assert left(database) == {asks, asked}
    assert before not in left(database)
    end(database, asks)
    pruning.look(database, 30)
    assert left(database) == {asks}


def test_a_detachment_that_failed_stays_while_its_volume_is_attached(database: Database, days: Days) -> None:
    with database.write() as connection:
        builders.volume_row(connection)
        attached = {"id": new_id(), "project_id": "demo", "volume_id": VOLUME, "status": "attached", "mode": "rw"}
        connection.execute(attachments.insert(), attached)
    asked = begin(database, "detach_volume", intent=intent_of(volume_id=VOLUME, server_id=builders.SERVER))
    end(database, asked, "undone", StepFailed("the guest keeps it").to_document())
    for _ in range(3):
        days.go_by(31)
        pruning.look(database, 30)
        assert left(database) == {asked}
    with database.write() as connection:
        connection.exec_driver_sql("DELETE FROM attachments")
    days.go_by(31)
    pruning.look(database, 30)
    assert left(database) == set()


def test_volumes_that_were_are_known_without_their_operations(database: Database, days: Days) -> None:
    end(database, begin(database, resources=["volume:gone", "server:a"]))
    days.go_by(31)
    pruning.look(database, 30)
    with database.read() as connection:
        assert holds.volumes_ever(connection) == {"gone"}


def test_a_few_go_at_a_time(database: Database, days: Days, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "AT_ONCE", 2)
    for _ in range(5):
        end(database, begin(database))
    days.go_by(31)
    assert [pruning.look(database, 30) for _ in range(4)] == [2, 2, 1, 0]


def asked(database: Database, act: Any) -> list[str]:
    """How SQLite finds what a function asks for."""
    found: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_more: Any) -> None:
        found.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        with database.write() as connection:
            act(connection)
    finally:
        event.remove(database.engine, "before_cursor_execute", note)
    with database.engine.connect() as connection:
        asks = [(f"EXPLAIN QUERY PLAN {text}", values) for text, values in found if "operation" in text]
        return [str(line[3]) for text, values in asks for line in connection.exec_driver_sql(text, values).all()]


@pytest.mark.parametrize(
    "act",
    [
        finished.totals,
        operations.abandoned,
        lambda connection: operations.claimable(connection, "volumes"),
        lambda connection: operations.unfinished(connection, "volumes"),
        lambda connection: operations.owners(connection, "volumes"),
        lambda connection: operations.on_resource(connection, "volume:a"),
        lambda connection: operations.on_resource(connection, "volume:a", shared=True),
        lambda connection: operations.of_kind_on(connection, "volume:a", "k"),
        lambda connection: operations.alone_on_resources(connection, ["volume:a", "volume:b"]),
        lambda connection: finished.prune(connection, timedelta(days=1), 10),
    ],
)
def test_nobody_walks_through_all_that_have_ended(database: Database, act: Any) -> None:
    begin(database)
    plans = asked(database, act)
    assert plans
    assert not [line for line in plans if line.startswith("SCAN operations") or line.startswith("SCAN operation_resources")]
