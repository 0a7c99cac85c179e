"""A long life: random snapshots, deletions, growth, cancellations, reboots, stops and SIGKILLs on a busy guest.

Every disk but the first has known bytes and no filesystem; two are raw files, and raw again whenever they have no snapshot.
After each round every snapshot and every volume is compared by every byte, nothing is in transit and the guest writes on; at
checkpoints rows, headers, descriptions and the share's files are compared too. The seed is printed; STILLFRAME_SEED repeats a
run, STILLFRAME_ROUNDS is how many operations it has.
"""

import os
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from stillframe.compute.quiesce import record as freeze_record
from stillframe.db import operations
from stillframe.db.engine import Database
from stillframe.host import hypervisor
from tests.support.guest.domain import GuestOptions
from tests.support.lab import Lab, open_lab
from tests.support.pattern import CLUSTER, Pattern, Write, seen, write_all
from tests.support.qcow2_content import Memory, digest, digests
from tests.support.stack import Api, read_when_there, wait_for

OPERATIONS = int(os.environ.get("STILLFRAME_ROUNDS", "300"))
RAW = (2, 5)  # disks that are raw files
DISKS, LOW, SNAPSHOTS, LARGEST = 6, 48, 6, 12  # with the first; clusters written at the front; snapshots kept; GiB
CHECKPOINT = 12  # rounds
SLOWLY = 16 << 20  # bytes that may be copied at 1 MiB a second
OPTIONS = "[DEFAULT]\nworkers = 8\n[compute]\nmax_merges = 6\n"
FILLED = [digest(bytes([value]) * CLUSTER) for value in range(256)]
Content = dict[int, bytes]


@dataclass
class Disk:
    """The model of one volume: what it holds (None: the guest's own filesystem), what each snapshot holds, which of them can
    only be deleted any more, and which somebody asked to delete."""

    id: str
    pattern: Pattern | None
    size: int = 1
    held: dict[str, Content] = field(default_factory=dict)
    spoilt: set[str] = field(default_factory=set)
    doomed: set[str] = field(default_factory=set)
    wanted_size: int = 1

    @property
    def content(self) -> Content | None:
        return {place: FILLED[value] for place, value in self.pattern.clusters.items()} if self.pattern else None


class Soak:
    """One guest, its disks, and what was asked of them."""

    def __init__(self, lab: Lab, chance: random.Random) -> None:
        self.lab = lab
        self.chance = chance
        self.disks = [
            Disk(volume_id, Pattern(f"/dev/vd{chr(97 + number)}") if number else None)
            for number, volume_id in enumerate(lab.volumes)
        ]
        self.database = Database(f"sqlite:///{lab.stack.state_dir}/stillframe.sqlite")
        self.api: Api = lab.api
        self.admin: Api = lab.stack.api("stillframe-admin")
        self.sets: dict[str, list[str]] = {}
        self.cancelled: set[str] = set()
        self.stopped_meanwhile = False
        self.asked: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.counted = 0  # the guest's counter when it was last seen
        self.raw_files = {f"volume-{lab.volumes[number]}" for number in RAW}
        self.memory = Memory(self.raw_files)  # between two checkpoints

    # --- what is asked

    def request(self, what: str, service: str, method: str, path: str, body: Any = None) -> Any:
        """Sends a request; returns the answer's document, or None when it was refused because something else is under way."""
        answer = self.api.send(service, method, path, body)
        if answer.status_code == 409 or (answer.status_code in (400, 404) and what in ("delete", "delete set", "cancel")):
            self.refused[what] += 1
            return None
        assert answer.status_code < 400, f"{what}: {answer.status_code} {answer.text}"
        self.asked[what] += 1
        return answer.json() if answer.content else {}

    @property
    def running(self) -> bool:
        return bool(self.lab.guest.domain.isActive())

    def write(self) -> None:
        """Some clusters of some disks, a few of them where the volume has grown."""
        writes: list[Write] = []
        for disk in self.chance.sample(self.disks[1:], self.chance.randrange(1, 4)):
            assert disk.pattern is not None
            count = self.chance.choice([1, 2, 4, 12])
            start = self.chance.randrange(LOW - count)
            if self.chance.random() < 0.2:
                start = disk.size * 16384 - LOW + start
            writes.append((disk.pattern, start, count, self.chance.randrange(33, 127)))
        write_all(self.lab.guest, writes)

    def take(self) -> None:
        """A set of some disks. Nothing is written to the patterned ones until it has ended: the model knows what it holds."""
        disks = self.chance.sample(self.disks, self.chance.choice([1, 2, 3, len(self.disks)]))
        wanted = {"volumes": [disk.id for disk in disks], "quiesce": self.chance.choice(["preferred", "never"])}
        path = f"/servers/{self.lab.guest.id}/os-assisted-snapshots"
        made = self.request("take", "compute", "POST", path, {"assisted_snapshot": wanted})
        if made is None:
            return
        self.disturb(kill=0.05)
        if self.chance.random() < 0.2:  # it stands in line behind the set, which may change what it was planned with
            disk = self.chance.choice(self.disks)
            self.delete(disk)
            self.cancelled |= disk.doomed
        self.settle()
        found = self.api.set(made["assisted_snapshot"]["id"])
        taken = [each for each in found["volumes"] if each["status"] == "available"]
        self.sets[found["id"]] = [each["snapshot_id"] for each in taken]
        for each in taken:
            disk = next(one for one in self.disks if one.id == each["volume_id"])
            content = disk.content
            disk.held[each["snapshot_id"]] = self.snapshot_content(each["snapshot_id"], disk) if content is None else content

    def snapshot_content(self, snapshot_id: str, disk: Disk) -> Content:
        return digests(self.share, self.chain(disk)[snapshot_id])

    def delete(self, disk: Disk) -> None:
        """One snapshot, or several at once; sometimes slowly, so that something can happen meanwhile."""
        if not disk.held and not disk.spoilt:
            return
        known = [*disk.held, *disk.spoilt]
        count = 1 if len(known) < 3 or self.chance.random() < 0.5 else self.chance.randrange(2, len(known))
        count = max(count, len(known) - SNAPSHOTS)
        chosen = self.chance.sample(known, count)
        if count == 1:
            speed = "?bandwidth_mib=1" if self.chance.random() < 0.25 and self.cost(chosen[0]) < SLOWLY else ""
            asked = self.request("delete", "volume", "DELETE", f"/snapshots/{chosen[0]}{speed}")
        else:
            body = {"os-delete_snapshots": {"snapshot_ids": chosen}}
            asked = self.request("delete", "volume", "POST", f"/volumes/{disk.id}/action", body)
        if asked is not None:
            disk.doomed |= set(chosen)

    def cost(self, snapshot_id: str) -> int:
        """How many bytes a deletion would copy. Where a disk has grown these may be GiB of zeros (qemu 7.2)."""
        answer = self.api.send("volume", "GET", f"/snapshots/{snapshot_id}?explain=1")
        return int(answer.json()["snapshot"]["deletion"]["bytes"]) if answer.ok else SLOWLY

    def delete_all(self, disk: Disk, snapshot_ids: Collection[str]) -> None:
        if snapshot_ids:
            body = {"os-delete_snapshots": {"snapshot_ids": list(snapshot_ids)}}
            path = f"/volumes/{disk.id}/action"
            wait_for(lambda: self.request("delete", "volume", "POST", path, body) is not None, "the volume to be free")
            disk.doomed |= set(snapshot_ids)

    def delete_set(self) -> None:
        if not self.sets:
            return
        set_id = self.chance.choice(list(self.sets))
        path = f"/servers/{self.lab.guest.id}/os-assisted-snapshots/{set_id}"
        if self.request("delete set", "compute", "DELETE", path) is not None:
            for disk in self.disks:
                disk.doomed |= set(self.sets[set_id]) & (disk.held.keys() | disk.spoilt)
            self.cancelled |= set(self.sets.pop(set_id))  # one it finds busy stays, and the set says so

    def extend(self, disk: Disk) -> None:
        if disk.wanted_size == disk.size < LARGEST:
            body = {"os-extend": {"new_size": disk.size + 1}}
            if self.request("extend", "volume", "POST", f"/volumes/{disk.id}/action", body) is not None:
                disk.wanted_size = disk.size + 1

    def cancel(self) -> None:
        doomed = [each for disk in self.disks for each in disk.doomed]
        if doomed:
            chosen = self.chance.choice(doomed)
            path = f"/snapshots/{chosen}/action"
            if self.request("cancel", "volume", "POST", path, {"os-cancel_deletion": None}) is not None:
                # Those that were to go together with it stay together with it.
                self.cancelled |= next(disk.doomed for disk in self.disks if chosen in disk.doomed)

    def kill(self) -> None:
        self.asked["kill"] += 1
        self.lab.stack.kill()
        self.lab.stack.start()
        self.api, self.admin = self.lab.api, self.lab.stack.api("stillframe-admin")

    def reboot(self) -> None:
        ready = self.lab.guest.text().count("guest: ready")
        self.counted = self.lab.guest.beats()[-1].round
        path = f"/servers/{self.lab.guest.id}/action"
        if self.request("reboot", "compute", "POST", path, {"reboot": {"type": "HARD"}}) is not None:
            self.wait_up(ready)

    def wait_up(self, ready: int) -> None:
        """The guest has come up once more, and its counter goes on where it was."""
        wait_for(lambda: self.lab.guest.text().count("guest: ready") > ready, "the guest to come up", 90)
        wait_for(self.lab.guest.agent_answers, "the guest's agent", 90)
        wait_for(lambda: "beat" in self.lab.guest.text().rpartition("guest: ready")[2].rpartition("\n")[0], "its counter", 90)
        first = re.search(r"beat k=(\d+)", self.lab.guest.text().rpartition("guest: ready")[2])
        assert first is not None
        assert int(first[1]) > self.counted, "the guest's counter lost rounds"

    def stop(self) -> None:
        """The guest goes, by itself or as by a power cut; what is under way is finished offline."""
        self.asked["stop"] += 1
        self.stopped_meanwhile = True
        self.counted = self.lab.guest.beats()[-1].round
        if self.chance.random() < 0.5:
            hypervisor.power(self.lab.guest.domain, "destroy")
        else:
            path = f"/servers/{self.lab.guest.id}/action"
            wait_for(lambda: self.request("os-stop", "compute", "POST", path, {"os-stop": None}) is not None, "the stop")
        wait_for(lambda: not self.running, "the guest to stop")

    def start(self) -> None:
        path = f"/servers/{self.lab.guest.id}/action"
        self.lab.guest.console.write_text("")
        wait_for(
            lambda: self.request("start", "compute", "POST", path, {"os-start": None}) is not None, "the server to be free", 60
        )
        self.wait_up(0)

    def disturb(self, kill: float = 0.0) -> None:
        """Something happens while requests are under way."""
        time.sleep(self.chance.uniform(0, 0.4))
        if self.chance.random() < kill:
            self.kill()

    # --- rounds

    def round(self) -> None:
        for _ in range(self.chance.choice([1, 1, 2])):
            self.write()
            self.take()
        self.write()
        stopped = self.chance.random() < 0.04
        if stopped and self.chance.random() < 0.5:
            self.stop()
        for act in self.chance.sample([self.change] * len(self.disks) + [self.delete_set], len(self.disks)):
            act()
        what = self.chance.choices(
            ["nothing", "write", "cancel", "kill", "reboot"], [6, 6, 6, 2, 0.8] if self.running else [6, 0, 2, 4, 0]
        )[0]
        self.disturb()
        if what == "write":
            self.write()
        elif what != "nothing":
            getattr(self, what)()
        if stopped and self.running:
            self.stop()
        if stopped:
            self.disturb()
            if self.chance.random() < 0.5:
                self.settle()
            self.start()
        self.settle()
        self.compare()

    def change(self) -> None:
        """Something of one disk, busy or not."""
        disk = self.chance.choice(self.disks)
        if self.chance.random() < 0.12:
            self.extend(disk)
        else:
            self.delete(disk)

    def settle(self) -> None:
        wait_for(self.quiet, "the end of every operation", 90)

    def quiet(self) -> bool:
        """Nothing is under way but what follows the rows. What is parked needs a person, and that is a failure here."""
        with self.database.read() as connection:
            rows = [row for service in ("volumes", "compute") for row in operations.unfinished(connection, service)]
        assert [(row["kind"], row["fault"]) for row in rows if row["state"] == "parked"] == []
        return all(row["kind"] == "record_chain" for row in rows)

    # --- what must hold

    @property
    def share(self) -> Path:
        return self.lab.stack.share

    def seen(self, name: str) -> dict[int, int]:
        return seen(self.share, name, "raw" if name in self.raw_files else "qcow2")

    def chain(self, disk: Disk) -> dict[str, str]:
        """The file of each snapshot, and under "active" the active one."""
        chain = self.admin.ok("volume", "GET", f"/volumes/{disk.id}/stillframe-chain")["chain"]
        assert chain["problem"] is None, chain
        files = {held["id"]: str(each["name"]) for each in chain["files"] for held in each["snapshots"]}
        return {**files, "active": str(chain["active_file"])}

    def compare(self) -> None:
        """Rows against what was asked; every snapshot and volume against the model, byte by byte; the guest writes on."""
        rows = self.admin.ok("volume", "GET", "/snapshots/detail?all_tenants=1")["snapshots"]
        sizes = {each["id"]: each for each in self.admin.ok("volume", "GET", "/volumes/detail?all_tenants=1")["volumes"]}
        for disk in self.disks:
            self.follow(disk, {row["id"]: row for row in rows if row["volume_id"] == disk.id}, sizes[disk.id])
            files = self.chain(disk)
            for snapshot_id, content in disk.held.items():
                assert digests(self.share, files[snapshot_id], self.memory) == content, (disk.id, snapshot_id)
            if disk.content is not None:
                assert digests(self.share, files["active"], self.memory) == disk.content, disk.id
        assert freeze_record.read_all(self.lab.stack.state_dir / "freeze") == []
        assert hypervisor.view(self.lab.guest.domain).running
        self.cancelled.clear()
        self.stopped_meanwhile = False

    def follow(self, disk: Disk, rows: dict[str, Any], volume: dict[str, Any]) -> None:
        """Takes from the rows what may have ended in two ways, and nothing else."""
        assert volume["status"] == "in-use", volume
        assert volume["size"] in (disk.size, disk.wanted_size), volume
        disk.size = disk.wanted_size = volume["size"]
        for snapshot_id in [*disk.held, *disk.spoilt]:
            row = rows.get(snapshot_id)
            if row is None:
                assert snapshot_id in disk.doomed, f"snapshot {snapshot_id} went by itself"
                disk.held.pop(snapshot_id, None)
                disk.spoilt.discard(snapshot_id)
            elif row["status"] == "error_deleting":
                assert snapshot_id in self.cancelled | disk.spoilt, row
                disk.held.pop(snapshot_id, None)
                disk.spoilt.add(snapshot_id)
            else:
                assert row["status"] == "available" and snapshot_id in disk.held, row
                abandoned_operations = snapshot_id in self.cancelled or self.stopped_meanwhile
                assert snapshot_id not in disk.doomed or abandoned_operations, f"not deleted: {row}"
        for row in rows.values():
            assert row["id"] in disk.held or row["id"] in disk.spoilt or row["status"] == "error", row
        disk.doomed.clear()

    def checkpoint(self) -> None:
        """The costly looks: the guest's counter, the share's files, every header."""
        self.clear_failed()
        for disk in self.disks:
            self.delete_all(disk, disk.spoilt)  # nothing else can be done with them
        self.settle()
        self.memory = Memory(self.raw_files)
        self.compare()
        self.lab.guest.still_writes()
        wait_for(self.all_recorded, "what follows the rows")
        self.lab.check_sound()

    def all_recorded(self) -> bool:
        with self.database.read() as connection:
            return not operations.unfinished(connection, "volumes")

    def clear_failed(self) -> None:
        """Snapshots of sets that were interrupted before the switch have no data, only a row."""
        for row in self.admin.ok("volume", "GET", "/snapshots/detail?all_tenants=1&status=error")["snapshots"]:
            self.api.ok("volume", "DELETE", f"/snapshots/{row['id']}")

    def finish(self) -> None:
        """With the guest stopped QEMU's own reader is asked; then everything can be deleted."""
        self.checkpoint()
        self.stop()
        for disk in self.disks[1:]:
            assert disk.pattern is not None
            found = read_when_there(lambda disk=disk: self.seen(self.chain(disk)["active"]))  # type: ignore[misc]
            assert found == disk.pattern.clusters
        self.start()
        for disk in self.disks:
            self.delete_all(disk, [*disk.held, *disk.spoilt])
        self.settle()
        self.compare()
        assert all(not disk.held and not disk.spoilt for disk in self.disks)
        self.checkpoint()

    def told(self) -> str:
        asked, refused = (", ".join(f"{n} {what}" for what, n in sorted(each.items())) for each in (self.asked, self.refused))
        return f"{asked}; refused: {refused or 'none'}"


def _unformatted(disks: int) -> str:
    return ":".join(f"vd{chr(97 + number)}" for number in range(1, disks))


@pytest.mark.timeout(300 + 3 * OPERATIONS)
def test_soak(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    seed = int(os.environ["STILLFRAME_SEED"])
    _say(capfd, [f"\nsoak: STILLFRAME_SEED={seed}, {OPERATIONS} operations"])
    lab = open_lab(tmp_path, OPTIONS)
    try:
        lab.add_guest(DISKS, GuestOptions(raw=_unformatted(DISKS)), raw=RAW)
        soak = Soak(lab, random.Random(seed))
        rounds, began = 0, time.monotonic()
        try:
            while soak.asked.total() < OPERATIONS:
                soak.round()
                rounds += 1
                if rounds % CHECKPOINT == 0:
                    soak.checkpoint()
                    if OPERATIONS > 300:
                        _say(capfd, [f"soak: {soak.asked.total()} operations in {time.monotonic() - began:.0f} s"])
            soak.finish()
        finally:
            _say(capfd, [f"soak: {rounds} rounds in {time.monotonic() - began:.0f} s: {soak.told()}"])
            soak.database.close()
    finally:
        lab.clear()


def _say(capfd: pytest.CaptureFixture[str], lines: Sequence[str]) -> None:
    with capfd.disabled():
        sys.stderr.write("".join(f"{line}\n" for line in lines))
