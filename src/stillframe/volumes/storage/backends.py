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
from stillframe.db import deployments, services, shares, volumes
from stillframe.db.engine import Database
from stillframe.errors import BadConfiguration, ShareUnavailable, StillframeError
from stillframe.host.probe import Prober
from stillframe.volumes.storage.drivers import glusterfs, iscsi, local, markers, native, nfs
from stillframe.volumes.storage.drivers.contract import Capabilities, FileKind, Share, TargetKind
from stillframe.volumes.storage.drivers.directory import DirectoryShare
from stillframe.volumes.storage.drivers.native import NativeShare
from stillframe.volumes.storage.drivers.shares_config import Export
from stillframe.volumes.storage.drivers.targets import Held, Targets

LOG = logging.getLogger(__name__)
VENDOR = "Stillframe"
FILES: Mapping[str, FileKind] = {"local": local, "nfs": nfs, "glusterfs": glusterfs}
TARGETS: Mapping[str, TargetKind] = {"iscsi": iscsi}
KINDS: Mapping[str, FileKind | TargetKind] = {**FILES, **TARGETS}
ADOPTED = "adopted"  # what rows call the backend of volumes that were adopted in a directory of no backend


@dataclass
class Pool:
    """One share of one backend. ``options`` is the backend's configuration section, ``targets`` what gives its volumes out
    where hypervisors do not open their files."""

    backend: str
    export: Export
    options: Any
    mount_point_base: Path
    database: Database
    minimum_free: int
    targets: Targets | None = None
    _open: Share | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def name(self) -> str:
        return f"{self.backend}#{self.export.export}"

    @property
    def kind(self) -> FileKind | TargetKind:
        return KINDS[self.options.volume_driver]

    @property
    def capabilities(self) -> Capabilities:
        return self.kind.CAPABILITIES

    def fits(self, extra_specs: Mapping[str, str]) -> bool:
        """Tells whether a volume type's extra specs name this backend, or nothing of a backend."""
        names = (None, self.options.volume_backend_name, self.backend)
        protocol, vendor = (extra_specs.get(key) for key in ("storage_protocol", "vendor_name"))
        named = extra_specs.get("volume_backend_name") in names
        return named and protocol in (None, self.options.volume_driver) and vendor in (None, VENDOR)

    @property
    def format(self) -> str:
        """The format of new volumes."""
        return str(self.options.volume_format) if self.capabilities.chains else "raw"

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
            share_id = self._remembered(markers.claim(path, deployment, mode=0o600 if self.backend == ADOPTED else 0o660))
        elif markers.is_unclaimed(path, share_id):  # made by us before markers named their deployment
            markers.claim(path, deployment)
        if not self.capabilities.chains:
            return NativeShare(path, share_id, self.minimum_free, lambda: native.volume_files(path), None, deployment)
        prober = None if self.capabilities.here else Prober(path, self.options.probe_seconds)
        return DirectoryShare(
            path,
            share_id,
            self.minimum_free,
            self._raw_files,
            prober,
            deployment,
            capabilities=self.capabilities,
            adopted=self._adopted_files,
        )

    def begin(self) -> None:
        """Makes a local share ready, before anybody is told that the service is. What has to be mounted is mounted when it is
        first used. Raises ForeignShare when its marker names another deployment, BadConfiguration when another user may put
        another directory in its place, or when it cannot do what its kind promises."""
        if not self.capabilities.here:
            return
        path = Path(self.export.export)
        trust.require_place(path, "share_dir")
        markers.refuse_foreign(path, markers.marker_of(path), deployments.own(self.database))
        if self.capabilities.native_snapshots:
            with suppress(ShareUnavailable):
                self.kind.prepare(self.export, self.mount_point_base)
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
            return {names.base_name(*each) for each in volumes.raw_bases(connection, self.export.export)}

    def _adopted_files(self) -> dict[str, str]:
        with self.database.read() as connection:
            return volumes.adopted_bases(connection, self.export.export)

    def connection_info(self, volume: Mapping[str, Any], held: Held | None) -> dict[str, Any]:
        """Returns what a hypervisor needs to reach a volume, a row; ``held`` says to whom it is given out, where it is."""
        if self.targets is not None:
            return self.targets.connection_info(volume["id"], held) if held else {}
        export, kind = self.export, FILES[self.options.volume_driver]
        return kind.connection_info(
            export.export, export.options, volume["active_file"], volume["format"], self.mount_point_base
        )

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


