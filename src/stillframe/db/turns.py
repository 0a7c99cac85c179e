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

from sqlalchemy import Connection

# A worker that was stopped in the middle of a transaction holds up all others: the database ends it. Whoever waits for a turn
# outlasts that.
IDLE_SECONDS = 30
PATIENCE_SECONDS = 60
_TAKE = {
    "postgresql": "LOCK TABLE write_turn IN EXCLUSIVE MODE",
    "mysql": "SELECT only_one FROM write_turn FOR UPDATE",
}


def take(connection: Connection) -> None:
    """Waits for the turn; the first statement of a writing transaction. Raises OperationalError when it takes too long."""
    statement = _TAKE.get(connection.dialect.name)
    if statement is not None:
        connection.exec_driver_sql(statement)
