"""What the services add to qemu-img, how long lists take as tables grow, and memory over many operations."""

import statistics
import subprocess
import time
import uuid
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

from sqlalchemy import insert

from stillframe.db.engine import Database
from stillframe.db.tables import snapshots
from tests.bench.offline_lab import QEMU_IMG, medians, operation_ms, quiet, rss_mib, services, until
from tests.bench.recording import Document, Goal, Section
from tests.support.lab import Lab
from tests.support.stack import Api

TABLE_SIZES = (1_000, 10_000, 100_000)
PAGE = 1_000


def _creations(quick: bool) -> Document:
    rounds, samples = 3 if quick else 21, defaultdict(list)
    with services() as lab:
        volume_id = lab.api.create_volume("bench", 10)
        for _ in range(rounds):
            samples["ours"].append(_take(lab, volume_id))
            quiet(lab)
            samples["bare"].append(_overlay(lab))
    return {"rounds": rounds, "ms": medians(samples)}


def _take(lab: Lab, volume_id: str) -> float:
    body = {"snapshot": {"volume_id": volume_id, "name": "bench"}}
    took, _ = operation_ms(lab, "create_snapshot", lambda: lab.api.ok("volume", "POST", "/snapshots", body))
    return took


def _overlay(lab: Lab) -> float:
    base, top = "bench-base", "bench-top"
    if not (lab.stack.share / base).exists():
        subprocess.run([QEMU_IMG, "create", "-q", "-f", "qcow2", base, "10G"], cwd=lab.stack.share, check=True)
    began = time.monotonic()
    command = [QEMU_IMG, "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, top]
    subprocess.run(command, cwd=lab.stack.share, check=True)
    took = (time.monotonic() - began) * 1000
    (lab.stack.share / top).unlink()
    return took


def _lists(quick: bool) -> Document:
    """Pages of 1,000 at the beginning, in the middle and at the end of the table, brief and in detail."""
    sizes, rounds = (TABLE_SIZES[:2], 2) if quick else (TABLE_SIZES, 9)
    found: Document = {"rounds": rounds, "ms": {}}
    with services() as lab:
        volume_id = lab.api.create_volume("bench", 1)
        have = 0
        for size in sizes:
            ids = _insert(lab, volume_id, size - have)
            have = size
            found["ms"][str(size)] = _pages(lab, ids, rounds)
    return found


def _insert(lab: Lab, volume_id: str, count: int) -> list[str]:
    """Snapshots of another, quiet volume's row, made by hand; returns their ids."""
    project = lab.api.volume(volume_id)["os-vol-tenant-attr:tenant_id"]
    began = datetime(2026, 1, 1)
    rows = [
        {
            "id": str(uuid.uuid4()),
            "project_id": project,
            "user_id": "bench",
            "name": f"snapshot-{number}",
            "description": "made for a benchmark",
            "volume_id": volume_id,
            "size": 1,
            "status": "available",
            "progress": "100%",
            "metadata": {"purpose": "bench"},
            "overlay": "",
            "backing": "",
            "backing_format": "qcow2",
            "created_at": began + timedelta(seconds=number),
        }
        for number in range(count)
    ]
    database = Database(f"sqlite:///{lab.stack.state_dir}/stillframe.sqlite")
    with database.write() as connection:
        for number in range(0, count, 10_000):
            connection.execute(insert(snapshots), rows[number : number + 10_000])
    database.close()
    return [str(row["id"]) for row in rows]


def _pages(lab: Lab, ids: list[str], rounds: int) -> dict[str, float]:
    """From the request to the last byte of the answer, on a connection that is kept open."""
    places = {"first": "", "middle": f"&marker={ids[len(ids) // 2]}", "last": f"&marker={ids[min(PAGE, len(ids) - 1)]}"}
    samples = defaultdict(list)
    for _ in range(rounds):
        for where, marker in places.items():
            for kind, path in (("brief", "/snapshots"), ("detail", "/snapshots/detail")):
                began = time.monotonic()
                answer = lab.api.send("volume", "GET", f"{path}?limit={PAGE}{marker}")
                samples[f"{kind} {where}"].append((time.monotonic() - began) * 1000)
                assert answer.status_code == 200, answer.text[:200]
    return medians(samples)


def _memory(quick: bool) -> Document:
    """Snapshots taken and deleted on four volumes at once; resident memory after every tenth of them."""
    operations = 80 if quick else 1_000
    with services() as lab:
        volumes = [lab.api.create_volume(f"bench-{number}", 1) for number in range(4)]
        rss = []
        for _ in range(10):
            with ThreadPoolExecutor(len(volumes)) as pool:
                list(pool.map(lambda volume_id: _work(lab, volume_id, operations // 80), volumes))
            quiet(lab)
            rss.append(rss_mib(lab.stack.pid))
    return {"operations": operations, "rss_mib": rss}


def _work(lab: Lab, volume_id: str, pairs: int) -> None:
    """A pair is a snapshot and its deletion; the records that follow them are not counted."""
    api = lab.api
    for _ in range(pairs):
        body = {"snapshot": {"volume_id": volume_id, "name": "bench"}}
        snapshot_id = api.ok("volume", "POST", "/snapshots", body)["snapshot"]["id"]
        _wait(api, snapshot_id, "available")
        api.ok("volume", "DELETE", f"/snapshots/{snapshot_id}")
        _wait(api, snapshot_id, "gone")


def _wait(api: Api, snapshot_id: str, wanted: str) -> None:
    def reached() -> bool:
        answer = api.send("volume", "GET", f"/snapshots/{snapshot_id}")
        return (answer.json()["snapshot"]["status"] if answer.status_code == 200 else "gone") == wanted

    until(reached)


def _show_creations(found: Document) -> list[str]:
    ms = found["ms"]
    return [
        f"`POST /snapshots` until the operation is done: {ms['ours']:.0f} ms; `qemu-img create` of the same overlay, not"
        f" synced: {ms['bare']:.0f} ms; {ms['ours'] - ms['bare']:.0f} ms beyond it. Medians of {found['rounds']}.",
    ]


def _show_lists(found: Document) -> list[str]:
    kinds = list(next(iter(found["ms"].values())))
    rows = [f"| {int(size):,} | " + " | ".join(f"{by[kind]:.0f}" for kind in kinds) + " |" for size, by in found["ms"].items()]
    return [
        f"A page of {PAGE:,} snapshots, at the beginning, in the middle and at the end of the list: milliseconds from the"
        f" request to the last byte, medians of {found['rounds']}.",
        "",
        "| snapshots | " + " | ".join(kinds) + " |",
        "|---|" + "---|" * len(kinds),
        *rows,
    ]


def _show_memory(found: Document) -> list[str]:
    each = found["operations"] // 10
    told = ", ".join(f"{rss:.0f}" for rss in found["rss_mib"])
    return [
        f"{found['operations']:,} operations (snapshots taken and deleted, four volumes at once) in one `serve`: resident"
        f" memory in MiB after every {each}: {told}.",
    ]


def _goals_of_creations(found: Document) -> list[Goal]:
    return [Goal("snapshot through REST beyond qemu-img", found["ms"]["ours"] - found["ms"]["bare"], 60, " ms")]


def _goals_of_lists(found: Document) -> list[Goal]:
    sizes = sorted(found["ms"], key=int)
    small, large = (max(found["ms"][size].values()) for size in (sizes[0], sizes[-1]))
    return [
        Goal(f"page of {PAGE:,} of {int(sizes[-1]):,} snapshots, the slowest", large, 60, " ms"),
        Goal(f"the same / of {int(sizes[0]):,}", large / small, 1.2),
    ]


def _goals_of_memory(found: Document) -> list[Goal]:
    half = len(found["rss_mib"]) // 2
    first, second = (float(statistics.median(part)) for part in (found["rss_mib"][:half], found["rss_mib"][half:]))
    return [Goal("memory over the second half of the operations / over the first", second / first, 1.05)]


SECTIONS = [
    Section("create", "Snapshot through REST", _creations, _show_creations, _goals_of_creations),
    Section("lists", "Lists", _lists, _show_lists, _goals_of_lists),
    Section("memory", "Memory", _memory, _show_memory, _goals_of_memory),
]
