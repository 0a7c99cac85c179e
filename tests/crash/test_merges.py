"""Merges under a running guest: stopped at every step, QEMU and libvirtd killed where it hurts, guests that stop on the way.

The disks have no filesystem: the guest fills them with known bytes, and every snapshot and volume is compared by every byte.
Each way to merge has a disk of its own.
"""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import libvirt
import pytest

from stillframe.compute.quiesce import record as freeze_record
from stillframe.db import operations
from stillframe.db.engine import Database
from stillframe.host import files, hypervisor
from stillframe.journal.failpoints import PHASES
from tests.support.operator import stillframe
from tests.support.processes import child
from tests.support.qcow2_content import digests
from tests.support.site import KINDS, Disk, Site, journal_is_empty, open_site
from tests.support.stack import read_when_there, wait_for

THROTTLED = 128  # clusters, 8 MiB at 1 MiB/s
STEPS = ("look", "", "verify", "report")  # of a merge; the second is named as its kind
LIVE = ("MergeLive-Commit", "Record", "Trash")
EVERY = bool(os.environ.get("STILLFRAME_EVERY_PLACE"))  # by hand: the steps that only look, too, before and after the record


def phases(step: str) -> tuple[str, ...]:
    return PHASES if EVERY or step in ("", "MergeLive-Commit") else ("effect",)


PLACES = [
    *((kind, f"merge_volume/{step or kind}/{phase}") for kind in KINDS for step in STEPS for phase in phases(step)),
    *(("commit_active", f"delete_snapshot/{step}/{phase}") for step in LIVE for phase in phases(step)),
]
RAW = 3  # the disk that is a raw file; nothing is pulled out of one
for number, (kind, phase) in enumerate([("commit", "effect"), *(("commit_active", phase) for phase in PHASES)]):
    PLACES.insert(2 * number, (f"raw-{kind}", f"merge_volume/{kind}/{phase}"))  # between two on other disks


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with open_site(tmp_path_factory.mktemp("merges"), 4, raw=[RAW]) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _guest_that_runs(site: Site) -> None:
    """Whatever the test before left."""
    if not site.lab.guest.domain.isActive():
        site.arm()
        site.restart_guest()


def disk_of(site: Site, number: int) -> Disk:
    """Place after place on another disk, so that the start after one crash brings the failpoint of the next."""
    return site.disks[RAW if PLACES[number][0].startswith("raw-") else number % 3]


def failpoint_of(site: Site, number: int) -> str:
    return f"{PLACES[number][1]}@{disk_of(site, number).id}" if number < len(PLACES) else ""


@pytest.mark.parametrize("number", range(len(PLACES)), ids=[f"{kind}-{place.replace('/', '-')}" for kind, place in PLACES])
def test_a_worker_dies_at_every_step(site: Site, number: int) -> None:
    snapshot_id = site.arrange(PLACES[number][0].removeprefix("raw-"), disk_of(site, number))
    site.arm(failpoint_of(site, number))
    site.delete(snapshot_id)
    site.recover(failpoint_of(site, number + 1))
    site.gone(snapshot_id)
    site.look()
    site.sound()


def test_what_was_merged_is_on_the_disk_when_qemu_dies(site: Site) -> None:
    """Of all three ways, right after each was reported done (F1)."""
    doomed = site.arrange_all()
    site.arm()
    for snapshot_id in doomed.values():
        site.delete(snapshot_id)
    for snapshot_id in doomed.values():
        site.gone(snapshot_id)
    site.kill_qemu()
    site.check()


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("pull", "pulled"),
        ("pull", "suspending"),
        ("pull", "suspended"),
        ("commit", "committed"),
        ("commit", "suspended"),
        ("commit_active", "suspending"),
        ("commit_active", "suspended"),
        ("commit_active", "acted"),
        ("raw-commit", "committed"),
        ("raw-commit_active", "suspended"),
        ("raw-commit_active", "acted"),
    ],
)
def test_qemu_dies_at_the_critical_moments(site: Site, kind: str, place: str) -> None:
    """Between a pull or a commit and its flush, also when the flush has been decided on; while the guest is held still before
    and after a pivot (F15)."""
    disk = site.disks[RAW if kind.startswith("raw-") else 0]
    snapshot_id = site.arrange(kind.removeprefix("raw-"), disk)
    site.arm(f"merge/{place}:sleep=2")
    before = site.lab.stack.log.read_text().count(f"held at merge/{place}")
    site.delete(snapshot_id)
    wait_for(lambda: site.lab.stack.log.read_text().count(f"held at merge/{place}") > before, "the place")
    assert (freeze_record.read_all(site.lab.stack.state_dir / "freeze") != []) == (place in ("suspended", "acted"))
    site.kill_qemu()
    site.gone(snapshot_id)
    site.check()