@dataclass(frozen=True)
class AdoptedOptions:
    """What a backend's section says, for directories of which no section tells: those of adopted volumes."""

    volume_driver: str = "local"
    volume_backend_name: str = ADOPTED
    volume_format: str = "qcow2"
    max_over_subscription_ratio: float = 20.0
    reserved_percentage: int = 0


class Backends:
    """Returns every share of every enabled backend, in the order of the configuration."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._host, self._database = settings.host, database
        self.pools = [pool for name in settings.backends for pool in _pools(settings, database, name)]
        self._settings, self._database = settings, database
        self._adopted: dict[str, Pool] = {}

    @property
    def every(self) -> list[Pool]:
        """The shares of the backends, and the directories of adopted volumes."""
        with self._database.read() as connection:
            known = volumes.shares_of(connection, ADOPTED)
        return [*self.pools, *(self.adopted(each) for each in known)]

    def adopted(self, directory: str) -> Pool:
        """Returns the pool of a directory of this host in which volumes are, or are to be, adopted: a backend's where it is
        one's share."""
        for pool in self.pools:
            if pool.capabilities.here and pool.capabilities.chains and pool.export.export == directory:
                return pool
        free = self._settings.volumes.minimum_free_mib << 20
        made = Pool(ADOPTED, Export(directory), AdoptedOptions(), Path(directory), self._database, free)
        return self._adopted.setdefault(directory, made)

    def is_claimed(self, directory: str) -> bool:
        """Tells whether a directory carries the marker of a share."""
        return markers.marker_of(Path(directory)) is not None

    def unclaim(self, directory: str) -> None:
        """Removes what makes a directory a share, its marker last. May be repeated. Raises ShareUnavailable."""
        self._adopted.pop(directory, None)
        markers.unclaim(Path(directory))

    def pool(self, place: Mapping[str, Any]) -> Pool:
        """Returns the pool a volume lies in: ``place`` is its row or an operation's intent, with backend and share."""
        for pool in self.pools:
            if pool.export.export == place["share"]:
                return pool
        if place["backend"] == ADOPTED:
            return self.adopted(place["share"])
        raise ShareUnavailable(f"no enabled backend has the share {place['share']} (backend {place['backend']})")

    def share(self, place: Mapping[str, Any]) -> Share:
        return self.pool(place).share()

    def of_type(self, extra_specs: Mapping[str, str]) -> list[Pool]:
        """Returns the pools on which new volumes of a type may lie now: not those an administrator disabled or froze."""
        with self._database.read() as connection:
            closed = services.closed_backends(connection, self._host)
        return [pool for pool in self.fitting(extra_specs) if pool.backend not in closed]

    def fitting(self, extra_specs: Mapping[str, str]) -> list[Pool]:
        """Returns the pools a volume type fits."""
        return [pool for pool in self.pools if pool.fits(extra_specs)]

    def sweep(self) -> None:
        """Removes what crashes left; a share that does not answer, or on which that is not allowed, is left alone."""
        for pool in self.every:
            try:
                pool.share().sweep()
            except (OSError, StillframeError) as error:
                LOG.debug("share %s is left as it is for now: %s", pool.export.export, error)


def _pools(settings: Settings, database: Database, name: str) -> list[Pool]:
    options = settings.backends[name]
    if options.volume_driver == "local":  # the one kind whose directory has a default
        exports = [Export(str(Path(options.share_dir or settings.share_dir).absolute()))]
    else:
        exports = KINDS[options.volume_driver].shares(options)
    bases = {"nfs": options.nfs_mount_point_base, "glusterfs": options.glusterfs_mount_point_base}
    base = Path(bases.get(options.volume_driver) or settings.state_dir / "mnt")
    free = settings.volumes.minimum_free_mib << 20
    made = TARGETS.get(options.volume_driver)
    targets = made.targets(options, settings.chap_key_file) if made else None
    return [Pool(name, export, options, base, database, free, targets) for export in exports]
