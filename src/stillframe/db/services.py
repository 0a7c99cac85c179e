"""Services: which worker was seen when."""

from sqlalchemy import Connection, select, update

from stillframe.db import clock
from stillframe.db.rows import Row, many, touched
from stillframe.db.tables import services


def beat(connection: Connection, binary: str, host: str) -> None:
    """Records that the worker is alive."""
    moment = clock.now(connection)
    query = update(services).where(services.c.binary == binary, services.c.host == host)
    if touched(connection, query.values(seen_at=moment)) == 0:
        connection.execute(services.insert().values(binary=binary, host=host, seen_at=moment))


def list_all(connection: Connection) -> list[Row]:
    """Returns every service, with ``silent_seconds``: how long ago it was seen."""
    moment = clock.now(connection)
    rows = many(connection, select(services).order_by(services.c.binary, services.c.host))
    return [{**row, "silent_seconds": moment - row["seen_at"]} for row in rows]
