"""Makes the page of figures."""

import os
import platform
import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stillframe.host import qemu_img
from tests.bench.methods import Sample

Samples = Mapping[tuple[int, str, str], list[Sample]] | dict[tuple[int, str, str], list[Sample]]


UNHASTENED = "ours, not hastened"


@dataclass(frozen=True)
class Totals:
    """What is not a table: idle memory in MiB, idle CPU in percent of a core, the machine's load before the run."""

    rss_mib: float
    cpu_percent: float
    load: float
    rounds: int


def page(samples: Samples, sizes: tuple[int, ...], totals: Totals) -> str:
    lines = [
        "# Figures",
        "",
        f"Written by `make bench` on {os.cpu_count()} cores ({platform.machine()}), load {totals.load:.1f} before the run, the"
        f" guest emulated (TCG) with disks on {_file_system()}, {qemu_img.version().split('(')[0].strip()}. Medians of"
        f" {totals.rounds} rounds, the methods in turn within each round.",
        "",
        "All figures of the tables are milliseconds that the guest's own writer was held up, as it felt them.",
        "*ours*: one assisted snapshot of all disks. *virsh*: `virsh snapshot-create-as --disk-only --atomic --quiesce`.",
        "*one by one*: a quiesced `virsh` snapshot of each disk in turn, as Nova does it; its stalls added up.",
        "*dirty*: 150 MiB of dirty pages in the guest when the snapshot is asked for.",
        "",
    ]
    for mode in ("idle", "busy", "dirty"):
        lines += [f"## {mode}", "", "| disks | ours | virsh | one by one | ours / virsh | ours / one by one |"]
        lines += ["|---|---|---|---|---|---|"]
        lines += [_row(samples, disks, mode) for disks in sizes]
        lines += [""]
    return "\n".join([*lines, *_unhastened(samples, sizes), *_cost(samples, sizes[-1], totals)])


def _unhastened(samples: Samples, sizes: tuple[int, ...]) -> list[str]:
    rows = [
        f"| {disks} | {_median(samples, disks, 'busy', UNHASTENED):.0f} |"
        f" {_median(samples, disks, 'busy', UNHASTENED) / _median(samples, disks, 'busy', 'virsh'):.2f} |"
        for disks in sizes
    ]
    return [
        "## busy, not hastened",
        "",
        "*ours* with `hasten_freeze = false`, as with a guest whose agent opens no files"
        " (see [quiesce](../design/quiesce.md)).",
        "",
        "| disks | ours | ours / virsh |",
        "|---|---|---|",
        *rows,
        "",
    ]


def _cost(samples: Samples, disks: int, totals: Totals) -> list[str]:
    beyond = {
        mode: statistics.median(each.beyond_ms for each in samples[disks, mode, "ours"]) for mode in ("idle", "busy", "dirty")
    }
    return [
        "## Cost of the services",
        "",
        f"- From request to `available`, beyond the agent's and libvirt's own time, {disks} disks: "
        + ", ".join(f"{mode} guest {milliseconds:.0f} ms" for mode, milliseconds in beyond.items())
        + ". The emulated guest takes one of the cores; the passwords had been checked within the last minute.",
        f"- `stillframe serve`, idle: {totals.rss_mib:.0f} MiB resident, {totals.cpu_percent:.1f} % of one core.",
        "",
    ]


def _median(samples: Samples, disks: int, mode: str, method: str) -> float:
    return statistics.median(sample.felt_ms for sample in samples[disks, mode, method])


def _row(samples: Samples, disks: int, mode: str) -> str:
    felt = {method: _median(samples, disks, mode, method) for method in ("ours", "virsh", "one by one")}
    return (
        f"| {disks} | {felt['ours']:.0f} | {felt['virsh']:.0f} | {felt['one by one']:.0f}"
        f" | {felt['ours'] / felt['virsh']:.2f} | {felt['ours'] / felt['one by one']:.2f} |"
    )


def _file_system() -> str:
    mounts = dict(line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines())
    return mounts.get(tempfile.gettempdir(), mounts.get("/", "unknown"))
