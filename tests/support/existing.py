"""A server that plain libvirt made, with its own disks: the starting point of an adoption."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lxml import etree

from tests.support.guest.domain import Guest, GuestOptions
from tests.support.lab import Lab, open_lab
from tests.support.pattern import CLUSTER, Pattern
from tests.support.site import journal_is_empty
from tests.support.stack import Api, wait_for

SIZE = (96 << 20) + 3 * 512  # neither whole GiB nor whole MiB
GOLDEN = 0x31
FILES = ("web-1-data.img", "web-1.qcow2")
DISKS = """
<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='writeback' discard='unmap'/>
 <source file='{images}/web-1.qcow2'/><target dev='vda' bus='virtio'/><serial>SYSTEM</serial></disk>
<disk type='file' device='disk'><driver name='qemu' type='raw' cache='none' io='native'/>
 <source file='{images}/web-1-data.img'/><target dev='vdb' bus='virtio'/></disk>
<disk type='file' device='cdrom'><target dev='hda' bus='ide'/><readonly/></disk>"""


@dataclass
class Existing:
    """A guest with disks of its own below ``images``: ``system`` is QCOW2 and ``data`` raw, both without a filesystem."""

    lab: Lab
    images: Path
    guest: Guest
    system: Pattern
    data: Pattern

    @property
    def admin(self) -> Api:
        return self.lab.stack.api("stillframe-admin")

    @property
    def descriptions(self) -> list[str]:
        """Both, without what libvirt itself chooses anew."""
        return [self.guest.domain.XMLDesc(flags) for flags in (0, 2)]

    def adopt(self, **wanted: Any) -> dict[str, Any]:
        path = f"/servers/{self.guest.id}/os-adopt-disks"
        found: dict[str, Any] = self.admin.ok("compute", "POST", path, {"adopt": wanted})["adoption"]
        self.quiet()
        return found

    def release(self, **wanted: Any) -> dict[str, Any]:
        path = f"/servers/{self.guest.id}/os-release-disks"
        found: dict[str, Any] = self.admin.ok("compute", "POST", path, {"release": wanted})["release"]
        self.quiet()
        return found

    @property
    def identities(self) -> dict[str, tuple[int, int, int]]:
        """The files themselves, with their modes and owners."""
        found = {name: (self.images / name).stat() for name in FILES}
        return {name: (each.st_ino, each.st_mode, each.st_uid) for name, each in found.items()}

    def quiet(self) -> None:
        wait_for(lambda: journal_is_empty(self.lab.stack), "the journal", 60)

    def volumes(self) -> list[str]:
        rows = self.lab.api.ok("compute", "GET", f"/servers/{self.guest.id}/os-volume_attachments")["volumeAttachments"]
        return [row["volumeId"] for row in sorted(rows, key=lambda row: str(row["device"]))]

    def first_names(self) -> set[str]:
        """The files that the descriptions name, without their directory."""
        sources = etree.fromstring(self.guest.domain.XMLDesc(2)).findall("devices/disk/source")
        return {os.path.basename(str(each.get("file"))) for each in sources}

    def delete(self, found: dict[str, Any]) -> None:
        self.lab.api.ok("compute", "DELETE", f"/servers/{self.guest.id}/os-assisted-snapshots/{found['id']}")
        path = f"/os-assisted-snapshots/{found['id']}"
        wait_for(lambda: self.lab.api.send("compute", "GET", path).status_code == 404, "the end of the set", 60)
        self.quiet()


def make_plain(images: Path) -> None:
    """Makes both disks, each a file that stands alone."""
    make(images / "web-1.qcow2", "qcow2")
    make(images / "web-1-data.img", "raw")


def make_over_golden(images: Path) -> None:
    """Like ``make_plain``, but the QCOW2 disk is an overlay over a raw golden image in another directory, whose first four
    clusters are full of ``GOLDEN``."""
    golden = images.parent / "golden" / "debian.raw"
    golden.parent.mkdir(mode=0o711)
    golden.write_bytes(bytes([GOLDEN]) * 4 * CLUSTER)
    make(images / "web-1-data.img", "raw")
    make(images / "web-1.qcow2", "qcow2", "-b", str(golden), "-F", "raw")


@contextmanager
def open_existing(directory: Path, make_disks: Callable[[Path], None] = make_plain, disks: str = DISKS) -> Iterator[Existing]:
    """Starts the services and the server, whose files ``make_disks`` makes in the directory that it is given; removes
    everything at the end."""
    images = directory / "images"
    images.mkdir(mode=0o711)
    lab = open_lab(directory)
    try:
        make_disks(images)
        options = GuestOptions(name="web-1", raw="vda:vdb", extra_disks=disks.format(images=images))
        guest = lab.add_guest(0, options)
        yield Existing(lab, images, guest, Pattern("/dev/vda"), Pattern("/dev/vdb"))
    finally:
        lab.clear()


def make(path: Path, format_: str, *options: str) -> None:
    subprocess.run(["qemu-img", "create", "-q", "-f", format_, *options, path, str(SIZE)], check=True)
    path.chmod(0o640)
