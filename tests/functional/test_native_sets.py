"""Sets of a server with an iSCSI volume: what the guest does not wait for, scratch overlays in a directory without room, and
native snapshots inside the window. Data is compared by content."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import libvirt
import pytest

from stillframe.compute.operations.frozen_native import SET_KEY
from stillframe.db import operations
from stillframe.db.engine import Database
from stillframe.db.rows import OperationRow
from stillframe.errors import AgentFailed
from tests.support.iscsi_site import Site, open_site
from tests.support.pattern import Pattern, of_raw
from tests.support.small_share import fill, small_disk
from tests.support.stack import wait_for

# An overlay gets 16 MiB, and block storage no more time from 12 MiB on.
OPTIONS = "[compute]\nscratch_limit_mib = 16\n"
STOPPED = [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR]
WHOLE_LIMIT, UP_TO_WATERMARK = 320, 208  # clusters of 64 KiB


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("scratch")
    with (
        small_disk(directory / "scratch.ext4", directory / "state/scratch", 48),
        open_site(directory, OPTIONS, "vdb") as opened,
    ):
        yield opened


@pytest.fixture(scope="module")
def volume(site: Site) -> str:
    return site.volume()


@pytest.fixture(scope="module")
def disk(site: Site, volume: str) -> Pattern:
    attached = site.attach(volume)
    attached.write(site.guest, 3, 5, 0x5A)
    return attached


@pytest.fixture(autouse=True)
def _as_before(site: Site, volume: str, disk: Pattern) -> Iterator[None]:
    """After each test everything that the guest wrote is in the volume, no overlay is left, and the guest runs."""
    yield
    wait_for(lambda: site.guest.domain.state()[0] == libvirt.VIR_DOMAIN_RUNNING, "the guest to run")
    assert site.content(volume) == disk.clusters
    assert [name for name in site.scratch_left() if name != "filler"] == []
    assert "scratch-" not in site.guest.domain.XMLDesc(0) + site.guest.domain.XMLDesc(2)


def writes_until_stopped(site: Site, disk: Pattern, first: int, value: int) -> None:
    """Lets the guest write more than the overlay has room for; what it cannot write waits."""
    disk.clusters.update(dict.fromkeys(range(first, first + WHOLE_LIMIT), value))
    write = f"fill {disk.device} {first} {WHOLE_LIMIT} {value}; touch /run/written"
    site.guest.execute("rm -f /run/written")
    with suppress(AgentFailed):  # it may be stopped before its agent has answered
        site.guest.execute(write, wait=False)
    wait_for(lambda: site.guest.domain.state() == STOPPED, "QEMU to stop the guest, which has no room to write")


def has_written(site: Site) -> None:
    wait_for(lambda: "written" in site.guest.execute("ls /run"), "the write that waited", 60)


def test_a_set_is_refused_where_there_is_no_room(site: Site) -> None:
    filler = fill(site.scratch)
    body = {"assisted_snapshot": {"name": "full"}}
    answer = site.lab.api.send("compute", "POST", f"/servers/{site.guest.id}/os-assisted-snapshots", body)
    assert (answer.status_code, "scratch directory" in answer.text) == (503, True), answer.text
    filler.unlink()


def test_a_set_waits_for_room_before_anything_is_frozen(site: Site, volume: str, disk: Pattern) -> None:
    """The directory was filled after the request was checked. The set tells what it waits for."""
    set_id = site.held_at("assisted_snapshot/scratch/before")
    filler = fill(site.scratch)
    site.continues()
    wait_for(lambda: "scratch directory has" in operation_fault(site, set_id), "the set to wait for room")
    assert not site.guest.frozen()
    assert "scratch-" not in site.guest.domain.XMLDesc(0)
    before = disk.copy()
    filler.unlink()
    found = site.ended(set_id)
    assert (found["status"], found["fault"]) == ("available", None), str(found)
    assert snapshot_of(site, found, volume) == before


def operation_of(site: Site, set_id: str) -> OperationRow:
    """The set's operation, as the journal has it."""
    database = Database(f"sqlite:///{site.lab.stack.state_dir}/stillframe.sqlite")
    with database.read() as connection:
        row = operations.get(connection, set_id)
    database.close()
    assert row is not None
    return row


