"""Merges under a running guest: stopped at every step, QEMU and libvirtd killed where it hurts, guests that stop on the way.

The disk has no filesystem: the guest fills it with known bytes, and every snapshot and the volume are compared by every byte.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stillframe.compute import freeze_record
from stillframe.db import operations
from stillframe.db.engine import Database
from stillframe.host import files, hypervisor
from stillframe.journal.failpoints import PHASES
from tests.support.guest.domain import GuestOptions
from tests.support.lab import Lab, open_lab
from tests.support.pattern import Pattern, seen
from tests.support.stack import wait_for

STEPS = {
    "commit": ("look", "commit", "verify", "report"),
    "commit_active": ("look", "commit_active", "verify", "report"),
    "pull": ("look", "pull", "verify", "report"),
}


def journal_is_empty(lab: Lab) -> bool:
    database = Database(f"sqlite:///{lab.stack.state_dir}/stillframe.sqlite")
    with database.read() as connection:
        rows = [row for service in ("volumes", "compute") for row in operations.unfinished(connection, service)]
    database.close()
    assert [row["fault"] for row in rows if row["state"] == "parked"] == []
    return not rows


class Site:
    """A guest whose second disk holds a pattern, with a volume of its own for each arrangement."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.pattern = Pattern("/dev/vdb")
        self.held: dict[str, dict[int, int]] = {}

    @property
    def volume(self) -> str:
        return self.lab.volumes[1]

    @property
    def share(self) -> Path:
        return self.lab.stack.share

    def take(self) -> str:
        """Snapshots the patterned volume; remembers what it holds."""
        found = self.lab.api.take(self.lab.guest.id, quiesce="never", volumes=[self.volume])
        assert found["status"] == "available", found
        snapshot_id = str(found["volumes"][0]["snapshot_id"])
        self.held[snapshot_id] = self.pattern.copy()
        return snapshot_id

    def write(self, start: int, count: int, value: int) -> None:
        self.pattern.write(self.lab.guest, start, count, value)

    def arrange(self, kind: str, size: int = 48) -> str:
        """Makes a chain whose ``kind`` of merge is the one chosen; returns the snapshot to delete."""
        self.clear()
        copied, many = size // 4, size
        plan = {"commit": (many, copied, 4), "commit_active": (many, copied), "pull": (copied, many)}[kind]
        ids = []
        for number, count in enumerate(plan):
            self.write(number * (copied - 3), count, 65 + number)  # each hides a little of the one before
            if number < len(plan) - 1:
                ids.append(self.take())
        return ids[0]

    def clear(self) -> None:
        """Deletes every snapshot of the patterned volume and empties the disk of what the last arrangement left."""
        for snapshot_id in list(self.held):
            self.delete(snapshot_id)
            self.gone(snapshot_id)
        self.lab.guest.execute(
            "blkdiscard /dev/vdb 2>/dev/null || dd if=/dev/zero of=/dev/vdb bs=1M count=64 conv=fsync 2>/dev/null"
        )
        self.pattern.clusters.clear()

    def delete(self, snapshot_id: str, query: str = "") -> None:
        self.lab.api.ok("volume", "DELETE", f"/snapshots/{snapshot_id}{query}")

    def gone(self, snapshot_id: str, seconds: float = 60) -> None:
        def ended() -> bool:
            answer = self.lab.api.send("volume", "GET", f"/snapshots/{snapshot_id}")
            return answer.status_code == 404 or answer.json()["snapshot"]["status"] != "deleting"

        wait_for(ended, "the deletion", seconds)
        answer = self.lab.api.send("volume", "GET", f"/snapshots/{snapshot_id}")
        assert answer.status_code == 404, answer.text
        self.held.pop(snapshot_id)

    def active(self) -> str:
        volume = self.lab.stack.service_api().ok("volume", "GET", f"/volumes/{self.volume}/stillframe-chain")["chain"]
        return next(str(each["name"]) for each in volume["files"] if each["active"])

    def snapshot_file(self, snapshot_id: str) -> str:
        chain = self.lab.api.ok("volume", "GET", f"/volumes/{self.volume}/stillframe-chain")["chain"]
        found = [each["name"] for each in chain["files"] if snapshot_id in str(each.get("snapshots", each))]
        return str(found[0])

    def check(self) -> None:
        """Every byte of every snapshot and, with the guest stopped, of the volume; the guest starts and writes again."""
        for snapshot_id, wanted in self.held.items():
            assert seen(self.share, self.snapshot_file(snapshot_id)) == wanted
        domain = self.lab.guest.domain
        if domain.isActive():
            hypervisor.power(domain, "destroy")
        assert seen(self.share, self.active()) == self.pattern.clusters
        self.sound()
        self.restart_guest()

    def sound(self) -> None:
        """No guest held or frozen, no file without an owner, headers and rows agree, nothing hidden is left over."""
        wait_for(lambda: journal_is_empty(self.lab), "the journal")
        assert freeze_record.read_all(self.lab.stack.state_dir / "freeze") == []
        expected = {".share-id"}
        for volume_id in self.lab.volumes:
            chain = self.lab.api.ok("volume", "GET", f"/volumes/{volume_id}/stillframe-chain")["chain"]
            assert chain["problem"] is None
            assert not [each for each in chain["files"] if each["problem"] or each["hidden"]], chain
            expected |= {str(each["name"]) for each in chain["files"]} | {f"volume-{volume_id}.record"}
            named = [f"volume-{volume_id}"] == [str(each["name"]) for each in chain["files"]]
            expected |= set() if named else {f"volume-{volume_id}.info"}
        assert set(files.listing(self.share)) == expected

    def restart_guest(self) -> None:
        wait_for(lambda: journal_is_empty(self.lab), "the journal")
        self.lab.api.ok("compute", "POST", f"/servers/{self.lab.guest.id}/action", {"os-start": None})
        wait_for(self.lab.guest.agent_answers, "the guest's agent", 90)
        wait_for(lambda: bool(self.lab.guest.beats()), "the guest's writer", 90)

    def look(self) -> None:
        """As ``check`` without stopping the guest: what it reads itself."""
        for snapshot_id, wanted in self.held.items():
            assert seen(self.share, self.snapshot_file(snapshot_id)) == wanted
        for start, value in sorted(self.pattern.clusters.items())[::7]:
            text = self.lab.guest.execute(
                f"dd if=/dev/vdb bs=64k skip={start} count=1 2>/dev/null | tr -d '\\{value:03o}' | wc -c"
            )
            assert text.strip() == "0", (start, value)

    def kill_qemu(self) -> None:
        path = self.lab.stack.state_dir / f"libvirt/run/qemu/{self.lab.guest.options.name}.pid"
        os.kill(int(path.read_text()), signal.SIGKILL)
        wait_for(lambda: not self.lab.guest.domain.isActive(), "libvirt to see it")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    lab = open_lab(tmp_path_factory.mktemp("merges"))
    try:
        lab.add_guest(2, GuestOptions(raw="vdb"))
        yield Site(lab)
    finally:
        lab.clear()


