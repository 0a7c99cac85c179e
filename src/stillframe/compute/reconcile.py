"""The look around on a timer: what libvirt has against what block storage records. It tells; it changes nothing."""

import logging
import time

from stillframe.compute import saved_notes, servers
from stillframe.compute.servers import Server
from stillframe.compute.world import World
from stillframe.db import operations
from stillframe.errors import StillframeError

LOG = logging.getLogger(__name__)
EVERY_SECONDS = 60.0


class Reconciler:
    """Compares every server once a minute and says each difference once."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._due = 0.0
        self._told: set[str] = set()

    def look(self) -> None:
        """Logs each new difference. A service that does not answer is not a difference."""
        try:
            saved_notes.look(self._world.hypervisor, self._world.settings.state_dir)
        except StillframeError as error:
            LOG.info("saved servers were not looked at: %s", error.message)
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + EVERY_SECONDS
        try:
            found = {line for server in servers.list_everything(self._world) for line in self._differences(server)}
        except StillframeError as error:
            LOG.info("servers were not compared: %s", error.message)
            return
        for line in sorted(found - self._told):
            LOG.error("%s", line)
        self._told = found

    def _differences(self, server: Server) -> list[str]:
        with self._world.database.read() as connection:
            if operations.on_resource(connection, f"server:{server.id}") is not None:
                return []
        recorded = {
            entry["volume_id"]: entry["connection_info"].get("name")
            for entry in self._world.storage.attachments_of(server.id)
            if entry["status"] == "attached"
        }
        held = dict(server.volumes())
        lines = [
            f"server {server.id} has {disk.name} for volume {volume_id}, block storage records {recorded[volume_id]}"
            for volume_id, disk in held.items()
            if volume_id in recorded and disk.name != recorded[volume_id]
        ]
        lines += [
            f"the saved memory of server {server.id} goes on with {disk.name} for volume {disk.volume_id}, block storage"
            f" records {recorded[disk.volume_id]}: it must not be restored so"
            for disk in (server.saved.disks if server.saved else ())
            if disk.volume_id in recorded and disk.name != recorded[disk.volume_id]
        ]
        lines += [f"server {server.id} has volume {one}, which is not attached to it" for one in held.keys() - recorded]
        lines += [f"volume {one} is attached to server {server.id}, which lacks it" for one in recorded.keys() - held]
        return lines