def operation_fault(site: Site, set_id: str) -> str:
    """Why the set's operation was given back, or went back."""
    return str((operation_of(site, set_id)["fault"] or {}).get("message", ""))


def of_set(site: Site, volume: str, set_id: str) -> list[dict[str, Any]]:
    """The snapshots of a volume that were asked for by a set."""
    found = site.lab.api.ok("volume", "GET", f"/snapshots/detail?volume_id={volume}")["snapshots"]
    return [each for each in found if each["metadata"].get(SET_KEY) == set_id]


def snapshot_of(site: Site, found: dict[str, Any], volume: str) -> dict[int, int]:
    (entry,) = (each for each in found["volumes"] if each["volume_id"] == volume)
    return of_raw(site.share / f"volume-{volume}.{entry['snapshot_id']}")


def test_what_is_reserved_nobody_else_can_take(site: Site, volume: str, disk: Pattern) -> None:
    """The file system is full from right after the overlay was made; the guest notices nothing."""
    set_id = site.held_at("assisted_snapshot/native/before")
    filler = fill(site.scratch)
    before = disk.copy()
    disk.write(site.guest, 20, 64, 0x11)
    assert site.content(volume) == before
    site.continues()
    found = site.ended(set_id)
    assert (found["status"], found["fault"]) == ("available", None), str(found)
    assert snapshot_of(site, found, volume) == before
    filler.unlink()


def test_a_guest_that_writes_up_to_the_watermark_gets_its_volume_back(site: Site, volume: str, disk: Pattern) -> None:
    """Block storage is given no more time; the set says so, and what was written is in the volume."""
    set_id = site.held_at("assisted_snapshot/native/before")
    disk.write(site.guest, 400, UP_TO_WATERMARK, 0x22)
    site.continues()
    found = site.ended(set_id)
    assert found["status"] == "error", str(found)
    assert "scratch_limit_mib" in error_of(found, volume)
    wait_for(lambda: of_set(site, volume, set_id) == [], "the end of the snapshot that came too late")


def error_of(found: dict[str, Any], volume: str) -> str:
    (entry,) = (each for each in found["volumes"] if each["volume_id"] == volume)
    return str(entry["error"])


def test_a_guest_that_fills_the_directory_is_stopped_and_continues(site: Site, volume: str, disk: Pattern) -> None:
    """Before there is a snapshot, and after it: its writes wait until the overlay is committed back."""
    set_id = site.held_at("assisted_snapshot/native/before")
    filler = fill(site.scratch)
    writes_until_stopped(site, disk, 1000, 0x33)
    site.continues()
    found = site.ended(set_id)
    assert found["status"] == "error", str(found)
    assert "scratch" in error_of(found, volume)
    has_written(site)
    filler.unlink()

    set_id, before = site.held_at("assisted_snapshot/commit_back/before"), disk.copy()
    filler = fill(site.scratch)
    writes_until_stopped(site, disk, 2000, 0x44)
    site.continues()
    found = site.ended(set_id)
    assert (found["status"], found["fault"]) == ("available", None), str(found)
    assert snapshot_of(site, found, volume) == before
    has_written(site)
    filler.unlink()


BLOCK_STORAGE = "create_snapshot/Clone/before"  # where it is about to take the native snapshot


def test_a_guest_does_not_wait_for_block_storage(site: Site, volume: str, disk: Pattern) -> None:
    """Block storage does not take the snapshot before the guest was thawed and has written again."""
    set_id, before = site.held_at(BLOCK_STORAGE), disk.copy()
    wait_for(lambda: "verify" in operation_of(site, set_id)["evidence"], "the end of the window")
    window = operation_of(site, set_id)["evidence"]["switch"]["outcome"]
    assert not site.guest.frozen()
    disk.write(site.guest, 30, 16, 0x55)
    site.continues()
    found = site.ended(set_id)
    assert (found["status"], found["consistency"]["level"]) == ("available", "filesystem"), str(found)
    assert found["consistency"]["frozen_ms"] == window["frozen_ms"]
    assert snapshot_of(site, found, volume) == before


