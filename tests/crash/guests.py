"""Operations that need a guest, each stopped at a place of its own: as many at once as there are guests.

One process takes over what the one before left, gets the next operations, and is killed when each has reached its place. So
every place costs a part of one start.
"""

import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stillframe.chain.image import Image
from stillframe.compute.libvirt import domain_xml
from stillframe.compute.quiesce import record as freeze_record
from stillframe.host import hypervisor, publish, qcow2
from stillframe.volumes.worker.context import WorkerContext
from tests.crash import samples
from tests.crash.places import Place, forward
from tests.support import sound
from tests.support.guest.domain import Guest, GuestOptions
from tests.support.iscsi_lab import IscsiLab
from tests.support.lab import Lab
from tests.support.pattern import Pattern
from tests.support.qcow2_content import Memory, digests
from tests.support.stack import wait_for

GUESTS, DISKS, UNFORMATTED = 4, 2, "vdc:vdd:vde:vdf"
APART = 20  # GiB
RAW = 1  # the disk of each guest that is a raw file
BEFORE, MEANWHILE = range(2)  # clusters of the iSCSI volume
_SET = [str(place) for place in forward(samples.online()["assisted_snapshot"])]
BEFORE_THE_SWITCH = _SET[: _SET.index("assisted_snapshot/switch/before") + 1]
_HELD = re.compile(r"held at ([^\s:]+):hold")


@dataclass
class Seat:
    """A guest, its volumes, and a snapshot of them that must stay unchanged. ``volumes`` are files with a filesystem;
    ``native`` is an iSCSI volume, ``pattern`` what each of its clusters must hold, and ``size``, in GiB, what it will have
    grown to."""

    guest: Guest
    volumes: list[str]
    native: str
    size: int
    pattern: Pattern = field(default_factory=lambda: Pattern("/dev/vdc"))
    kept: dict[str, Any] = field(default_factory=dict)
    held: list[dict[int, bytes]] = field(default_factory=list)
    beat: int = 0

    def write(self, cluster: int) -> None:
        """Another byte than there was."""
        self.pattern.write(self.guest, cluster, 1, self.pattern.clusters.get(cluster, 0) % 255 + 1)


@dataclass
class GuestRun:
    """One operation to be stopped. ``about`` is what the failpoint knows it by, ``made`` the answer to the request, ``before``
    what the seat's iSCSI volume held then; in the end ``error`` says what was wrong."""

    scenario: str
    place: Place
    about: str = field(default_factory=lambda: str(uuid.uuid4()))
    made: dict[str, Any] = field(default_factory=dict)
    before: dict[int, int] = field(default_factory=dict)
    seats: list[Seat] = field(default_factory=list)  # the one it was given
    error: Exception | None = None
    over: bool = False

    @property
    def seat(self) -> Seat:
        return self.seats[0]

    def __str__(self) -> str:
        return f"{self.place}{self.scenario.removeprefix(self.place.kind)}"

    def noting(self, what: Callable[..., object], *words: object) -> None:
        """The test reports the first thing that is wrong; the others continue."""
        if self.error is None:
            try:
                what(*words)
            except Exception as error:
                self.error = error


@dataclass(frozen=True)
class GuestScenario:
    """One kind: ``prepare`` is done before anything is stopped and may set ``about``; ``ask`` sends the request; ``meanwhile``
    happens while the operation stands at its place; ``check`` looks at what came of it."""

    ask: Callable[["Guests", GuestRun], None]
    check: Callable[["Guests", GuestRun], None]
    prepare: Callable[["Guests", GuestRun], None] = lambda _guests, _run: None
    meanwhile: Callable[["Guests", GuestRun], None] = lambda _guests, _run: None


