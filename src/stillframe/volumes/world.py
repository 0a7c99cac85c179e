"""What block storage's operations work on: the database, the backends, the door to compute, the backups' repository."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stillframe.config import Settings
from stillframe.db.engine import Database
from stillframe.volumes.backends import Backends
from stillframe.volumes.compute import ComputeDoor
from stillframe.volumes.drivers.contract import Share

GIB = 1 << 30


@dataclass(frozen=True)
class World:
    """Handed to every verb."""

    database: Database
    backends: Backends
    compute: ComputeDoor
    settings: Settings

    def share(self, place: Mapping[str, Any]) -> Share:
        """Returns the share a volume lies on: ``place`` is its row or an operation's intent, with backend and share."""
        return self.backends.share(place)


def open_world(settings: Settings, database: Database) -> World:
    """Makes the world of one volumes worker."""
    return World(database, Backends(settings, database), ComputeDoor(settings), settings)
