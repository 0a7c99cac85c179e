"""NFS: where the shares are, how they are mounted, how a hypervisor reaches a volume on them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from stillframe import trust
from stillframe.errors import BadConfiguration
from stillframe.host import mounts, probe
from stillframe.volumes.storage.drivers import shares_config
from stillframe.volumes.storage.drivers.contract import CHAINS
from stillframe.volumes.storage.drivers.shares_config import Allowed, Export

CAPABILITIES = CHAINS
# hard: when the server is away, writers wait and lose no data. 4.2: holes, and locks that are part of the protocol.
DEFAULT_OPTIONS = ("hard", "vers=4.2", "nosuid", "nodev", "noexec")
_SOFT = "with a soft mount a write that found no server is lost, and the guest is told it was done: QCOW2 files break; use hard"
_LOCAL_LOCKS = "QEMU's locks would hold on one host only, and two hosts could write to one image"
_STALE = "another host's changes, such as a new active file, would be seen late or never"
REFUSED = {
    "soft": _SOFT,
    "softerr": _SOFT,
    "softreval": _STALE,
    "nocto": _STALE,
    "nolock": _LOCAL_LOCKS,
    "local_lock=all": _LOCAL_LOCKS,
    "local_lock=flock": _LOCAL_LOCKS,
    "local_lock=posix": _LOCAL_LOCKS,
    "bg": "mount would say that it is done before it is",
}
_NAMES = """
hard vers nfsvers minorversion proto port mountport mountproto mountvers timeo retrans rsize wsize namlen sec nconnect
max_connect trunkdiscovery notrunkdiscovery clientaddr actimeo acregmin acregmax acdirmin acdirmax ac noac cto sync
lookupcache lock local_lock fg retry resvport noresvport sharecache nosharecache rdirplus nordirplus fsc nofsc xprtsec
rw noatime nodiratime relatime nosuid nodev noexec _netdev intr nointr context
"""  # See nfs(5), nfs-utils 2.6.
ALLOWED = Allowed(frozenset(_NAMES.split()), REFUSED)


class Section(Protocol):
    """The options of an NFS backend, named as in Cinder."""

    @property
    def nfs_shares_config(self) -> str | None:
        """File with the list of shares."""

    @property
    def nfs_mount_options(self) -> str | None:
        """Mount options for every share of the list; a share's own come on top."""


def shares(section: Section) -> list[Export]:
    """Returns the shares of a backend, each with all of its mount options. Raises BadConfiguration."""
    path = shares_config.required(section.nfs_shares_config, "nfs_shares_config")
    try:
        common = ALLOWED.check(shares_config.split_options(section.nfs_mount_options or ""))
    except BadConfiguration as error:
        raise BadConfiguration(f"the option nfs_mount_options: {error.message}") from error
    listed = shares_config.read(path, ALLOWED)
    return [Export(each.export, _with_defaults((*common, *each.options))) for each in listed]


def prepare(export: Export, mount_point_base: Path) -> Path:
    """Mounts a share unless it is mounted; returns the directory.

    Raises ShareUnavailable, or BadConfiguration when somebody mounted it in a way that loses data, when the rights of its
    directory are not those a share needs (2770, a group of the service and the hypervisor), or when another user may put
    another directory in place of the mount point.
    """
    trust.require_base(mount_point_base, "nfs_mount_point_base")
    point = mounts.mount_point(mount_point_base, export.export)
    mounts.mount("nfs", export.export, point, export.options)
    present = mounts.find(point)
    for option in sorted(present.options if present else ()):
        if option in REFUSED:
            raise BadConfiguration(f"{export.export} is mounted at {point} with the option {option}: {REFUSED[option]}")
    probe.refuse_if_open(point)
    return point


def connection_info(
    export: str, options: Sequence[str], active_file: str, format_: str, mount_point_base: Path
) -> dict[str, Any]:
    """Returns what a hypervisor needs, as Cinder's attachments show it: ``data`` of initialize_connection laid flat.

    ``options`` come as ``-o a,b``, which Nova and os-brick hand to mount.
    """
    return {
        "driver_volume_type": "nfs",
        "export": export,
        "name": active_file,
        "format": format_,
        "options": shares_config.as_argument(options),
        "mount_point_base": str(mount_point_base),
    }


def _with_defaults(wanted: Sequence[str]) -> tuple[str, ...]:
    names = {option.partition("=")[0] for option in wanted}
    chosen = [option for option in DEFAULT_OPTIONS if not (option.startswith("vers=") and names & {"nfsvers", "minorversion"})]
    return shares_config.merge(chosen, wanted)
