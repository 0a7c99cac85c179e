"""What operations that wait cost: the worker's time, and the start of what another server's owner asks for."""

import time
import uuid
from collections import defaultdict
from pathlib import Path

from sqlalchemy import insert, update

from stillframe.compute.operations import delete_set
from stillframe.compute.operations.delete_set import DeleteAssistedSnapshot
from stillframe.db.engine import Database
from stillframe.db.tables import operation_resources, operations, snapshots
from stillframe.journal import record
from tests.bench.offline_lab import cpu_seconds, medians, operation_ms, quiet, services
from tests.bench.recording import Document, Goal, Part, Section
from tests.support.lab import Lab

INTRO = (
    "Deletions of sets that wait for block storage, each for a snapshot that stays in `deleting`, in a `stillframe serve` with"
    " the usual number of workers. They are put into its journal as a request would."
)


class Crowd:
    """Deletions of sets of as many servers, that wait for as long as they are there."""

    def __init__(self, lab: Lab, volume_id: str) -> None:
        self._database = Database(f"sqlite:///{lab.stack.state_dir}/stillframe.sqlite")
        self._project = lab.api.volume(volume_id)["os-vol-tenant-attr:tenant_id"]
        self._volume_id = volume_id
        self._ids: list[str] = []

    def come(self, count: int) -> None:
        waited_for = [self._snapshot(number) for number in range(count)]
        with self._database.write() as connection:
            connection.execute(insert(snapshots), waited_for)
            for each in waited_for:
                asked = DeleteAssistedSnapshot(set_id=str(uuid.uuid4()), server_id=str(uuid.uuid4()))
                request = delete_set.request(asked, [each["id"]], "bench")
                self._ids.append(record.submit(connection, request.of(self._project)))

    def _snapshot(self, number: int) -> Document:
        return {
            "id": str(uuid.uuid4()),
            "project_id": self._project,
            "user_id": "bench",
            "name": f"waited-for-{number}",
            "volume_id": self._volume_id,
            "size": 1,
            "status": "deleting",
            "progress": "10%",
            "metadata": {},
            "overlay": "",
            "backing": "",
            "backing_format": "qcow2",
        }

    def waits(self) -> bool:
        """Whether all of them were looked at and given back."""
        with self._database.read() as connection:
            found = connection.execute(operations.select().where(operations.c.id.in_(self._ids))).mappings().all()
        return all(row["epoch"] > 0 and row["owner"] is None for row in found)

    def go(self) -> None:
        with self._database.write() as connection:
            done = {"state": "done", "owner": None}
            connection.execute(update(operations).where(operations.c.id.in_(self._ids)).values(done))
            connection.execute(update(operation_resources).values(unfinished=0))
            connection.execute(snapshots.delete().where(snapshots.c.name.like("waited-for-%")))
        self._ids = []

    def close(self) -> None:
        self._database.close()


def _cost(quick: bool) -> Document:
    """Alternating: nobody waits, a thousand wait and have waited for a while."""
    rounds, seconds, count = (1, 5, 200) if quick else (5, 20, 1_000)
    samples, threads = defaultdict(list), defaultdict(list)
    with services() as lab:
        crowd = Crowd(lab, lab.api.create_volume("bench", 1))
        quiet(lab)
        for _ in range(rounds):
            samples["none"].append(_busy(lab, seconds))
            threads["none"].append(_threads(lab))
            crowd.come(count)
            end = time.monotonic() + 300
            while not crowd.waits():
                assert time.monotonic() < end, "the deletions were not looked at"
                time.sleep(0.5)
            samples["waiting"].append(_busy(lab, seconds))
            threads["waiting"].append(_threads(lab))
            crowd.go()
            time.sleep(3)
        crowd.close()
    return {"rounds": rounds, "seconds": seconds, "count": count, "percent": medians(samples), "threads": medians(threads)}


def _busy(lab: Lab, seconds: float) -> float:
    """Percent of one core."""
    began = cpu_seconds(lab.stack.pid)
    time.sleep(seconds)
    return (cpu_seconds(lab.stack.pid) - began) / seconds * 100


def _threads(lab: Lab) -> int:
    return len(list(Path(f"/proc/{lab.stack.pid}/task").iterdir()))


def _start(quick: bool) -> Document:
    """A set of a server's disks, alternating: with nothing else to do, and right after two hundred deletions came."""
    rounds, count = (2, 50) if quick else (9, 200)
    samples = defaultdict(list)
    with services() as lab:
        guest = lab.add_guest(1, boot=False)
        crowd = Crowd(lab, lab.api.create_volume("bench", 1))
        for _ in range(rounds):
            quiet(lab)
            samples["alone"].append(_take(lab, guest.id))
            crowd.come(count)
            samples["crowded"].append(_take(lab, guest.id))
            crowd.go()
            time.sleep(1)
        crowd.close()
    return {"rounds": rounds, "count": count, "ms": medians(samples)}


def _take(lab: Lab, server_id: str) -> float:
    body = {"assisted_snapshot": {"name": "bench"}}
    path = f"/servers/{server_id}/os-assisted-snapshots"
    took, _ = operation_ms(lab, "assisted_snapshot", lambda: lab.api.ok("compute", "POST", path, body))
    return took


def _show_cost(found: Document) -> list[str]:
    percent, threads = found["percent"], found["threads"]
    return [
        f"`stillframe serve` while {found['count']:,} deletions of sets wait: {percent['waiting']:.1f} % of one core and"
        f" {threads['waiting']:.0f} threads; while none does: {percent['none']:.1f} % and {threads['none']:.0f} threads."
        f" Medians of {found['rounds']}, {found['seconds']} s each, alternating.",
    ]


def _show_start(found: Document) -> list[str]:
    ms = found["ms"]
    return [
        f"A set of a stopped server's disk, from the request until its operation is done: {ms['crowded']:.0f} ms right after"
        f" {found['count']} deletions of other servers' sets were asked for, {ms['alone']:.0f} ms with nothing else to do."
        f" Medians of {found['rounds']}, alternating.",
    ]


def _goals_of_cost(found: Document) -> list[Goal]:
    more = found["percent"]["waiting"] - found["percent"]["none"]
    return [Goal(f"CPU for {found['count']:,} that wait, beyond none", more, 3, " %")]


def _goals_of_start(found: Document) -> list[Goal]:
    more = found["ms"]["crowded"] - found["ms"]["alone"]
    return [Goal(f"another server's set beside {found['count']} deletions, beyond one alone", more, 1_000, " ms")]


PART = Part(
    "waiting",
    "Operations that wait",
    INTRO,
    [
        Section("wait", "A thousand that wait", _cost, _show_cost, _goals_of_cost),
        Section("start", "Another server's snapshot meanwhile", _start, _show_start, _goals_of_start),
    ],
)
