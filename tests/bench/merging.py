"""Deletion of a snapshot with nothing attached, beside bare ``qemu-img commit`` and fsync."""

import shutil
from collections import defaultdict

from stillframe.host import files
from tests.bench.offline_lab import (
    MIB,
    QEMU_IMG,
    Scale,
    active,
    baseline_ms,
    cold,
    made,
    medians,
    operation_ms,
    quiet,
    scale_of,
    services,
)
from tests.bench.recording import Document, Goal, Section
from tests.support.lab import Lab

BASE, TOP = "bench-base", "bench-top"


def _deletions(quick: bool) -> Document:
    """Little above the snapshot, then little below it; each time on a fresh volume and on copies of its files."""
    scale = scale_of(quick)
    rounds = min(3, scale.rounds)
    found: Document = {"scale": vars(scale), "rounds": rounds}
    with services() as lab:
        for side, lower in (("above", scale.written * 7 // 8), ("below", scale.written // 8)):
            samples, copied = defaultdict(list), defaultdict(list)
            for _ in range(rounds):
                ours, bytes_, bare = _round(lab, scale, lower)
                samples["ours"].append(ours)
                samples["bare"].append(bare)
                copied["bytes"].append(bytes_)
            smaller = min(lower, scale.written - lower)
            found[side] = {"ms": medians(samples), "mib": medians(copied)["bytes"], "smaller_mib": smaller}
    return found


def _round(lab: Lab, scale: Scale, lower: int) -> tuple[float, float, float]:
    """Returns ms of ours, MiB that the file which stayed has grown by, ms of the bare commit."""
    volume = made(lab, scale, True, lower)
    share, base, top = lab.stack.share, f"volume-{volume['id']}", active(lab, volume["id"])
    (share / BASE).unlink(missing_ok=True)
    shutil.copy(share / base, share / BASE)
    shutil.copy(share / top, share / TOP)
    command = [QEMU_IMG, "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", BASE, TOP]
    baseline_ms(share, TOP, *command)
    before = {name: files.allocated(share, name) for name in (base, top)}
    (snapshot,) = lab.api.ok("volume", "GET", f"/snapshots?volume_id={volume['id']}")["snapshots"]
    cold()
    ours, _ = operation_ms(lab, "delete_snapshot", lambda: lab.api.ok("volume", "DELETE", f"/snapshots/{snapshot['id']}"))
    cold()
    bare = baseline_ms(share, BASE, QEMU_IMG, "commit", "-q", "-f", "qcow2", "-d", TOP)
    quiet(lab)
    kept = max(before.values())
    grown = files.allocated(share, active(lab, volume["id"])) - kept
    for name in (BASE, TOP):
        (share / name).unlink(missing_ok=True)
    lab.api.ok("volume", "DELETE", f"/volumes/{volume['id']}")
    return ours, grown / MIB, bare


def _show(found: Document) -> list[str]:
    rows = []
    for side in ("above", "below"):
        each = found[side]
        ms = each["ms"]
        ratio = ms["ours"] / ms["bare"]
        rows.append(
            f"| {side} | {each['smaller_mib']} | {ms['ours']:.0f} | {ms['bare']:.0f} | {ratio:.2f} | {each['mib']:.1f} |"
        )
    return [
        f"A volume with {found['scale']['written']} MiB written, an eighth of it above the snapshot or below it. *ours*: from"
        " the request to the end of the operation. *bare*: `qemu-img commit -d` of copies of the same two files, and fsync; it"
        f" always goes down. Cold cache, milliseconds, medians of {found['rounds']}. *grown*: MiB by which the file that stays"
        " has grown.",
        "",
        "| smaller side | MiB in it | ours | bare | ours / bare | grown |",
        "|---|---|---|---|---|---|",
        *rows,
    ]


def _goals(found: Document) -> list[Goal]:
    goals = []
    for side in ("above", "below"):
        each = found[side]
        goals += [
            Goal(f"deletion, little {side}: ours / commit", each["ms"]["ours"] / each["ms"]["bare"], 1.15),
            Goal(f"deletion, little {side}: bytes copied / smaller side", each["mib"] / each["smaller_mib"], 1.02),
        ]
    return goals


SECTIONS = [Section("deletion", "Deletion of a snapshot", _deletions, _show, _goals)]
