"""The local driver: its share is a directory of this host."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from stillframe import trust
from stillframe.host import files, workdir
from stillframe.volumes.storage.drivers.contract import Capabilities
from stillframe.volumes.storage.drivers.shares_config import Export

CAPABILITIES = Capabilities(here=True)


class Section(Protocol):
    """The options of a local backend."""

    @property
    def share_dir(self) -> str | None:
        """The directory."""


def shares(section: Section) -> list[Export]:
    """Returns the one share of a local backend."""
    return [Export(str(Path(str(section.share_dir)).absolute()))]


def prepare(export: Export, _mount_point_base: Path) -> Path:
    """Makes the directory on first use. Raises ShareUnavailable; BadConfiguration when another user may put another one in its
    place, before and after it is made."""
    path = Path(export.export)
    trust.require_place(path, "share_dir")
    with files.share_errors(path):
        workdir.make_share(path)
    trust.require_place(path, "share_dir")
    return path


def connection_info(
    export: str, _options: Sequence[str], active_file: str, format_: str, _mount_point_base: Path
) -> dict[str, Any]:
    """Returns what a hypervisor on this host needs to open the volume."""
    return {
        "driver_volume_type": "local",
        "export": export,
        "name": active_file,
        "format": format_,
        "options": None,
        "mount_point_base": str(Path(export).parent),
    }