@dataclass
class Guests:
    site: IscsiLab
    worker: WorkerContext
    seats: list[Seat] = field(default_factory=list)
    memory: Memory = field(default_factory=Memory)

    @property
    def lab(self) -> Lab:
        return self.site.lab

    def open(self) -> None:
        """Boots the guests and takes a snapshot of each."""
        for number in range(GUESTS):
            # A filesystem on each disk that is attached would cost more than all else.
            options = GuestOptions(name=f"guest-{number}", raw=UNFORMATTED, interval_us=1_000_000)
            guest = self.lab.add_guest(DISKS, options, boot=False, raw=[RAW])
            size = 1 + number * APART  # so that no two seats grow to one size, by which a failpoint knows an extension
            self.seats.append(Seat(guest, self.lab.volumes[-DISKS:], self.site.create_volume(size), size))
            self.lab.api.attach(guest.id, self.seats[-1].native)
            guest.start()
        for seat in self.seats:
            seat.guest.wait_ready()
            seat.write(BEFORE)
            seat.kept = self.lab.api.take(seat.guest.id, name="kept", quiesce="required")
            assert seat.kept["status"] == "available", seat.kept
        self.memory = Memory({name for seat in self.seats for name in self._raw_files(seat)})
        for seat in self.seats:
            seat.held = self.kept(seat)

    def _raw_files(self, seat: Seat) -> list[str]:
        (entry,) = (each for each in seat.kept["volumes"] if each["volume_id"] == seat.native)
        return [f"volume-{seat.volumes[RAW]}", self.lab.snapshot_file(seat.native, entry["snapshot_id"])]

    def kept(self, seat: Seat) -> list[dict[int, bytes]]:
        """What is read of the snapshot that stays."""
        ids = [(entry["volume_id"], entry["snapshot_id"]) for entry in seat.kept["volumes"]]
        return [digests(self.lab.share_of(each[0]), self.lab.snapshot_file(*each), self.memory) for each in ids]

    def run_all(self, runs: Sequence[GuestRun], scenarios: Mapping[str, GuestScenario]) -> None:
        """Stops every one of them, and looks at each when the next process has ended it."""
        for number, run in enumerate(runs):
            run.seats = [self.seats[number % GUESTS]]
            scenarios[run.scenario].prepare(self, run)
        wait_for(self._nothing_under_way, "the end of what was prepared", 60)
        before: Sequence[GuestRun] = []
        for first in range(0, len(runs) + GUESTS, GUESTS):
            now = runs[first : first + GUESTS]
            self.lab.stack.kill()
            said = len(self.lab.stack.log.read_text())
            self.lab.stack.start(",".join(run.place.failpoint(run.about, ":hold") for run in now))
            self._look(before, scenarios)
            for run in now:
                run.before = run.seat.pattern.copy()
                run.noting(scenarios[run.scenario].ask, self, run)
            for run in now:
                run.noting(self._wait_held, run, said)
                run.noting(scenarios[run.scenario].meanwhile, self, run)
            before = now

    def _wait_held(self, run: GuestRun, said: int) -> None:
        name, log = f"{run.place}@{run.about}", self.lab.stack.log
        wait_for(lambda: name in _HELD.findall(log.read_text()[said:]), f"the place {name}", 60)

    def _nothing_under_way(self) -> bool:
        return not sound.unfinished(self.worker)

    def _look(self, runs: Sequence[GuestRun], scenarios: Mapping[str, GuestScenario]) -> None:
        for run in runs:
            run.seat.beat = run.seat.guest.beats()[-1].round
        for run in runs:
            run.noting(wait_for, self._nothing_under_way, "the recovery", 60)
            run.noting(scenarios[run.scenario].check, self, run)
        for run in runs:
            run.noting(self._check, run.seat)
            run.over = True

    def _check(self, seat: Seat) -> None:
        """The guest still runs, what was kept reads as before, descriptions, rows and headers agree, nothing is left over."""
        wait_for(self._nothing_under_way, "the end of what was looked at", 60)
        assert freeze_record.read_all(self.lab.stack.state_dir / "freeze") == []
        assert not seat.guest.frozen()
        wait_for(lambda: seat.guest.beats()[-1].round > seat.beat + 2, "the guest's counter")
        assert self.kept(seat) == seat.held
        assert self.site.content(seat.native) == seat.pattern.clusters
        assert self.site.scratch_left() == []
        view = hypervisor.view(seat.guest.domain)
        assert view.inactive_xml is not None
        live, inactive = domain_xml.read(view.xml).disks, domain_xml.read(view.inactive_xml).disks
        assert [(disk.place, disk.format) for disk in live] == [(disk.place, disk.format) for disk in inactive]
        sound.check(self.worker)


def attach(guests: Guests, run: GuestRun) -> None:
    path = f"/servers/{run.seat.guest.id}/os-volume_attachments"
    guests.lab.api.ok("compute", "POST", path, {"volumeAttachment": {"volumeId": run.about}})


