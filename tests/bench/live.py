"""Deletion of snapshots under a running guest: what is copied, how long it takes, what the guest feels; deep chains."""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable

from tests.bench.live_lab import Bench, Plain, bare_commit, bare_pull, bare_snapshot, bench, mib
from tests.bench.offline_lab import MIB, medians, operation_ms, quiet
from tests.bench.recording import Document, Goal, Part, Section

SIDES = ("above", "below")
LATENCY_BANDWIDTH = 64  # MiB a second, so that a merge lasts
DEPTHS = (1, 8, 32)
PROBES = {
    "read, 1 MiB": "read {} {} 1024 sequential",
    "read, 4 KiB": "read {} {} 4 random",
    "write, 1 MiB": "write {} {} 1024 sequential",
    "write, 4 KiB": "write {} {} 4 random",
}


def _take(each: Bench, volume_ids: list[str]) -> dict[str, str]:
    """Takes a set; returns each volume's snapshot."""
    found = each.lab.api.take(each.guest.id, volumes=volume_ids, quiesce="preferred")
    assert found["status"] == "available", found
    quiet(each.lab)
    return {entry["volume_id"]: entry["snapshot_id"] for entry in found["volumes"]}


def _ours(each: Bench, snapshot_id: str, bandwidth: int = 0) -> float:
    path = f"/snapshots/{snapshot_id}?bandwidth_mib={bandwidth}"
    took, _ = operation_ms(each.lab, "delete_snapshot", lambda: each.lab.api.ok("volume", "DELETE", path))
    return took


def _sizes(quick: bool) -> dict[str, tuple[int, int]]:
    """(MiB above the snapshot, MiB below it) for each side that is the smaller one."""
    little, much = (8, 32) if quick else (64, 320)
    return {"above": (little, much), "below": (much, little)}


def _deletions(quick: bool) -> Document:
    rounds = 1 if quick else 3
    found: Document = {"rounds": rounds}
    with bench(len(SIDES)) as each:
        for side, volume_id, plain in zip(SIDES, each.volumes, each.plains, strict=True):
            found[side] = _deletion(each, (volume_id, plain), side, (_sizes(quick)[side], rounds))
    return found


def _deletion(each: Bench, disks: tuple[str, Plain], side: str, scale: tuple[tuple[int, int], int]) -> Document:
    (volume_id, plain), ((above, below), rounds) = disks, scale
    merge = bare_commit if side == "above" else bare_pull
    ms, written = defaultdict(list), defaultdict(list)
    for disk in (volume_id, plain.target):
        each.write(disk, "below", below)
    for _ in range(rounds):
        snapshot_id = _take(each, [volume_id])[volume_id]
        each.write(volume_id, "above", above)
        before = each.written()
        ms["ours"].append(_ours(each, snapshot_id))
        written["ours"].append(mib(each.written() - before))
        each.freed()
        under = bare_snapshot(plain)
        each.write(plain.target, "above", above)
        before = each.written()
        ms["bare"].append(merge(plain, under))
        written["bare"].append(mib(each.written() - before))
        plain.remove_gone()
        quiet(each.lab)
    return {"above": above, "below": below, "ms": medians(ms), "mib": medians(written)}


def _latencies(quick: bool) -> Document:
    """The guest writes 4 KiB pieces, each durable, to the disk whose snapshot is being deleted."""
    rounds, above, below = (1, 16, 48) if quick else (3, 192, 384)
    sizes = {"above": (above, below), "below": (below, above)}
    found: Document = {"rounds": rounds, "bandwidth": LATENCY_BANDWIDTH}
    with bench(len(SIDES)) as each:
        for side, volume_id, plain in zip(SIDES, each.volumes, each.plains, strict=True):
            samples = defaultdict(list)
            for disk in (volume_id, plain.target):
                each.write(disk, "probed", 16)
                each.write(disk, "below", sizes[side][1])
            for _ in range(rounds):
                for name, values in _latency_round(each, (volume_id, plain), side, sizes[side][0]).items():
                    samples[name].append(values)
            found[side] = {name: _p99s(values) for name, values in samples.items()}
    return found


def _p99s(values: list[tuple[float, float, float]]) -> Document:
    median, p99, most = (round(float(statistics.median(column)), 2) for column in zip(*values, strict=True))
    return {"median": median, "p99": p99, "max": most}


