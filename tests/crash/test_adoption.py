"""The adoption of a server's disks, and its end, stopped with SIGKILL at every step, then taken up again by a new process.

The guest runs on all the while, with one of its disks over a golden image. In the end its disks are volumes, or nothing was
done; descriptions and files are as before, the golden image too.
"""

import os
from collections.abc import Iterator

import pytest

from tests.crash import samples
from tests.crash.places import Place, everywhere
from tests.support.existing import FILES, GOLDEN, Existing, make_over_golden, open_existing
from tests.support.pattern import of_raw
from tests.support.stack import wait_for

KINDS = ("adopt_disks", "release_disks", "release_volume")
PLACES = [place for kind in KINDS for place in everywhere(samples.online()[kind])]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Existing]:
    with open_existing(tmp_path_factory.mktemp("adoption"), make_over_golden) as opened:
        opened.data.write(opened.guest, 0, 4, 0x61)
        yield opened


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_a_kill_there_ends_with_everything_right(site: Existing, place: Place) -> None:
    described, files = site.descriptions, site.identities
    golden = site.images.parent / "golden/debian.raw"
    written = golden.stat().st_mtime_ns
    adopts = place.kind == "adopt_disks"
    if not adopts:
        adopt(site)
    stack = site.lab.stack
    stack.kill()
    stack.start(place.failpoint())
    path, body = ("os-adopt-disks", {"adopt": {}}) if adopts else ("os-release-disks", {"release": {"delete_snapshots": True}})
    site.admin.ok("compute", "POST", f"/servers/{site.guest.id}/{path}", body)
    wait_for(lambda: not stack.running, f"the end of the process at {place}", 60)
    stack.kill()
    stack.start()
    site.quiet()
    assert (site.descriptions, site.identities) == (described, files)
    if adopts and not place.back:
        assert len(site.volumes()) == 2
        site.release()
    wait_for(lambda: site.volumes() == [], "the end of the volumes", 60)
    site.quiet()
    assert sorted(os.listdir(site.images)) == list(FILES)
    assert site.lab.api.ok("compute", "GET", "/os-assisted-snapshots")["assisted_snapshots"] == []
    assert (site.descriptions, site.identities) == (described, files)
    assert of_raw(site.images / "web-1-data.img") == site.data.clusters
    assert of_raw(golden) == dict.fromkeys(range(4), GOLDEN)
    assert golden.stat().st_mtime_ns == written


def adopt(site: Existing) -> None:
    """With a snapshot, so that there is something to merge before the end."""
    site.adopt()
    assert len(site.volumes()) == 2
    assert site.lab.api.take(site.guest.id, quiesce="never")["status"] == "available"
    site.data.write(site.guest, 8, 2, 0x62)