def check_attached(guests: Guests, run: GuestRun) -> None:
    wanted = "available" if run.place.back else "in-use"
    volume = guests.lab.api.volume(run.about)
    assert (volume["status"], "failpoint" in volume.get("fault", "")) == (wanted, run.place.back)
    assert (run.about in run.seat.guest.domain.XMLDesc(0)) is not run.place.back
    check_secrets(guests)


def check_secrets(guests: Guests) -> None:
    """libvirt has the password of every iSCSI volume that is attached, and no other; what one process left goes when the next
    looks around."""
    seats = [seat.native for seat in guests.seats]
    query = "/attachments/detail?all_tenants=1"

    def fit() -> bool:
        found = guests.lab.stack.service_api().ok("volume", "GET", query)["attachments"]
        wanted = {each["id"] for each in found if "auth_password" in (each["connection_info"] or {})}
        assert set(seats) <= {each["volume_id"] for each in found}
        return {each.UUIDString() for each in guests.lab.stack.hypervisor.connection().listAllSecrets()} == wanted

    # A look at the start of a process passes over them while an attachment is under way; the next one is a minute later.
    wait_for(fit, "the passwords of what is attached, and no other", 100)


def a_volume(guests: Guests, run: GuestRun) -> None:
    run.about = guests.lab.api.create_volume()


def a_native_volume(guests: Guests, run: GuestRun) -> None:
    run.about = guests.site.create_volume()


def an_attached_volume(guests: Guests, run: GuestRun) -> None:
    a_volume(guests, run)
    guests.lab.api.attach(run.seat.guest.id, run.about)


def an_attached_native_volume(guests: Guests, run: GuestRun) -> None:
    a_native_volume(guests, run)
    guests.lab.api.attach(run.seat.guest.id, run.about)


def a_larger_size(_guests: Guests, run: GuestRun) -> None:
    run.seat.size += 1
    run.made = {"size": run.seat.size}
    run.about = str(run.seat.size << 30)


def extend(guests: Guests, run: GuestRun) -> None:
    body = {"os-extend": {"new_size": run.made["size"]}}
    guests.lab.api.ok("volume", "POST", f"/volumes/{run.seat.native}/action", body)


def check_extended(guests: Guests, run: GuestRun) -> None:
    """The guest reaches the new end."""
    volume = guests.lab.api.volume(run.seat.native)
    assert (volume["status"], volume.get("fault"), volume["size"]) == ("in-use", None, run.made["size"]), volume
    run.seat.write((volume["size"] << 14) - 1)


def detach(guests: Guests, run: GuestRun) -> None:
    guests.lab.api.ok("compute", "DELETE", f"/servers/{run.seat.guest.id}/os-volume_attachments/{run.about}")


def check_detached(guests: Guests, run: GuestRun) -> None:
    assert run.about not in run.seat.guest.domain.XMLDesc(0) + run.seat.guest.domain.XMLDesc(2)
    volume = guests.lab.api.volume(run.about)
    if run.place.back and volume["status"] == "in-use":  # until compute's next look at disks that left
        assert "failpoint" in volume["fault"]
        return
    assert (volume["status"], volume.get("fault")) == ("available", None)
    check_secrets(guests)


def write_meanwhile(_guests: Guests, run: GuestRun) -> None:
    run.seat.write(MEANWHILE)


def take(guests: Guests, run: GuestRun) -> None:
    wanted = [*run.seat.volumes, run.seat.native]
    body = {"assisted_snapshot": {"quiesce": "required", "name": run.about, "volumes": wanted}}
    path = f"/servers/{run.seat.guest.id}/os-assisted-snapshots"
    run.made = guests.lab.api.ok("compute", "POST", path, body)["assisted_snapshot"]


