"""The database: opened with what crash safety needs, used in short transactions only.

SQLite: WAL, synchronous=FULL (the journal must survive power loss) and BEGIN IMMEDIATE for writers; without it a
read-modify-write loses updates silently. Never hold a transaction across a libvirt or qemu call.
"""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import OperationalError

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
        self.engine = _open(url)
        # SQLite has one writer at a time; who waits for it sleeps, and looks again after up to 100 ms (sqlite3.c,
        # sqliteDefaultBusyCallback). The threads of one process wait for each other here instead, and go on at once.
        self._turn: AbstractContextManager[object] = threading.Lock() if url.startswith("sqlite") else nullcontext()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        with self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One writing transaction; rolled back when the block raises. A block must not begin another one."""
        with self._turn, self.engine.connect() as connection:
            writer = connection.execution_options(stillframe_writes=True)
            with writer.begin():
                yield writer

    @contextmanager
    def migrate(self) -> Iterator[Connection]:
        """As ``write``, for changes of the tables themselves.

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
                with writer.begin():
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

    def close(self) -> None:
        self.engine.dispose()


def _open(url: str) -> Engine:
    if not url.startswith("sqlite"):
        return create_engine(url, isolation_level="READ COMMITTED", pool_pre_ping=True)
    engine = create_engine(url, connect_args={"check_same_thread": False, "timeout": 30}, pool_size=32)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("stillframe_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