def test_a_commit_into_a_base_that_stayed_open_for_writing_is_on_the_disk_when_qemu_dies(site: Site) -> None:
    """QEMU 7.2 leaves the base so when the commit of the active file into it is given up after all was copied. The next commit
    into it ends without writing out its tables."""
    disk, guest = site.disks[0], site.lab.guest
    site.arm()
    site.clear(disk)
    site.write(disk, 0, 40, 65)
    (first,) = site.take(disk)
    assert guest.domain.blockCommit(disk.target, None, None, 0, libvirt.VIR_DOMAIN_BLOCK_COMMIT_ACTIVE) == 0
    wait_for(lambda: "ready='yes'" in guest.domain.XMLDesc(0), "all to be copied, which is nothing")
    guest.domain.blockJobAbort(disk.target, 0)
    wait_for(lambda: not site.job(disk), "the end of the job")
    site.write(disk, 60, 12, 66)
    site.take(disk)
    site.write(disk, 62, 4, 67)
    site.delete(first)
    site.gone(first)
    site.look()
    site.kill_qemu()
    site.check()


def test_a_pull_under_a_paused_guest_is_on_the_disk_when_qemu_dies(site: Site) -> None:
    """libvirt's suspend does nothing for a guest that somebody else paused, and so writes nothing out."""
    snapshot_id = site.arrange("pull", site.disks[0])
    site.arm()
    action = f"/servers/{site.lab.guest.id}/action"
    site.lab.api.ok("compute", "POST", action, {"pause": None})
    site.delete(snapshot_id)
    site.gone(snapshot_id)
    assert not hypervisor.view(site.lab.guest.domain).running
    site.kill_qemu()
    site.check()


@pytest.mark.parametrize(("action", "code"), [("pause", 202), ("unpause", 409), ("os-stop", 202)])
def test_a_power_action_waits_while_the_guest_is_suspended(site: Site, action: str, code: int) -> None:
    """A pause would be taken back at its end, an unpause would end it, and a stop be refused."""
    snapshot_id = site.arrange("commit_active", site.disks[0])
    site.arm("merge/suspended:sleep=6")
    guest, log = site.lab.guest, site.lab.stack.log
    before = log.read_text().count("held at merge/suspended")
    site.delete(snapshot_id)
    wait_for(lambda: log.read_text().count("held at merge/suspended") > before, "the guest to be suspended")
    assert not hypervisor.view(guest.domain).running
    assert site.lab.api.ok("compute", "GET", f"/servers/{guest.id}")["server"]["status"] == "ACTIVE"
    answer = site.lab.api.send("compute", "POST", f"/servers/{guest.id}/action", {action: None})
    assert answer.status_code == code, answer.text
    site.gone(snapshot_id)
    status = {"pause": "PAUSED", "unpause": "ACTIVE", "os-stop": "SHUTOFF"}[action]
    wait_for(lambda: site.lab.api.ok("compute", "GET", f"/servers/{guest.id}")["server"]["status"] == status, status)
    assert freeze_record.read_all(site.lab.stack.state_dir / "freeze") == []
    if action == "pause":
        guest.domain.resume()
    if action == "os-stop":
        site.check()
    site.look()


