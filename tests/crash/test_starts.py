"""A stopped server is started while the files of its volumes change: through us, and by somebody who asks libvirt.

What it writes must never lie in a file that nobody reads any more.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import libvirt
import pytest

from stillframe.host import hypervisor
from tests.support.site import Site, open_site
from tests.support.stack import wait_for

# Of a commit into the file below, after which the definition names that; and of a pull into the active file, which then gets
# the name of the one that went.
KINDS = ("commit_active", "pull")
SWITCH = "delete_snapshot/SwitchFile-1"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with open_site(tmp_path_factory.mktemp("starts"), 1) as opened:
        yield opened


def begin(site: Site, kind: str, failpoint: str, told: bool = False) -> str:
    """The deletion of a snapshot of the stopped server's volume, held at a place; returns the snapshot. ``told``: the
    definition names no chain that libvirt would look for in vain (it writes one at a pivot; a start of ours takes it out)."""
    if not site.lab.guest.domain.isActive():
        site.restart_guest()
    snapshot_id = site.arrange(kind, site.disks[0])
    site.arm(failpoint)
    hypervisor.power(site.lab.guest.domain, "destroy")
    if told:
        site.lab.api.ok("compute", "POST", f"/servers/{site.lab.guest.id}/action", {"os-start": None})
        hypervisor.power(site.lab.guest.domain, "destroy")
    before = held(site)
    site.delete(snapshot_id)
    wait_for(lambda: held(site) > before, "the place")
    return snapshot_id


def held(site: Site) -> int:
    return site.lab.stack.log.read_text().count("held at ")


def test_a_start_is_refused_while_files_change(site: Site) -> None:
    snapshot_id = begin(site, "commit_active", "delete_snapshot/check_stopped/before:sleep=2")
    refused(site)
    site.gone(snapshot_id)
    site.check()


def test_nobody_starts_a_server_on_a_file_that_is_about_to_get_its_name(site: Site) -> None:
    snapshot_id = begin(site, "pull", f"{SWITCH}/effect:sleep=4")
    refused(site)
    with pytest.raises(libvirt.libvirtError, match="No such file"):
        site.lab.guest.domain.create()
    site.gone(snapshot_id)
    site.check()


def refused(site: Site) -> None:
    answer = site.lab.api.send("compute", "POST", f"/servers/{site.lab.guest.id}/action", {"os-start": None})
    assert answer.status_code == 409, answer.text
    assert "changes the files of volume" in answer.text


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_server_writes_that_somebody_else_started_is_kept(site: Site, kind: str) -> None:
    """After the commit, before the definition names the other file: what is written then is committed, too."""
    snapshot_id = begin(site, kind, f"{SWITCH}/before:sleep=5", told=True)
    site.lab.guest.console.write_text("")
    site.lab.guest.domain.create()
    site.wait_up(0)
    wait_for(lambda: "was started meanwhile" in site.lab.api.snapshot(snapshot_id).get("fault", ""), "the deletion to wait")
    site.write(site.disks[0], 3, 9, 88)
    site.look(skipped=snapshot_id)
    hypervisor.power(site.lab.guest.domain, "destroy")
    site.gone(snapshot_id, 90)
    site.check()


def test_a_deletion_waits_for_a_start_that_continues(site: Site) -> None:
    """And then does under the running guest what it would have done to its files."""
    if not site.lab.guest.domain.isActive():
        site.restart_guest()
    snapshot_id = site.arrange("commit_active", site.disks[0])
    site.arm("power/checked:sleep=3")
    hypervisor.power(site.lab.guest.domain, "destroy")
    site.lab.guest.console.write_text("")
    before = held(site)
    with ThreadPoolExecutor(1) as pool:
        start = pool.submit(site.lab.api.ok, "compute", "POST", f"/servers/{site.lab.guest.id}/action", {"os-start": None})
        wait_for(lambda: held(site) > before, "the start")
        site.delete(snapshot_id)
        start.result(60)
    site.wait_up(0)
    site.write(site.disks[0], 3, 9, 88)
    site.gone(snapshot_id)
    assert f"DELETE /v2.1/os-assisted-volume-snapshots/{snapshot_id}" in site.lab.stack.log.read_text(), "not merged live"
    site.check()
