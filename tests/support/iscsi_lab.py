"""A lab with a backend of iSCSI volumes beside the usual one: one tgtd, one file system that shares blocks."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stillframe.host import files
from tests.support import iscsi
from tests.support.iscsi import Tgtd
from tests.support.lab import Lab, open_lab
from tests.support.pattern import of_raw

TYPE = "fast"


@dataclass
class IscsiLab:
    """The lab; ``share`` holds the raw files of volumes of the type "fast"."""

    lab: Lab
    daemon: Tgtd
    share: Path

    def create_volume(self, size: int = 1) -> str:
        """``size`` in GiB."""
        return self.lab.api.create_volume(TYPE, size, volume_type=TYPE)

    def content(self, volume_id: str, snapshot_id: str | None = None) -> dict[int, int]:
        """The byte of each written cluster of a volume's or a snapshot's file."""
        return of_raw(self.share / (f"volume-{volume_id}.{snapshot_id}" if snapshot_id else f"volume-{volume_id}"))

    def scratch_left(self) -> list[str]:
        """What lies in the scratch directory, but for the service's own place for work."""
        place = self.lab.stack.state_dir / "scratch"
        return files.listing(place) if place.exists() else []


@contextmanager
def open_iscsi_lab(directory: Path, options: str = "") -> Iterator[IscsiLab]:
    """``options`` is the text of a configuration file without [DEFAULT]'s heading, which it begins with."""
    with iscsi.reflink_place(directory) as place, iscsi.tgtd(directory) as daemon:
        share = place / "share"
        backends = f"[DEFAULT]\nenabled_backends = local,{TYPE}\n"
        lab = open_lab(directory, f"{backends}{options}\n{iscsi.section(TYPE, share, daemon)}")
        lab.other_shares.append(share)
        try:
            wanted = {"volume_type": {"name": TYPE, "extra_specs": {"volume_backend_name": TYPE}}}
            lab.stack.api("stillframe-admin").ok("volume", "POST", "/types", wanted)
            yield IscsiLab(lab, daemon, share)
        finally:
            lab.clear()
