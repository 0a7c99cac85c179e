"""What a new connection to each kind of database is told before it is used."""

import sqlite3
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event

from stillframe.db.turns import IDLE_SECONDS, PATIENCE_SECONDS
from stillframe.errors import NotInstalled

_POSTGRESQL = (
    f"SET idle_in_transaction_session_timeout = '{IDLE_SECONDS}s'",
    f"SET lock_timeout = '{PATIENCE_SECONDS}s'",
    "SET TIME ZONE 'UTC'",
)
# Without strict mode MariaDB shortens what does not fit, and says nothing.
_MARIADB = (
    f"SET SESSION idle_transaction_timeout = {IDLE_SECONDS}",
    f"SET SESSION innodb_lock_wait_timeout = {PATIENCE_SECONDS}",
    "SET SESSION time_zone = '+00:00'",
    "SET SESSION sql_mode = CONCAT(@@sql_mode, ',STRICT_ALL_TABLES')",
)
CONNECTIONS = 32


def open_engine(url: str) -> Engine:
    """Returns an engine whose connections are ready for use. Nothing is connected yet."""
    if url.startswith("sqlite"):
        engine = create_engine(url, connect_args={"check_same_thread": False, "timeout": 30}, pool_size=CONNECTIONS)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    try:
        engine = _networked(url)
    except ModuleNotFoundError as error:
        extra = "postgresql" if url.startswith("postgresql") else "mariadb"
        raise NotInstalled(f"the database URL needs {error.name}: pip install 'stillframe[{extra}]'") from error
    event.listen(engine, "connect", _prepare_postgresql if url.startswith("postgresql") else _prepare_mariadb)
    return engine


def _networked(url: str) -> Engine:
    return create_engine(url, isolation_level="READ COMMITTED", pool_pre_ping=True, pool_size=CONNECTIONS)


def _prepare_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("stillframe_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _prepare_postgresql(connection: Any, _record: Any) -> None:
    before, connection.autocommit = connection.autocommit, True  # what is set in a transaction ends with one that fails
    for statement in _POSTGRESQL:
        connection.execute(statement)
    connection.autocommit = before


def _prepare_mariadb(connection: Any, _record: Any) -> None:
    with connection.cursor() as cursor:
        for statement in _MARIADB:
            cursor.execute(statement)