def test_the_worker_dies_while_the_guest_is_suspended(site: Site) -> None:
    """Nobody but the watchdog lets it run again."""
    snapshot_id = site.arrange("commit_active", site.disks[0])
    site.arm("merge/suspended")
    site.delete(snapshot_id)
    site.lab.stack.wait_killed()
    site.lab.guest.still_writes()
    site.lab.stack.start()
    site.armed = ""
    site.gone(snapshot_id)
    site.look()


@pytest.mark.parametrize("kind", ["pull", "commit_active"])
def test_worker_and_watchdog_die_while_the_guest_is_suspended(site: Site, kind: str) -> None:
    """The next worker must not take it for a guest that somebody paused: it would stay so, or go on in the next pivot."""
    snapshot_id = site.arrange(kind, site.disks[0])
    site.arm("merge/suspended:hold")
    before = site.lab.stack.log.read_text().count("held at merge/suspended")
    site.delete(snapshot_id)
    wait_for(lambda: site.lab.stack.log.read_text().count("held at merge/suspended") > before, "the place")
    os.kill(child(site.lab.stack.pid, "stillframe.compute.quiesce.watchdog"), signal.SIGKILL)
    site.lab.stack.kill()
    assert not hypervisor.view(site.lab.guest.domain).running
    site.lab.stack.start()
    site.armed = ""
    site.gone(snapshot_id)
    assert hypervisor.view(site.lab.guest.domain).running
    site.lab.guest.still_writes()
    site.look()


def test_a_server_that_was_started_again_before_the_flush_is_merged_again_as_the_message_says(site: Site) -> None:
    """What was pulled may not be on the disk. Nothing is guessed: an administrator does what the parked operations say."""
    stack, domain = site.lab.stack, site.lab.guest.domain
    snapshot_id = site.arrange("pull", site.disks[0])
    site.arm("merge/pulled:hold")
    before = stack.log.read_text().count("held at merge/pulled")
    site.delete(snapshot_id)
    wait_for(lambda: stack.log.read_text().count("held at merge/pulled") > before, "the place")
    stack.kill()
    site.kill_qemu()
    site.lab.guest.console.write_text("")
    domain.create()
    stack.start()
    site.armed = ""
    site.wait_up(0)
    told = site.parked(2)
    assert "Stop the server (openstack server stop); then 'stillframe operation retry" in told["merge_volume"]
    site.lab.api.ok("compute", "POST", f"/servers/{site.lab.guest.id}/action", {"os-stop": None})
    wait_for(lambda: not domain.isActive(), "the stop", 90)
    retry(site, told["merge_volume"])
    site.parked(1)
    retry(site, told["delete_snapshot"].rpartition("When it is done")[2])
    wait_for(lambda: journal_is_empty(stack), "the deletion", 60)
    site.gone(snapshot_id)
    site.check()


def retry(site: Site, told: str) -> None:
    """Types the command of the message."""
    found = re.search(r"'stillframe (operation retry) (\S+)'", told)
    assert found is not None, told
    assert stillframe(*found[1].split(), "--state-dir", str(site.lab.stack.state_dir), found[2]).code == 0


def begin(site: Site, kind: str) -> str:
    """A slow job of its kind, under way."""
    disk = site.disks[KINDS.index(kind)]
    snapshot_id = site.arrange(kind, disk, THROTTLED)
    site.arm()
    site.delete(snapshot_id, "?bandwidth_mib=1")
    site.wait_jobs(disk)
    return snapshot_id


def end(site: Site, snapshot_id: str) -> None:
    site.hurried(snapshot_id)
    site.lab.guest.still_writes()
    site.look()
    site.sound()


@pytest.mark.parametrize("kind", KINDS)
def test_libvirtd_dies_in_the_job(site: Site, kind: str) -> None:
    snapshot_id = begin(site, kind)
    site.kill_libvirtd()
    end(site, snapshot_id)


def test_the_services_stop_in_the_job(site: Site) -> None:
    """SIGTERM does not wait for a merge; the next worker takes it up."""
    snapshot_id = begin(site, "commit")
    site.lab.stack.stop()
    site.lab.stack.start()
    assert site.lab.guest.domain.blockJobInfo(site.disks[0].target, 0), "it waited for the end"
    end(site, snapshot_id)


