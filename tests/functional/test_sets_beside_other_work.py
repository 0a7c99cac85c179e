"""Sets, their deletions, backups and attachments that meet other work on the same server: a slow merge, a linked clone."""

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import libvirt
import pytest

from stillframe.db import operations
from stillframe.db.engine import Database
from tests.support.pattern import seen
from tests.support.site import Disk, Site, journal_is_empty, open_site
from tests.support.stack import wait_for

SLOW = "[compute]\nmerge_bandwidth_mib = 1\n"
IDS = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
CLUSTERS = 320  # 20 MiB: a merge of them takes 20 s


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with open_site(tmp_path_factory.mktemp("beside"), 2, SLOW) as opened:
        yield opened


def settled(site: Site) -> None:
    wait_for(lambda: journal_is_empty(site.lab.stack), "the operations", 60)


def assert_named(site: Site, told: str) -> None:
    """The message of a 409 names an operation."""
    database = Database(f"sqlite:///{site.lab.stack.state_dir}/stillframe.sqlite")
    with database.read() as connection:
        assert [each for each in IDS.findall(told) if operations.get(connection, each)], told
    database.close()


def take(site: Site, value: int, start: int = 0) -> dict[str, Any]:
    """Writes to both disks and takes a set of them."""
    for number, disk in enumerate(site.disks):
        site.write(disk, start + 7 * number, CLUSTERS, value + number)
    found = site.lab.api.take(site.lab.guest.id, quiesce="never", volumes=[disk.id for disk in site.disks])
    assert found["status"] == "available", found
    keep(site, found)
    return found


def keep(site: Site, found: dict[str, Any]) -> None:
    """Remembers what the snapshots of a set hold: all that was written until now."""
    for disk in site.disks:
        disk.held[of(found, disk)] = disk.content


def of(found: dict[str, Any], disk: Disk) -> str:
    return next(str(entry["snapshot_id"]) for entry in found["volumes"] if entry["volume_id"] == disk.id)


def path(site: Site, found: dict[str, Any] | None = None) -> str:
    every = f"/servers/{site.lab.guest.id}/os-assisted-snapshots"
    return f"{every}/{found['id']}" if found else every


def slowed(site: Site, disk: Disk) -> None:
    """Waits for the merge of a disk and lets it take minutes, unless a test takes the throttle off."""
    site.wait_jobs(disk)
    bytes_per_second = libvirt.VIR_DOMAIN_BLOCK_JOB_SPEED_BANDWIDTH_BYTES
    site.lab.guest.domain.blockJobSetSpeed(disk.target, 128 << 10, bytes_per_second)


def unthrottle(site: Site) -> None:
    for disk in site.disks:
        with suppress(libvirt.libvirtError):  # there is no merge, or it has just ended
            site.lab.guest.domain.blockJobSetSpeed(disk.target, 0, 0)


def hurried(site: Site, found: dict[str, Any]) -> None:
    """Takes the throttle off whatever merge there is, until the set is gone; its snapshots go one after the other."""

    def over() -> bool:
        unthrottle(site)
        return site.lab.api.send("compute", "GET", path(site, found)).status_code == 404

    wait_for(over, "the set's end", 90)
    for disk in site.disks:
        site.gone(of(found, disk))
    settled(site)


def conflict(answer: Any) -> str:
    assert answer.status_code == 409, answer.text
    return str(answer.json()["conflictingRequest"]["message"])


def test_a_set_that_a_linked_clone_reads_stays_until_the_clone_is_gone(site: Site) -> None:
    api, admin = site.lab.api, site.lab.stack.api("stillframe-admin")
    found = take(site, 33)
    kind = {"name": "linked", "extra_specs": {"stillframe:linked_clone": "true"}}
    admin.ok("volume", "POST", "/types", {"volume_type": kind})
    first, second = site.disks
    wanted = {"snapshot_id": of(found, second), "volume_type": "linked", "size": 1}
    clone = api.ok("volume", "POST", "/volumes", {"volume": wanted})["volume"]["id"]
    wait_for(lambda: api.volume(clone)["status"] == "available", "the clone")
    snapshot = second.pattern.copy()
    for disk in site.disks:
        site.write(disk, 0, 9, 65)
    settled(site)
    before = api.set(found["id"]), [api.snapshot(of(found, disk)) for disk in site.disks], site.chain(first.id)
    for each in (path(site, found), f"/os-assisted-snapshots/{found['id']}"):
        told = conflict(api.send("compute", "DELETE", each))
        assert clone in told
    assert not api.ok("compute", "DELETE", f"{path(site, found)}?explain=1")["explanation"]["possible"]
    settled(site)
    assert (api.set(found["id"]), [api.snapshot(of(found, disk)) for disk in site.disks], site.chain(first.id)) == before
    assert api.set(found["id"])["status"] == "available"
    assert seen(site.share, site.chain(clone)["active_file"]) == snapshot
    site.look()
    api.ok("volume", "DELETE", f"/volumes/{clone}")
    wait_for(lambda: api.send("volume", "GET", f"/volumes/{clone}").status_code == 404, "the clone's end")
    settled(site)
    api.ok("compute", "DELETE", path(site, found))
    hurried(site, found)
    site.look()


