"""Two that check and insert at the same moment cannot both win: on every database, at every level of isolation."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from stillframe.db import clock, deployments, operations, services, snapshot_policies, volume_types, volumes
from stillframe.db.engine import Database
from stillframe.db.tables import operations as rows
from stillframe.db.values import NewSnapshotPolicy, NewVolumeType
from stillframe.errors import Busy, QuotaExceeded, ShareUnavailable
from stillframe.journal import record
from stillframe.journal.record import Journal, Owner, Request
from stillframe.journal.typed import Intent
from stillframe.volumes.requests import new_volumes
from tests.unit import builders
from tests.unit.db.test_snapshot_policies import LATER, ROW, SOON
from tests.unit.volumes import fakes

ROUNDS = 15
LEVELS = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")


@contextmanager
def two(url: str, level: str | None = None) -> Iterator[list[Database]]:
    """The database as two processes have it: they share neither connections nor locks of this process."""
    with ExitStack() as until:
        found = [Database(url) for _ in range(2)]
        for database in found:
            until.callback(database.close)
            if level is not None:
                database.engine = database.engine.execution_options(isolation_level=level)
        yield found


def at_once(databases: list[Database], act: Callable[[Database], bool]) -> list[bool]:
    """What each of them answers when all act at the same moment."""
    together = threading.Barrier(len(databases))

    def begin(database: Database) -> bool:
        with database.read():  # connected
            pass
        together.wait(60)
        return act(database)

    with ThreadPoolExecutor(len(databases)) as pool:
        return list(pool.map(begin, databases))


def unless(refusal: type[Exception], act: Callable[[], object]) -> bool:
    try:
        act()
    except refusal:
        return False
    return True


def hold(resource: str, shared: bool = False) -> Callable[[Database], bool]:
    """An operation on the resource, unless one that has not ended is in its way."""
    alone, reads = ([], (resource,)) if shared else ([resource], ())

    def act(database: Database) -> None:
        with database.write() as connection:
            record.refuse_if_busy(connection, resource, shared)
            record.submit(connection, Request("volumes", "k", Intent(), [], alone, "r", shared=reads))

    return lambda database: unless(Busy, lambda: act(database))


@pytest.mark.parametrize("level", LEVELS)
def test_of_two_requests_for_one_volume_one_is_refused(url: str, level: str) -> None:
    with two(url, None if url.startswith("sqlite") else level) as databases:  # SQLite has one level
        for number in range(ROUNDS):
            assert sorted(at_once(databases, hold(f"volume:{number}"))) == [False, True]


def test_readers_share_and_a_change_beside_a_reader_is_refused(url: str) -> None:
    with two(url) as databases:
        for number in range(ROUNDS):
            assert at_once(databases, hold(f"volume:{number}", shared=True)) == [True, True]
            assert at_once(databases, hold(f"volume:{number}")) == [False, False]


def test_numbers_are_given_in_the_order_in_which_operations_become_visible(url: str) -> None:
    """A younger operation that was visible first would be claimed, and then the older one too."""
    seen: list[int] = []
    with two(url) as databases:
        for number in range(ROUNDS):
            at_once(databases, hold(f"volume:{number}-a"))
            with databases[0].read() as connection:
                newest = connection.execute(select(func.max(rows.c.seq))).scalar_one()
                assert connection.execute(select(func.count()).where(rows.c.seq.in_(seen))).scalar_one() == len(seen)
            assert newest > max(seen, default=0)
            seen.append(newest)


def test_of_two_that_claim_an_operation_one_has_it(url: str) -> None:
    with two(url) as databases:
        journals = {
            database: Journal(database, "volumes", Owner("here", number, "x"), 30) for number, database in enumerate(databases)
        }
        for _ in range(ROUNDS):
            with databases[0].write() as connection:
                record.submit(connection, Request("volumes", "k", Intent(), [], [f"volume:{builders.new_id()}"], "r"))
            assert sorted(at_once(databases, lambda database: bool(journals[database].claim_all()))) == [False, True]


@pytest.mark.parametrize(("limit", "size"), [("quota_volumes", 1), ("promise", 41000)])
def test_of_two_new_volumes_where_one_has_room_one_is_made(url: str, tmp_path: Path, limit: str, size: int) -> None:
    """The share has 4 TiB, twenty times of which may be promised."""
    options: dict[str, Any] = {"quota_volumes": 1} if limit == "quota_volumes" else {}
    with two(url) as databases:
        with databases[0].write() as connection:
            volume_types.ensure_default(connection)
        for number in range(ROUNDS):
            workers = {each: fakes.worker(each, tmp_path / f"{number}", **options) for each in databases}

            def act(database: Database, workers: Any = workers) -> bool:
                try:
                    new_volumes.create(workers[database], builders.context(), {"size": size})
                except (QuotaExceeded, ShareUnavailable):
                    return False
                return True

            assert sorted(at_once(databases, act)) == [False, True]
            with databases[0].write() as connection:
                for row in volumes.list_all(connection):
                    volumes.delete(connection, row["id"])


def test_a_run_of_a_policy_is_taken_by_one(url: str) -> None:
    with two(url) as databases:
        for number in range(ROUNDS):
            due = datetime(2026, 11, 24, 12, 0, 0, number)  # a database that rounds times would lose the run
            row: NewSnapshotPolicy = {**ROW, "id": builders.new_id(), "next_run": due}
            with databases[0].write() as connection:
                snapshot_policies.insert(connection, row)
                known = snapshot_policies.get(connection, row["id"], None)
            assert known is not None and known["next_run"] == due

            def act(database: Database, known: Any = known) -> bool:
                with database.write() as connection:
                    return snapshot_policies.claim(connection, known, SOON, LATER + timedelta(microseconds=7))

            assert sorted(at_once(databases, act)) == [False, True]
            with databases[1].write() as connection:
                assert snapshot_policies.settle(connection, row["id"], LATER + timedelta(microseconds=7), last_error=None)


def test_what_is_made_on_first_use_is_made_once(url: str) -> None:
    def begin(database: Database) -> bool:
        with database.write() as connection:
            volume_types.ensure_default(connection)
            services.beat(connection, "stillframe-volumes", "here")
        return bool(deployments.own(database))

    with two(url) as databases:
        assert at_once(databases, begin) == [True, True]
        assert len({deployments.own(database) for database in databases}) == 1
        with databases[0].read() as connection:
            assert len(volume_types.list_all(connection)) == len(services.list_all(connection)) == 1


def test_a_writer_that_fails_gives_its_turn_back(url: str) -> None:
    with two(url) as (one, other):
        with pytest.raises(RuntimeError), one.write():
            raise RuntimeError
        with other.write() as connection:
            volume_types.ensure_default(connection)


@pytest.mark.parametrize("ahead", [-7200.0, 7200.0])
def test_a_lease_is_measured_by_the_databases_clock(database: Database, monkeypatch: pytest.MonkeyPatch, ahead: float) -> None:
    """Of two hosts one has a clock that is two hours off."""
    right = time.time
    with database.write() as connection:
        operation_id = record.submit(connection, Request("volumes", "k", Intent(), [], ["volume:a"], "r"))
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: right() + ahead)
        assert len(Journal(database, "volumes", Owner("wrong", 1, "x"), 600).claim_all()) == 1
    with database.read() as connection:
        row = operations.get(connection, operation_id)
        moment = clock.now(connection)
    assert row is not None and 500 < row["lease_until"] - moment <= 600
    assert Journal(database, "volumes", Owner("right", 1, "x"), 600).claim_all() == []
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: right() + ahead)
        assert Journal(database, "volumes", Owner("wrong", 2, "x"), 600).claim_all() == []
        assert abs((database.utc() - datetime.fromtimestamp(right(), UTC).replace(tzinfo=None)).total_seconds()) < 600


def test_names_that_differ_are_different(database: Database) -> None:
    names = ("gold", "Gold", "gold ", "g\u00f6ld", "\U0001f4be")
    with database.write() as connection:
        for name in names:
            row: NewVolumeType = {"id": builders.new_id(), "name": name, "extra_specs": {}, "is_public": True}
            volume_types.insert(connection, row)
        for name in names:
            found = volume_types.find(connection, name)
            assert found is not None and found["name"] == name
