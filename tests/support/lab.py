"""A running service with a running guest on it: what most functional and crash tests begin with."""

import time
from collections.abc import Collection, Sequence
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
    other_shares: list[Path] = field(default_factory=list)  # beside the stack's own

    @property
    def api(self) -> Api:
        return self.stack.api()

    @property
    def guest(self) -> Guest:
        return self.guests[0]

    def raw_type(self) -> str:
        """The volume type of volumes that are raw files; made when it is first asked for."""
        wanted = {"name": "raw", "extra_specs": {"stillframe:volume_format": "raw"}}
        answer = self.stack.api("stillframe-admin").send("volume", "POST", "/types", {"volume_type": wanted})
        assert answer.status_code in (200, 409), answer.text
        return "raw"

    def add_guest(self, disks: int, options: GuestOptions | None = None, boot: bool = True, raw: Collection[int] = ()) -> Guest:
        """Defines a guest, gives it volumes through the API, those numbered in ``raw`` as raw files, boots it."""
        chosen, image = options or GuestOptions(), build(CACHE)
        memory.tell_capabilities(kernel_is_up(image), self.stack.state_dir / "libvirt")
        guest = Guest(self.stack.hypervisor, image, self.directory, chosen)
        self.guests.append(guest)
        for number in range(disks):
            of: dict[str, Any] = {"volume_type": self.raw_type()} if number in raw else {}
            volume_id = self.api.create_volume(f"{chosen.name}-{number}", **of)
            self.api.attach(guest.id, volume_id)
            self.volumes.append(volume_id)
        if boot:
            guest.boot()
        return guest

    def frozen_data(self, found: dict[str, Any]) -> list[DiskContent]:
        """Reads what each snapshot of a set holds, from the share."""
        return [self.snapshot_data(entry["volume_id"], entry["snapshot_id"]) for entry in found["volumes"]]

    def share_of(self, volume_id: str) -> Path:
        """The directory that holds a volume's files."""
        return next(share for share in (self.stack.share, *self.other_shares) if any(share.glob(f"volume-{volume_id}*")))

    def snapshot_data(self, volume_id: str, snapshot_id: str) -> DiskContent:
        found = self._snapshot_file(volume_id, snapshot_id)
        return read_disk(self.share_of(volume_id), found["name"], found["format"])

    def snapshot_file(self, volume_id: str, snapshot_id: str) -> str:
        """The file that holds a snapshot's data, by the chain that block storage shows."""
        return str(self._snapshot_file(volume_id, snapshot_id)["name"])

    def _snapshot_file(self, volume_id: str, snapshot_id: str) -> dict[str, Any]:
        admin = self.stack.api("stillframe-admin")
        files: list[dict[str, Any]] = admin.ok("volume", "GET", f"/volumes/{volume_id}/stillframe-chain")["chain"]["files"]
        return next(each for each in files if snapshot_id in {held["id"] for held in each["snapshots"]})

    def check_one_instant(self, found: dict[str, Any]) -> list[DiskContent]:
        contents = self.frozen_data(found)
        assert of_one_instant([content.counter for content in contents]), contents
        return contents

    def check_instant(self, found: dict[str, Any]) -> None:
        """Every snapshot of a set that was just taken says the instant of the switch; what is behind it was not written after
        that, by the host's clock. A native one is made, and says so, later."""
        began = datetime.fromisoformat(f"{found['switched_at']}+00:00").timestamp()
        ended = began + found["switched_at_uncertainty_ms"] / 1000
        assert datetime.fromisoformat(f"{found['created_at']}+00:00").timestamp() <= began <= ended <= time.time()
        for entry in (each for each in found["volumes"] if each["method"] == "assisted"):
            snapshot = self.api.snapshot(entry["snapshot_id"])
            assert snapshot["created_at"] == found["switched_at"]
            behind = self.stack.share / self.snapshot_file(entry["volume_id"], entry["snapshot_id"])
            assert behind.stat().st_mtime <= ended

    def check_sound(self) -> None:
        """The invariants every test may ask for: no guest frozen or marked so, rows, descriptions and headers agree,
        every chain opens, no file is left without an owner."""
        assert freeze_record.read_all(self.stack.state_dir / "freeze") == []
        admin = self.stack.api("stillframe-admin")
        shares = (self.stack.share, *self.other_shares)
        expected = {share / ".share-id" for share in shares}
        for volume in admin.ok("volume", "GET", "/volumes/detail?all_tenants=1")["volumes"]:
            expected |= self._check_volume(admin, volume)
        wait_for(
            lambda: {share / name for share in shares for name in files.listing(share)} == expected,
            f"shares without strange files; expected {sorted(map(str, expected))}",
            20,
        )
        for guest in self.guests:
            view = hypervisor.view(guest.domain)
            assert view.inactive_xml is not None
            live, inactive = domain_xml.read(view.xml).disks, domain_xml.read(view.inactive_xml).disks
            assert [(disk.file, disk.format) for disk in live] == [(disk.file, disk.format) for disk in inactive]

    def _check_volume(self, admin: Api, volume: dict[str, Any]) -> set[Path]:
        """Checks that rows and headers agree, nothing hidden is left without a reason, files are clean; returns its files."""
        volume_id = volume["id"]
        if volume["status"] == "error":
            return set()
        share = self.share_of(volume_id)
        found = admin.ok("volume", "GET", f"/snapshots/detail?volume_id={volume_id}&all_tenants=1")["snapshots"]
        snapshots = {each["id"] for each in found if each["status"] == "available"}
        info, record = f"volume-{volume_id}.info", f"volume-{volume_id}.record"
        named = set() if share in self.other_shares else snapshots  # one in a file of its own stands in the record alone
        wait_for(
            lambda: set((files.read_json(share, info) or {"active": ""}).keys()) == {"active"} | named,
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
        documents = {record} | ({info} if snapshots or active != f"volume-{volume_id}" else set())
        return {share / name for name in names | documents}

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
