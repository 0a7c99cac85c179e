"""Reads what a snapshot or volume holds, offline, by content: through the chain, without mounting anything."""

import hashlib
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from stillframe.host import copies
from stillframe.host.copies import Source

_BLOCK = 64 << 10


@dataclass(frozen=True)
class DiskContent:
    """What one disk of the test guest holds. ``clean``: its journal needs no recovery, as after a freeze or unmount."""

    counter: int
    clean: bool
    checks: bool


def read_disk(share: Path, name: str, format_: str = "qcow2") -> DiskContent:
    """Flattens the chain below ``name`` and reads the guest's counter and the filesystem's state from the copy."""
    with flattened(share, name, format_) as raw:
        return read_raw(raw)


@contextmanager
def flattened(share: Path, name: str, format_: str = "qcow2") -> Iterator[Path]:
    """Yields a raw copy of what a reader of ``name`` sees through its chain; it is the caller's to change."""
    with tempfile.TemporaryDirectory(dir=share.parent) as scratch:
        raw = Path(scratch) / "raw"
        copies.copy_out(Source(name, format_, 64), share, raw, "raw", False)
        yield raw


def digest(share: Path, name: str, format_: str = "qcow2") -> str:
    """Returns the SHA-256 of what a reader of ``name`` sees through its chain: the size, and every block that is not zeros
    with its place."""
    with flattened(share, name, format_) as raw, raw.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        found, place = hashlib.sha256(str(size).encode()), 0
        while place < size:
            try:
                place = os.lseek(file.fileno(), place, os.SEEK_DATA) // _BLOCK * _BLOCK
            except OSError:
                break  # a hole up to the end
            data = os.pread(file.fileno(), _BLOCK, place)
            if data.strip(b"\0"):
                found.update(f"{place}:".encode() + data)
            place += _BLOCK
    return found.hexdigest()


def replay(raw: Path) -> None:
    """Replays the journal of a filesystem that was in use when its machine went down, as the next boot does."""
    subprocess.run(["e2fsck", "-p", raw], capture_output=True, check=False)


def file_digest(raw: Path, path: str) -> str:
    """Returns the SHA-256 of one file of the filesystem on ``raw``."""
    done = subprocess.run(["debugfs", "-R", f"cat {path}", raw], capture_output=True, check=True)
    return hashlib.sha256(done.stdout).hexdigest()


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
