"""A world of block storage over a share in memory."""

from pathlib import Path
from typing import Any, cast

from stillframe.chain.image import Image
from stillframe.chain.names import base_name
from stillframe.db import shares
from stillframe.db.engine import Database
from stillframe.errors import ServiceUnavailable
from stillframe.volumes.backends import Backends
from stillframe.volumes.world import World
from tests.unit.builders import GIB, SHARE, VOLUME, settings
from tests.unit.volumes.memory_share import File, MemoryShare


class Compute:
    """Knows which servers' descriptions name a volume."""

    def __init__(self) -> None:
        self.servers: dict[str, list[str]] = {}
        self.silent = False

    def servers_with(self, volume_id: str) -> list[str]:
        if self.silent:
            raise ServiceUnavailable("compute does not answer")
        return self.servers.get(volume_id, [])


def share(*overlays: str, volume_id: str = VOLUME) -> MemoryShare:
    """The files of one volume, each overlay on the one before it."""
    made, below = MemoryShare(), base_name(volume_id)
    made.entries[below] = File(Image(below, "qcow2", GIB))
    for name in overlays:
        made.entries[name] = File(Image(name, "qcow2", GIB, below, "qcow2"))
        below = name
    return made


def world(database: Database, state_dir: Path, memory: MemoryShare | None = None, **options: Any) -> World:
    """``options`` are of the volumes section."""
    loaded = settings(state_dir, **{"share_dir": SHARE, **options})
    backends = Backends(loaded, database)
    for pool in backends.pools:
        pool._open = memory or share()
    with database.write() as connection:
        for url in (SHARE, loaded.backup_url):
            if shares.known_id(connection, url) is None:
                shares.remember(connection, url, "known")
    return World(database, backends, cast("Any", Compute()), cast("Any", None), loaded)


def memory(world: World) -> MemoryShare:
    found = world.backends.pools[0].share()
    assert isinstance(found, MemoryShare)
    return found


def compute(world: World) -> Compute:
    found: Any = world.compute
    assert isinstance(found, Compute)
    return found