@pytest.fixture(scope="module")
def frozen(site: Site) -> Iterator[None]:
    """Native snapshots are taken inside the window, for three seconds at the most; there is no room for scratch overlays."""
    site.lab.stack.stop()
    settings, filler = site.lab.directory / "stillframe.conf", fill(site.scratch)
    usual = settings.read_text()
    settings.write_text(f"{usual}native_mode = frozen\nfreeze_deadline_seconds = 3\n")
    site.lab.stack.start()
    yield
    site.lab.stack.kill()
    settings.write_text(usual)
    site.lab.stack.start()
    filler.unlink()


def test_block_storage_is_asked_inside_the_window(site: Site, frozen: None, volume: str, disk: Pattern) -> None:
    """The guest is frozen until both kinds of snapshot are there. No scratch overlay is needed."""
    before = disk.copy()
    set_id = site.held_at("quiesce/native", quiesce="required")
    (first,) = of_set(site, volume, set_id)
    assert first["status"] == "available"
    site.lab.stack.kill()
    wait_for(lambda: not site.guest.frozen(), "the watchdog to thaw the guest")
    site.lab.stack.start()  # the set begins anew: at another instant
    found = site.ended(set_id)
    assert (found["status"], found["fault"], found["consistency"]["level"]) == ("available", None, "filesystem"), str(found)
    (second,) = of_set(site, volume, set_id)
    assert second["id"] in {entry["snapshot_id"] for entry in found["volumes"]} - {first["id"]}
    assert snapshot_of(site, found, volume) == before


def test_a_worker_that_dies_after_the_switch_keeps_the_snapshots(site: Site, frozen: None, volume: str, disk: Pattern) -> None:
    """They were taken in the window; but nobody can confirm any more that it held."""
    before = disk.copy()
    set_id = site.held_at("quiesce/switched")
    site.continues()
    found = site.ended(set_id)
    assert (found["status"], found["consistency"]["level"]) == ("available", "crash"), str(found)
    assert snapshot_of(site, found, volume) == before
    assert not site.guest.frozen()


def test_a_guest_is_thawed_when_block_storage_takes_too_long(site: Site, frozen: None, volume: str, disk: Pattern) -> None:
    """With preferred the set is kept, and says that its volumes are not of one instant."""
    set_id = site.held_at(BLOCK_STORAGE)
    wait_for(lambda: "verify" in operation_of(site, set_id)["evidence"], "the end of the window")
    assert not site.guest.frozen()
    disk.write(site.guest, 50, 8, 0x77)
    site.continues()
    found = site.ended(set_id)
    assert (found["status"], found["consistency"]["level"]) == ("available", "crash"), str(found)
    assert "not of one instant" in found["consistency"]["degraded_reason"]
    assert snapshot_of(site, found, volume) == disk.clusters


def test_a_set_that_must_be_quiesced_is_taken_back_then(site: Site, frozen: None, volume: str, disk: Pattern) -> None:
    files = site.guest.domain.XMLDesc(0)
    set_id = site.held_at(BLOCK_STORAGE, quiesce="required")
    wait_for(lambda: operation_of(site, set_id)["state"] == "undoing", "the set to be taken back")
    assert not site.guest.frozen()
    site.continues()
    found = site.ended(set_id)
    assert (found["status"], "freeze_deadline_seconds" in found["fault"]) == ("error", True), str(found)
    assert of_set(site, volume, set_id) == []
    assert site.guest.domain.XMLDesc(0) == files


def test_what_block_storage_refuses_ends_the_set(site: Site, frozen: None, volume: str, disk: Pattern) -> None:
    """Nothing is switched, and the guest is thawed at once."""
    files = site.guest.domain.XMLDesc(0)
    site.lab.stack.kill()
    site.lab.stack.start(f"{BLOCK_STORAGE}:fail")
    found = site.take()
    assert found["status"] == "error", str(found)
    assert f"no snapshot of volume {volume}" in found["fault"]
    assert not site.guest.frozen()
    assert site.guest.domain.XMLDesc(0) == files
    site.lab.stack.kill()
    site.lab.stack.start()


def test_without_a_freeze_the_set_says_that_it_is_not_of_one_instant(
    site: Site, frozen: None, volume: str, disk: Pattern
) -> None:
    found = site.take(quiesce="never")
    assert (found["status"], found["consistency"]["level"]) == ("available", "crash"), str(found)
    assert "not of the same instant" in found["consistency"]["degraded_reason"]
    assert snapshot_of(site, found, volume) == disk.clusters
