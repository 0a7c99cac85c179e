"""A running service with a running guest on it: what most functional and crash tests begin with."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from stillframe.compute.libvirt import domain_xml
from stillframe.compute.quiesce import record as freeze_record
from stillframe.host import files, hypervisor, qemu_img
from tests.support.content import DiskContent, of_one_instant, read_disk
from tests.support.guest import memory
from tests.support.guest.build import build
from tests.support.guest.domain import Guest, GuestOptions, kernel_is_up
from tests.support.service import Begin, Copy
from tests.support.stack import Api, Stack, wait_for

CACHE = Path(__file__).parents[2] / ".cache"


@dataclass
class Lab:
    """One stack, one guest, its volumes. ``clear`` takes all of it away."""

    stack: Stack
    directory: Path
    guests: list[Guest] = field(default_factory=list)
    volumes: list[str] = field(default_factory=list)

    @property
    def api(self) -> Api:
        return self.stack.api()

    @property
    def guest(self) -> Guest:
        return self.guests[0]

    def add_guest(self, disks: int, options: GuestOptions | None = None, boot: bool = True) -> Guest:
        """Defines a guest, gives it volumes through the API, boots it."""
        chosen, image = options or GuestOptions(), build(CACHE)
        memory.tell_capabilities(kernel_is_up(image), self.stack.state_dir / "libvirt")
        guest = Guest(self.stack.hypervisor, image, self.directory, chosen)
        self.guests.append(guest)
        for number in range(disks):
            volume_id = self.api.create_volume(f"{chosen.name}-{number}")
            self.api.attach(guest.id, volume_id)
            self.volumes.append(volume_id)
        if boot:
            guest.boot()
        return guest

    def frozen_data(self, found: dict[str, Any]) -> list[DiskContent]:
        """Reads what each snapshot of a set holds, from the share."""
        return [self.snapshot_data(entry["volume_id"], entry["snapshot_id"]) for entry in found["volumes"]]

    def snapshot_data(self, volume_id: str, snapshot_id: str) -> DiskContent:
        return read_disk(self.stack.share, self.snapshot_file(volume_id, snapshot_id))

    def snapshot_file(self, volume_id: str, snapshot_id: str) -> str:
        """The file that holds a snapshot's data, by the chain that block storage shows."""
        admin = self.stack.api("stillframe-admin")
        chain = admin.ok("volume", "GET", f"/volumes/{volume_id}/stillframe-chain")["chain"]
        return next(str(each["name"]) for each in chain["files"] if snapshot_id in {held["id"] for held in each["snapshots"]})

    def check_one_instant(self, found: dict[str, Any]) -> list[DiskContent]:
        contents = self.frozen_data(found)
        assert of_one_instant([content.counter for content in contents]), contents
        return contents

    def check_instant(self, found: dict[str, Any]) -> None:
        """Every snapshot of a set that was just taken says the instant of the switch; what is behind it was not written after
        that, by the host's clock."""
        began = datetime.fromisoformat(f"{found['switched_at']}+00:00").timestamp()
        ended = began + found["switched_at_uncertainty_ms"] / 1000
        assert datetime.fromisoformat(f"{found['created_at']}+00:00").timestamp() <= began <= ended <= time.time()
        for entry in found["volumes"]:
            snapshot = self.api.snapshot(entry["snapshot_id"])
            assert snapshot["created_at"] == found["switched_at"]
            behind = self.stack.share / self.snapshot_file(entry["volume_id"], entry["snapshot_id"])
            assert behind.stat().st_mtime <= ended

    def check_sound(self) -> None:
        """The invariants every test may ask for: no guest frozen or marked so, rows, descriptions and headers agree,
        every chain opens, no file lies about without an owner."""
        share = self.stack.share
        assert freeze_record.read_all(self.stack.state_dir / "freeze") == []
        admin = self.stack.api("stillframe-admin")
        expected = {".share-id"}
        for volume in admin.ok("volume", "GET", "/volumes/detail?all_tenants=1")["volumes"]:
            expected |= self._check_volume(admin, volume)
        wait_for(
            lambda: set(files.listing(share)) == expected, f"a share without strange files; expected {sorted(expected)}", 20
        )
        for guest in self.guests:
            view = hypervisor.view(guest.domain)
            assert view.inactive_xml is not None
            live, inactive = domain_xml.read(view.xml).disks, domain_xml.read(view.inactive_xml).disks
            assert [disk.file for disk in live] == [disk.file for disk in inactive]

    def _check_volume(self, admin: Api, volume: dict[str, Any]) -> set[str]:
        """Rows and headers agree, nothing hidden is left without a reason, every file checks clean; returns its names."""
        share, volume_id = self.stack.share, volume["id"]
        if volume["status"] == "error":
            return set()
        found = admin.ok("volume", "GET", f"/snapshots/detail?volume_id={volume_id}&all_tenants=1")["snapshots"]
        snapshots = {each["id"] for each in found if each["status"] == "available"}
        info, record = f"volume-{volume_id}.info", f"volume-{volume_id}.record"
        wait_for(
            lambda: set((files.read_json(share, info) or {"active": ""}).keys()) == {"active"} | snapshots,
            "the .info file, which follows the rows",
        )
        wait_for(
            lambda: {each["id"] for each in (files.read_json(share, record) or {"snapshots": []})["snapshots"]} == snapshots,
            "the record, which follows the rows",
        )
        chain = admin.ok("volume", "GET", f"/volumes/{volume_id}/stillframe-chain")["chain"]
        assert chain["problem"] is None, chain
        assert not [each for each in chain["files"] if each["problem"]], chain
        names = {str(each["name"]) for each in chain["files"]}
        for each in chain["files"]:
            if not files.is_locked(share, each["name"]):
                qemu_img.check(share, each["name"], each["format"])
        wait_for(lambda: files.exists(share, record), "the record")
        active = next(str(each["name"]) for each in chain["files"] if each["active"])
        return names | {record} | ({info} if snapshots or active != f"volume-{volume_id}" else set())

    def clear(self) -> None:
        for guest in self.guests:
            guest.destroy()
        if self.stack.running:
            self.stack.stop()
        self.stack.destroy()


def open_lab(
    directory: Path, options: str = "", arguments: Sequence[str] = (), failpoint: str = "", begin: Begin = Copy
) -> Lab:
    """Starts the services in ``directory``; ``options`` is the text of a configuration file, ``begin`` Command for where
    the process itself is looked at."""
    configured = list(arguments)
    if options:
        (directory / "stillframe.conf").write_text(options)
        configured += ["--config-file", str(directory / "stillframe.conf")]
    stack = Stack(directory / "state", configured, begin)
    stack.start(failpoint)
    return Lab(stack, directory)
