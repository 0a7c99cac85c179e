"""iSCSI: raw files in a directory of this host whose file system shares blocks, given out by the host's own target daemon."""

import ipaddress
import re
from pathlib import Path
from typing import Any, Protocol

from stillframe.errors import BadConfiguration
from stillframe.host import clones, files, tgt, workdir
from stillframe.volumes.storage.drivers import local, native
from stillframe.volumes.storage.drivers.shares_config import Export
from stillframe.volumes.storage.drivers.targets import Portal, Targets

CAPABILITIES = native.CAPABILITIES
_PREFIX = re.compile(r"iqn\.[0-9]{4}-[0-9]{2}\.[a-z0-9.-]+:[a-z0-9.:-]*")


class Section(Protocol):
    """The options of an iSCSI backend; those of the target are named as in Cinder."""

    @property
    def share_dir(self) -> str | None:
        """The directory, on XFS or btrfs."""

    @property
    def target_ip_address(self) -> str:
        """Where the target daemon listens, as hypervisors reach it."""

    @property
    def target_port(self) -> int:
        """Its port."""

    @property
    def target_prefix(self) -> str:
        """What every target's name begins with."""

    @property
    def tgt_socket(self) -> str:
        """The management socket of the target daemon."""


def shares(section: Section) -> list[Export]:
    """Returns the one share of an iSCSI backend. Raises BadConfiguration for an option that cannot be."""
    if not section.share_dir:
        raise BadConfiguration("an iscsi backend needs share_dir, a directory on XFS (made with reflink=1) or btrfs")
    try:
        ipaddress.ip_address(section.target_ip_address)
    except ValueError as error:
        raise BadConfiguration(f"target_ip_address {section.target_ip_address!r} is no IP address") from error
    if not _PREFIX.fullmatch(section.target_prefix):
        raise BadConfiguration(f"target_prefix {section.target_prefix!r} is not of the form iqn.2010-10.org.openstack:")
    return local.shares(section)


def prepare(export: Export, mount_point_base: Path) -> Path:
    """Makes the directory on first use. The target daemon opens its files by their names, so nobody else may put any into it.
    Raises as ``local.prepare`` does; BadConfiguration too when it is another user's, or its file system cannot share blocks.
    """
    path = local.prepare(export, mount_point_base)
    with files.share_errors(path):
        workdir.keep_to_owner(path)
        clones.require_reflink(path, "share_dir")
    return path


def targets(section: Any, key_file: Path) -> Targets:
    """Returns the targets of a backend; ``key_file`` holds what CHAP passwords are made from."""
    portal = Portal(section.target_ip_address, section.target_port, section.target_prefix)
    return Targets(tgt.Daemon(Path(section.tgt_socket)), portal, key_file)