def _latency_round(each: Bench, disks: tuple[str, Plain], side: str, above: int) -> dict[str, tuple[float, float, float]]:
    (volume_id, plain), found = disks, {}
    snapshot_id = _take(each, [volume_id])[volume_id]
    each.write(volume_id, "above", above)
    found["no merge"] = _probed(each, volume_id, lambda: time.sleep(3))
    found["ours"] = _probed(each, volume_id, lambda: _ours(each, snapshot_id, LATENCY_BANDWIDTH))
    each.freed()
    under = bare_snapshot(plain)
    each.write(plain.target, "above", above)
    merge = bare_commit if side == "above" else bare_pull
    found["bare"] = _probed(each, plain.target, lambda: merge(plain, under, LATENCY_BANDWIDTH * MIB))
    plain.remove_gone()
    quiet(each.lab)
    return found


def _probed(each: Bench, serial: str, act: Callable[[], object]) -> tuple[float, float, float]:
    """Median, 99th percentile and maximum in ms of the guest's durable writes while ``act`` runs."""
    file = f"{each.point(serial)}/probed"
    each.guest.execute(f"rm -f /run/stop; probe latency {file} /run/stop >/run/told 2>&1 </dev/null &")
    time.sleep(0.3)
    act()
    told = each.guest.execute("touch /run/stop; while pidof probe >/dev/null; do sleep 0.05; done; cat /run/told").split()
    return float(told[1]), float(told[2]), float(told[3])


def _several(quick: bool) -> Document:
    """Ten snapshots, after each of which the guest writes 4 MiB in the same place and 4 MiB in a new one."""
    rounds, count = (1, 3) if quick else (2, 10)
    ms, written = defaultdict(list), defaultdict(list)
    with bench(1) as each:
        (volume_id,) = each.volumes
        each.write(volume_id, "below", 16 if quick else 128)
        for _ in range(rounds):
            for how in ("at once", "one by one"):
                ids = []
                for number in range(count):
                    ids.append(_take(each, [volume_id])[volume_id])
                    each.write(volume_id, "same", 4)
                    each.write(volume_id, "own", 4, number * 4)
                before = each.written()
                ms[how].append(_at_once(each, volume_id, ids) if how == "at once" else sum(_ours(each, one) for one in ids))
                written[how].append(mib(each.written() - before))
                quiet(each.lab)
    return {"rounds": rounds, "count": count, "different_mib": 4 + 4 * count, "ms": medians(ms), "mib": medians(written)}


def _at_once(each: Bench, volume_id: str, ids: list[str]) -> float:
    body = {"os-delete_snapshots": {"snapshot_ids": ids}}
    path = f"/volumes/{volume_id}/action"
    took, _ = operation_ms(each.lab, "delete_snapshot", lambda: each.lab.api.ok("volume", "POST", path, body))
    return took


