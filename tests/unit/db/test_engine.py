"""The database keeps what was committed and loses no update."""

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import event, select, update

from stillframe.db import quotas
from stillframe.db.engine import Database
from stillframe.db.tables import quotas as table
from stillframe.errors import BadConfiguration


def path_of(database: Database) -> Path:
    return Path(str(database.engine.url.database))


@pytest.mark.parametrize(
    ("pragma", "wanted"), [("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1), ("busy_timeout", 30000)]
)
def test_every_connection_is_opened_for_crash_safety(database: Database, pragma: str, wanted: object) -> None:
    with database.read() as first, database.read() as second:
        for connection in (first, second):
            assert connection.exec_driver_sql(f"PRAGMA {pragma}").scalar() == wanted


def test_a_writer_holds_the_write_lock_before_it_reads(database: Database) -> None:
    other = sqlite3.connect(path_of(database), timeout=0)
    with database.write(), pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("BEGIN IMMEDIATE")
    other.execute("BEGIN IMMEDIATE")
    other.close()


def test_a_reader_holds_up_no_writer_and_sees_one_state(database: Database) -> None:
    with database.read() as reader:
        assert quotas.limits(reader, "p") == {}
        with database.write() as writer:
            quotas.set_limits(writer, "p", {"volumes": 1})
        assert quotas.limits(reader, "p") == {}
    with database.read() as reader:
        assert quotas.limits(reader, "p") == {"volumes": 1}


def test_a_reader_after_a_writer_on_the_same_connection_takes_no_write_lock(database: Database) -> None:
    with database.write() as connection:
        quotas.set_limits(connection, "p", {"volumes": 1})
    other = sqlite3.connect(path_of(database), timeout=0)
    with database.read():
        other.execute("BEGIN IMMEDIATE")
    other.close()


def test_a_transaction_that_raises_leaves_nothing(database: Database) -> None:
    with pytest.raises(RuntimeError), database.write() as connection:
        quotas.set_limits(connection, "p", {"volumes": 1})
        raise RuntimeError
    with database.read() as connection:
        assert quotas.limits(connection, "p") == {}


def test_two_threads_that_read_and_then_write_lose_no_update(database: Database) -> None:
    with database.write() as connection:
        quotas.set_limits(connection, "p", {"volumes": 0})
    together = threading.Barrier(2)
    failed: list[Exception] = []

    def count() -> None:
        try:
            together.wait()
            for _ in range(60):
                with database.write() as connection:
                    found = connection.execute(select(table.c.hard_limit)).scalar_one()
                    connection.execute(update(table).values(hard_limit=found + 1))
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=count) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    with database.read() as connection:
        assert quotas.limits(connection, "p") == {"volumes": 120}


def test_threads_of_one_process_wait_for_each_other_and_not_for_sqlites_patience(database: Database) -> None:
    """Who had to ask SQLite again would fail here at once."""
    event.listen(database.engine, "begin", lambda connection: connection.exec_driver_sql("PRAGMA busy_timeout=0"), insert=True)

    def work() -> int:
        for number in range(20):
            with database.write() as connection:
                quotas.set_limits(connection, "p", {"volumes": number})
        return 20

    with ThreadPoolExecutor(4) as pool:
        begun = [pool.submit(work) for _ in range(4)]
    assert sum(each.result() for each in begun) == 80


@pytest.mark.parametrize(
    "url",
    ["sqlite://", "postgresql://host/name", "mysql://host/name", "mysql+mysqldb://host/name", "", "nonsense", "/a/path.sqlite"],
)
def test_a_url_that_leaves_the_driver_open_is_refused(url: str) -> None:
    with pytest.raises(BadConfiguration, match="driver"):
        Database(url)


def test_the_password_of_a_refused_url_is_not_told() -> None:
    with pytest.raises(BadConfiguration) as told:
        Database("postgresql://user:canary@host/name")
    assert "canary" not in told.value.message
