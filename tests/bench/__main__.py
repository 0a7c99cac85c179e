"""``make bench``: measures, prints and writes docs/reference/bench.md. ``--quick`` does one round of two sizes."""

import os
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from tests.bench import report
from tests.bench.methods import one_by_one, ours, virsh_quiesce
from tests.support.guest.domain import Guest, GuestOptions
from tests.support.lab import Lab, open_lab

METHODS = {"ours": ours, "virsh": virsh_quiesce, "one by one": one_by_one}
MODES = {"idle": 10_000, "busy": 0, "dirty": 10_000}
DIRTY_MIB = 150
AS_SHIPPED = "[compute]\nhasten_freeze = true\n"
UNHASTENED = "[compute]\nhasten_freeze = false\n"
PAGES = Path(__file__).parents[2] / "docs/reference/bench.md"


def main() -> int:
    quick = "--quick" in sys.argv
    sizes, rounds = ((1, 2), 1) if quick else ((1, 2, 4, 8), 3)
    samples: report.Samples = defaultdict(list)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="stillframe-bench-") as directory:
        lab = open_lab(Path(directory), AS_SHIPPED)
        try:
            rss, cpu = idle_cost(lab)
            for disks in sizes:
                measure(lab, disks, rounds, samples)
        finally:
            lab.clear()
    text = report.page(samples, sizes, report.Totals(rss, cpu, load, rounds))
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


def measure(lab: Lab, disks: int, rounds: int, samples: report.Samples) -> None:
    """One guest with that many disks: every mode, the methods in turn; then ours once more without hastening."""
    guest = lab.add_guest(disks, GuestOptions(name=f"bench{disks}", memory_mib=768))
    guest.execute("echo 90 >/proc/sys/vm/dirty_ratio; echo 80 >/proc/sys/vm/dirty_background_ratio")
    guest.execute("echo 0 >/proc/sys/vm/dirty_writeback_centisecs")
    for mode, interval in MODES.items():
        _pace(guest, interval)
        for _ in range(rounds):
            for method, act in METHODS.items():
                if mode == "dirty":
                    _make_dirty(guest, disks)
                samples[disks, mode, method].append(act(lab, guest))
    _configure(lab, UNHASTENED)
    _pace(guest, MODES["busy"])
    for _ in range(rounds):
        samples[disks, "busy", report.UNHASTENED].append(ours(lab, guest))
    _configure(lab, AS_SHIPPED)
    guest.destroy()
    lab.guests.remove(guest)
    sys.stdout.write(f"measured {disks} disks\n")


def _pace(guest: Guest, interval: int) -> None:
    guest.execute(f"echo {interval} >/run/interval")
    time.sleep(1)


def _configure(lab: Lab, options: str) -> None:
    """Starts the services anew with other options."""
    (lab.directory / "stillframe.conf").write_text(options)
    lab.stack.stop()
    lab.stack.start()
    time.sleep(2)


def _make_dirty(guest: Guest, disks: int) -> None:
    each = DIRTY_MIB // disks
    guest.execute(f"for m in /mnt/vd?; do dd if=/dev/zero of=$m/dirty bs=1M count={each} conv=notrunc 2>/dev/null; done")


if __name__ == "__main__":
    sys.exit(main())