def _depths(quick: bool) -> Document:
    """One volume of each depth in one guest, probed in turn. Every layer holds a slice of the file that is read."""
    rounds, depths, size = (1, (1, 3), 8) if quick else (3, DEPTHS, 64)
    samples: dict[str, dict[str, list[float]]] = {str(depth): defaultdict(list) for depth in depths}
    with bench(len(depths)) as each:
        by_depth = dict(zip(depths, each.volumes, strict=True))
        for volume_id in each.volumes:
            each.write(volume_id, "data", size)
        slice_mib = max(1, size // max(depths))
        for layer in range(1, max(depths)):
            deeper = [by_depth[depth] for depth in depths if depth > layer]
            _take(each, deeper)
            for volume_id in deeper:
                each.write(volume_id, "data", slice_mib, layer * slice_mib % size)
        for _ in range(rounds):
            for name, words in PROBES.items():
                for depth, volume_id in by_depth.items():
                    file = f"{each.point(volume_id)}/data"
                    told = each.guest.execute(f"probe {words.format(file, 500 if quick else 1500)}")
                    samples[str(depth)][name].append(float(told))
    return {"rounds": rounds, "mib": size, "throughput": {depth: medians(by) for depth, by in samples.items()}}


def _show_deletions(found: Document) -> list[str]:
    rows = []
    for side in SIDES:
        each, ms, written = found[side], found[side]["ms"], found[side]["mib"]
        rows.append(
            f"| {side} | {each['above']} | {each['below']} | {ms['ours']:.0f} | {ms['bare']:.0f} |"
            f" {written['ours']:.1f} | {written['bare']:.1f} |"
        )
    return [
        "*ours*: `DELETE /snapshots/{id}` until the operation is done. *bare*: the libvirt job in the better direction on a"
        " plain disk of the same guest (active commit and pivot, or pull), looked at every 10 ms. *copied*: MiB that QEMU wrote"
        f" meanwhile. Medians of {found['rounds']}.",
        "",
        "| smaller side | MiB above | MiB below | ours, ms | bare, ms | ours copied | bare copied |",
        "|---|---|---|---|---|---|---|",
        *rows,
    ]


def _show_latencies(found: Document) -> list[str]:
    rows = []
    for side in SIDES:
        for who in ("no merge", "bare", "ours"):
            each = found[side][who]
            rows.append(f"| {side} | {who} | {each['median']:.2f} | {each['p99']:.2f} | {each['max']:.1f} |")
    return [
        "Milliseconds of a durable write of 4 KiB in the guest, to the disk that is being merged, with"
        f" {found['bandwidth']} MiB a second for the merge. *ours* is from the request to the end of the operation. Medians of"
        f" {found['rounds']} merges.",
        "",
        "| smaller side | merge | median | 99th percentile | maximum |",
        "|---|---|---|---|---|",
        *rows,
    ]


def _show_several(found: Document) -> list[str]:
    ms, written = found["ms"], found["mib"]
    return [
        f"{found['count']} snapshots; after each the guest wrote 4 MiB in the same place and 4 MiB in a new one, which makes"
        f" {found['different_mib']} MiB of different data. Medians of {found['rounds']}.",
        "",
        "| deleted | ms | MiB copied |",
        "|---|---|---|",
        *[f"| {how} | {ms[how]:.0f} | {written[how]:.1f} |" for how in ("at once", "one by one")],
    ]


def _show_depths(found: Document) -> list[str]:
    return [
        f"MiB a second inside the guest, past its page cache, on a file of {found['mib']} MiB of which every layer holds a"
        f" slice. Medians of {found['rounds']}.",
        "",
        "| files in the chain | " + " | ".join(PROBES) + " |",
        "|---|" + "---|" * len(PROBES),
        *[
            f"| {depth} | " + " | ".join(f"{by[name]:.1f}" for name in PROBES) + " |"
            for depth, by in found["throughput"].items()
        ],
    ]


def _goals_of_deletions(found: Document) -> list[Goal]:
    goals = []
    for side in SIDES:
        each = found[side]
        beyond = each["ms"]["ours"] - 1.1 * each["ms"]["bare"]
        smaller = min(each["above"], each["below"])
        goals += [
            Goal(f"live deletion, little {side}: ms beyond 1.1 of the bare job", beyond, 300, " ms"),
            Goal(f"live deletion, little {side}: bytes copied / smaller side", each["mib"]["ours"] / smaller, 1.1),
        ]
    return goals


def _goals_of_latencies(found: Document) -> list[Goal]:
    return [
        Goal(
            f"p99 of writes in a merge, little {side}: ours / bare",
            found[side]["ours"]["p99"] / found[side]["bare"]["p99"],
            1.5,
        )
        for side in SIDES
    ]


def _goals_of_several(found: Document) -> list[Goal]:
    return [Goal("ten at once: bytes copied / different data", found["mib"]["at once"] / found["different_mib"], 1.1)]


def _advice(found: dict[str, Document]) -> list[str]:
    """What the figures of deep chains say, in words."""
    if "depth" not in found:
        return []
    by = found["depth"]["throughput"]
    first, *others = sorted(by, key=int)
    told = []
    for depth in others:
        worst = min(PROBES, key=lambda name: by[depth][name] / by[first][name])
        told.append(f'with {depth} files the worst is "{worst}", {by[depth][worst] / by[first][worst]:.0%} of one file\'s')
    return [
        "## Advice",
        "",
        f"How deep may a chain be? Compared with one file: {'; '.join(told)}. {_verdict(by, first, others)}",
    ]


def _verdict(by: dict[str, dict[str, float]], first: str, others: list[str]) -> str:
    slow = [depth for depth in others if min(by[depth][name] / by[first][name] for name in PROBES) < 0.8]
    if not slow:
        return (
            "No depth measured here costs a fifth of the throughput: keep as many snapshots as you need, and mind the time a"
            " deletion takes rather than the depth."
        )
    return (
        f"From {slow[0]} files on something costs more than a fifth: let a snapshot policy keep fewer than that on volumes"
        " whose speed matters."
    )


INTRO = """The guest is emulated and takes one of the cores, so a merge and the guest share the machine. All disks are qcow2 on
one file system with the host's cache off (`cache=none`)."""

PART = Part(
    "live",
    "Merges under a running guest",
    INTRO,
    [
        Section("delete", "Deletion of one snapshot", _deletions, _show_deletions, _goals_of_deletions),
        Section("latency", "What the guest feels", _latencies, _show_latencies, _goals_of_latencies),
        Section("several", "Many snapshots at once", _several, _show_several, _goals_of_several),
        Section("depth", "Deep chains", _depths, _show_depths, lambda _found: []),
    ],
    _advice,
)
