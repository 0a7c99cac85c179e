"""Where the frozen window's time goes: the agent's freeze, libvirt, QEMU's transaction, the agent's thaw, and what is ours.

The worker times the agent's and libvirt's calls and records that; QEMU's part of the switch is read from libvirt's log."""

import json
import os
import re
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.bench.offline_lab import quiet
from tests.bench.recording import Document, Goal, Section
from tests.support.guest.domain import Guest, GuestOptions
from tests.support.lab import Lab, open_lab
from tests.support.service import PROGRAM, Command

COUNTS = (1, 8, 26)  # 26 is the most that a server can have: vda to vdz
PARTS = ("freeze", "libvirt", "qemu", "thaw", "ours")
_SENT = re.compile(r'^(\S+ \S+): .*QEMU_MONITOR_IO_WRITE: .*"execute":"transaction".*"id":"(libvirt-\d+)"')
_ANSWERED = re.compile(r'^(\S+ \S+): .*QEMU_MONITOR_RECV_REPLY: .*"id": ?"(libvirt-\d+)"')


@contextmanager
def monitored_lab() -> Iterator[tuple[Lab, Path]]:
    """Yields a lab, and the file to which its libvirt logs what it says to QEMU."""
    with tempfile.TemporaryDirectory(prefix="stillframe-bench-") as directory:
        log = Path(directory) / "monitor.log"
        told = {"LIBVIRT_LOG_FILTERS": "1:qemu_monitor", "LIBVIRT_LOG_OUTPUTS": f"1:file:{log}"}
        os.environ |= told
        try:
            lab = open_lab(Path(directory), "[compute]\nexpedite_freeze = true\n", begin=Command)
        finally:
            for name in told:
                del os.environ[name]
        try:
            yield lab, log
        finally:
            lab.clear()


def take(lab: Lab, guest: Guest) -> Document:
    """Takes a set of all volumes; returns what its operation recorded of the switch."""
    found = lab.api.take(guest.id, quiesce="preferred")
    assert (found["status"], found["consistency"]["level"]) == ("available", "filesystem"), found
    command = [*PROGRAM, "operation", "show", "--state-dir", str(lab.stack.state_dir), found["id"], "-f", "json"]
    shown = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    evidence: Document = json.loads(shown["evidence"])["switch"]
    return evidence


def parts_of(evidence: Document, transaction_ms: float) -> dict[str, float]:
    """By part, in ms. What the worker measured around its calls adds up to the window."""
    timings: dict[str, Any] = evidence["outcome"]["timings"]
    call = (evidence["not_after"] - evidence["not_before"]) * 1000
    return {
        "freeze": timings["freeze_ms"],
        "libvirt": call - transaction_ms,
        "qemu": transaction_ms,
        "thaw": timings["thaw_ms"],
        "ours": timings["switch_ms"] - call,
    }


def transactions(log: Path) -> list[float]:
    """How long each transaction of QEMU took, in ms, the oldest first. libvirt's log is exact to a millisecond."""
    sent: dict[str, datetime] = {}
    found = []
    for line in log.read_text(errors="replace").splitlines():
        if begins := _SENT.match(line):
            sent[begins[2]] = datetime.fromisoformat(begins[1])
        elif (ends := _ANSWERED.match(line)) and ends[2] in sent:
            found.append((datetime.fromisoformat(ends[1]) - sent.pop(ends[2])).total_seconds() * 1000)
    return found


def _windows(quick: bool) -> Document:
    counts, rounds = (COUNTS[:2], 1) if quick else (COUNTS, 5)
    found: Document = {"rounds": rounds, "ms": {}}
    for count in counts:
        with monitored_lab() as (lab, log):
            options = GuestOptions(name=f"bench{count}", memory_mib=768, interval_us=20_000)
            guest = lab.add_guest(count, options)
            samples = []
            for _ in range(rounds):
                guest.still_writes(60)
                evidence = take(lab, guest)
                samples.append(parts_of(evidence, transactions(log)[-1]))
                quiet(lab)
        medians = {part: round(statistics.median(each[part] for each in samples), 1) for part in PARTS}
        found["ms"][str(count)] = {**medians, "most of ours": round(max(each["ours"] for each in samples), 1)}
    return found


def _show(found: Document) -> list[str]:
    rows = [
        f"| {count} | " + " | ".join(f"{ms[part]:.1f}" for part in PARTS) + f" | {sum(ms[part] for part in PARTS):.1f} |"
        for count, ms in found["ms"].items()
    ]
    return [
        "Milliseconds between the freeze command and the end of the thaw command, of sets of QCOW2 volumes while the guest"
        f" writes. Medians of {found['rounds']}. *libvirt*: its snapshot call without QEMU's transaction. *ours*: what is left"
        " between the answer to one call and the next call.",
        "",
        "| disks | agent's freeze | libvirt | QEMU's transaction | agent's thaw | ours | all |",
        "|---|---|---|---|---|---|---|",
        *rows,
    ]


def _goals(found: Document) -> list[Goal]:
    return [Goal(f"ours in the window, number of disks: {count}", ms["ours"], 10, " ms") for count, ms in found["ms"].items()]


SECTION = Section("window", "Where the window's time goes", _windows, _show, _goals)
