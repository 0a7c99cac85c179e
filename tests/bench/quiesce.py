"""Live snapshots: how long the guest's writer is held up, and what the services cost."""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.bench import window
from tests.bench.offline_lab import cpu_seconds, rss_mib
from tests.bench.quiesce_methods import Sample, one_by_one, ours, virsh_quiesce
from tests.bench.recording import Document, Goal, Part, Section
from tests.support.guest.domain import Guest, GuestOptions
from tests.support.lab import Lab, open_lab
from tests.support.service import Command

METHODS: dict[str, Callable[[Lab, Guest], Sample]] = {"ours": ours, "virsh": virsh_quiesce, "one by one": one_by_one}
MODES = {"idle": 10_000, "busy": 0, "dirty": 10_000}
DIRTY_MIB = 150
UNHASTENED = "not expedited"
AS_SHIPPED = "[compute]\nexpedite_freeze = true\n"
WITHOUT = "[compute]\nexpedite_freeze = false\n"


@contextmanager
def lab_of(options: str) -> Iterator[Lab]:
    with tempfile.TemporaryDirectory(prefix="stillframe-bench-") as directory:
        lab = open_lab(Path(directory), options, begin=Command)
        try:
            yield lab
        finally:
            lab.clear()


def _idle(quick: bool) -> Document:
    """The services' resident memory in MiB and the share of one core they use while nothing is asked of them."""
    seconds = 5 if quick else 30
    with lab_of(AS_SHIPPED) as lab:
        time.sleep(5)
        began = cpu_seconds(lab.stack.pid)
        time.sleep(seconds)
        used = (cpu_seconds(lab.stack.pid) - began) / seconds * 100
        return {"rss_mib": rss_mib(lab.stack.pid), "cpu_percent": round(used, 2)}


def _disks(disks: int, quick: bool) -> Document:
    """One guest with that many disks: every mode, the methods in turn; then ours once more without expediting."""
    rounds = 1 if quick else 3
    found: dict[str, dict[str, list[Sample]]] = {mode: {method: [] for method in METHODS} for mode in MODES}
    with lab_of(AS_SHIPPED) as lab:
        guest = lab.add_guest(disks, GuestOptions(name=f"bench{disks}", memory_mib=768, interval_us=20_000))
        guest.execute("echo 90 >/proc/sys/vm/dirty_ratio; echo 80 >/proc/sys/vm/dirty_background_ratio")
        guest.execute("echo 0 >/proc/sys/vm/dirty_writeback_centisecs")
        for mode, interval in MODES.items():
            _pace(guest, interval)
            for _ in range(rounds):
                for method, act in METHODS.items():
                    if mode == "dirty":
                        _make_dirty(guest, disks)
                    found[mode][method].append(act(lab, guest))
        _configure(lab, WITHOUT)
        _pace(guest, MODES["busy"])
        found["busy"][UNHASTENED] = [ours(lab, guest) for _ in range(rounds)]
    felt = {mode: {name: _median(each, "felt_ms") for name, each in by.items()} for mode, by in found.items()}
    beyond = {mode: _median(by["ours"], "beyond_ms") for mode, by in found.items()}
    return {"disks": disks, "rounds": rounds, "felt_ms": felt, "beyond_ms": beyond}


def _median(samples: list[Sample], field: str) -> float:
    return round(float(statistics.median(getattr(sample, field) for sample in samples)), 1)


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


def _show_idle(found: Document) -> list[str]:
    return [f"`stillframe serve`: {found['rss_mib']:.0f} MiB resident, {found['cpu_percent']:.1f} % of one core."]


def _show_disks(found: Document) -> list[str]:
    lines = ["| guest | ours | virsh | one by one | ours / virsh | ours / one by one |", "|---|---|---|---|---|---|"]
    for mode, felt in found["felt_ms"].items():
        one, virsh, each = felt["ours"], felt["virsh"], felt["one by one"]
        lines.append(f"| {mode} | {one:.0f} | {virsh:.0f} | {each:.0f} | {one / virsh:.2f} | {one / each:.2f} |")
    slow, virsh = found["felt_ms"]["busy"][UNHASTENED], found["felt_ms"]["busy"]["virsh"]
    beyond = ", ".join(f"{mode} {milliseconds:.0f} ms" for mode, milliseconds in found["beyond_ms"].items())
    return [
        *lines,
        "",
        f"Busy with `expedite_freeze = false`, as with a guest whose agent opens no files: {slow:.0f} ms, {slow / virsh:.2f} of"
        f" virsh. From request to `available`, beyond the agent's and libvirt's own time: {beyond}. {found['rounds']} rounds.",
    ]


def _goals_of_idle(found: Document) -> list[Goal]:
    return [Goal("memory of an idle `serve`", found["rss_mib"], 160, " MiB"), Goal("its CPU", found["cpu_percent"], 1, " %")]


def _goals_of_disks(found: Document) -> list[Goal]:
    if found["disks"] < 8:
        return []
    busy, dirty = found["felt_ms"]["busy"], found["felt_ms"]["dirty"]
    beyond = [
        Goal(f"8 disks, {mode} guest, request to available", each, 400, " ms") for mode, each in found["beyond_ms"].items()
    ]
    return [
        Goal("8 disks, busy: ours / virsh", busy["ours"] / busy["virsh"], 0.75),
        Goal("8 disks, dirty: ours / virsh", dirty["ours"] / dirty["virsh"], 0.4),
        Goal("8 disks, busy: ours / one by one", busy["ours"] / busy["one by one"], 0.2),
        *beyond,
    ]


INTRO = """Figures of the tables are milliseconds that the guest's own writer was held up, as it felt them.
*ours*: one assisted snapshot of all disks. *virsh*: `virsh snapshot-create-as --disk-only --atomic --quiesce`.
*one by one*: a quiesced `virsh` snapshot of each disk in turn, as Nova does it; its stalls added up.
*busy*: the guest writes with O_DSYNC all the time. *dirty*: 150 MiB of dirty pages when the snapshot is asked for.
The emulated guest takes one of the cores. The passwords had been checked within the last minute."""

PART = Part(
    "quiesce",
    "Live snapshots",
    INTRO,
    [
        *[
            Section(
                f"disks-{count}",
                f"{count} disk{'s' if count > 1 else ''}",
                partial(_disks, count),
                _show_disks,
                _goals_of_disks,
            )
            for count in (1, 2, 4, 8)
        ],
        window.SECTION,
        Section("idle", "Idle services", _idle, _show_idle, _goals_of_idle),
    ],
)
