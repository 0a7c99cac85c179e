"""What block storage's operations work on: the database, the driver, the door to compute."""

from dataclasses import dataclass

from stillframe.config import Settings
from stillframe.db import shares
from stillframe.db.engine import Database
from stillframe.volumes.compute import ComputeDoor
from stillframe.volumes.drivers import local
from stillframe.volumes.drivers.contract import Driver

GIB = 1 << 30


@dataclass(frozen=True)
class World:
    """Handed to every verb."""

    database: Database
    driver: Driver
    compute: ComputeDoor
    settings: Settings


def open_world(settings: Settings, database: Database) -> World:
    """Makes the world of one volumes worker; a share seen before must still carry the same marker."""
    share = settings.share_dir
    with database.read() as connection:
        share_id = shares.known_id(connection, str(share))
    if share_id is None:
        share_id = local.prepare(share)
        with database.write() as connection:
            shares.remember(connection, str(share), share_id)
    driver = local.LocalDriver(share, share_id, settings.volumes.minimum_free_mib << 20)
    return World(database, driver, ComputeDoor(settings), settings)
