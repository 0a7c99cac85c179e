"""Sets of a server that writes all the time, over every kind of volume: two QCOW2 files, one of them on GlusterFS, a raw file
and two iSCSI volumes. Each is of one instant, by the guest's counters.

Three sets in the suite; STILLFRAME_ROUNDS says how many.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import iscsi
from tests.support.content import DiskContent, of_one_instant, read_disk
from tests.support.gluster import gluster
from tests.support.guest.domain import GuestOptions
from tests.support.lab import Lab, open_lab
from tests.support.stack import wait_for

ROUNDS = int(os.environ.get("STILLFRAME_ROUNDS", "3"))
TYPES = ("gluster", "near", "raw", "fast", "fast")  # by the volumes of vda, vdb ...
BUSY_US = 20_000  # the writer's pause between two rounds


@dataclass
class Site:
    """``places`` are the shares of the volumes, by volume type."""

    lab: Lab
    places: dict[str, Path]
    kinds: dict[str, str]

    def data(self, entry: dict[str, Any]) -> DiskContent:
        """What a snapshot of a set holds."""
        volume, kind = entry["volume_id"], self.kinds[entry["volume_id"]]
        if kind == "fast":
            return read_disk(self.places[kind], f"volume-{volume}.{entry['snapshot_id']}", "raw")
        admin = self.lab.stack.api("stillframe-admin")
        chain = admin.ok("volume", "GET", f"/volumes/{volume}/stillframe-chain")["chain"]["files"]
        of = next(each for each in chain if entry["snapshot_id"] in {held["id"] for held in each["snapshots"]})
        return read_disk(self.places[kind], of["name"], of["format"])


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with ExitStack() as undo:
        place, daemon = undo.enter_context(iscsi.reflink_place(tmp_path, 4096)), undo.enter_context(iscsi.tgtd(tmp_path))
        (tmp_path / "gluster").mkdir()
        server = undo.enter_context(gluster(tmp_path / "gluster"))
        exports = tmp_path / "exports"
        exports.write_text(f"{server.export}\n")
        exports.chmod(0o600)
        far = f"[far]\nvolume_driver = glusterfs\nglusterfs_shares_config = {exports}\n"
        far += f"glusterfs_mount_point_base = {server.mount_point_base}\nmax_over_subscription_ratio = 100000\n"
        fast = iscsi.section("fast", place / "share", daemon)
        lab = open_lab(tmp_path, f"[DEFAULT]\nenabled_backends = local,fast,far\n{fast}{far}")
        undo.callback(lab.clear)
        for name, backend in (("fast", "fast"), ("gluster", "far"), ("near", "local"), ("raw", "local")):
            specs = {"volume_backend_name": backend, **({"stillframe:volume_format": "raw"} if name == "raw" else {})}
            wanted = {"volume_type": {"name": name, "extra_specs": specs}}
            lab.stack.api("stillframe-admin").ok("volume", "POST", "/types", wanted)
        kinds = {}
        guest = lab.add_guest(0, GuestOptions(interval_us=BUSY_US), boot=False)
        for number, kind in enumerate(TYPES):
            volume = lab.api.create_volume(f"v{number}", volume_type=kind)
            lab.api.attach(guest.id, volume)
            kinds[volume] = kind
        lab.api.ok("compute", "POST", f"/servers/{guest.id}/action", {"os-start": None})
        guest.wait_ready(180)
        yield Site(
            lab, {"near": lab.stack.share, "raw": lab.stack.share, "fast": place / "share", "gluster": server.path}, kinds
        )


def delete(lab: Lab, set_id: str) -> None:
    path = f"/os-assisted-snapshots/{set_id}"
    lab.api.ok("compute", "DELETE", f"/servers/{lab.guest.id}{path}")
    wait_for(lambda: lab.api.send("compute", "GET", path).status_code == 404, "the end of the set", 120)


@pytest.mark.timeout(300 + 30 * ROUNDS)
def test_every_set_is_of_one_instant(site: Site) -> None:
    lab = site.lab
    seen = []
    for number in range(ROUNDS):
        found = lab.api.take(lab.guest.id, name=f"set {number}")
        assert (found["status"], found["fault"]) == ("available", None), str(found)
        assert found["consistency"]["level"] == "filesystem", str(found)
        entries = sorted(found["volumes"], key=lambda entry: str(entry["device"]))
        assert [entry["method"] for entry in entries] == ["assisted"] * 3 + ["native"] * 2
        contents = [site.data(entry) for entry in entries]
        assert of_one_instant([content.counter for content in contents]), (number, contents)
        assert all(content.clean and content.checks for content in contents), (number, contents)
        seen.append(contents[0].counter)
        delete(lab, str(found["id"]))
        print(f"set {number}: counter {contents[0].counter}, frozen {found['consistency']['frozen_ms']} ms", flush=True)
    assert seen == sorted(set(seen)), seen
    lab.guest.still_writes()
