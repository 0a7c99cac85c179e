"""Which way each disk of a server goes when a set is taken. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from stillframe.compute.libvirt.connections.kinds import FILES, KINDS
from stillframe.compute.libvirt.domain_xml import Disk

IN_SETS = ("raw", "qcow2")  # the formats of files that can be in a set


@dataclass(frozen=True)
class Method:
    """``assisted``: the hypervisor gives the disk an overlay, beside the volume's file. ``native``: block storage makes the
    snapshot by itself. ``excluded``: for the ``reason``, which continues "the disk is"."""

    name: Literal["assisted", "native", "excluded"]
    reason: str = ""


def classify(disk: Disk, known: Mapping[str, Mapping[str, Any]], active: bool) -> Method:
    """Returns the method for a disk. ``known`` is the connection_info of each volume that block storage has attached to the
    server, empty while it is being attached; ``active``: the server runs."""
    if disk.volume_id is None or disk.volume_id not in known:
        return Method("excluded", "not a volume of block storage")
    info = known[disk.volume_id]
    if disk.transient and active:
        return Method("excluded", "a transient disk: what the guest writes to it is thrown away when the server stops")
    if not info:
        return Method("excluded", "still being attached")
    kind = str(info.get("driver_volume_type", "local"))
    if kind not in KINDS:
        return Method("excluded", f"on a {kind[:40]} backend, which this host does not know")
    return _in_a_file(disk) if kind in FILES else _in_the_network(disk, kind)


def _in_a_file(disk: Disk) -> Method:
    if disk.kind == "file" and disk.format in IN_SETS:
        return Method("assisted")
    formats = " or ".join(IN_SETS)
    return Method("excluded", f"a {disk.format} disk of type {disk.kind}; of a share only {formats} files can be in a set")


def _in_the_network(disk: Disk, kind: str) -> Method:
    if disk.network is not None and disk.network.protocol == kind:
        return Method("native")
    return Method("excluded", f"a disk of type {disk.kind}, but block storage gives its volume out by {kind}")