@pytest.mark.parametrize("kind", KINDS)
def test_somebody_else_aborts_the_job(site: Site, kind: str) -> None:
    """A job that is gone is not a job that is done (I8)."""
    snapshot_id = begin(site, kind)
    command = ["virsh", "-c", site.lab.guest.hypervisor.uri, "blockjob", site.lab.guest.id]
    command += [site.disks[KINDS.index(kind)].target, "--abort"]
    subprocess.run(command, check=True, capture_output=True)
    end(site, snapshot_id)


@contextmanager
def broken(site: Site, name: str) -> Iterator[None]:
    """QEMU can neither read nor write that one file."""
    path = site.lab.stack.state_dir / f"libvirt/run/qemu/{site.lab.guest.options.name}.pid"
    calls = "pread64,preadv,preadv2,pwrite64,pwritev,pwritev2"
    command = ["strace", "-f", "-qq", "-p", path.read_text(), "-o", "/dev/null", "-P", str(site.share / name)]
    command += ["-e", f"trace={calls}", "-e", f"inject={calls}:error=EIO"]
    tracer = subprocess.Popen(command)
    try:
        yield
    finally:
        tracer.terminate()
        tracer.wait(20)


def check_clean(site: Site, volume_id: str) -> None:
    """QEMU finds neither damage nor a leaked cluster. Raises FileNotFoundError when a lone file got its own name meanwhile."""
    for file in site.chain(volume_id)["files"]:
        path = site.share / file["name"]
        done = subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", path], capture_output=True, text=True, check=False)
        if done.returncode and not path.exists():
            raise FileNotFoundError(path)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_the_disk_fails_in_the_job(site: Site, kind: str) -> None:
    """An error of reading or writing ends the job and nothing else; it is begun again until it ends well."""
    snapshot_id = begin(site, kind)
    disk = site.disks[KINDS.index(kind)]
    with broken(site, site.lab.snapshot_file(disk.id, snapshot_id)):
        wait_for(lambda: site.merge()["attempts"] > 2, "the job to fail three times")
        wait_for(lambda: site.merge_says("share_unavailable"), "the fault of the job")
        site.lab.guest.still_writes()
        site.look(skipped=snapshot_id)
        wait_for(lambda: "waits" in site.lab.api.snapshot(snapshot_id).get("fault", ""), "the snapshot to say so")
        assert site.lab.api.snapshot(snapshot_id)["status"] == "deleting"
    end(site, snapshot_id)
    hypervisor.power(site.lab.guest.domain, "destroy")
    read_when_there(lambda: check_clean(site, disk.id))
    site.check()


@pytest.mark.parametrize("kind", KINDS)
def test_the_guest_stops_in_the_job(site: Site, kind: str) -> None:
    """It is finished offline; nobody starts the server meanwhile."""
    snapshot_id = begin(site, kind)
    hypervisor.power(site.lab.guest.domain, "destroy")
    refused = site.lab.api.send("compute", "POST", f"/servers/{site.lab.guest.id}/action", {"os-start": None})
    assert refused.status_code == 409, refused.text
    site.gone(snapshot_id, 90)
    site.check()


