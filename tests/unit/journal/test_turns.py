"""Projects take turns: what one asks for a thousand times does not hold up what another asks for once."""

import pytest

from stillframe.db import operations
from stillframe.db.engine import Database
from stillframe.journal import record
from stillframe.journal.record import Journal, Request
from stillframe.journal.typed import Intent
from tests.unit.builders import new_id
from tests.unit.journal.fakes import KIND, LEASE, Clock, owner


@pytest.fixture
def journal(database: Database, monkeypatch: pytest.MonkeyPatch) -> Journal:
    Clock().install(monkeypatch)
    return Journal(database, "volumes", owner(), LEASE)


def submit(journal: Journal, project_id: str, count: int = 1, resource: str = "") -> list[str]:
    with journal.database.write() as connection:
        requests = [
            Request("volumes", KIND, Intent(), [], [resource or new_id()], "r", new_id()).of(project_id) for _ in range(count)
        ]
        return [record.submit(connection, request) for request in requests]


def test_one_of_another_project_is_claimed_with_the_first_of_many(journal: Journal) -> None:
    many, one = submit(journal, "many", 700), submit(journal, "one")
    found = [operation.id for operation in journal.claim_all()]
    assert found[:2] == [many[0], *one]
    assert found[2:] == many[1 : len(found) - 1]


def test_every_project_gets_some_however_many_there_are(journal: Journal) -> None:
    asked = {f"p{number}": submit(journal, f"p{number}", 6) for number in range(100)}
    found = journal.claim_all()
    assert [operation.id for operation in found[:100]] == [ids[0] for ids in asked.values()]
    assert {operation.project_id for operation in found} == set(asked)
    assert len(found) == 100 * operations.LEAST_OF_A_PROJECT


def test_a_project_alone_gets_all_of_it_in_order(journal: Journal) -> None:
    asked = submit(journal, "a", 100)
    assert [operation.id for operation in journal.claim_all()] == asked[: operations.CLAIMED_AT_ONCE]
    assert [operation.id for operation in journal.claim_all()] == asked[operations.CLAIMED_AT_ONCE :]


def test_turns_do_not_change_the_order_on_a_resource(journal: Journal) -> None:
    first, second = submit(journal, "b", resource="volume:x"), submit(journal, "a", resource="volume:x")
    assert [operation.id for operation in journal.claim_all()] == first
    assert second