def restart(lab: Lab, failpoint: str = "") -> None:
    if not lab.stack.running:
        lab.stack.start()
    wait_for(lambda: journal_is_empty(lab), "the operations before")
    lab.stack.kill()
    lab.stack.start(failpoint)


def recover(lab: Lab) -> None:
    lab.stack.wait_killed()
    lab.stack.start()
    wait_for(lambda: journal_is_empty(lab), "the recovery", 60)


EVERY = bool(os.environ.get("STILLFRAME_EVERY_PLACE"))  # by hand: the steps that only look, too, before and after the record


def phases(step: str) -> tuple[str, ...]:
    return PHASES if EVERY or step in STEPS or step == "MergeLive-Commit" else ("effect",)


PLACES = [(kind, step, phase) for kind, steps in STEPS.items() for step in steps for phase in phases(step)]


@pytest.mark.parametrize(("kind", "step", "phase"), PLACES, ids=["-".join(place) for place in PLACES])
def test_the_worker_dies_at_every_step(site: Site, kind: str, step: str, phase: str) -> None:
    snapshot_id = site.arrange(kind)
    restart(site.lab, f"merge_volume/{step}/{phase}")
    site.delete(snapshot_id)
    recover(site.lab)
    site.gone(snapshot_id)
    site.lab.guest.still_writes()
    site.look()
    site.sound()


LIVE = [f"{step}/{phase}" for step in ("MergeLive-Commit", "Record", "Trash") for phase in phases(step)]


@pytest.mark.parametrize("place", LIVE)
def test_block_storages_worker_dies_at_every_step(site: Site, place: str) -> None:
    snapshot_id = site.arrange("commit_active")
    restart(site.lab, f"delete_snapshot/{place}")
    site.delete(snapshot_id)
    recover(site.lab)
    site.gone(snapshot_id)
    site.look()
    site.sound()


@pytest.mark.parametrize("kind", list(STEPS))
def test_qemu_dies_right_after_the_merge(site: Site, kind: str) -> None:
    """What was reported done is on disk (finding 1)."""
    snapshot_id = site.arrange(kind)
    restart(site.lab)
    site.delete(snapshot_id)
    site.gone(snapshot_id)
    site.kill_qemu()
    site.check()


@pytest.mark.parametrize(
    ("kind", "place"), [("pull", "pulled"), ("pull", "held"), ("commit_active", "held"), ("commit_active", "acted")]
)
def test_qemu_dies_where_it_hurts(site: Site, kind: str, place: str) -> None:
    """Between a pull and its flush; while the guest is held still before and after a pivot (D4)."""
    snapshot_id = site.arrange(kind)
    restart(site.lab, f"merge/{place}:sleep=3")
    site.delete(snapshot_id)
    if place == "pulled":
        wait_for(lambda: not site.lab.guest.domain.blockJobInfo("vdb", 0), "the job's end")
        time.sleep(1)
    else:
        wait_for(lambda: freeze_record.read_all(site.lab.stack.state_dir / "freeze") != [], "the stillness")
        time.sleep(0.5)
    site.kill_qemu()
    site.gone(snapshot_id)
    site.check()


