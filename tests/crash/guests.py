"""Operations that need a guest, each held at a place of its own: as many at once as there are guests.

One process takes up what the one before left, is then asked for the next operations, and is killed when each is at its
place; so every place costs a part of one start.
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
from tests.crash.places import Place
from tests.support import sound
from tests.support.guest.domain import Guest, GuestOptions
from tests.support.lab import Lab
from tests.support.qcow2_content import Memory, digests
from tests.support.stack import wait_for

GUESTS, DISKS, HOTPLUGGED = 4, 2, "vdc:vdd:vde:vdf"
_HELD = re.compile(r"held at ([^\s:]+):hold")


@dataclass
class Seat:
    """A guest, its volumes, and a snapshot of them that stays as it is whatever happens."""

    guest: Guest
    volumes: list[str]
    kept: dict[str, Any] = field(default_factory=dict)
    held: list[dict[int, bytes]] = field(default_factory=list)
    beat: int = 0


@dataclass
class GuestRun:
    """One operation to be stopped. ``about`` is what the failpoint knows it by, ``made`` the answer to the request; in the
    end ``error`` says what was wrong."""

    kind: str
    place: Place
    about: str = field(default_factory=lambda: str(uuid.uuid4()))
    made: dict[str, Any] = field(default_factory=dict)
    seats: list[Seat] = field(default_factory=list)  # the one it was given
    error: Exception | None = None
    over: bool = False

    @property
    def seat(self) -> Seat:
        return self.seats[0]

    def noting(self, what: Callable[..., object], *words: object) -> None:
        """The first thing that is wrong is what the test tells; the others go on."""
        if self.error is None:
            try:
                what(*words)
            except Exception as error:
                self.error = error


@dataclass(frozen=True)
class GuestScenario:
    """One kind: ``prepare`` is done before anything is stopped and may set ``about``; ``ask`` sends the request; ``check``
    looks at what came of it."""

    ask: Callable[["Guests", GuestRun], None]
    check: Callable[["Guests", GuestRun], None]
    prepare: Callable[["Guests", GuestRun], None] = lambda _guests, _run: None


@dataclass
class Guests:
    lab: Lab
    world: WorkerContext
    seats: list[Seat] = field(default_factory=list)
    memory: Memory = field(default_factory=Memory)

    def open(self) -> None:
        """Boots the guests and takes a snapshot of each."""
        for number in range(GUESTS):
            # A filesystem on each disk that is attached would cost more than all else.
            options = GuestOptions(name=f"guest-{number}", raw=HOTPLUGGED, interval_us=1_000_000)
            guest = self.lab.add_guest(DISKS, options, boot=False)
            guest.start()
            self.seats.append(Seat(guest, self.lab.volumes[-DISKS:]))
        for seat in self.seats:
            seat.guest.wait_ready()
            seat.kept = self.lab.api.take(seat.guest.id, name="kept", quiesce="required", volumes=seat.volumes)
            assert seat.kept["status"] == "available", seat.kept
            seat.held = self.kept(seat)

    def kept(self, seat: Seat) -> list[dict[int, bytes]]:
        """What is read of the snapshot that stays."""
        entries = seat.kept["volumes"]
        names = [self.lab.snapshot_file(entry["volume_id"], entry["snapshot_id"]) for entry in entries]
        return [digests(self.lab.stack.share, name, self.memory) for name in names]

    def run_all(self, runs: Sequence[GuestRun], scenarios: Mapping[str, GuestScenario]) -> None:
        """Stops every one of them, and looks at each when the next process has ended it."""
        for number, run in enumerate(runs):
            run.seats = [self.seats[number % GUESTS]]
            scenarios[run.kind].prepare(self, run)
        wait_for(self._nothing_under_way, "the end of what was prepared", 60)
        before: Sequence[GuestRun] = []
        for first in range(0, len(runs) + GUESTS, GUESTS):
            now = runs[first : first + GUESTS]
            self.lab.stack.kill()
            said = len(self.lab.stack.log.read_text())
            self.lab.stack.start(",".join(run.place.failpoint(run.about, ":hold") for run in now))
            self._look(before, scenarios)
            for run in now:
                run.noting(scenarios[run.kind].ask, self, run)
            for run in now:
                run.noting(self._wait_held, run, said)
            before = now

    def _wait_held(self, run: GuestRun, said: int) -> None:
        name, log = f"{run.place}@{run.about}", self.lab.stack.log
        wait_for(lambda: name in _HELD.findall(log.read_text()[said:]), f"the place {name}", 60)

    def _nothing_under_way(self) -> bool:
        return not sound.unfinished(self.world)

    def _look(self, runs: Sequence[GuestRun], scenarios: Mapping[str, GuestScenario]) -> None:
        for run in runs:
            run.seat.beat = run.seat.guest.beats()[-1].round
        for run in runs:
            run.noting(wait_for, self._nothing_under_way, "the recovery", 60)
            run.noting(scenarios[run.kind].check, self, run)
        for run in runs:
            run.noting(self._check, run.seat)
            run.over = True

    def _check(self, seat: Seat) -> None:
        """The guest runs on, what was kept reads as before, descriptions, rows and headers agree, nothing lies about."""
        wait_for(self._nothing_under_way, "the end of what was looked at", 60)
        assert freeze_record.read_all(self.lab.stack.state_dir / "freeze") == []
        assert not seat.guest.frozen()
        wait_for(lambda: seat.guest.beats()[-1].round > seat.beat + 2, "the guest's counter", 15)
        assert self.kept(seat) == seat.held
        view = hypervisor.view(seat.guest.domain)
        assert view.inactive_xml is not None
        live, inactive = domain_xml.read(view.xml).disks, domain_xml.read(view.inactive_xml).disks
        assert [disk.file for disk in live] == [disk.file for disk in inactive]
        sound.check(self.world)


def attach(guests: Guests, run: GuestRun) -> None:
    path = f"/servers/{run.seat.guest.id}/os-volume_attachments"
    guests.lab.api.ok("compute", "POST", path, {"volumeAttachment": {"volumeId": run.about}})


def check_attached(guests: Guests, run: GuestRun) -> None:
    wanted = "available" if run.place.back else "in-use"
    volume = guests.lab.api.volume(run.about)
    assert (volume["status"], "failpoint" in volume.get("fault", "")) == (wanted, run.place.back)
    assert (run.about in run.seat.guest.domain.XMLDesc(0)) is not run.place.back


def a_volume(guests: Guests, run: GuestRun) -> None:
    run.about = guests.lab.api.create_volume()


def an_attached_volume(guests: Guests, run: GuestRun) -> None:
    a_volume(guests, run)
    guests.lab.api.attach(run.seat.guest.id, run.about)


def detach(guests: Guests, run: GuestRun) -> None:
    guests.lab.api.ok("compute", "DELETE", f"/servers/{run.seat.guest.id}/os-volume_attachments/{run.about}")


def check_detached(guests: Guests, run: GuestRun) -> None:
    assert run.about not in run.seat.guest.domain.XMLDesc(0) + run.seat.guest.domain.XMLDesc(2)
    volume = guests.lab.api.volume(run.about)
    if run.place.back and volume["status"] == "in-use":  # until compute's next look at disks that left
        assert "failpoint" in volume["fault"]
        return
    assert (volume["status"], volume.get("fault")) == ("available", None)


def take(guests: Guests, run: GuestRun) -> None:
    body = {"assisted_snapshot": {"quiesce": "required", "name": run.about, "volumes": run.seat.volumes}}
    path = f"/servers/{run.seat.guest.id}/os-assisted-snapshots"
    run.made = guests.lab.api.ok("compute", "POST", path, body)["assisted_snapshot"]


def check_taken(guests: Guests, run: GuestRun) -> None:
    api = guests.lab.api
    found = api.set(run.made["id"])
    if run.place.back:
        assert (found["status"], "failpoint" in found["fault"]) == ("error", True)
        codes = [api.send("volume", "GET", f"/snapshots/{each['snapshot_id']}").status_code for each in found["volumes"]]
        assert codes == [404] * DISKS
        return
    # The worker died after the switch, before it could record that the freeze held: that is never glossed over.
    lost = str(run.place).endswith("switch/effect")
    contents = guests.lab.check_one_instant(found)
    guests.lab.check_instant(found)
    assert ("failed around the switch" in (found["switched_at_note"] or "")) is lost
    assert (found["status"], found["consistency"]["level"]) == (("error", "crash") if lost else ("available", "filesystem"))
    assert lost or all(each.clean and each.checks for each in contents)


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
    "detach_volume": GuestScenario(detach, check_detached, an_attached_volume),
    "assisted_snapshot": GuestScenario(take, check_taken),
    "assisted_volume_snapshot": GuestScenario(take_one, check_taken_one),
    "delete_assisted_snapshot": GuestScenario(delete_set, check_set_deleted, a_set),
}
