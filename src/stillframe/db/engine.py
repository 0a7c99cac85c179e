"""The database: opened with what crash safety needs, used in short transactions only.

SQLite: WAL, synchronous=FULL (the journal must survive power loss) and BEGIN IMMEDIATE for writers; without it a
read-modify-write loses updates silently. PostgreSQL and MariaDB: see ``turns``. Never hold a transaction across a libvirt or
qemu call: everybody else who writes waits for it.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from stillframe.db import clock, turns
from stillframe.db import mariadb as mariadb  # how its columns are made
from stillframe.db.sessions import open_engine
from stillframe.errors import BadConfiguration

# The database is away, or another writer keeps it for too long: that passes. A statement it does not understand is a defect.
AWAY = OperationalError


class Database:
    """Short transactions on one database: ``read()`` and ``write()``."""

    def __init__(self, url: str) -> None:
        if not url.startswith(("sqlite:///", "postgresql+psycopg://", "mysql+pymysql://")):
            raise BadConfiguration(
                "the database URL must name its driver in full: sqlite:///PATH, postgresql+psycopg://... or mysql+pymysql://..."
            )
        self.engine = open_engine(url)
        # There is one writer at a time; who waits for it keeps a connection, and with SQLite sleeps, and looks again after up
        # to 100 ms (sqlite3.c, sqliteDefaultBusyCallback). The threads of one process wait for each other here instead, and
        # continue at once.
        self._turn = threading.Lock()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One reading transaction. A block must not begin another one."""
        with self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One writing transaction, with no other one of any process beside it: what the block checks stays true until it is
        committed. Rolled back when the block raises. A block must not begin another one."""
        with self._turn, self.engine.connect() as connection:
            writer = connection.execution_options(stillframe_writes=True)
            with writer.begin():
                turns.take(writer)
                yield writer

    @contextmanager
    def migrate(self) -> Iterator[Connection]:
        """As ``write``, for changes of the tables themselves; one process at a time makes them.

        SQLite changes a table by copying it and dropping the old one, which it refuses while rows elsewhere refer to it
        (sqlite.org/lang_altertable.html, section 7): foreign keys are looked at once, when all is done. Raises
        BadConfiguration, with nothing changed, when one is broken then.
        """
        with self.engine.connect() as connection:
            raw = connection.connection.driver_connection if connection.dialect.name == "sqlite" else None
            if raw is not None:
                raw.execute("PRAGMA foreign_keys=OFF")  # has no effect inside a transaction
            try:
                writer = connection.execution_options(stillframe_writes=True)
                with turns.migrating(writer), writer.begin():
                    yield writer
                    broken = writer.exec_driver_sql("PRAGMA foreign_key_check").all() if raw is not None else []
                    if broken:
                        raise BadConfiguration(
                            "the database was not upgraded, and is as it was: these rows refer to rows that are not there"
                            f" (table, row, other table): {[tuple(each)[:3] for each in broken[:5]]}. Copy the database"
                            " away, and correct them or go back to a copy that has them"
                        )
            finally:
                if raw is not None:
                    raw.execute("PRAGMA foreign_keys=ON")

    def utc(self) -> datetime:
        """Returns the database's time, naive UTC."""
        with self.read() as connection:
            return clock.utc(connection)

    def close(self) -> None:
        """Closes every connection of this process; those in use end with their blocks."""
        self.engine.dispose()
