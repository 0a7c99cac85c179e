"""What compute's operations work on: the database, libvirt, the door to block storage, the watchdog."""

import threading
from dataclasses import dataclass, field

from stillframe.compute.bounded import Calls
from stillframe.compute.guard import Guard
from stillframe.compute.merges import Merges
from stillframe.compute.quiesce import Times
from stillframe.compute.storage import StorageDoor
from stillframe.config import Settings
from stillframe.db.engine import Database
from stillframe.host import private_libvirt
from stillframe.host.hypervisor import Hypervisor


@dataclass(frozen=True)
class World:
    """Handed to every verb."""

    database: Database
    hypervisor: Hypervisor
    storage: StorageDoor
    guard: Guard
    settings: Settings
    merges: Merges = field(default_factory=Merges)
    switches: Calls = field(default_factory=Calls)
    stopping: threading.Event = field(default_factory=threading.Event)  # what may take hours is left for the next worker

    @property
    def times(self) -> Times:
        options = self.settings.compute
        return Times(
            deadline=options.freeze_deadline_seconds,
            agent=options.agent_timeout_seconds,
            flush=options.flush_timeout_seconds,
            hasten=options.hasten_freeze,
        )


def open_world(settings: Settings, database: Database) -> World:
    """Makes the world of one compute worker; starts the private libvirt daemon unless a URI is configured.

    The watchdog is started by the worker's timer, which also looks whether it still runs.
    """
    uri = settings.compute.libvirt_uri
    private = None if uri else settings.state_dir / "libvirt"
    connection = Hypervisor(uri) if private is None else private_libvirt.connect(private)
    connection.connection()
    guard = Guard(connection, private, settings.freeze_dir, settings.state_dir / "watchdog.log")
    return World(database, connection, StorageDoor(settings), guard, settings)
