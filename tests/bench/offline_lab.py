"""What the offline figures are measured on: services without a guest, volumes with content, and a clock of their own."""

import os
import sqlite3
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stillframe.host import files
from tests.support.lab import Lab, open_lab
from tests.support.service import Command

MIB = 1 << 20
LOOK_SECONDS = 0.01
QEMU_IMG = "qemu-img"


@dataclass(frozen=True)
class Scale:
    """Size of the volumes in GiB, and what is written into each in MiB."""

    size: int
    written: int
    rounds: int


FULL, QUICK = Scale(10, 2048, 3), Scale(1, 96, 1)


def scale_of(quick: bool) -> Scale:
    return QUICK if quick else FULL


@contextmanager
def services(xfs_mib: int = 0, options: str = "") -> Iterator[Lab]:
    """Services over a share of their own: a directory, or with ``xfs_mib`` an XFS of that size, which shares blocks.
    ``options`` is their configuration."""
    with tempfile.TemporaryDirectory(prefix="stillframe-bench-") as directory:
        share = Path(directory) / "state/share"
        if xfs_mib:
            _mount(Path(directory) / "disk", share, xfs_mib)
        lab = open_lab(Path(directory), options, begin=Command)
        try:
            yield lab
        finally:
            lab.clear()
            if xfs_mib:
                subprocess.run(["umount", share], check=True)


def _mount(disk: Path, share: Path, mib: int) -> None:
    share.mkdir(parents=True)
    with disk.open("wb") as file:
        file.truncate(mib * MIB)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", disk], check=True)
    subprocess.run(["mount", "-o", "loop", disk, share], check=True)
    share.chmod(0o2770)


def fill(share: Path, name: str, spans: Sequence[tuple[int, int]]) -> None:
    """Writes content nobody can compress into an image: ``spans`` are (offset, length) in MiB."""
    source = share.parent / "content"
    with source.open("wb") as file:
        for _ in range(16):
            file.write(os.urandom(MIB))
    words = []
    for offset, length in spans:
        for begin in range(offset, offset + length, 16):
            words += ["-c", f"write -q -s {source} {begin}M {min(16, offset + length - begin)}M"]
    for number in range(0, len(words), 200):
        subprocess.run(
            ["qemu-io", "-f", "qcow2", *words[number : number + 200], name], cwd=share, check=True, capture_output=True
        )
    source.unlink()
    files.sync_file(share, name)


def made(lab: Lab, scale: Scale, snapshot: bool, lower_mib: int) -> dict[str, Any]:
    """A volume with ``scale.written`` MiB in it, ``lower_mib`` of them below its one snapshot's overlay if it has one."""
    volume_id = lab.api.create_volume("bench", scale.size)
    fill(lab.stack.share, f"volume-{volume_id}", [(0, lower_mib)])
    if snapshot:
        take(lab, volume_id)
        fill(lab.stack.share, active(lab, volume_id), [(lower_mib, scale.written - lower_mib)])
    return lab.api.volume(volume_id)


def take(lab: Lab, volume_id: str) -> str:
    """Takes an offline snapshot; returns its id."""
    body = {"snapshot": {"volume_id": volume_id, "name": "bench"}}
    made_id: str = lab.api.ok("volume", "POST", "/snapshots", body)["snapshot"]["id"]
    until(lambda: lab.api.snapshot(made_id)["status"] == "available")
    quiet(lab)
    return made_id


def active(lab: Lab, volume_id: str) -> str:
    """The volume's active file."""
    return str(chain(lab, volume_id)["active_file"])


def chain(lab: Lab, volume_id: str) -> dict[str, Any]:
    admin = lab.stack.api("stillframe-admin")
    found: dict[str, Any] = admin.ok("volume", "GET", f"/volumes/{volume_id}/stillframe-chain")["chain"]
    return found


def until(what: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "what the benchmark waits for did not come"
        time.sleep(LOOK_SECONDS)


def quiet(lab: Lab) -> None:
    """Waits until the journal has nothing left to do."""
    query = "select count(*) from operations where state in ('pending', 'running', 'undoing')"
    until(lambda: _ask(lab, query)[0] == 0)


def _ask(lab: Lab, query: str, *values: str) -> Any:
    with closing(sqlite3.connect(f"file:{lab.stack.state_dir}/stillframe.sqlite?mode=ro", uri=True)) as database:
        return database.execute(query, values).fetchone()


def operation_ms(lab: Lab, kind: str, act: Callable[[], object]) -> tuple[float, int]:
    """Sends a request with ``act``; returns the ms from then until the journal says that the operation of ``kind`` is done,
    and the bytes it says were copied. The journal is read beside the services, so that no look costs them anything."""
    newest = "select coalesce(max(seq), 0) from operations where kind = ?"
    (before,) = _ask(lab, newest, kind)
    began = time.time()
    act()
    ended = "select state, updated_at, bytes, fault from operations where kind = ? and seq > ?"
    found: Any = None

    def over() -> bool:
        nonlocal found
        found = _ask(lab, ended, kind, str(before))
        return found is not None and found[0] not in ("pending", "running", "undoing")

    until(over)
    assert found[0] == "done", found
    at = datetime.fromisoformat(found[1]).replace(tzinfo=UTC).timestamp()
    return (at - began) * 1000, int(found[2])


def baseline_ms(share: Path, target: str, *command: str) -> float:
    """Runs a program in the share, then syncs ``target`` and the directory: bare, but as durable. Returns ms."""
    began = time.monotonic()
    subprocess.run(command, cwd=share, check=True, capture_output=True)
    files.sync_file(share, target)
    files.sync_directory(share)
    return (time.monotonic() - began) * 1000


def cold() -> None:
    """Everything written out and nothing cached: both sides begin alike."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n")


def medians(samples: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: round(float(statistics.median(values)), 1) for name, values in samples.items()}


def rss_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return round(int(status.split("VmRSS:")[1].split()[0]) / 1024, 1)


def cpu_seconds(pid: int) -> float:
    """Of the processor, since the process began."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / 100
