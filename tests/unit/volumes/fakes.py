"""A share that is only names, and a world of block storage over it."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from stillframe.chain.image import Chain, Image
from stillframe.chain.names import base_name
from stillframe.db.engine import Database
from stillframe.errors import ShareUnavailable
from stillframe.volumes.world import World
from tests.unit.builders import GIB, VOLUME, settings


class Driver:
    """The files of ``VOLUME``, base first. ``meanwhile`` happens while the share is looked at."""

    def __init__(self, *overlays: str) -> None:
        self.names = [base_name(VOLUME), *overlays]
        self.full = False
        self.meanwhile: Callable[[], object] = lambda: None

    def probe(self) -> None:
        if self.full:
            raise ShareUnavailable("the share is full")

    probe_for_writing = probe

    def free(self) -> int:
        return 0 if self.full else 1 << 40

    def files(self, volume_id: str) -> list[str]:
        return self.names if volume_id == VOLUME else []

    def allocated(self, _name: str) -> int:
        return 4096

    def chain(self, volume_id: str, active_file: str) -> Chain:
        images: list[Image] = []
        for name in self.names[: self.names.index(active_file) + 1]:
            below = images[-1].name if images else None
            images.append(Image(name, "qcow2", GIB, below, "qcow2" if below else None))
        self.meanwhile()
        return Chain(volume_id, tuple(images))

    def connection_info(self, active_file: str, format_: str) -> dict[str, Any]:
        return {"driver_volume_type": "local", "export": "/srv", "name": active_file, "format": format_}


def world(database: Database, state_dir: Path, driver: Driver | None = None, **options: Any) -> World:
    """``options`` are of the volumes section."""
    door: Any = SimpleNamespace(servers_with=lambda _volume_id: [])
    return World(database, cast("Any", driver or Driver()), door, settings(state_dir, **options))
