"""Sets with native volumes: how long the guest is frozen while the array is slow, what scratch overlays write, and how long a
native snapshot takes."""

import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.offline_lab import medians, operation_ms, quiet
from tests.bench.recording import Document, Goal, Part, Section
from tests.support import iscsi
from tests.support.guest.domain import Guest, GuestOptions
from tests.support.lab import Lab, open_lab
from tests.support.service import Command

DISKS = 8
DELAYS = (0, 1, 5)  # seconds that the array takes for each snapshot
SLOW_ARRAY = "create_snapshot/Clone/before:sleep={}"  # the worker's own place right before the copy
SIZES = (1, 10, 100)  # GiB
WRITTEN_MIB = 64


@contextmanager
def native_lab() -> Iterator[Lab]:
    """A service with the volume type ``fast``, whose volumes are given out by iSCSI."""
    with tempfile.TemporaryDirectory(prefix="stillframe-bench-") as name:
        directory = Path(name)
        with iscsi.reflink_place(directory, 8192) as place, iscsi.tgtd(directory) as daemon:
            options = f"[DEFAULT]\nenabled_backends = local,fast\n{iscsi.section('fast', place / 'share', daemon)}"
            lab = open_lab(directory, options, begin=Command)
            try:
                wanted = {"volume_type": {"name": "fast", "extra_specs": {"volume_backend_name": "fast"}}}
                lab.stack.api("stillframe-admin").ok("volume", "POST", "/types", wanted)
                yield lab
            finally:
                lab.clear()


def _guest(lab: Lab, name: str, native: int) -> Guest:
    """A running guest with eight volumes that it writes to, so many of them native; suspended until it is measured."""
    guest = lab.add_guest(DISKS - native, GuestOptions(name=name, memory_mib=512, interval_us=20_000), boot=False)
    for number in range(native):
        lab.api.attach(guest.id, lab.api.create_volume(f"{name}-fast-{number}", volume_type="fast"))
    quiet(lab)
    lab.api.ok("compute", "POST", f"/servers/{guest.id}/action", {"os-start": None})  # which brings the passwords
    guest.wait_ready(180)
    guest.domain.suspend()
    return guest


def _frozen_ms(lab: Lab, guest: Guest) -> float:
    guest.domain.resume()
    try:
        guest.still_writes(60)
        found = lab.api.take(guest.id, quiesce="preferred")
        assert (found["status"], found["consistency"]["level"]) == ("available", "filesystem"), found
        quiet(lab)
    finally:
        guest.domain.suspend()
    return float(found["consistency"]["frozen_ms"])


