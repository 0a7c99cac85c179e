"""Which way to connect there is for each ``driver_volume_type``."""

from collections.abc import Mapping
from typing import Any

from stillframe.compute.libvirt.connections import files, iscsi
from stillframe.compute.libvirt.connections.contract import Connection
from stillframe.errors import StepFailed

FILES = ("local", "nfs", "glusterfs")
KINDS: Mapping[str, Connection] = {**dict.fromkeys(FILES, files), iscsi.KIND: iscsi}


def of(info: Mapping[str, Any]) -> Connection:
    """Returns the way of a connection_info, or of what ``Connection.source`` made of one. Raises StepFailed for a
    driver_volume_type that is not known."""
    kind = info.get("driver_volume_type", "local")  # files' own is not recorded
    found = KINDS.get(kind)
    if found is None:
        raise StepFailed(f"the volume is on a {str(kind)[:40]} backend, which this host cannot attach")
    return found
