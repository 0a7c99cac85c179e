"""Sets with an iSCSI volume, whatever dies meanwhile; and what is left when nobody ends one. Data is compared by content."""

import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import delete, update

from stillframe.db.engine import Database
from stillframe.db.tables import assisted_snapshots, operations
from stillframe.db.tables import operation_resources as held
from stillframe.host import block_jobs, hypervisor, private_libvirt, scratch
from stillframe.host.scratch import Overlay
from stillframe.units import GIB
from tests.support.guest.domain import Guest, GuestOptions
from tests.support.iscsi_lab import IscsiLab, open_iscsi_lab
from tests.support.operator import Operator, Said
from tests.support.pattern import Pattern
from tests.support.stack import wait_for

pytestmark = pytest.mark.timeout(300)
SECONDS = 8  # how long block storage may take
OPTIONS = f"[compute]\nnative_timeout_seconds = {SECONDS}\n"


class Site:
    """The guest has a QCOW2 file, vda, and an iSCSI volume, vdb, without a filesystem."""

    def __init__(self, iscsi: IscsiLab) -> None:
        self.iscsi, self.lab = iscsi, iscsi.lab
        self.guest: Guest = self.lab.add_guest(1, GuestOptions(raw="vdb"), boot=False)
        self.volume = iscsi.create_volume()
        self.lab.api.attach(self.guest.id, self.volume)
        self.disk = Pattern("/dev/vdb")
        self.guest.boot()
        self.written = 0

    def write(self) -> None:
        """A cluster that nothing was written to before."""
        self.written += 1
        self.disk.write(self.guest, self.written, 1, 1 + self.written % 255)

    @property
    def content(self) -> dict[int, int]:
        return self.iscsi.content(self.volume)

    def hold(self, place: str, **wanted: Any) -> str:
        """Asks for a set and waits until it stands at a place; returns its id."""
        stack, name = self.lab.stack, f"held at {place}:hold"
        stack.kill()
        said = len(stack.log.read_text())
        stack.start(f"{place}:hold")
        path, body = f"/servers/{self.guest.id}/os-assisted-snapshots", {"assisted_snapshot": wanted}
        set_id = str(self.lab.api.ok("compute", "POST", path, body)["assisted_snapshot"]["id"])
        wait_for(lambda: name in stack.log.read_text()[said:], f"the place {place}", 60)
        return set_id

    def go_on(self) -> None:
        self.lab.stack.kill()
        self.lab.stack.start()

    def ended(self, set_id: str) -> dict[str, Any]:
        """What came of a set; nothing is left of its way there."""
        found = self.lab.api.wait_set(set_id, 120)
        assert self.iscsi.scratch_left() == []
        wait_for(lambda: self.content == self.disk.clusters, "what the guest wrote")
        assert "scratch" not in self.guest.domain.XMLDesc(0) + self.guest.domain.XMLDesc(2)
        return found

    def native(self, found: dict[str, Any]) -> dict[str, Any]:
        (entry,) = (each for each in found["volumes"] if each["volume_id"] == self.volume)
        return dict(entry)

    def kill_qemu(self) -> None:
        pid_file = self.lab.stack.state_dir / f"libvirt/run/qemu/{self.guest.options.name}.pid"
        os.kill(int(pid_file.read_text()), signal.SIGKILL)
        wait_for(lambda: not self.guest.domain.isActive(), "libvirt to see it")

    def kill_libvirtd(self) -> None:
        os.kill(int((self.lab.stack.state_dir / "libvirt/run/libvirtd.pid").read_text()), signal.SIGKILL)

    def start(self) -> None:
        self.guest.console.write_text("")
        self.lab.api.ok("compute", "POST", f"/servers/{self.guest.id}/action", {"os-start": None})
        self.guest.wait_ready()

    def doctor(self, *words: str) -> Any:
        return Operator(self.lab).document("--config-file", str(self.lab.directory / "stillframe.conf"), "--quick", *words)

    def virsh(self, *words: str) -> Said:
        command = ["virsh", "-c", private_libvirt.uri(self.lab.stack.state_dir / "libvirt"), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        return Said(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with open_iscsi_lab(tmp_path_factory.mktemp("native"), OPTIONS) as iscsi:
        yield Site(iscsi)


@pytest.fixture(autouse=True)
def _all_is_sound(site: Site) -> Iterator[None]:
    site.write()
    yield
    if not site.guest.domain.isActive():
        site.start()
    site.guest.still_writes()
    site.write()
    assert site.content == site.disk.clusters
    site.lab.check_sound()


@pytest.mark.parametrize("place", ["scratch/effect", "native/before", "commit_back/before"])
def test_libvirtd_dies(site: Site, place: str) -> None:
    before = site.disk.copy()
    set_id = site.hold(f"assisted_snapshot/{place}")
    site.write()
    site.kill_libvirtd()
    site.go_on()
    found = site.ended(set_id)
    assert (found["status"], found["fault"]) == ("available", None), found
    snapshot_id = site.native(found)["snapshot_id"]
    # What was written before the switch is of its instant.
    assert site.iscsi.content(site.volume, snapshot_id) == (site.disk.clusters if place == "scratch/effect" else before)


@pytest.mark.parametrize("place", ["native/before", "commit_back/before"])
def test_the_target_daemon_dies(site: Site, place: str) -> None:
    """The guest continues on its overlay, which is written back when the daemon is there again."""
    before = site.disk.copy()
    set_id = site.hold(f"assisted_snapshot/{place}")
    site.iscsi.daemon.kill()
    site.write()
    site.go_on()
    assert site.lab.api.set(set_id)["status"] == "creating"
    assert len(site.iscsi.scratch_left()) == 1
    site.iscsi.daemon.start()
    found = site.ended(set_id)
    assert (found["status"], found["fault"]) == ("available", None), found
    assert site.iscsi.content(site.volume, site.native(found)["snapshot_id"]) == before


def test_the_guest_dies_before_the_snapshot(site: Site) -> None:
    before = site.disk.copy()
    set_id = site.hold("assisted_snapshot/native/before")
    site.write()
    site.kill_qemu()
    site.go_on()
    found = site.ended(set_id)
    assert (found["status"], found["fault"]) == ("available", None), found
    assert site.iscsi.content(site.volume, site.native(found)["snapshot_id"]) == before


def test_the_guest_is_stopped_while_its_overlay_is_written_back(site: Site) -> None:
    """The block job is under way and the daemon does not answer it; then the server is stopped. The rest is written offline,
    before anybody may start it."""
    set_id = site.hold("assisted_snapshot/commit_back/before")
    site.write()
    os.kill(site.iscsi.daemon.pid, signal.SIGSTOP)
    try:
        site.go_on()
        wait_for(lambda: block_jobs.find(site.guest.domain, "vdb") is not None, "the block job", 60)
        hypervisor.power(site.guest.domain, "destroy")
        refused = site.lab.api.send("compute", "POST", f"/servers/{site.guest.id}/action", {"os-start": None})
        assert refused.status_code == 409 and set_id in refused.text, refused.text
    finally:
        os.kill(site.iscsi.daemon.pid, signal.SIGCONT)
    found = site.ended(set_id)
    assert (found["status"], found["fault"]) == ("available", None), found


def test_block_storage_cannot_take_the_snapshot(site: Site) -> None:
    """Its file system is full, for as long as a set waits: the others' snapshots hold, and the guest is on its volume again."""
    set_id = site.hold("assisted_snapshot/native/before")
    filler, place = site.iscsi.share.parent / "filler", os.statvfs(site.iscsi.share)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, (place.f_bavail - 2048) * place.f_frsize)
    try:
        site.go_on()
        found = site.lab.api.wait_set(set_id, 120)
    finally:
        os.truncate(filler, 0)  # what is only unlinked XFS frees later
        filler.unlink()
    assert site.ended(set_id)["status"] == "error"
    assert {each["method"]: each["status"] for each in found["volumes"]} == {"assisted": "available", "native": "error"}
    assert f"within {SECONDS} s" in site.native(found)["error"]


def refusals(site: Site, set_id: str, other: str) -> None:
    """Everything that would change the volume under the overlay is refused, and says because of which set."""
    api, admin, volume = site.lab.api, site.lab.stack.api("stillframe-admin"), site.volume
    action = f"/volumes/{volume}/action"
    for who, service, method, path, body in (
        (api, "compute", "DELETE", f"/servers/{site.guest.id}/os-volume_attachments/{volume}", None),
        (api, "volume", "DELETE", f"/volumes/{volume}", None),
        (api, "volume", "POST", action, {"os-extend": {"new_size": 2}}),
        (api, "volume", "POST", action, {"revert": {"snapshot_id": other}}),
        (admin, "volume", "POST", action, {"os-force_detach": {}}),
        (api, "compute", "POST", f"/servers/{site.guest.id}/os-assisted-snapshots", {"assisted_snapshot": {}}),
    ):
        answer = who.send(service, method, path, body)
        assert (answer.status_code, set_id in answer.text) == (409, True), (path, body, answer.text)
    assert api.volume(volume)["status"] == "in-use"


def test_a_volume_with_a_scratch_overlay_is_left_alone(site: Site) -> None:
    """While its server runs, and when it was stopped before the overlay was written back."""
    older = site.lab.api.take(site.guest.id)
    site.write()
    set_id = site.hold("assisted_snapshot/commit_back/before")
    site.write()
    refusals(site, set_id, site.native(older)["snapshot_id"])
    hypervisor.power(site.guest.domain, "destroy")
    refusals(site, set_id, site.native(older)["snapshot_id"])
    site.go_on()
    assert site.ended(set_id)["status"] == "available"


def forget(site: Site, set_id: str) -> None:
    """As when a person has abandoned the set's operation."""
    database = Database(f"sqlite:///{site.lab.stack.state_dir}/stillframe.sqlite")
    try:
        with database.write() as connection:
            connection.execute(update(operations).where(operations.c.id == set_id).values(state="undone"))
            connection.execute(delete(held).where(held.c.operation_id == set_id))
            connection.execute(update(assisted_snapshots).where(assisted_snapshots.c.id == set_id).values(status="error"))
    finally:
        database.close()


def kinds(found: Any) -> list[str]:
    return sorted(each["kind"] for each in found["findings"])


def test_the_doctor_knows_an_overlay_that_no_set_has(site: Site) -> None:
    """What it advises brings the disk back, with all that the guest wrote; an overlay that holds nothing it removes."""
    set_id = site.hold("assisted_snapshot/commit_back/before", volumes=[site.volume])
    site.write()
    on_volume = {place: value for place, value in site.disk.clusters.items() if place != site.written}
    site.lab.stack.kill()
    forget(site, set_id)
    site.lab.stack.start()
    wait_for(lambda: kinds(site.doctor()) == ["scratch_in_use", "snapshot_of_no_set"], "both findings, and no other")
    told = {each["kind"]: each for each in site.doctor()["findings"]}
    finding, snapshot_id = told["scratch_in_use"], told["snapshot_of_no_set"]["snapshot_id"]
    overlay = site.lab.stack.state_dir / "scratch" / finding["file"]
    assert (finding["server_id"], finding["volume_id"]) == (site.guest.id, site.volume)
    assert site.content == on_volume
    assert "scratch_in_use" in kinds(site.doctor("--fix", "--yes")) and overlay.exists()
    done = site.virsh("blockcommit", site.guest.id, "vdb", "--active", "--pivot", "--wait")
    assert done.code == 0, done
    assert site.content == site.disk.clusters
    left = site.doctor("--fix", "--yes")
    assert "scratch_left" in kinds(left) and overlay.exists()
    assert ["may be nowhere else" in each["why"] for each in left["not_repaired"] if finding["file"] in each["finding"]] == [
        True
    ]
    overlay.unlink()
    empty = Overlay(overlay.parent, overlay.name, GIB)
    scratch.make(empty, GIB)
    left = site.doctor("--fix", "--yes")
    assert [each["trouble"] for each in left["repaired"] if each["file"] == empty.name] == [None]
    assert site.iscsi.scratch_left() == []
    assert [each["kind"] for each in left["left"]] == ["snapshot_of_no_set"]
    site.lab.api.ok("compute", "DELETE", f"/servers/{site.guest.id}/os-assisted-snapshots/{set_id}")
    site.lab.api.ok("volume", "DELETE", f"/snapshots/{snapshot_id}")
    wait_for(lambda: kinds(site.doctor()) == [], "nothing left to find")
