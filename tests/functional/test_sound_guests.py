"""Files with lazy reference counts under a guest whose QEMU dies: what a switch leaves, what the next start and the next merge
repair, and what a server that somebody else started must wait for. Every byte is compared."""

import json
from collections.abc import Iterator

import pytest
from sqlalchemy import select

from stillframe.db.engine import Database
from stillframe.db.tables import operations
from stillframe.host import examination, hypervisor, soundness
from tests.support import qemu_io
from tests.support.pattern import CLUSTER
from tests.support.site import Disk, Site, journal_is_empty, open_site
from tests.support.stack import wait_for


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with open_site(tmp_path_factory.mktemp("sound"), 2) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _guest_that_runs(site: Site) -> None:
    """Whatever the test before left."""
    if not site.lab.stack.running:
        site.lab.stack.start()
    if not site.lab.guest.domain.isActive():
        site.restart_guest()


def active(site: Site, disk: Disk) -> str:
    return str(site.chain(disk.id)["active_file"])


def stop(site: Site) -> None:
    wait_for(lambda: journal_is_empty(site.lab.stack), "the journal")
    if site.lab.guest.domain.isActive():
        hypervisor.power(site.lab.guest.domain, "destroy")


def start(site: Site) -> None:
    """As a user does it."""
    wait_for(lambda: journal_is_empty(site.lab.stack), "the journal")
    site.lab.guest.console.write_text("")
    site.lab.api.ok("compute", "POST", f"/servers/{site.lab.guest.id}/action", {"os-start": None})
    site.wait_up(0)


def lazy(site: Site, *disks: Disk) -> None:
    """From now on QEMU counts lazily in the disks' active files."""
    stop(site)
    for disk in disks:
        qemu_io.mark(site.share / active(site, disk), compatible=1)
    site.restart_guest()


def died(site: Site, disk: Disk, name: str, first: int) -> None:
    """A writer wrote eight clusters to a file that lies in the chain of a stopped server, and died."""
    qemu_io.mark(site.share / name, compatible=1)
    qemu_io.dead_writer(site.share, name, f"write -P 81 {first * CLUSTER} {8 * CLUSTER}", "flush")
    assert soundness.look(site.share, name, "qcow2").dirty
    disk.pattern.clusters.update(dict.fromkeys(range(first, first + 8), 81))


def repaired(site: Site, disk: Disk) -> str:
    """What the journal says was repaired of a volume."""
    database = Database(f"sqlite:///{site.lab.stack.state_dir}/stillframe.sqlite")
    with database.read() as connection:
        rows = connection.execute(select(operations)).mappings().all()
    database.close()
    mine = [row["evidence"] for row in rows if disk.id in json.dumps([row["intent"], row["plan"]])]
    return " ".join(str(did) for found in mine for step in found.values() for did in step.get("repaired", ()))


def times_told(site: Site, name: str) -> int:
    """How often the log says that a file was repaired."""
    return site.lab.stack.log.read_text().count(f"repaired the reference counts of {name},")


def is_sound(site: Site, name: str) -> bool:
    """A guest may have it open for reading."""
    told = examination.examine(site.share, name, "qcow2")
    return not soundness.look(site.share, name, "qcow2").dirty and told == examination.Examination()


def test_a_switch_leaves_a_sound_base(site: Site) -> None:
    """QEMU writes the counts out and clears the bit when it goes on with the overlay; a kill right after changes nothing."""
    disk = site.disks[0]
    lazy(site, disk)
    site.write(disk, 0, 40, 65)
    base = active(site, disk)
    assert soundness.look(site.share, base, "qcow2").dirty
    (first,) = site.take(disk)
    assert is_sound(site, base)
    site.write(disk, 2, 4, 66)
    site.kill_qemu()
    assert is_sound(site, base) and site.lab.snapshot_file(disk.id, first) == base
    site.look()
    start(site)
    site.clear(disk)


