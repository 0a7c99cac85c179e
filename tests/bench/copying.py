"""Full clones and restores beside ``qemu-img convert`` and fsync; clones where the file system shares blocks."""

import time
from collections import defaultdict
from pathlib import Path

from tests.bench.offline_lab import (
    LOOK_SECONDS,
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
    until,
)
from tests.bench.recording import Document, Goal, Section
from tests.support.lab import Lab

COPY = "bench-copy"


def _clones(quick: bool) -> Document:
    """A chain of two files; cold and warm cache."""
    scale, samples = scale_of(quick), defaultdict(list)
    with services() as lab:
        volume = made(lab, scale, True, scale.written * 3 // 4)
        source = active(lab, volume["id"])
        for _ in range(scale.rounds):
            for heat in ("cold", "warm"):
                for who in ("ours", "bare"):
                    if heat == "cold":
                        cold()
                    act = _clone if who == "ours" else _convert
                    samples[f"{who} {heat}"].append(act(lab, scale, volume["id"], source))
    return {"scale": vars(scale), "ms": medians(samples)}


def _clone(lab: Lab, scale: Scale, volume_id: str, _source: str) -> float:
    made_ids: list[str] = []

    def act() -> None:
        body = {"volume": {"name": "clone", "size": scale.size, "source_volid": volume_id}}
        made_ids.append(lab.api.ok("volume", "POST", "/volumes", body)["volume"]["id"])

    milliseconds, _ = operation_ms(lab, "copy_volume", act)
    _remove(lab, made_ids[0])
    return milliseconds


def _remove(lab: Lab, volume_id: str) -> None:
    lab.api.ok("volume", "DELETE", f"/volumes/{volume_id}")
    until(lambda: lab.api.send("volume", "GET", f"/volumes/{volume_id}").status_code == 404)
    quiet(lab)


def _convert(lab: Lab, _scale: Scale, _volume_id: str, source: str) -> float:
    return _converted(lab.stack.share, source)


def _converted(share: Path, source: str) -> float:
    milliseconds = baseline_ms(share, COPY, QEMU_IMG, "convert", "-f", "qcow2", "-O", "qcow2", source, COPY)
    (share / COPY).unlink()
    time.sleep(LOOK_SECONDS)
    return milliseconds


def _reflinks(quick: bool) -> Document:
    """On XFS: a small volume and a large one, so that constant time shows."""
    scale, samples = scale_of(quick), defaultdict(list)
    small = Scale(scale.size, scale.written // 8, scale.rounds)
    with services(xfs_mib=scale.written * 4 + 1024) as lab:
        for name, each in (("small", small), ("large", scale)):
            volume = made(lab, each, False, each.written)
            source = active(lab, volume["id"])
            for _ in range(scale.rounds):
                for who, act in (("ours", _clone), ("bare", _convert)):
                    cold()
                    samples[f"{who} {name}"].append(act(lab, each, volume["id"], source))
    return {"scale": vars(scale), "ms": medians(samples), "small_mib": small.written}


def _restores(quick: bool) -> Document:
    """A full backup restored to a new volume; bare: the backup's one object converted."""
    scale, samples = scale_of(quick), defaultdict(list)
    with services() as lab:
        volume = made(lab, scale, False, scale.written)
        body = {"backup": {"volume_id": volume["id"], "name": "bench"}}
        backups: list[str] = []
        operation_ms(
            lab, "create_backup", lambda: backups.append(lab.api.ok("volume", "POST", "/backups", body)["backup"]["id"])
        )
        quiet(lab)
        (stored,) = (lab.stack.state_dir / "backups").rglob("*.qcow2")
        for _ in range(scale.rounds):
            for who in ("ours", "bare"):
                cold()
                samples[who].append(_restore(lab, backups[0]) if who == "ours" else _converted(lab.stack.share, str(stored)))
    return {"scale": vars(scale), "ms": medians(samples)}


def _restore(lab: Lab, backup_id: str) -> float:
    volumes: list[str] = []

    def act() -> None:
        body = {"restore": {"name": "restored"}}
        volumes.append(lab.api.ok("volume", "POST", f"/backups/{backup_id}/restore", body)["restore"]["volume_id"])

    milliseconds, _ = operation_ms(lab, "restore_backup", act)
    _remove(lab, volumes[0])
    return milliseconds


def _show_clones(found: Document) -> list[str]:
    ms, scale = found["ms"], found["scale"]
    rows = [
        f"| {heat} | {ms[f'ours {heat}']:.0f} | {ms[f'bare {heat}']:.0f} | {ms[f'ours {heat}'] / ms[f'bare {heat}']:.2f} |"
        for heat in ("cold", "warm")
    ]
    return [
        f"A volume of {scale['size']} GiB with {scale['written']} MiB written, a quarter of it above a snapshot. *ours*: from"
        " the request to the end of the operation, compared with its source and checked. *bare*: `qemu-img convert`, fsync of"
        f" the file and of its directory. Milliseconds, medians of {scale['rounds']}.",
        "",
        "| cache | ours | bare | ours / bare |",
        "|---|---|---|---|",
        *rows,
    ]


def _show_reflinks(found: Document) -> list[str]:
    ms = found["ms"]
    rows = [
        f"| {mib} | {ms[f'ours {name}']:.0f} | {ms[f'bare {name}']:.0f} |"
        for name, mib in (("small", found["small_mib"]), ("large", found["scale"]["written"]))
    ]
    return [
        "The same on XFS with reflinks, without a snapshot. Milliseconds.",
        "",
        "| MiB written | ours | bare `qemu-img convert` and fsync |",
        "|---|---|---|",
        *rows,
    ]


def _show_restores(found: Document) -> list[str]:
    ms, scale = found["ms"], found["scale"]
    return [
        f"The full backup of a volume with {scale['written']} MiB written, restored to a new volume: {ms['ours']:.0f} ms, the"
        f" object's sha256 verified, the copy compared and checked. *bare*: `qemu-img convert` of the object and fsync,"
        f" {ms['bare']:.0f} ms. Ratio {ms['ours'] / ms['bare']:.2f}. Cold cache, medians of {scale['rounds']}.",
    ]


def _goals_of_clones(found: Document) -> list[Goal]:
    ms = found["ms"]
    return [
        Goal(f"full clone, {heat} cache: ours / convert", ms[f"ours {heat}"] / ms[f"bare {heat}"], 1.1)
        for heat in ("cold", "warm")
    ]


def _goals_of_reflinks(found: Document) -> list[Goal]:
    ms = found["ms"]
    return [Goal("clone with reflinks: eight times the content / once", ms["ours large"] / ms["ours small"], 1.5)]


def _goals_of_restores(found: Document) -> list[Goal]:
    return [Goal("restore: ours / convert", found["ms"]["ours"] / found["ms"]["bare"], 1.1)]


SECTIONS = [
    Section("clone", "Full clone", _clones, _show_clones, _goals_of_clones),
    Section("reflink", "Clone where blocks can be shared", _reflinks, _show_reflinks, _goals_of_reflinks),
    Section("restore", "Restore", _restores, _show_restores, _goals_of_restores),
]
