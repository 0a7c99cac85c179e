"""Services: which worker was seen when."""

from sqlalchemy import Connection, select, update
from sqlalchemy import delete as sql_delete

from stillframe.db import clock
from stillframe.db.queries import many, touched
from stillframe.db.rows import ServiceRow, ServiceSeen, ServiceStateRow
from stillframe.db.tables import service_states, services

VOLUME = "cinder-volume"  # the binary under which clients know a backend, as host@backend


def beat(connection: Connection, binary: str, host: str) -> None:
    """Records that the worker is alive."""
    moment = clock.now(connection)
    query = update(services).where(services.c.binary == binary, services.c.host == host)
    if touched(connection, query.values(seen_at=moment)) == 0:
        connection.execute(services.insert().values(binary=binary, host=host, seen_at=moment))


def list_all(connection: Connection) -> list[ServiceSeen]:
    """Returns every service, with ``silent_seconds``: how long ago it was seen. One that was seen in the future was seen
    before the clock was set back, by as much at the least: a worker that lives says so anew within seconds."""
    moment = clock.now(connection)
    rows = many(ServiceRow, connection, select(services).order_by(services.c.binary, services.c.host))
    return [{**row, "silent_seconds": abs(moment - row["seen_at"])} for row in rows]


def states(connection: Connection) -> dict[tuple[str, str], ServiceStateRow]:
    """Returns what administrators set of services, by binary and host."""
    rows = many(ServiceStateRow, connection, select(service_states))
    return {(row["binary"], row["host"]): row for row in rows}


def set_state(connection: Connection, row: ServiceStateRow) -> None:
    """Records what an administrator set of a service, all of it."""
    same = (service_states.c.binary == row["binary"], service_states.c.host == row["host"])
    connection.execute(sql_delete(service_states).where(*same))
    connection.execute(service_states.insert(), row)


def closed_backends(connection: Connection, host: str) -> set[str]:
    """Returns the backends of a host that take no new volumes: an administrator disabled or froze them."""
    closed = [row["host"].partition("@") for row in states(connection).values() if row["binary"] == VOLUME and _closed(row)]
    return {backend for where, _, backend in closed if where == host}


def _closed(row: ServiceStateRow) -> bool:
    return row["disabled"] or row["frozen"]
