"""The enabled backends and their shares: mounted when first needed, and checked to be still the same."""

import logging
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stillframe import trust
from stillframe.chain import names
from stillframe.config import Settings
from stillframe.db import deployments, shares, volumes
from stillframe.db.engine import Database
from stillframe.errors import BadConfiguration, ShareUnavailable, StillframeError
from stillframe.host.probe import Prober
from stillframe.volumes.storage.drivers import directory, glusterfs, local, nfs
from stillframe.volumes.storage.drivers.contract import Kind, Share
from stillframe.volumes.storage.drivers.directory import DirectoryShare
from stillframe.volumes.storage.drivers.shares_config import Export

LOG = logging.getLogger(__name__)
KINDS: Mapping[str, Kind] = {"local": local, "nfs": nfs, "glusterfs": glusterfs}


@dataclass
class Pool:
    """One share of one backend. ``options`` is the backend's configuration section."""

    backend: str
    export: Export
    options: Any
    mount_point_base: Path
    database: Database
    minimum_free: int
    _open: Share | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def name(self) -> str:
        return f"{self.backend}#{self.export.export}"

    @property
    def kind(self) -> Kind:
        return KINDS[self.options.volume_driver]

    def share(self) -> Share:
        """Returns the share, mounted. Raises ShareUnavailable."""
        with self._lock:
            if self._open is None:
                self._open = self._opened()
        return self._open

    def _opened(self) -> Share:
        path = self.kind.prepare(self.export, self.mount_point_base)
        with self.database.read() as connection:
            share_id = shares.known_id(connection, self.export.export)
        deployment = deployments.own(self.database)
        if share_id is None:
            share_id = self._remembered(directory.claim(path, deployment))
        elif directory.is_unclaimed(path, share_id):  # made by us before markers named their deployment
            directory.claim(path, deployment)
        prober = None if self.options.volume_driver == "local" else Prober(path, self.options.probe_seconds)
        return DirectoryShare(path, share_id, self.minimum_free, self._raw_files, prober, deployment)

    def begin(self) -> None:
        """Makes a local share ready, before anybody is told that the service is. What has to be mounted is mounted when it is
        first used. Raises ForeignShare when its marker names another deployment, BadConfiguration when another user may put
        another directory in its place."""
        if self.options.volume_driver != "local":
            return
        path = Path(self.export.export)
        trust.require_place(path, "share_dir")
        directory.refuse_foreign(path, directory.marker_of(path), deployments.own(self.database))
        with suppress(ShareUnavailable, BadConfiguration):  # reported to whoever uses the share
            self.share()

    def _remembered(self, share_id: str) -> str:
        """Another worker may have opened the share for the first time at the same moment."""
        with self.database.write() as connection:
            known = shares.known_id(connection, self.export.export)
            if known is None:
                shares.remember(connection, self.export.export, share_id)
        return known or share_id

    def _raw_files(self) -> set[str]:
        with self.database.read() as connection:
            return {names.base_name(found) for found in volumes.raw_bases(connection, self.export.export)}

    def connection_info(self, active_file: str, format_: str) -> dict[str, Any]:
        export = self.export
        return self.kind.connection_info(export.export, export.options, active_file, format_, self.mount_point_base)

    def capacity(self, provisioned: int) -> dict[str, float]:
        """Returns what the scheduler statistics show, in GiB; ``provisioned`` are the virtual GiB of the share's volumes."""
        share = self.share()
        total, free = share.total() / (1 << 30), share.free() / (1 << 30)
        return {
            "total_capacity_gb": round(total, 2),
            "free_capacity_gb": round(free, 2),
            "provisioned_capacity_gb": provisioned,
            "max_over_subscription_ratio": self.options.max_over_subscription_ratio,
            "reserved_percentage": self.options.reserved_percentage,
        }


class Backends:
    """Returns every share of every enabled backend, in the order of the configuration."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.pools = [pool for name in settings.backends for pool in _pools(settings, database, name)]

    def pool(self, place: Mapping[str, Any]) -> Pool:
        """Returns the pool a volume lies in: ``place`` is its row or an operation's intent, with backend and share."""
        for pool in self.pools:
            if pool.export.export == place["share"]:
                return pool
        raise ShareUnavailable(f"no enabled backend has the share {place['share']} (backend {place['backend']})")

    def share(self, place: Mapping[str, Any]) -> Share:
        return self.pool(place).share()

    def of_type(self, extra_specs: Mapping[str, str]) -> list[Pool]:
        """Returns the pools a volume type may use."""
        wanted = extra_specs.get("volume_backend_name")
        return [pool for pool in self.pools if wanted in (None, pool.options.volume_backend_name, pool.backend)]

    def sweep(self) -> None:
        """Removes what crashes left; a share that does not answer, or on which that is not allowed, is left alone."""
        for pool in self.pools:
            try:
                pool.share().sweep()
            except (OSError, StillframeError) as error:
                LOG.debug("share %s is left as it is for now: %s", pool.export.export, error)


def _pools(settings: Settings, database: Database, name: str) -> list[Pool]:
    options = settings.backends[name]
    if options.volume_driver == "local":
        exports = [Export(str(Path(options.share_dir or settings.share_dir).absolute()))]
    else:
        exports = KINDS[options.volume_driver].shares(options)
    bases = {"nfs": options.nfs_mount_point_base, "glusterfs": options.glusterfs_mount_point_base}
    base = Path(bases.get(options.volume_driver) or settings.state_dir / "mnt")
    free = settings.volumes.minimum_free_mib << 20
    return [Pool(name, export, options, base, database, free) for export in exports]
