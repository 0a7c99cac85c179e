"""Disks of servers that were made volumes where they are: what tells compute which volume such a disk is."""

import os
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, and_, bindparam, delete, or_, select

from stillframe.db.queries import many
from stillframe.db.rows import AdoptedDiskRow
from stillframe.db.tables import adopted_disks, volumes
from stillframe.db.values import NewAdoptedDisk

_OF_SERVER = select(adopted_disks).where(adopted_disks.c.server_id == bindparam("key"))
_OF_VOLUME = select(adopted_disks).where(adopted_disks.c.volume_id == bindparam("key"))


def put(connection: Connection, row: NewAdoptedDisk) -> None:
    """Records a disk, in place of what was recorded of its target and of its volume. May be repeated."""
    table = adopted_disks.c
    same = and_(table.server_id == row["server_id"], table.target == row["target"])
    connection.execute(delete(adopted_disks).where(or_(same, table.volume_id == row["volume_id"])))
    connection.execute(adopted_disks.insert(), row)


def of_server(connection: Connection, server_id: str) -> list[AdoptedDiskRow]:
    """Returns the disks of a server that were adopted."""
    return many(AdoptedDiskRow, connection, _OF_SERVER, key=server_id)


def by_place(rows: Sequence[AdoptedDiskRow]) -> Mapping[tuple[str, str], str]:
    """Returns the volumes by target and path of the disks they were made of."""
    return {(row["target"], row["file"]): row["volume_id"] for row in rows}


def list_all(connection: Connection) -> list[AdoptedDiskRow]:
    """Returns every disk that was adopted."""
    return many(AdoptedDiskRow, connection, select(adopted_disks).order_by(adopted_disks.c.server_id, adopted_disks.c.target))


def by_server(connection: Connection) -> dict[str, Mapping[tuple[str, str], str]]:
    """Returns ``by_place`` of each server that has such disks."""
    found: dict[str, list[AdoptedDiskRow]] = {}
    for row in list_all(connection):
        found.setdefault(row["server_id"], []).append(row)
    return {server_id: by_place(rows) for server_id, rows in found.items()}


def base_file(connection: Connection, volume_id: str) -> str | None:
    """Returns the name of the file that a volume was made of, without its directory; None for one that was not adopted."""
    found = many(AdoptedDiskRow, connection, _OF_VOLUME, key=volume_id)
    return os.path.basename(found[0]["file"]) if found else None


def directories(connection: Connection) -> set[str]:
    """Returns the directories of adopted disks, as far as this database knows of servers or of volumes."""
    files = connection.execute(select(adopted_disks.c.file).distinct()).scalars()
    shares = connection.execute(select(volumes.c.share).where(volumes.c.base_file.is_not(None)).distinct()).scalars()
    return {os.path.dirname(file) for file in files} | set(shares)


def forget(connection: Connection, volume_id: str) -> None:
    """Forgets a disk that is no volume any more. May be repeated."""
    connection.execute(delete(adopted_disks).where(adopted_disks.c.volume_id == volume_id))
