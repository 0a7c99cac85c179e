"""The worker context of compute: the database, libvirt, the client of block storage, the watchdog."""

import threading
from dataclasses import dataclass, field

from stillframe.compute.clients.block_storage import StorageClient
from stillframe.compute.quiesce.bounded import Calls
from stillframe.compute.quiesce.guard import Guard
from stillframe.compute.quiesce.window import Times
from stillframe.compute.worker import scratch_place
from stillframe.config import Settings
from stillframe.db.engine import Database
from stillframe.host import private_libvirt
from stillframe.host.hypervisor import Hypervisor


@dataclass(frozen=True)
class WorkerContext:
    """Handed to every verb."""

    database: Database
    hypervisor: Hypervisor
    storage: StorageClient
    guard: Guard
    settings: Settings
    switches: Calls = field(default_factory=Calls)
    stopping: threading.Event = field(default_factory=threading.Event)  # long work is then left to the next worker

    @property
    def times(self) -> Times:
        """The bounds of the frozen window, in seconds, as the configuration has them."""
        options = self.settings.compute
        return Times(
            deadline=options.freeze_deadline_seconds,
            agent=options.agent_timeout_seconds,
            flush=options.flush_timeout_seconds,
            expedite=options.expedite_freeze,
        )


def open_context(settings: Settings, database: Database) -> WorkerContext:
    """Makes the context of one compute worker; starts the private libvirt daemon unless a URI is configured.

    The watchdog is started by the worker's timer, which also looks whether it still runs. Raises BadConfiguration for a
    scratch_dir that cannot be used.
    """
    scratch_place.refuse_at_start(settings)
    uri = settings.compute.libvirt_uri
    private = None if uri else settings.state_dir / "libvirt"
    connection = Hypervisor(uri) if private is None else private_libvirt.connect(private)
    connection.connection()
    guard = Guard(connection, private, settings.freeze_dir, settings.state_dir / "watchdog.log")
    return WorkerContext(database, connection, StorageClient(settings), guard, settings)
