"""Shares: the id that the marker file on each share must carry."""

from sqlalchemy import Connection, delete, select

from stillframe.db.tables import shares


def known_id(connection: Connection, path: str) -> str | None:
    """Returns the id that the share's marker must carry; None for a share that was never used."""
    return connection.execute(select(shares.c.share_id).where(shares.c.path == path)).scalar_one_or_none()


def forget(connection: Connection, path: str) -> None:
    """Forgets a directory that is no share any more."""
    connection.execute(delete(shares).where(shares.c.path == path))


def remember(connection: Connection, path: str, share_id: str) -> None:
    """Records the id of a share. Raises IntegrityError when another process was quicker."""
    connection.execute(shares.insert().values(path=path, share_id=share_id))
