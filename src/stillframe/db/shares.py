"""Shares: the id that the marker file on each share must carry."""

from sqlalchemy import Connection, select

from stillframe.db.tables import shares


def known_id(connection: Connection, path: str) -> str | None:
    return connection.execute(select(shares.c.share_id).where(shares.c.path == path)).scalar_one_or_none()


def remember(connection: Connection, path: str, share_id: str) -> None:
    connection.execute(shares.insert().values(path=path, share_id=share_id))