def cancel(site: Site, snapshot_id: str) -> str:
    """Returns the snapshot's status afterwards."""
    site.lab.api.ok("volume", "POST", f"/snapshots/{snapshot_id}/action", {"os-cancel_deletion": None})
    site.ended(snapshot_id)
    return str(site.lab.api.snapshot(snapshot_id)["status"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_merge_is_cancelled(site: Site, kind: str) -> None:
    """A pull leaves the snapshot as it was; a commit leaves one that can only be deleted, and that then works."""
    snapshot_id = begin(site, kind)
    assert cancel(site, snapshot_id) == ("available" if kind == "pull" else "error_deleting")
    if kind != "pull":
        del site.disks[KINDS.index(kind)].held[snapshot_id]  # part of what came later is in it
    site.look()
    site.delete(snapshot_id)
    end(site, snapshot_id)


@pytest.mark.parametrize("kind", ["commit", "pull"])
def test_a_merge_that_waits_for_a_saved_guest_is_cancelled(site: Site, kind: str) -> None:
    """It ends while the guest is saved, and the guest comes back to the disks it knows."""
    snapshot_id, guest = begin(site, kind), site.lab.guest
    site.lab.stack.kill()
    guest.domain.blockJobAbort(site.disks[KINDS.index(kind)].target)
    guest.domain.managedSave(0)
    site.lab.stack.start()
    site.armed = ""
    wait_for(lambda: site.merge_says("the merge waits"), "the merge to wait", 60)
    assert cancel(site, snapshot_id) == ("available" if kind == "pull" else "error_deleting")
    assert hypervisor.view(guest.domain).saved
    if kind != "pull":
        del site.disks[KINDS.index(kind)].held[snapshot_id]
    site.look()
    wait_for(lambda: journal_is_empty(site.lab.stack), "the journal")
    guest.console.write_text("")
    site.lab.api.ok("compute", "POST", f"/servers/{guest.id}/action", {"os-start": None})
    wait_for(guest.agent_answers, "the agent", 60)
    assert "guest: ready" not in guest.text(), "it was booted, not restored"
    site.delete(snapshot_id)
    end(site, snapshot_id)


@pytest.mark.parametrize("kind", ["commit", "commit_active"])
def test_a_commit_is_cancelled_before_its_job_began(site: Site, kind: str) -> None:
    """Nothing was copied: the snapshot is as it was."""
    snapshot_id = site.arrange(kind, site.disks[0])
    site.arm(f"merge_volume/{kind}/before:sleep=2")
    before = site.lab.stack.log.read_text().count("held at merge_volume")
    site.delete(snapshot_id)
    wait_for(lambda: site.lab.stack.log.read_text().count("held at merge_volume") > before, "the place")
    assert cancel(site, snapshot_id) == "available"
    site.look()
    site.arm()
    site.delete(snapshot_id)
    end(site, snapshot_id)


def test_a_deletion_is_cancelled_between_two_merges(site: Site) -> None:
    """The second stands in line and is withdrawn: nothing of it was done, but what took the first holds no snapshot any more.
    A file shorter than the one above it is committed by itself, so the volume grows on the way."""
    disk, other = site.disks[:2]
    site.arm()
    site.clear(disk)
    site.write(disk, 0, THROTTLED + 40, 65)
    (oldest,) = site.take(disk)
    site.write(disk, 10, THROTTLED, 66)
    (older,) = site.take(disk)
    grown = site.lab.api.volume(disk.id)["size"] + 1
    site.lab.api.ok("volume", "POST", f"/volumes/{disk.id}/action", {"os-extend": {"new_size": grown}})
    wait_for(lambda: site.lab.api.volume(disk.id)["size"] == grown, "the growth")
    site.write(disk, 20, 8, 67)
    (kept,) = site.take(disk)
    site.write(disk, 0, 4, 68)
    between = site.arrange("pull", other, THROTTLED)
    body = {"os-delete_snapshots": {"snapshot_ids": [oldest, older], "bandwidth_mib": 1}}
    site.lab.api.ok("volume", "POST", f"/volumes/{disk.id}/action", body)
    site.wait_jobs(disk)
    site.delete(between, "?bandwidth_mib=1")
    site.wait_jobs(other)
    path, cancel_it = f"/snapshots/{older}/action", {"os-cancel_deletion": None}
    wait_for(lambda: site.lab.api.send("volume", "POST", path, cancel_it).status_code == 202, "the second to stand in line")
    for snapshot_id in (oldest, older):
        site.gone(snapshot_id)
    site.look(skipped=between)
    site.hurried(between)
    wait_for(lambda: len(site.chain(disk.id)["files"]) == 2, "what is nobody's to be merged", 60)
    site.lab.guest.still_writes()
    site.look()
    site.sound()
    assert list(disk.held) == [kept]


def test_merges_of_one_server_wait_for_each_other(site: Site) -> None:
    """Two jobs of one QEMU that end together were seen to crash it (qemu 7.2). One that waits is given up at once."""
    waiting = [site.arrange("pull", site.disks[1]), site.arrange("commit_active", site.disks[2])]
    snapshot_id = begin(site, "commit")
    for each in waiting:
        site.delete(each)
    wait_for(lambda: merges_asked(site) == 3, "the other merges to be asked for")
    assert cancel(site, waiting[0]) == "available"
    assert [disk.target for disk in site.disks if site.job(disk)] == [site.disks[0].target]
    site.hurried(snapshot_id)
    site.gone(waiting[1])  # its turn came
    site.lab.guest.still_writes()
    site.look()
    site.sound()


def merges_asked(site: Site) -> int:
    database = Database(f"sqlite:///{site.lab.stack.state_dir}/stillframe.sqlite")
    with database.read() as connection:
        found = [row for row in operations.unfinished(connection, "compute") if row["kind"] == "merge_volume"]
    database.close()
    return len(found)


def test_nothing_is_merged_into_what_a_linked_volume_reads(site: Site) -> None:
    """Below and above the snapshot a clone stands on everything stays as it is until the clone goes (I2)."""
    disk, admin = site.disks[0], site.lab.stack.api("stillframe-admin")
    site.arm()
    site.clear(disk)
    site.write(disk, 0, 40, 65)
    site.take(disk)
    site.write(disk, 30, 20, 66)
    (first,), (second,) = list(disk.held), site.take(disk)
    site.write(disk, 45, 10, 67)
    made = {"name": "linked", "extra_specs": {"stillframe:linked_clone": "true"}}
    admin.ok("volume", "POST", "/types", {"volume_type": made})
    wanted = {"snapshot_id": second, "volume_type": "linked", "size": site.lab.api.volume(disk.id)["size"]}
    clone = site.lab.api.ok("volume", "POST", "/volumes", {"volume": wanted})["volume"]["id"]
    wait_for(lambda: site.lab.api.volume(clone)["status"] == "available", "the clone")
    content = disk.held[second]
    site.delete(first)
    site.gone(first)
    assert digests(site.share, f"volume-{clone}") == content
    answer = site.lab.api.send("volume", "DELETE", f"/snapshots/{second}")
    assert answer.status_code == 409 and clone in answer.text, answer.text
    site.look()
    site.lab.api.ok("volume", "DELETE", f"/volumes/{clone}")
    wait_for(lambda: site.lab.api.send("volume", "GET", f"/volumes/{clone}").status_code == 404, "the clone's end")
    site.delete(second)
    site.gone(second)
    site.look()
    site.sound()


def test_a_snapshot_taken_by_somebody_else_is_recognised(site: Site) -> None:
    disk = site.disks[0]
    snapshot_id = site.arrange("commit_active", disk)
    site.arm()
    guest = site.lab.guest
    foreign = site.share / "foreign.qcow2"
    command = ["virsh", "-c", guest.hypervisor.uri, "snapshot-create-as", guest.id, "--disk-only", "--atomic", "--no-metadata"]
    command += ["--diskspec", "vda,snapshot=no", "--diskspec", f"vdb,file={foreign}"]
    command += ["--diskspec", "vdc,snapshot=no", "--diskspec", "vdd,snapshot=no"]
    subprocess.run(command, check=True, capture_output=True)
    answer = site.lab.api.send("volume", "DELETE", f"/snapshots/{snapshot_id}")
    assert answer.status_code == 409 and "foreign.qcow2" in answer.text, answer.text
    back = ["virsh", "-c", guest.hypervisor.uri, "blockcommit", guest.id, "vdb", "--active", "--shallow", "--pivot", "--wait"]
    subprocess.run(back, check=True, capture_output=True)
    files.remove(site.share, foreign.name)
    site.delete(snapshot_id)
    site.gone(snapshot_id)
    site.look()
