"""The time that leases, pauses and schedules are measured by: the database's own (I11).

Hosts that share a database need not agree on the time. SQLite has no clock of its own: it runs inside the one host that uses
it, and that host's clock is its clock.
"""

import time
from datetime import UTC, datetime

from sqlalchemy import Connection, text

# Both tell the moment at which they are read, not that at which the transaction began (postgresql.org/docs/15,
# functions-datetime; mariadb.com/kb, SYSDATE).
_ASK = {
    "postgresql": text("SELECT EXTRACT(EPOCH FROM clock_timestamp())"),
    "mysql": text("SELECT UNIX_TIMESTAMP(SYSDATE(6))"),
}


def now(connection: Connection) -> float:
    """Returns the database's time in seconds since the epoch."""
    asked = _ASK.get(connection.dialect.name)
    return time.time() if asked is None else float(connection.execute(asked).scalar_one())


def utc(connection: Connection) -> datetime:
    """Returns the same as naive UTC, as rows carry it."""
    return datetime.fromtimestamp(now(connection), UTC).replace(tzinfo=None)