def _mixed(quick: bool) -> Document:
    """Eight QCOW2 volumes beside four and four native ones, in turn, with an array that takes its time."""
    rounds, delays = (1, DELAYS[:2]) if quick else (5, DELAYS)
    samples = defaultdict(list)
    with native_lab() as lab:
        guests = {"files": _guest(lab, "files", 0), "mixed": _guest(lab, "mixed", DISKS // 2)}
        for delay in delays:
            lab.stack.stop()
            lab.stack.start(SLOW_ARRAY.format(delay) if delay else "")
            for _ in range(rounds):
                for kind, guest in guests.items():
                    samples[f"{kind} {delay}"].append(_frozen_ms(lab, guest))
    return {"rounds": rounds, "delays": list(delays), "ms": medians(samples)}


def _amplified(quick: bool) -> Document:
    """What the guest writes while the array takes five seconds goes into the scratch overlay, and from there to the volume."""
    rounds, found = (1 if quick else 3), []
    with native_lab() as lab:
        guest = lab.add_guest(1, GuestOptions(name="bench", raw="vdb"), boot=False)
        lab.api.attach(guest.id, lab.api.create_volume("fast", volume_type="fast"))
        quiet(lab)
        lab.stack.stop()
        lab.stack.start(SLOW_ARRAY.format(5))
        lab.api.ok("compute", "POST", f"/servers/{guest.id}/action", {"os-start": None})
        guest.wait_ready(180)
        for _ in range(rounds):
            found.append(_held(lab, guest) / WRITTEN_MIB)
    return {"rounds": rounds, "mib": WRITTEN_MIB, "held": round(statistics.median(found), 2)}


def _held(lab: Lab, guest: Guest) -> float:
    """The most that the scratch overlay took while the guest wrote WRITTEN_MIB MiB, in MiB."""
    body: Document = {"assisted_snapshot": {}}
    made = lab.api.ok("compute", "POST", f"/servers/{guest.id}/os-assisted-snapshots", body)["assisted_snapshot"]
    place, most, ended = lab.stack.state_dir / "scratch", [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            taken = [path.stat().st_blocks * 512 for path in place.glob("*.qcow2") if path.exists()]
            most[0] = max([*most, *taken])

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        while not any(path.stat().st_blocks for path in place.glob("*.qcow2")):
            time.sleep(0.02)
        guest.still_writes(60)  # it is thawed
        guest.execute(f"dd if=/dev/zero of=/dev/vdb bs=1M count={WRITTEN_MIB} oflag=direct 2>/dev/null")
        assert lab.api.wait_set(made["id"])["status"] == "available"
    finally:
        ended.set()
        watcher.join()
    quiet(lab)
    return most[0] / (1 << 20)


def _sizes(quick: bool) -> Document:
    """A native snapshot of a volume that holds as much in every size."""
    rounds, sizes, samples = (3, SIZES[:2], defaultdict(list)) if quick else (15, SIZES, defaultdict(list))
    with native_lab() as lab:
        ids = {size: lab.api.create_volume(f"bench-{size}", size, volume_type="fast") for size in sizes}
        for volume_id in ids.values():
            (path,) = lab.directory.glob(f"xfs/share/volume-{volume_id}")
            with path.open("r+b") as file:
                file.write(b"s" * (WRITTEN_MIB << 20))
        for _ in range(rounds):
            for size, volume_id in ids.items():
                took = _snapshot_ms(lab, volume_id)
                samples[str(size)].append(took)
                quiet(lab)
    return {"rounds": rounds, "ms": medians(samples)}


def _snapshot_ms(lab: Lab, volume_id: str) -> float:
    body = {"snapshot": {"volume_id": volume_id}}
    took, _done = operation_ms(lab, "create_snapshot", lambda: lab.api.ok("volume", "POST", "/snapshots", body))
    return took


def _show_mixed(found: Document) -> list[str]:
    rows = []
    for delay in found["delays"]:
        files, mixed = found["ms"][f"files {delay}"], found["ms"][f"mixed {delay}"]
        rows.append(f"| {delay} | {files:.0f} | {mixed:.0f} | {mixed / files:.2f} |")
    return [
        "Milliseconds that a guest with eight busy disks is frozen: eight QCOW2 volumes, or four of them and four iSCSI"
        f" volumes, in turn. *array*: seconds that block storage takes for each native snapshot. Medians of {found['rounds']}.",
        "",
        "| array | 8 QCOW2 | 4 QCOW2 and 4 iSCSI | ratio |",
        "|---|---|---|---|",
        *rows,
    ]


def _show_amplified(found: Document) -> list[str]:
    return [
        f"While the array takes five seconds the guest writes {found['mib']} MiB to an iSCSI volume. Its scratch overlay takes"
        f" {found['held']:.2f} times as much room at most; each byte is written there once, and once more when it is committed"
        f" back: {found['held'] + 1:.2f} times in all. Median of {found['rounds']}.",
    ]


def _show_sizes(found: Document) -> list[str]:
    rows = [f"| {size} | {ms:.0f} |" for size, ms in sorted(found["ms"].items(), key=lambda each: int(each[0]))]
    return [
        f"`POST /snapshots` of an iSCSI volume with {WRITTEN_MIB} MiB written, until the operation is done. Milliseconds,"
        f" medians of {found['rounds']}.",
        "",
        "| GiB | ms |",
        "|---|---|",
        *rows,
    ]


def _goals_of_mixed(found: Document) -> list[Goal]:
    return [
        Goal(
            f"frozen, 4 + 4 / 8 QCOW2, array takes {delay} s",
            found["ms"][f"mixed {delay}"] / found["ms"][f"files {delay}"],
            1.15,
        )
        for delay in found["delays"]
    ]


def _goals_of_sizes(found: Document) -> list[Goal]:
    sizes = sorted(found["ms"], key=int)
    small, large = found["ms"][sizes[0]], found["ms"][sizes[-1]]
    return [Goal(f"native snapshot of {sizes[-1]} GiB / of {sizes[0]} GiB", large / small, 1.2)]


INTRO = """iSCSI volumes are raw files on XFS with reflinks, which a `tgtd` on loopback gives out; QEMU logs in itself. The
guests, the target and the services share two cores."""

PART = Part(
    "native",
    "Native volumes",
    INTRO,
    [
        Section("mixed", "A slow array", _mixed, _show_mixed, _goals_of_mixed),
        Section("scratch", "What scratch overlays write", _amplified, _show_amplified, lambda _found: []),
        Section("sizes", "Native snapshots of large volumes", _sizes, _show_sizes, _goals_of_sizes),
    ],
)
