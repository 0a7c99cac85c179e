"""GlusterFS: where the shares are, how they are mounted, how a hypervisor reaches a volume on them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from stillframe import trust
from stillframe.host import mounts, probe
from stillframe.volumes.storage.drivers import shares_config
from stillframe.volumes.storage.drivers.contract import CHAINS
from stillframe.volumes.storage.drivers.shares_config import Allowed, Export

CAPABILITIES = CHAINS
DEFAULT_OPTIONS = ("nosuid", "nodev", "noexec")
_NAMES = """
backup-volfile-servers backupvolfile-server transport log-level log-file direct-io-mode
attribute-timeout entry-timeout negative-timeout gid-timeout background-qlen congestion-threshold reader-thread-count
lru-limit invalidate-limit fetch-attempts use-readdirp acl selinux rw noatime relatime nosuid nodev noexec _netdev
"""  # See mount.glusterfs(8), GlusterFS 10.3.
ALLOWED = Allowed(frozenset(_NAMES.split()), {})


class Section(Protocol):
    """The options of a GlusterFS backend, named as in Cinder."""

    @property
    def glusterfs_shares_config(self) -> str | None:
        """File with the list of shares."""


def shares(section: Section) -> list[Export]:
    """Returns the shares of a backend, each with all of its mount options. Raises BadConfiguration."""
    path = shares_config.required(section.glusterfs_shares_config, "glusterfs_shares_config")
    listed = shares_config.read(path, ALLOWED)
    return [Export(each.export, shares_config.merge(DEFAULT_OPTIONS, each.options)) for each in listed]


def prepare(export: Export, mount_point_base: Path) -> Path:
    """Mounts a share unless it is mounted; returns the directory.

    Raises ShareUnavailable, or BadConfiguration when the rights of its directory are not those a share needs (2770, a
    group of the service and the hypervisor), or when another user may put another directory in place of the mount point.
    """
    trust.require_base(mount_point_base, "glusterfs_mount_point_base")
    point = mounts.mount_point(mount_point_base, export.export)
    mounts.mount("glusterfs", export.export, point, export.options)
    probe.refuse_if_open(point)
    return point


def connection_info(
    export: str, options: Sequence[str], active_file: str, format_: str, mount_point_base: Path
) -> dict[str, Any]:
    """Returns what a hypervisor needs, as Cinder's attachments showed it for GlusterFS; see ``nfs.connection_info``.

    Cinder dropped its GlusterFS driver in 2016, and Nova its own later: os-brick still mounts by this.
    """
    return {
        "driver_volume_type": "glusterfs",
        "export": export,
        "name": active_file,
        "format": format_,
        "options": shares_config.as_argument(options),
        "mount_point_base": str(mount_point_base),
    }
