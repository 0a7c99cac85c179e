"""On which share a new volume comes to lie, and whether there is room for what is asked."""

from sqlalchemy import Connection

from stillframe.db import volumes
from stillframe.db.rows import VolumeRow, VolumeTypeRow
from stillframe.errors import BadConfiguration, BadRequest, ShareUnavailable
from stillframe.units import GIB
from stillframe.volumes.storage.backends import Backends, Pool
from stillframe.volumes.storage.drivers.contract import Share


def choose(backends: Backends, type_row: VolumeTypeRow, size: int, needed: int = 0) -> Pool:
    """Returns the pool with the most free space of those the volume type may use and ``size`` more GiB may be promised on.

    ``needed`` bytes are written at once. Raises BadRequest when no enabled backend fits the type, ShareUnavailable with
    numbers when none has room.
    """
    allowed = backends.of_type(type_row["extra_specs"])
    if not allowed:
        raise BadRequest(f"no enabled backend fits volume type {type_row['name']}: its extra specs ask for another one")
    free: list[tuple[int, int, Pool]] = []
    refused: list[str] = []
    for pool in allowed:
        try:
            free.append((_room(pool, size, needed), -len(free), pool))
        except (ShareUnavailable, BadConfiguration) as error:
            refused.append(error.message)
    if not free:
        raise ShareUnavailable("; ".join(refused))
    return max(free, key=lambda each: each[:2])[2]


def check_room(backends: Backends, row: VolumeRow, more_gib: int, needed: int = 0) -> None:
    """Raises ShareUnavailable, with numbers, unless ``more_gib`` may be promised and ``needed`` bytes written beside a
    volume."""
    _room(backends.pool(row), more_gib, needed)


def _room(pool: Pool, more_gib: int, needed: int) -> int:
    share = pool.share()
    share.probe_for_writing(needed)
    most = most_promised(pool)
    with pool.database.read() as connection:
        check_promised(connection, pool, more_gib, most)
    return share.free()


def most_promised(pool: Pool) -> int:
    """Returns how many GiB may be promised on a share. Asked before a transaction begins: a share may be slow to answer."""
    part = (100 - pool.options.reserved_percentage) / 100
    return int(pool.share().total() / GIB * part * pool.options.max_over_subscription_ratio)


def check_promised(connection: Connection, pool: Pool, more_gib: int, most: int) -> None:
    """Raises ShareUnavailable, with numbers, unless ``more_gib`` may be promised beside what is. Called in the transaction that
    promises them: two requests may have been told at once that there is room."""
    promised = volumes.provisioned(connection, pool.export.export)
    if more_gib > 0 and promised + more_gib > most:
        raise ShareUnavailable(
            f"the share {pool.export.export} has {promised} GiB promised; with {more_gib} more it would be over its {most} GiB",
            promised=promised,
            limit=most,
        )


def content_bytes(share: Share, name: str, format_: str, shared: bool = False) -> int:
    """Returns what a full copy of a file's chain writes at most, in bytes."""
    return sum(share.visible(name, format_, shared))