def check_taken(guests: Guests, run: GuestRun) -> None:
    api = guests.lab.api
    found = api.set(run.made["id"])
    if run.place.back:
        assert (found["status"], "failpoint" in found["fault"]) == ("error", True)
        for each in found["volumes"]:
            kept = api.ok("volume", "GET", f"/snapshots?volume_id={each['volume_id']}")["snapshots"]
            assert run.about not in [snapshot["name"] for snapshot in kept], kept
        return
    # The worker died after the switch, before it could record that the freeze held, so no snapshot may claim it.
    lost = str(run.place).endswith("switch/effect")
    (entry,) = (each for each in found["volumes"] if each["method"] == "native")
    contents = guests.lab.check_one_instant({**found, "volumes": [each for each in found["volumes"] if each != entry]})
    guests.lab.check_instant(found)
    assert ("failed around the switch" in (found["switched_at_note"] or "")) is lost
    assert (found["status"], found["consistency"]["level"]) == (("error", "crash") if lost else ("available", "filesystem"))
    assert lost or all(each.clean and each.checks for each in contents)
    assert (entry["volume_id"], entry["status"]) == (run.seat.native, "available")
    # What was written while the operation stood before the switch is of its instant, what was written after it is not.
    later = run.seat.pattern.clusters if str(run.place) in BEFORE_THE_SWITCH else run.before
    assert guests.site.content(run.seat.native, entry["snapshot_id"]) == later


def take_one(guests: Guests, run: GuestRun) -> None:
    """As Cinder asks for it: the row and the overlay are there already."""
    service, volume_id = guests.lab.stack.service_api(), run.seat.volumes[0]
    body = {"os-create_snapshot_metadata": {"name": "as Cinder does it", "snapshot_id": run.about}}
    run.made = service.ok("volume", "POST", f"/volumes/{volume_id}/action", body)["snapshot"]
    assert run.made["id"] == run.about
    publish.publish_overlay(guests.lab.stack.share, overlay(run), "test", volume_id)
    info = {"snapshot_id": run.about, "type": "qcow2", "new_file": run.made["file"]["overlay"]}
    wanted = {"snapshot": {"volume_id": volume_id, "create_info": info}}
    answer = service.send("compute", "POST", "/os-assisted-volume-snapshots", wanted)
    assert (answer.status_code, answer.json()) == (200, {"snapshot": {"id": None, "volumeId": volume_id}})


def overlay(run: GuestRun) -> Image:
    return Image(run.made["file"]["overlay"], "qcow2", 1 << 30, run.made["file"]["backing"], "qcow2")


def check_taken_one(guests: Guests, run: GuestRun) -> None:
    service, share = guests.lab.stack.service_api(), guests.lab.stack.share
    found = service.snapshot(run.about)
    told = (found["status"], found["os-extended-snapshot-attributes:progress"])
    assert told == ("error" if run.place.back else "creating", "90%")
    if run.place.back:
        (share / overlay(run).name).unlink()
        service.ok("volume", "POST", f"/snapshots/{run.about}/action", {"os-snapshot_delete_metadata": {}})
        return
    finalize = {"os-finalize_snapshot_metadata": {"status": "available"}}
    service.ok("volume", "POST", f"/snapshots/{run.about}/action", finalize)
    assert qcow2.read(share, overlay(run).name) == overlay(run)
    assert guests.lab.snapshot_data(run.seat.volumes[0], run.about).counter > 0


def a_set(guests: Guests, run: GuestRun) -> None:
    run.made = guests.lab.api.take(run.seat.guest.id, quiesce="never", volumes=run.seat.volumes)
    assert run.made["status"] == "available"
    run.about = run.made["id"]


def delete_set(guests: Guests, run: GuestRun) -> None:
    guests.lab.api.ok("compute", "DELETE", f"/servers/{run.seat.guest.id}/os-assisted-snapshots/{run.about}")


def check_set_deleted(guests: Guests, run: GuestRun) -> None:
    path = f"/servers/{run.seat.guest.id}/os-assisted-snapshots/{run.about}"
    assert guests.lab.api.send("compute", "GET", path).status_code == 404
    for entry in run.made["volumes"]:
        assert guests.lab.api.send("volume", "GET", f"/snapshots/{entry['snapshot_id']}").status_code == 404


SCENARIOS = {
    "attach_volume": GuestScenario(attach, check_attached, a_volume),
    "attach_volume of iSCSI": GuestScenario(attach, check_attached, a_native_volume),
    "detach_volume": GuestScenario(detach, check_detached, an_attached_volume),
    "detach_volume of iSCSI": GuestScenario(detach, check_detached, an_attached_native_volume),
    "extend_volume of iSCSI": GuestScenario(extend, check_extended, a_larger_size, write_meanwhile),
    "assisted_snapshot": GuestScenario(take, check_taken, meanwhile=write_meanwhile),
    "assisted_volume_snapshot": GuestScenario(take_one, check_taken_one),
    "delete_assisted_snapshot": GuestScenario(delete_set, check_set_deleted, a_set),
}
