"""Where this host has the shares block storage speaks of: mounted by the same rule as Nova's, or a directory of its own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

from stillframe import trust
from stillframe.config import Settings
from stillframe.errors import StepFailed
from stillframe.host import mounts


def place_of(settings: Settings, info: Mapping[str, Any]) -> Path:
    """Returns the directory a connection_info means on this host; nothing is mounted. Raises StepFailed."""
    kind = info["driver_volume_type"]
    if kind == "local":
        return Path(info["export"])
    if kind not in ("nfs", "glusterfs"):
        raise StepFailed(f"the volume is on a {kind} backend, which this host cannot attach")
    base = settings.compute.mount_point_base or info["mount_point_base"]
    return mounts.mount_point(Path(base), info["export"])


def share_directory(settings: Settings, info: Mapping[str, Any]) -> Path:
    """As ``place_of``, and mounts the share there unless it is mounted. Raises ShareUnavailable; BadConfiguration where
    another user of this host may put another directory in place of a local share or of the mount point."""
    place = place_of(settings, info)
    kind = info["driver_volume_type"]
    if kind == "local":
        trust.require_place(place, "the share of the volume")
    else:
        trust.require_base(place.parent, "mount_point_base")
        options = str(info.get("options") or "").removeprefix("-o").strip()
        wanted = [option for option in options.split(",") if option]
        mounts.mount(cast("Literal['nfs', 'glusterfs']", kind), info["export"], place, wanted)
    return place