def test_the_worker_dies_while_the_guest_is_held_still(site: Site) -> None:
    """Nobody but the watchdog lets it run again."""
    snapshot_id = site.arrange("commit_active")
    restart(site.lab, "merge/held")
    site.delete(snapshot_id)
    site.lab.stack.wait_killed()
    site.lab.guest.still_writes()
    site.lab.stack.start()
    site.gone(snapshot_id)
    site.look()


@pytest.mark.parametrize("kind", list(STEPS))
def test_libvirtd_dies_in_the_job(site: Site, kind: str) -> None:
    snapshot_id = site.arrange(kind, 400)
    restart(site.lab)
    site.delete(snapshot_id, "?bandwidth_mib=1")
    time.sleep(2)
    os.kill(int((site.lab.stack.state_dir / "libvirt/run/libvirtd.pid").read_text()), signal.SIGKILL)
    time.sleep(1)
    _unthrottle(site)
    site.gone(snapshot_id, 90)
    site.lab.guest.still_writes()
    site.look()
    site.sound()


def _unthrottle(site: Site) -> None:
    try:
        site.lab.guest.domain.blockJobSetSpeed("vdb", 0, 0)
    except Exception:
        return  # it has ended


@pytest.mark.parametrize("kind", list(STEPS))
def test_somebody_else_aborts_the_job(site: Site, kind: str) -> None:
    """A job that is gone is not a job that is done (I8)."""
    snapshot_id = site.arrange(kind, 400)
    restart(site.lab)
    site.delete(snapshot_id, "?bandwidth_mib=1")
    wait_for(lambda: bool(site.lab.guest.domain.blockJobInfo("vdb", 0)), "the job")
    time.sleep(1)
    uri = site.lab.guest.hypervisor.uri
    subprocess.run(["virsh", "-c", uri, "blockjob", site.lab.guest.id, "vdb", "--abort"], check=True, capture_output=True)
    time.sleep(1)
    _unthrottle(site)
    site.gone(snapshot_id, 120)
    site.look()
    site.sound()


@pytest.mark.parametrize("kind", list(STEPS))
def test_the_guest_stops_in_the_job(site: Site, kind: str) -> None:
    """It is finished offline; nobody starts the server meanwhile."""
    snapshot_id = site.arrange(kind, 400)
    restart(site.lab)
    site.delete(snapshot_id, "?bandwidth_mib=1")
    time.sleep(2)
    hypervisor.power(site.lab.guest.domain, "destroy")
    refused = site.lab.api.send("compute", "POST", f"/servers/{site.lab.guest.id}/action", {"os-start": None})
    assert refused.status_code == 409, refused.text
    site.gone(snapshot_id, 90)
    site.check()


@pytest.mark.parametrize("kind", list(STEPS))
def test_a_merge_is_given_up(site: Site, kind: str) -> None:
    """A pull leaves the snapshot as it was; a commit leaves one that can only be deleted, and that then works."""
    snapshot_id = site.arrange(kind, 400)
    restart(site.lab)
    site.delete(snapshot_id, "?bandwidth_mib=1")
    wait_for(lambda: bool(site.lab.guest.domain.blockJobInfo("vdb", 0)), "the job")
    time.sleep(1)
    site.lab.api.ok("volume", "POST", f"/snapshots/{snapshot_id}/action", {"os-cancel_deletion": None})
    wait_for(lambda: site.lab.api.snapshot(snapshot_id)["status"] != "deleting", "the end")
    found: dict[str, Any] = site.lab.api.snapshot(snapshot_id)
    assert found["status"] == ("available" if kind == "pull" else "error_deleting"), found
    if kind != "pull":
        del site.held[snapshot_id]
        site.look()
        site.held[snapshot_id] = {}
    else:
        site.look()
    site.delete(snapshot_id)
    site.gone(snapshot_id, 90)
    site.look()
    site.sound()


def test_a_snapshot_taken_by_somebody_else_is_recognised(site: Site) -> None:
    snapshot_id = site.arrange("commit_active")
    restart(site.lab)
    guest = site.lab.guest
    foreign = site.share / "foreign.qcow2"
    command = ["virsh", "-c", guest.hypervisor.uri, "snapshot-create-as", guest.id, "--disk-only", "--atomic", "--no-metadata"]
    command += ["--diskspec", "vda,snapshot=no", "--diskspec", f"vdb,file={foreign}"]
    subprocess.run(command, check=True, capture_output=True)
    answer = site.lab.api.send("volume", "DELETE", f"/snapshots/{snapshot_id}")
    assert answer.status_code == 409 and "foreign.qcow2" in answer.text, answer.text
    back = ["virsh", "-c", guest.hypervisor.uri, "blockcommit", guest.id, "vdb", "--active", "--shallow", "--pivot", "--wait"]
    subprocess.run(back, check=True, capture_output=True)
    files.remove(site.share, foreign.name)
    site.delete(snapshot_id)
    site.gone(snapshot_id)
    site.look()
