"""A service ends when the database has other tables than it was written for."""

import threading

from stillframe.db.engine import Database
from stillframe.errors import StillframeError
from stillframe.main.schema_watch import mismatch, watching


class Stop:
    def __init__(self) -> None:
        self.told = threading.Event()
        self.why: StillframeError | None = None

    def because(self, error: StillframeError) -> None:
        self.why = error
        self.told.set()


def move(database: Database, version: str) -> None:
    with database.write() as connection:
        connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{version}'")


def test_it_is_told_why_it_ends(database: Database) -> None:
    stop = Stop()
    with watching(database, stop, every=0.01):
        move(database, "9999")
        assert stop.told.wait(60)
    assert stop.why is not None and "9999" in stop.why.message


def test_it_goes_on_while_the_tables_are_its_own(database: Database) -> None:
    stop = Stop()
    with watching(database, stop, every=0.001):
        assert mismatch(database) is None
    assert not stop.told.is_set()


def test_a_database_that_does_not_answer_is_not_another_one() -> None:
    away = Database("sqlite:////nowhere/at/all.sqlite")
    assert mismatch(away) is None
    away.close()
