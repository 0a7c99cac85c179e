"""The worker context of block storage: the database, the backends, the clients of compute and images, the backup store."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stillframe.config import Settings
from stillframe.db import shares, volumes
from stillframe.db.engine import Database
from stillframe.journal.about import about
from stillframe.journal.operation import Operation
from stillframe.volumes.backups import repository
from stillframe.volumes.backups.repository import Repository, Store
from stillframe.volumes.clients.compute import ComputeClient
from stillframe.volumes.clients.glance import ImageClient
from stillframe.volumes.storage.backends import Backends
from stillframe.volumes.storage.drivers.contract import Share


@dataclass(frozen=True)
class WorkerContext:
    """Handed to every verb."""

    database: Database
    backends: Backends
    compute: ComputeClient
    images: ImageClient
    settings: Settings
    stopping: threading.Event = field(default_factory=threading.Event)  # waiting is then left to the next worker

    def share(self, place: Mapping[str, Any]) -> Share:
        """Returns the share a volume lies on: ``place`` is its row or an operation's intent, with backend and share."""
        return self.backends.share(place)

    def lane(self, operation: Operation) -> str:
        """Returns the lane of an operation, its share: a share that hangs delays its own operations only."""
        found = about(operation.intent)
        if found.share is None and found.volume_id is not None:
            with self.database.read() as connection:
                row = volumes.get(connection, found.volume_id, None)
            return str(row["share"]) if row else ""
        return found.share or ""

    def repository(self, container: str) -> Repository:
        """Returns the backup store, after a check that it is still the same store. Raises BackupStoreUnavailable,
        BadConfiguration."""
        options, url = self.settings.volumes, self.settings.backup_url
        credentials = Path(options.backup_s3_credentials_file) if options.backup_s3_credentials_file else None
        store = Store(url, options.backup_s3_endpoint, options.backup_s3_region, credentials)
        with self.database.read() as connection:
            known = shares.known_id(connection, url)
        found = repository.make(store, container, known)
        if known is None:
            share_id = found.prepare()
            with self.database.write() as connection:
                shares.remember(connection, url, share_id)
            return repository.make(store, container, share_id)
        found.probe()
        return found


def open_context(settings: Settings, database: Database) -> WorkerContext:
    """Makes the context of one block storage worker."""
    return WorkerContext(database, Backends(settings, database), ComputeClient(settings), ImageClient(settings), settings)
