"""A service with iSCSI volumes, a target daemon of its own, and a guest: what tests of native volumes begin with."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillframe.host import files
from tests.support import iscsi
from tests.support.guest.domain import Guest, GuestOptions
from tests.support.iscsi import Tgtd
from tests.support.lab import Lab, open_lab
from tests.support.pattern import Pattern, of_raw
from tests.support.stack import wait_for

_SHOW = ("--op", "show", "--mode", "target")


_SHOW = ("--op", "show", "--mode", "target")


@dataclass
class Site:
    """A service with an iSCSI backend beside the usual one, and a guest with one QCOW2 volume, vda. Other disks have no
    filesystem."""

    lab: Lab
    daemon: Tgtd
    share: Path

    @property
    def guest(self) -> Guest:
        return self.lab.guest

    def volume(self) -> str:
        wanted = {"volume": {"name": "fast", "size": 1, "volume_type": "fast"}}
        volume_id = str(self.lab.api.ok("volume", "POST", "/volumes", wanted)["volume"]["id"])
        self.reached(volume_id, "available")
        return volume_id

    def reached(self, volume_id: str, status: str, seconds: float = 60) -> None:
        wait_for(lambda: self.lab.api.volume(volume_id)["status"] == status, f"{status} of {volume_id}", seconds)

    def attach(self, volume_id: str) -> Pattern:
        """Attaches a volume to the running guest; returns its disk there."""
        self.lab.api.attach(self.guest.id, volume_id)
        found = self.lab.api.ok("compute", "GET", f"/servers/{self.guest.id}/os-volume_attachments/{volume_id}")
        device = str(found["volumeAttachment"]["device"])
        wait_for(lambda: device in self.guest.execute("ls /dev/vd?"), "the disk in the guest")
        return Pattern(device)

    def info(self, volume_id: str) -> dict[str, Any]:
        """The connection_info, as block storage shows it to a service."""
        query = f"/attachments/detail?all_tenants=1&volume_id={volume_id}"
        (found,) = self.lab.stack.service_api().ok("volume", "GET", query)["attachments"]
        return dict(found["connection_info"])

    def content(self, volume_id: str) -> dict[int, int]:
        """The volume's raw file."""
        return of_raw(self.share / f"volume-{volume_id}")

    def secrets(self) -> list[str]:
        return [each.UUIDString() for each in self.lab.stack.hypervisor.connection().listAllSecrets()]

    def target(self, info: Mapping[str, Any]) -> str | None:
        """Its number at the daemon; None while it is given out to nobody."""
        found = re.search(rf"Target (\d+): {re.escape(info['target_iqn'])}$", self.daemon.admin(*_SHOW), re.MULTILINE)
        return found[1] if found else None

    def spoil_password(self, info: Mapping[str, Any]) -> None:
        """Lets the target expect another password."""
        user, of_target = ("--user", str(info["auth_username"])), ("--tid", str(self.target(info)))
        self.daemon.admin("--op", "unbind", "--mode", "account", *of_target, *user)
        self.daemon.admin("--op", "delete", "--mode", "account", *user)
        self.daemon.admin("--op", "new", "--mode", "account", *user, "--password", "another-password")
        self.daemon.admin("--op", "bind", "--mode", "account", *of_target, *user)

    def refused_start(self, status: int) -> str:
        """What is said when the server is not started."""
        answer = self.lab.api.send("compute", "POST", f"/servers/{self.guest.id}/action", {"os-start": None})
        assert answer.status_code == status, answer.text
        assert not self.guest.domain.isActive()
        return answer.text

    def take(self, **wanted: Any) -> dict[str, Any]:
        """Takes a set of all volumes and waits for its end."""
        return self.ended(self.ask(**wanted))

    def ask(self, **wanted: Any) -> str:
        """Asks for a set of all volumes; returns its id."""
        body = {"assisted_snapshot": {"name": "mixed", **wanted}}
        path = f"/servers/{self.guest.id}/os-assisted-snapshots"
        return str(self.lab.api.ok("compute", "POST", path, body)["assisted_snapshot"]["id"])

    def ended(self, set_id: str) -> dict[str, Any]:
        """Waits for the end of a set and returns it."""
        wait_for(lambda: self.lab.api.set(set_id)["status"] != "creating", "the end of the set", 120)
        return dict(self.lab.api.set(set_id))

    def held_at(self, place: str, **wanted: Any) -> str:
        """Asks for a set whose operation stands still at that place of the journal; returns its id. ``continues`` ends that."""
        self.lab.stack.kill()
        known = self.lab.stack.log.read_text().count(f"held at {place}:hold")
        self.lab.stack.start(f"{place}:hold")
        set_id = self.ask(**wanted)
        wait_for(lambda: self.lab.stack.log.read_text().count(f"held at {place}:hold") > known, f"the set at {place}", 60)
        return set_id

    def continues(self) -> None:
        """The worker that stands still is killed, and another one takes its work."""
        self.lab.stack.kill()
        self.lab.stack.start()

    def delete(self, set_id: str) -> None:
        api = self.lab.api
        api.ok("compute", "DELETE", f"/servers/{self.guest.id}/os-assisted-snapshots/{set_id}")
        path = f"/os-assisted-snapshots/{set_id}"
        wait_for(lambda: api.send("compute", "GET", path).status_code == 404, "the end of the set", 60)

    @property
    def scratch(self) -> Path:
        """The directory of scratch overlays."""
        return self.lab.stack.state_dir / "scratch"

    def scratch_left(self) -> list[str]:
        return files.listing(self.scratch) if self.scratch.exists() else []


@contextmanager
def open_site(directory: Path, more: str = "", disks: str = "vdb:vdc:vdd") -> Iterator[Site]:
    """``more`` is the text of further sections of the configuration, ``disks`` are those of the guest without a filesystem."""
    with iscsi.reflink_place(directory) as place, iscsi.tgtd(directory) as daemon:
        fast = iscsi.section("fast", place / "share", daemon)
        lab = open_lab(directory, f"[DEFAULT]\nenabled_backends = local,fast\n{fast}{more}")
        try:
            wanted = {"volume_type": {"name": "fast", "extra_specs": {"volume_backend_name": "fast"}}}
            lab.stack.api("stillframe-admin").ok("volume", "POST", "/types", wanted)
            lab.add_guest(1, GuestOptions(raw=disks))
            yield Site(lab, daemon, place / "share")
        finally:
            lab.clear()
