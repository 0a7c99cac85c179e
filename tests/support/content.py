"""Reads what a snapshot or volume holds, offline, by content: through the chain, without mounting anything."""

import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from stillframe.host import copies
from stillframe.host.copies import Source


@dataclass(frozen=True)
class DiskContent:
    """What one disk of the test guest holds. ``clean``: its journal needs no recovery, as after a freeze or unmount."""

    counter: int
    clean: bool
    checks: bool


def read_disk(share: Path, name: str) -> DiskContent:
    """Flattens the chain below ``name`` and reads the guest's counter and the filesystem's state from the copy."""
    with tempfile.TemporaryDirectory(dir=share.parent) as scratch:
        raw = Path(scratch) / "raw"
        copies.copy_out(Source(name, "qcow2", 64), share, raw, "raw", False)
        return read_raw(raw)


def read_raw(raw: Path) -> DiskContent:
    header = _output(["dumpe2fs", "-h", raw])
    clean = "needs_recovery" not in header
    checks = subprocess.run(["e2fsck", "-fn", raw], capture_output=True, check=False).returncode == 0
    text = _output(["debugfs", "-R", "cat /counter", raw])
    match = re.search(r"^(\d+)$", text, re.MULTILINE)
    return DiskContent(int(match[1]) if match else 0, clean, checks)


def of_one_instant(counters: Sequence[int]) -> bool:
    """The writer goes over the disks in order, so one instant shows k on the first disks and k-1 on the rest."""
    falls = sum(earlier > later for earlier, later in pairwise(counters))
    rises = sum(earlier < later for earlier, later in pairwise(counters))
    return max(counters) - min(counters) <= 1 and rises == 0 and falls <= 1


def _output(command: Sequence[str | Path]) -> str:
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout
