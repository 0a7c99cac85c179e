"""A guest with disks of known bytes, chains that need each way to merge, and what must hold whatever happened."""

import os
import signal
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stillframe.compute.quiesce import record as freeze_record
from stillframe.db import operations
from stillframe.db.engine import Database
from stillframe.host import files, hypervisor
from tests.support.guest.domain import GuestOptions
from tests.support.lab import Lab, open_lab
from tests.support.pattern import CLUSTER, Pattern, seen
from tests.support.qcow2_content import Memory, digest, digests
from tests.support.stack import Stack, read_when_there, wait_for

KINDS = ("commit", "commit_active", "pull")
LARGE = 36  # clusters that the other side has beyond what is copied
Content = dict[int, bytes]


def journal_is_empty(stack: Stack) -> bool:
    """Nothing is under way. What is parked waits for a person, and that is a failure."""
    database = Database(f"sqlite:///{stack.state_dir}/stillframe.sqlite")
    with database.read() as connection:
        rows = [row for service in ("volumes", "compute") for row in operations.unfinished(connection, service)]
    database.close()
    assert [row["fault"] for row in rows if row["state"] == "parked"] == []
    return not rows


@dataclass
class Disk:
    """One volume with known bytes, and what its snapshots hold, the oldest first."""

    id: str
    target: str
    pattern: Pattern
    held: dict[str, Content] = field(default_factory=dict)

    @property
    def content(self) -> Content:
        return {place: digest(bytes([value]) * CLUSTER) for place, value in self.pattern.clusters.items()}


@contextmanager
def open_site(directory: Path, disks: int, options: str = "", raw: Collection[int] = ()) -> Iterator["Site"]:
    """Services in ``directory`` and a guest that has so many disks of known bytes, those numbered in ``raw`` as raw files; all
    of it is taken away afterwards."""
    lab = open_lab(directory, options)
    try:
        yield Site(lab, disks, raw)
    finally:
        lab.clear()


class Site:
    """The guest's first disk has its own filesystem and counter, the others known bytes."""

    def __init__(self, lab: Lab, disks: int, raw: Collection[int] = ()) -> None:
        targets = [f"vd{chr(98 + number)}" for number in range(disks)]
        plain = GuestOptions(raw=":".join(targets), interval_us=1_000_000)
        lab.add_guest(1 + disks, plain, raw=[number + 1 for number in raw])
        self.lab = lab
        self.disks = [
            Disk(volume_id, target, Pattern(f"/dev/{target}"))
            for volume_id, target in zip(lab.volumes[1:], targets, strict=True)
        ]
        self.raw_files = {f"volume-{self.disks[number].id}" for number in raw}
        self.armed = ""

    @property
    def share(self) -> Path:
        return self.lab.stack.share

    # --- chains

    def write(self, disk: Disk, start: int, count: int, value: int) -> None:
        disk.pattern.write(self.lab.guest, start, count, value)

    def take(self, *disks: Disk) -> list[str]:
        """Snapshots disks; remembers what they hold."""
        found = self.lab.api.take(self.lab.guest.id, quiesce="never", volumes=[disk.id for disk in disks])
        assert found["status"] == "available", found
        taken = {entry["volume_id"]: str(entry["snapshot_id"]) for entry in found["volumes"]}
        for disk in disks:
            disk.held[taken[disk.id]] = disk.content
        return [taken[disk.id] for disk in disks]

    def arrange(self, kind: str, disk: Disk, copied: int = 12) -> str:
        """Makes a chain whose ``kind`` of merge is the one chosen, with ``copied`` clusters to copy; returns the snapshot to
        delete. What the disk holds already is used where it does."""
        if kind == "pull":
            self.clear(disk)
            self.write(disk, 0, copied, 65)
        elif len(disk.held) != 1 or copied > 12:
            self.clear(disk)
            self.write(disk, 0, copied + LARGE, 66)
        if not disk.held:
            self.take(disk)
        # Each hides a little of what is below.
        if kind == "commit":
            self.write(disk, 5, copied, 67)
            self.take(disk)
            self.write(disk, 2, 4, 68)
        elif kind == "commit_active":
            self.write(disk, copied + LARGE - 5, copied, 69)
        else:
            self.write(disk, copied - 3, copied + LARGE, 70)
        return next(iter(disk.held))

    def arrange_all(self, copied: int = 12) -> dict[str, str]:
        """One disk for each kind; returns the snapshots to delete by kind."""
        return {kind: self.arrange(kind, disk, copied) for kind, disk in zip(KINDS, self.disks, strict=False)}

    def clear(self, disk: Disk) -> None:
        """Deletes every snapshot of a disk and empties it."""
        if disk.held:
            body = {"os-delete_snapshots": {"snapshot_ids": list(disk.held)}}
            self.lab.api.ok("volume", "POST", f"/volumes/{disk.id}/action", body)
            for snapshot_id in list(disk.held):
                self.gone(snapshot_id)
        if disk.pattern.clusters:
            self.lab.guest.execute(f"blkdiscard {disk.pattern.device}")
            disk.pattern.clusters.clear()

    def delete(self, snapshot_id: str, query: str = "") -> None:
        self.lab.api.ok("volume", "DELETE", f"/snapshots/{snapshot_id}{query}")

    def gone(self, snapshot_id: str, seconds: float = 60) -> None:
        self.ended(snapshot_id, seconds)
        answer = self.lab.api.send("volume", "GET", f"/snapshots/{snapshot_id}")
        assert answer.status_code == 404, answer.text
        for disk in self.disks:
            disk.held.pop(snapshot_id, None)

    def ended(self, snapshot_id: str, seconds: float = 60) -> None:
        def over() -> bool:
            answer = self.lab.api.send("volume", "GET", f"/snapshots/{snapshot_id}")
            return answer.status_code == 404 or answer.json()["snapshot"]["status"] != "deleting"

        wait_for(over, "the deletion", seconds)

    def chain(self, volume_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.lab.api.ok("volume", "GET", f"/volumes/{volume_id}/stillframe-chain")["chain"]
        return found

    # --- jobs

    def job(self, disk: Disk) -> dict[str, int]:
        found: dict[str, int] = self.lab.guest.domain.blockJobInfo(disk.target, 0)
        return found

    def merge(self) -> Any:
        """The one merge that has not ended, as compute's journal has it."""
        database = Database(f"sqlite:///{self.lab.stack.state_dir}/stillframe.sqlite")
        with database.read() as connection:
            (found,) = (row for row in operations.unfinished(connection, "compute") if row["kind"] == "merge_volume")
        database.close()
        return found

    def merge_says(self, text: str) -> bool:
        """Whether the fault of that merge has the text in it. There is none while the merge is being tried."""
        return text in str(self.merge()["fault"])

    def parked(self, count: int) -> dict[str, str]:
        """Waits until so many operations are parked and nothing else is under way; returns what they say, by kind."""

        def look() -> dict[str, str]:
            database = Database(f"sqlite:///{self.lab.stack.state_dir}/stillframe.sqlite")
            with database.read() as connection:
                rows = [row for service in ("volumes", "compute") for row in operations.unfinished(connection, service)]
            database.close()
            parked = {row["kind"]: str((row["fault"] or {})["message"]) for row in rows if row["state"] == "parked"}
            return parked if len(parked) == len(rows) == count else {}

        wait_for(lambda: bool(look()), f"{count} parked operations", 60)
        return look()

    def wait_jobs(self, *disks: Disk) -> None:
        """Waits until each disk has a job that has copied something and not all."""
        wanted = disks or self.disks[: len(KINDS)]
        wait_for(lambda: all(0 < job.get("cur", 0) < job["end"] for job in map(self.job, wanted)), "the jobs")

    def hurried(self, snapshot_id: str) -> None:
        """Takes the throttle off whatever job there is, until the snapshot is gone."""

        def over() -> bool:
            for disk in self.disks:
                with suppress(Exception):  # it has ended, or libvirt is away
                    self.lab.guest.domain.blockJobSetSpeed(disk.target, 0, 0)
            answer = self.lab.api.send("volume", "GET", f"/snapshots/{snapshot_id}")
            return answer.status_code == 404 or answer.json()["snapshot"]["status"] != "deleting"

        wait_for(over, "the deletion", 90)
        self.gone(snapshot_id)

    # --- the services

    def arm(self, failpoint: str = "") -> None:
        """Lets the services run with a failpoint; restarts them unless they have it already."""
        lab = self.lab
        if lab.stack.running and self.armed == failpoint:
            return
        if not lab.stack.running:
            lab.stack.start()
        wait_for(lambda: journal_is_empty(lab.stack), "the operations before")
        lab.stack.kill()
        lab.stack.start(failpoint)
        self.armed = failpoint

    def recover(self, following: str = "") -> None:
        """The services have died at their failpoint: starts them, with the one that comes next, and lets them finish."""
        self.lab.stack.wait_killed()
        self.lab.stack.start(following)
        self.armed = following
        wait_for(lambda: journal_is_empty(self.lab.stack), "the recovery", 60)

    # --- what must hold

    def look(self, skipped: str = "") -> None:
        """Every byte of every snapshot (but ``skipped``) and volume, the guest running or not."""
        memory = Memory(self.raw_files)  # each file is read once
        for disk in self.disks:
            for snapshot_id, wanted in disk.held.items():
                if snapshot_id != skipped:
                    found = digests(self.share, self.lab.snapshot_file(disk.id, snapshot_id), memory)
                    assert found == wanted, (disk.id, snapshot_id)
            assert self._active(disk, lambda share, name: digests(share, name, memory)) == disk.content, disk.id

    def read(self, share: Path, name: str) -> dict[int, int]:
        """What QEMU's own reader finds in a file through its chain."""
        return seen(share, name, "raw" if name in self.raw_files else "qcow2")

    def _active(self, disk: Disk, read: Callable[[Path, str], Any]) -> Any:
        return read_when_there(lambda: read(self.share, self.chain(disk.id)["active_file"]))

    def check(self) -> None:
        """As ``look``, by QEMU's own reader, with the guest stopped; it starts and writes again."""
        domain = self.lab.guest.domain
        if domain.isActive():
            hypervisor.power(domain, "destroy")
        self.look()
        for disk in self.disks:
            assert self._active(disk, self.read) == disk.pattern.clusters, disk.id
        self.sound()
        self.restart_guest()

    def sound(self) -> None:
        """No guest is suspended or frozen, no file is without an owner, headers and rows agree, nothing hidden is left over."""
        wait_for(lambda: journal_is_empty(self.lab.stack), "the journal")
        # The watchdog forgets a guest that died while suspended at its next look.
        wait_for(
            lambda: freeze_record.read_all(self.lab.stack.state_dir / "freeze") == [], "the watchdog to have no guest left"
        )
        expected = {".share-id"}
        for volume_id in self.lab.volumes:
            chain = self.chain(volume_id)
            assert chain["problem"] is None
            assert not [each for each in chain["files"] if each["problem"] or each["hidden"]], chain
            expected |= {str(each["name"]) for each in chain["files"]} | {f"volume-{volume_id}.record"}
            alone = [f"volume-{volume_id}"] == [str(each["name"]) for each in chain["files"]]
            expected |= set() if alone else {f"volume-{volume_id}.info"}
        assert set(files.listing(self.share)) == expected

    # --- the guest

    def restart_guest(self) -> None:
        wait_for(lambda: journal_is_empty(self.lab.stack), "the journal")
        self.lab.guest.console.write_text("")
        self.lab.guest.start()
        self.wait_up(0)

    def wait_up(self, ready: int) -> None:
        """``ready`` is how often the guest had come up before."""
        wait_for(lambda: self.lab.guest.text().count("guest: ready") > ready, "the guest", 90)
        wait_for(self.lab.guest.agent_answers, "the guest's agent", 90)

    def kill_qemu(self) -> None:
        path = self.lab.stack.state_dir / f"libvirt/run/qemu/{self.lab.guest.options.name}.pid"
        os.kill(int(path.read_text()), signal.SIGKILL)
        wait_for(lambda: not self.lab.guest.domain.isActive(), "libvirt to see it")

    def kill_libvirtd(self) -> None:
        os.kill(int((self.lab.stack.state_dir / "libvirt/run/libvirtd.pid").read_text()), signal.SIGKILL)