def test_a_set_asked_for_while_a_merge_runs_waits_for_it_if_it_may(site: Site) -> None:
    api, (disk, other) = site.lab.api, site.disks
    doomed = of(take(site, 40), disk)
    take(site, 50)
    site.write(disk, 3, 5, 60)
    site.delete(doomed)
    slowed(site, disk)
    volumes = [other.id, disk.id]
    wanted = {"quiesce": "never", "volumes": volumes}
    told = conflict(api.send("compute", "POST", path(site), {"assisted_snapshot": wanted}))
    assert_named(site, told)
    body = {"assisted_snapshot": {**wanted, "wait": 600}}
    asked = str(api.ok("compute", "POST", path(site), body)["assisted_snapshot"]["id"])
    wait_for(lambda: "it waits" in (api.set(asked)["fault"] or ""), "the set to say what it waits for")
    assert api.set(asked)["status"] == "creating"
    assert site.job(disk), "the merge has not ended"
    for each in site.disks:  # what a guest writes while the set waits is in it
        site.write(each, CLUSTERS, 12, 61)
    site.hurried(doomed)
    found = api.wait_set(asked)
    assert (found["status"], found["fault"], len(found["volumes"])) == ("available", None, 2)
    keep(site, found)
    for each in site.disks:
        site.write(each, CLUSTERS, 4, 62)
    settled(site)
    site.look()


def test_an_incremental_backup_while_an_older_set_is_deleted_says_so(site: Site) -> None:
    """The file that the backup before it holds goes down into the one of the older set."""
    site.arm("merge/committed:sleep=3")  # one has gone into the other, and nothing says so yet
    api, disk = site.lab.api, site.disks[0]

    def back_up(found: dict[str, Any], incremental: bool) -> Any:
        body = {"volume_id": disk.id, "snapshot_id": of(found, disk), "incremental": incremental, "force": True}
        return api.send("volume", "POST", "/backups", {"backup": body})

    def ended(answer: Any) -> dict[str, Any]:
        assert answer.status_code == 202, answer.text
        backup = f"/backups/{answer.json()['backup']['id']}"
        wait_for(lambda: api.ok("volume", "GET", backup)["backup"]["status"] != "creating", "the backup", 60)
        made: dict[str, Any] = api.ok("volume", "GET", backup)["backup"]
        assert made["status"] == "available", made
        return made

    # No set hides what the one before holds, so that whatever way a merge takes, all of it is copied.
    older, before, found = (take(site, 70 + number, number * (CLUSTERS + 100)) for number in range(3))
    ended(back_up(before, False))
    content = dict(disk.pattern.clusters)
    site.write(disk, 0, 30, 99)
    settled(site)
    api.ok("compute", "DELETE", path(site, older))
    slowed(site, disk)
    assert_named(site, conflict(back_up(found, True)))
    answers = []

    def accepted() -> bool:
        unthrottle(site)
        answers.append(back_up(found, True))
        if answers[-1].status_code != 202:
            assert_named(site, conflict(answers[-1]))
        return bool(answers[-1].status_code == 202)

    wait_for(accepted, "the deletion's end", 60)
    made = ended(answers[-1])
    assert made["is_incremental"]
    hurried(site, older)
    restored = api.ok("volume", "POST", f"/backups/{made['id']}/restore", {"restore": {}})["restore"]["volume_id"]
    wait_for(lambda: api.volume(restored)["status"] == "available", "the restored volume", 60)
    assert seen(site.share, site.chain(restored)["active_file"]) == content
    site.look()


def test_a_second_volume_is_attached_when_the_first_is(site: Site) -> None:
    site.arm("attach_volume/complete/before:sleep=3")  # the second is asked for while the first is plugged in
    api, guest = site.lab.api, site.lab.guest
    attachments = f"/servers/{guest.id}/os-volume_attachments"
    sizes = (2, 3)
    made = [api.create_volume(f"added-{size}", size) for size in sizes]
    for volume_id in made:
        api.ok("compute", "POST", attachments, {"volumeAttachment": {"volumeId": volume_id}})
    wait_for(lambda: {api.volume(each)["status"] for each in made} == {"in-use"}, "the attachments", 60)
    found = [api.ok("compute", "GET", f"{attachments}/{each}")["volumeAttachment"]["device"] for each in made]
    assert len(set(found)) == 2
    for device, size in zip(found, sizes, strict=True):
        assert guest.execute(f"cat /sys/block/{device.removeprefix('/dev/')}/size").strip() == str(size << 21)
    settled(site)
    site.look()
