"""The writers' turn: of all processes that use one database, one at a time has a writing transaction (I11).

What a request checks (is the volume busy, is there quota, is there room on the share) is then still true when its rows are
inserted, in every process and at every isolation level; a number that is given to a row later is greater, so the order of
the numbers is the order in which operations became visible. SQLite has one writer anyway (BEGIN IMMEDIATE). PostgreSQL and
MariaDB have many, and two that check and insert at the same moment both find nothing: there the turn is a lock that the
transaction takes before its first look, and that ends with it, however it ends. Nobody can hold half of what another one
needs, so there are no deadlocks, and nothing has to be repeated.

PostgreSQL locks the table and not its row: with REPEATABLE READ a transaction sees what was committed before its first query,
and LOCK TABLE is none (postgresql.org/docs/15, explicit-locking and applevel-consistency). In MariaDB the view of a
transaction is made by its first read that takes no lock (mariadb.com/kb, "InnoDB Transaction Isolation").
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, OperationalError

# A worker that was stopped in the middle of a transaction holds up all others: the database ends it. Whoever waits for a turn
# outlasts that.
IDLE_SECONDS = 30
PATIENCE_SECONDS = 60
MIGRATION_SECONDS = 600  # how long one that upgrades waits for another one that does
_MIGRATION = 0x5374696C6C  # the advisory lock's number; PostgreSQL keeps them apart by database
_WAITS = "SELECT set_config('lock_timeout', '{}s', false)"
_NAME = "CONCAT('stillframe ', MD5(DATABASE()))"  # MariaDB has one set of names for all databases of a server
_MIGRATING = {
    "postgresql": (
        (_WAITS.format(MIGRATION_SECONDS), f"SELECT pg_advisory_lock({_MIGRATION})"),
        (f"SELECT pg_advisory_unlock({_MIGRATION})", _WAITS.format(PATIENCE_SECONDS)),
    ),
    "mysql": ((f"SELECT GET_LOCK({_NAME}, {MIGRATION_SECONDS})",), (f"SELECT RELEASE_LOCK({_NAME})",)),
}
_TAKE = {
    "postgresql": "LOCK TABLE write_turn IN EXCLUSIVE MODE",
    "mysql": "SELECT only_one FROM write_turn FOR UPDATE",
}


def take(connection: Connection) -> None:
    """Waits for the turn; the first statement of a writing transaction. Raises OperationalError when it takes too long."""
    statement = _TAKE.get(connection.dialect.name)
    if statement is not None:
        connection.exec_driver_sql(statement)


@contextmanager
def migrating(connection: Connection) -> Iterator[None]:
    """Locks out other processes that change the tables until the transaction inside is committed. The table ``write_turn`` may
    not exist yet. SQLite has one writer anyway. Raises OperationalError when another one takes too long."""
    take, give = _MIGRATING.get(connection.dialect.name, ((), ()))
    found = [connection.exec_driver_sql(statement).scalar() for statement in take]
    connection.commit()  # the lock is the session's
    if found == [0]:
        error = TimeoutError("another process is upgrading the database, and does not end")
        raise OperationalError(take[0], {}, error)
    try:
        yield
    finally:
        with suppress(DBAPIError):  # with the connection goes the lock
            for statement in give:
                connection.exec_driver_sql(statement)
            connection.commit()
