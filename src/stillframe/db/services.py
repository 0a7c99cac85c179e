"""Services: which worker was seen when."""

import time

from sqlalchemy import Connection, select, update

from stillframe.db.rows import Row, many, touched
from stillframe.db.tables import services


def beat(connection: Connection, binary: str, host: str) -> None:
    """Records that the worker is alive."""
    query = update(services).where(services.c.binary == binary, services.c.host == host)
    if touched(connection, query.values(seen_at=time.time())) == 0:
        connection.execute(services.insert().values(binary=binary, host=host, seen_at=time.time()))


def list_all(connection: Connection) -> list[Row]:
    return many(connection, select(services).order_by(services.c.binary, services.c.host))
