"""A disk of known bytes: what a guest writes to a disk without a filesystem, and what is read back offline, exactly."""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stillframe.host import copies
from stillframe.host.copies import Source
from tests.support.guest.domain import Guest

CLUSTER = 64 << 10
Write = tuple["Pattern", int, int, int]  # the disk, its first cluster, how many, the byte they are filled with


def write_all(guest: Guest, writes: Sequence[Write]) -> None:
    """Lets the guest fill clusters of several disks at once and waits until all of it is on its disks."""
    guest.execute(" ".join(["fill", *(f"{disk.device} {start} {count} {value}" for disk, start, count, value in writes)]))
    for disk, start, count, value in writes:
        disk.clusters.update(dict.fromkeys(range(start, start + count), value))


@dataclass
class Pattern:
    """The model of one disk: the byte each written cluster is filled with."""

    device: str
    clusters: dict[int, int] = field(default_factory=dict)

    def write(self, guest: Guest, start: int, count: int, value: int) -> None:
        """Lets the guest fill clusters and waits until they are on its disk."""
        write_all(guest, [(self, start, count, value)])

    def copy(self) -> dict[int, int]:
        return dict(self.clusters)


def seen(share: Path, name: str, format_: str = "qcow2") -> dict[int, int]:
    """Reads a file through its chain: the byte of each cluster that is not zeros; -1 where a cluster holds several."""
    with tempfile.TemporaryDirectory(dir=share.parent) as scratch:
        raw = Path(scratch) / "raw"
        copies.copy_out(Source(name, format_, 64), share, raw, "raw", False)
        return of_raw(raw)


def of_raw(raw: Path) -> dict[int, int]:
    """As ``seen``, for a raw file."""
    found: dict[int, int] = {}
    with raw.open("rb") as file:
        place, end = 0, os.fstat(file.fileno()).st_size
        while place < end:
            try:
                place = os.lseek(file.fileno(), place, os.SEEK_DATA) // CLUSTER * CLUSTER
            except OSError:
                return found
            file.seek(place)
            data = file.read(CLUSTER)
            if data.strip(b"\0"):
                found[place // CLUSTER] = data[0] if data == data[:1] * len(data) else -1
            place += CLUSTER
    return found