def test_a_stopped_server_whose_qemu_died(site: Site) -> None:
    """A set, a deletion, an extension and a start, each over a file whose writer died: repaired before, and recorded."""
    disk = site.disks[0]
    lazy(site, disk)
    site.write(disk, 0, 40, 65)
    site.kill_qemu()
    base = active(site, disk)
    assert soundness.look(site.share, base, "qcow2").dirty
    (first,) = site.take(disk)
    assert is_sound(site, base) and f"repaired the reference counts of {base}" in repaired(site, disk)
    above = active(site, disk)
    died(site, disk, above, 44)
    told = times_told(site, above)
    site.lab.api.ok("volume", "POST", f"/volumes/{disk.id}/action", {"os-extend": {"new_size": 2}})
    wait_for(lambda: site.lab.api.volume(disk.id)["size"] == 2, "the extension")
    wait_for(lambda: journal_is_empty(site.lab.stack), "the journal")
    assert is_sound(site, above) and times_told(site, above) == told + 1
    site.look()
    died(site, disk, above, 56)
    site.delete(first)
    site.gone(first)
    wait_for(lambda: journal_is_empty(site.lab.stack), "the journal")
    assert f"repaired the reference counts of {above}" in repaired(site, disk)
    site.look()
    assert is_sound(site, active(site, disk))
    last = active(site, disk)
    died(site, disk, last, 70)
    told = times_told(site, last)
    start(site)
    assert times_told(site, last) == told + 1
    site.write(disk, 80, 4, 67)
    stop(site)
    site.look()
    assert is_sound(site, active(site, disk))
    start(site)


def test_a_server_that_somebody_else_started_over_a_dirty_base(site: Site) -> None:
    """What QEMU only reads it does not repair. While it runs nothing is merged into that, nor out of it, and no such disk is
    detached: QEMU crashes when it closes such a file. Once the server has stopped all of that is done."""
    down, up = site.disks
    committed, pulled = site.arrange("commit_active", down), site.arrange("pull", up)
    stop(site)
    for disk, snapshot_id in ((down, committed), (up, pulled)):
        base = site.lab.snapshot_file(disk.id, snapshot_id)
        died(site, disk, base, 200)
        disk.held[snapshot_id].update({place: disk.content[place] for place in range(200, 208)})
    site.restart_guest()
    run, api = site.lab.guest.domain.ID(), site.lab.api
    bases = [site.lab.snapshot_file(disk.id, each) for disk, each in ((down, committed), (up, pulled))]
    before = [(site.share / base).read_bytes() for base in bases]
    for snapshot_id in (committed, pulled):
        told = api.ok("volume", "GET", f"/snapshots/{snapshot_id}?explain=1")["snapshot"]["deletion"]
        assert not told["possible"] and "dirty bit" in told["why"]
        answer = api.send("volume", "DELETE", f"/snapshots/{snapshot_id}")
        assert answer.status_code == 409 and "dirty bit" in answer.text, answer.text
        assert api.snapshot(snapshot_id)["status"] == "available"
    answer = api.send("compute", "DELETE", f"/servers/{site.lab.guest.id}/os-volume_attachments/{up.id}")
    assert answer.status_code == 409 and "dirty bit" in answer.text, answer.text
    assert [(site.share / base).read_bytes() for base in bases] == before
    assert site.lab.guest.domain.ID() == run and hypervisor.view(site.lab.guest.domain).running
    stop(site)
    site.look()
    start(site)
    assert all(is_sound(site, base) for base in bases)
    run = site.lab.guest.domain.ID()
    for snapshot_id in (committed, pulled):
        site.delete(snapshot_id)
        site.gone(snapshot_id)
    assert site.lab.guest.domain.ID() == run
    stop(site)
    site.look()
    assert is_sound(site, active(site, down)) and is_sound(site, active(site, up))
    start(site)


def half_committed(site: Site, disk: Disk, middle: bool) -> tuple[str, str]:
    """Begins to commit a snapshot's overlay, the active file or one in the ``middle`` of the chain, into a base that counts
    lazily, and stays until the commit allocates there. Returns the snapshot that goes, and the base."""
    site.clear(disk)
    wait_for(lambda: journal_is_empty(site.lab.stack), "the journal")
    lazy(site, disk)
    site.write(disk, 0, 196, 66)
    (doomed,) = site.take(disk)
    site.write(disk, 191, 160, 67)  # hides a little of what is below, and the rest is new to the base
    if middle:
        site.take(disk)
        site.write(disk, 2, 4, 68)
    base = site.lab.snapshot_file(disk.id, doomed)
    site.delete(doomed, "?bandwidth_mib=1")
    site.wait_jobs(disk)
    wait_for(lambda: soundness.look(site.share, base, "qcow2").dirty, "the first cluster that is allocated")
    return doomed, base


