"""Where scratch overlays may lie, and which disks may have one."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stillframe.compute.libvirt.connections import iscsi
from stillframe.compute.libvirt.domain_xml import Disk
from stillframe.compute.libvirt.network_source import NetworkSource
from stillframe.compute.operations.snapshot_intents import NativeDisk
from stillframe.compute.requests import native_disks
from stillframe.errors import Conflict, NotFound, ScratchUnusable, ShareUnavailable, TargetUnreachable
from stillframe.host import files, scratch
from stillframe.units import GIB
from tests.unit.builders import OTHER_VOLUME, VOLUME
from tests.unit.compute import intents


def test_no_scratch_overlay_lies_on_the_share_of_a_volume(tmp_path: Path) -> None:
    share, beside = tmp_path / "share", tmp_path / "scratch"
    (share / "inside").mkdir(parents=True)
    (tmp_path / "link").symlink_to(share)
    disks = [intents.disk(directory=str(share))]
    native_disks.check_place(beside, disks)
    native_disks.check_place(tmp_path / "share-2", disks)
    for place in (share, share / "inside", share / "inside/new", tmp_path / "link"):
        with pytest.raises(ScratchUnusable, match="lies on the share of volume"):
            native_disks.check_place(place, disks)


@pytest.fixture(autouse=True)
def reached(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The attachments whose targets were asked."""
    found: list[str] = []
    monkeypatch.setattr(iscsi, "check_reachable", lambda _worker, attachment: found.append(attachment.id))
    return found


NAME = "iqn.2026-01.example:one"
INFO = {
    "driver_volume_type": "iscsi",
    "target_portal": "192.0.2.1:3260",
    "target_iqn": NAME,
    "target_lun": 1,
    "attachment_id": "a",
}


def planned(
    volume_id: str, place: Path, policy: str | None = "stop", count: int = 1, mode: str = "overlay"
) -> list[NativeDisk]:
    """Plans ``count`` disks of one volume under a running server; the project has VOLUME alone."""
    network = NetworkSource("iscsi", f"{NAME}/1", "192.0.2.1", 3260, None, None, None)
    disk = Disk("vdb", "virtio", "disk", "network", "raw", volume_id, None, network=network, error_policy=policy)
    server: Any = SimpleNamespace(id="s", view=SimpleNamespace(active=True))
    options = SimpleNamespace(scratch_limit_mib=16, native_mode=mode, scratch_dir=None)
    settings = SimpleNamespace(scratch_dir=place, compute=options)
    chosen = [(disk, INFO)] * count
    worker: Any = SimpleNamespace(settings=settings)
    return native_disks.plan_all(
        worker, server, "set", chosen, {VOLUME: {"id": VOLUME, "size": 1, "name": "v", "status": "in-use"}}
    )


def test_every_overlay_of_a_set_must_find_its_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "free_bytes", lambda _place: 40 << 20)
    assert [disk.size for disk in planned(VOLUME, tmp_path / "s", count=2)] == [GIB, GIB]
    with pytest.raises(ShareUnavailable, match="may need 50331648"):
        planned(VOLUME, tmp_path / "s", count=3)


def test_a_running_servers_target_is_asked_first(tmp_path: Path, reached: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    planned(VOLUME, tmp_path / "s", count=2)
    assert reached == ["a", "a"]

    def is_away(_worker: object, _attachment: object) -> None:
        raise TargetUnreachable("it is away")

    monkeypatch.setattr(iscsi, "check_reachable", is_away)
    with pytest.raises(TargetUnreachable):
        planned(VOLUME, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_directory_that_others_may_write_to_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "link").symlink_to(tmp_path)
    for place in (tmp_path / "open", tmp_path / "link"):
        with pytest.raises(ScratchUnusable, match="scratch_dir"):
            planned(VOLUME, place)


def test_a_directory_that_others_may_put_another_in_place_of_is_refused(tmp_path: Path) -> None:
    """They would have the overlays of the next set, which hold what guests write, in a directory of theirs."""
    (tmp_path / "group").mkdir()
    (tmp_path / "group").chmod(0o770)
    (tmp_path / "other").mkdir(mode=0o700)
    os.chown(tmp_path / "other", 65534, -1)
    for place in (tmp_path / "group/s", tmp_path / "other/s"):
        with pytest.raises(ScratchUnusable, match=r"scratch_dir: .* directory in its place"):
            planned(VOLUME, place)
        assert not place.exists()


def test_a_volume_of_another_project_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        planned(OTHER_VOLUME, tmp_path / "s")


@pytest.mark.parametrize("policy", ["report", "ignore"])
def test_a_disk_whose_guest_would_lose_writes_gets_no_overlay(tmp_path: Path, policy: str) -> None:
    with pytest.raises(Conflict, match=f"error_policy='{policy}'"):
        planned(VOLUME, tmp_path / "s", policy)
    assert planned(VOLUME, tmp_path / "s", None)
    (in_window,) = planned(VOLUME, tmp_path / "none", policy, mode="frozen")
    assert (in_window.scratch, in_window.directory, (tmp_path / "none").exists()) == ("", "", False)


def test_an_overlay_needs_no_more_room_than_its_volume() -> None:
    assert scratch.Overlay(Path("/s"), "one", GIB).room(16 << 20) == 16 << 20
    assert GIB < scratch.Overlay(Path("/s"), "one", GIB).room(16 * GIB) < GIB * 1.01


def test_a_share_is_known_by_its_marker(tmp_path: Path) -> None:
    """Also one that no disk of the set lies on."""
    (tmp_path / "share/inside").mkdir(parents=True)
    (tmp_path / "share/.share-id").touch()
    for place in ("share", "share/inside", "share/new"):
        with pytest.raises(ScratchUnusable, match=r"scratch_dir: .* lies on a share of volumes"):
            planned(VOLUME, tmp_path / place)
    assert planned(VOLUME, tmp_path / "scratch")
