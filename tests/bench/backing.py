"""An incremental backup of one per cent changed, beside the full backup."""

import random
from collections import defaultdict

from tests.bench.offline_lab import MIB, active, cold, fill, made, medians, operation_ms, quiet, scale_of, services
from tests.bench.recording import Document, Goal, Section
from tests.support.lab import Lab

SEED = 7


def _backups(quick: bool) -> Document:
    scale = scale_of(quick)
    rounds = min(3, scale.rounds)
    milliseconds, sizes = defaultdict(list), defaultdict(list)
    places = random.Random(SEED)
    changed = max(1, scale.written // 100)
    with services() as lab:
        volume = made(lab, scale, False, scale.written)
        for _ in range(rounds):
            for kind in ("full", "incremental"):
                if kind == "incremental":
                    spans = [(place, 1) for place in places.sample(range(scale.written), changed)]
                    fill(lab.stack.share, active(lab, volume["id"]), spans)
                cold()
                took, stored = _back_up(lab, volume["id"], kind == "incremental")
                milliseconds[kind].append(took)
                sizes[kind].append(stored / MIB)
    return {"scale": vars(scale), "rounds": rounds, "ms": medians(milliseconds), "mib": medians(sizes)}


def _back_up(lab: Lab, volume_id: str, incremental: bool) -> tuple[float, int]:
    """Returns ms and the bytes stored."""
    body = {"backup": {"volume_id": volume_id, "name": "bench", "incremental": incremental}}
    made_ids: list[str] = []
    before = _stored(lab)
    took, _ = operation_ms(
        lab, "create_backup", lambda: made_ids.append(lab.api.ok("volume", "POST", "/backups", body)["backup"]["id"])
    )
    quiet(lab)
    return took, _stored(lab) - before


def _stored(lab: Lab) -> int:
    return sum(path.stat().st_size for path in (lab.stack.state_dir / "backups").rglob("*") if path.is_file())


def _show(found: Document) -> list[str]:
    ms, mib, scale = found["ms"], found["mib"], found["scale"]
    return [
        f"A volume with {scale['written']} MiB written that cannot be compressed; then one per cent of them, in pieces of 1"
        f" MiB, written anew. Medians of {found['rounds']}.",
        "",
        "| backup | ms | MiB stored |",
        "|---|---|---|",
        f"| full | {ms['full']:.0f} | {mib['full']:.1f} |",
        f"| incremental | {ms['incremental']:.0f} | {mib['incremental']:.1f} |",
        f"| incremental / full | {ms['incremental'] / ms['full']:.3f} | {mib['incremental'] / mib['full']:.3f} |",
    ]


def _goals(found: Document) -> list[Goal]:
    return [
        Goal("incremental backup of 1 %: time / full", found["ms"]["incremental"] / found["ms"]["full"], 0.05),
        Goal("incremental backup of 1 %: bytes / full", found["mib"]["incremental"] / found["mib"]["full"], 0.05),
    ]


SECTIONS = [Section("backup", "Incremental backup", _backups, _show, _goals)]