def test_qemu_dies_in_a_commit_into_the_middle_of_a_chain(site: Site) -> None:
    """Nobody starts the server: the base is repaired, which is recorded, and the commit is made again from its beginning."""
    disk = site.disks[0]
    doomed, base = half_committed(site, disk, middle=True)
    site.kill_qemu()
    assert soundness.look(site.share, base, "qcow2").dirty or times_told(site, base)
    site.gone(doomed, 90)
    wait_for(lambda: journal_is_empty(site.lab.stack), "the journal")
    assert f"repaired the reference counts of {base}" in repaired(site, disk)
    (kept,) = disk.held
    assert site.lab.snapshot_file(disk.id, kept) == base and is_sound(site, base)
    site.look()
    start(site)
    site.write(disk, 300, 8, 69)
    site.delete(kept)
    site.gone(kept)
    stop(site)
    site.look()
    assert is_sound(site, active(site, disk))


@pytest.mark.parametrize("middle", [False, True])
def test_qemu_dies_in_a_commit_and_somebody_starts_the_server(site: Site, middle: bool) -> None:
    """The base is left dirty, and read by the QEMU that runs now: the merge waits for its end, then repairs and goes on."""
    disk = site.disks[0]
    doomed, base = half_committed(site, disk, middle)
    site.lab.stack.kill()
    site.kill_qemu()
    site.lab.guest.console.write_text("")
    site.lab.guest.start()
    site.wait_up(0)
    before = (site.share / base).read_bytes()
    site.lab.stack.start()
    log = site.lab.stack.log
    wait_for(
        lambda: "the merge waits for server" in log.read_text() + json.dumps(site.merge()["fault"]), "the merge to wait", 60
    )
    assert site.job(disk) == {} and (site.share / base).read_bytes() == before
    site.look(doomed)  # what that one held is being overwritten
    hypervisor.power(site.lab.guest.domain, "destroy")
    site.gone(doomed, 90)
    wait_for(lambda: journal_is_empty(site.lab.stack), "the journal")
    assert f"repaired the reference counts of {base}" in repaired(site, disk)
    site.look()
    assert is_sound(site, active(site, disk))


def test_a_saved_guest_is_restored_onto_files_that_are_sound(site: Site) -> None:
    """QEMU repairs its active file itself, never a base, and would crash at the next save because of that. The repair changes
    no byte, so the saved memory stays right; onto what no repair helps it is not restored, and it is kept."""
    disk, guest = site.disks[0], site.lab.guest
    site.clear(disk)
    doomed = site.arrange("commit_active", disk)
    wait_for(lambda: journal_is_empty(site.lab.stack), "the journal")
    wait_for(lambda: bool(guest.beats()), "the guest's writer", 60)
    base, top, round_ = site.lab.snapshot_file(disk.id, doomed), active(site, disk), guest.beats()[-1].round
    guest.domain.managedSave(0)
    for name in (base, top):  # as a writer leaves it that counts lazily and dies
        cluster = qemu_io.cluster_of(site.share / name, 45)
        qemu_io.count(site.share / name, cluster, 0)
        qemu_io.mark(site.share / name, incompatible=1)
    before = (site.share / base).read_bytes()
    qemu_io.cross(site.share / base, 20, 3)
    damaged = (site.share / base).read_bytes()
    answer = site.lab.api.send("compute", "POST", f"/servers/{guest.id}/action", {"os-start": None})
    assert answer.status_code == 409 and f"{base} was not closed by its last writer" in answer.text, answer.text
    assert hypervisor.view(guest.domain).saved and (site.share / base).read_bytes() == damaged
    (site.share / base).write_bytes(before)
    restored(site, round_)
    assert is_sound(site, base) and times_told(site, base) and times_told(site, top)
    site.look()
    guest.domain.managedSave(0)
    restored(site, round_)
    site.write(disk, 196, 8, 71)
    site.delete(doomed)  # into the base, which is sound, so it need not wait for a stop
    site.gone(doomed)
    stop(site)
    site.look()
    assert is_sound(site, active(site, disk))


def restored(site: Site, round_: int) -> None:
    """Starts the saved guest as a user does; it goes on from where it was, after a round of its writer."""
    guest = site.lab.guest
    guest.console.write_text("")
    site.lab.api.ok("compute", "POST", f"/servers/{guest.id}/action", {"os-start": None})
    wait_for(guest.agent_answers, "the agent", 60)
    wait_for(lambda: bool(guest.beats()), "the guest's writer", 60)
    assert "guest: ready" not in guest.text() and guest.beats()[-1].round > round_, "it was booted, not restored"
