"""``make bench``: measures, prints and writes docs/reference/bench.md. ``--quick`` does one round of two sizes."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from tests.bench import report
from tests.bench.methods import Sample, one_by_one, ours, virsh_quiesce
from tests.support.guest.domain import Guest, GuestOptions
from tests.support.lab import Lab, open_lab
from tests.support.stack import PROGRAM

METHODS = {"ours": ours, "virsh": virsh_quiesce, "one by one": one_by_one}
MODES = {"idle": 10_000, "busy": 0, "dirty": 10_000}
DIRTY_MIB = 150
PAGES = Path(__file__).parents[2] / "docs/reference/bench.md"


def main() -> int:
    quick = "--quick" in sys.argv
    sizes, rounds = ((1, 2), 1) if quick else ((1, 2, 4, 8), 3)
    samples: report.Samples = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="stillframe-bench-") as directory:
        lab = open_lab(Path(directory))
        try:
            rss, cpu = idle_cost(lab)
            overheads = [measure(lab, disks, rounds, samples) for disks in sizes]
        finally:
            lab.clear()
    most = {mode: statistics.median(each) for mode, each in overheads[-1].items()}
    text = report.page(samples, sizes, report.Totals(rss, cpu, most, sizes[-1], rounds))
    sys.stdout.write(text)
    if not quick:
        PAGES.write_text(text)
    return 0


def idle_cost(lab: Lab) -> tuple[float, float]:
    """Returns the services' resident memory in MiB and the share of one core they use while nothing is asked of them."""
    time.sleep(5)
    began = _cpu_seconds(lab.stack.pid)
    time.sleep(20)
    used = (_cpu_seconds(lab.stack.pid) - began) / 20 * 100
    status = Path(f"/proc/{lab.stack.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024, used


def _cpu_seconds(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / 100


def measure(lab: Lab, disks: int, rounds: int, samples: report.Samples) -> dict[str, list[float]]:
    """One guest with that many disks: every mode, the methods in turn. Returns our ms beyond agent and libvirt, by mode."""
    guest = lab.add_guest(disks, GuestOptions(name=f"bench{disks}", memory_mib=768))
    overheads: dict[str, list[float]] = defaultdict(list)
    guest.execute("echo 90 >/proc/sys/vm/dirty_ratio; echo 80 >/proc/sys/vm/dirty_background_ratio")
    guest.execute("echo 0 >/proc/sys/vm/dirty_writeback_centisecs")
    for mode, interval in MODES.items():
        guest.execute(f"echo {interval} >/run/interval")
        time.sleep(1)
        for _ in range(rounds):
            for method, act in METHODS.items():
                if mode == "dirty":
                    _make_dirty(guest, disks)
                sample: Sample = act(lab, guest)
                samples[disks, mode, method].append(sample)
                if method == "ours":
                    overheads[mode].append(sample.wall_ms - _switch_ms(lab, guest))
    guest.destroy()
    lab.guests.remove(guest)
    sys.stdout.write(f"measured {disks} disks\n")
    return overheads


def _make_dirty(guest: Guest, disks: int) -> None:
    each = DIRTY_MIB // disks
    guest.execute(f"for m in /mnt/vd?; do dd if=/dev/zero of=$m/dirty bs=1M count={each} conv=notrunc 2>/dev/null; done")


def _switch_ms(lab: Lab, guest: Guest) -> float:
    newest = lab.api.ok("compute", "GET", f"/servers/{guest.id}/os-assisted-snapshots?limit=1")["assisted_snapshots"][0]["id"]
    command = [*PROGRAM, "operation", "show", "--state-dir", str(lab.stack.state_dir), newest, "-f", "json"]
    shown = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return float(json.loads(shown["evidence"])["switch"]["switch_ms"])


if __name__ == "__main__":
    sys.exit(main())
