"""The local driver without qemu-img: what it believes of a share, and what it never removes."""

import os
from pathlib import Path
from typing import Any

import pytest

from stillframe.chain.names import base_name, info_name, overlay_name, temporary_name, trash_name
from stillframe.errors import BadImage, ChainConflict, ShareUnavailable
from stillframe.host import files, qemu_img
from stillframe.volumes.drivers import local
from stillframe.volumes.drivers.local import LocalDriver
from tests.unit.builders import GIB, OTHER_SNAPSHOT, OTHER_VOLUME, SNAPSHOT, VOLUME
from tests.unit.host.headers import CLUSTER, Header, overlay

BASE, FIRST, SECOND = base_name(VOLUME), overlay_name(VOLUME, SNAPSHOT), overlay_name(VOLUME, OTHER_SNAPSHOT)
HOSTILE = ["", "..", "passwd", f"../{BASE}", base_name(OTHER_VOLUME), info_name(VOLUME), local.MARKER, f"{BASE}\n"]


@pytest.fixture
def share(tmp_path: Path) -> Path:
    """A share with a base and two overlays."""
    path = tmp_path / "share"
    local.prepare(path)
    for name, header in ((BASE, Header()), (FIRST, overlay(BASE.encode())), (SECOND, overlay(FIRST.encode()))):
        (path / name).write_bytes(header.start().ljust(4 * CLUSTER, b"\0"))
    return path


@pytest.fixture
def driver(share: Path) -> LocalDriver:
    return LocalDriver(share, local.prepare(share), 0)


def test_a_share_is_prepared_once_and_keeps_its_id(tmp_path: Path) -> None:
    first = local.prepare(tmp_path / "a")
    assert local.prepare(tmp_path / "a") == first != local.prepare(tmp_path / "b")
    assert (tmp_path / "a").stat().st_mode & 0o7777 == 0o2770


def test_a_directory_that_is_not_the_share_it_was_is_not_used(driver: LocalDriver, share: Path) -> None:
    (share / local.MARKER).rename(share / "hidden")
    calls: dict[str, Any] = {
        "files": lambda: driver.files(VOLUME),
        "chain": lambda: driver.chain(VOLUME, SECOND),
        "remove": lambda: driver.remove(VOLUME, SECOND),
        "read_info": lambda: driver.read_info(VOLUME),
        "write_info": lambda: driver.write_info(VOLUME, {"active": BASE}),
        "remove_temporary": lambda: driver.remove_temporary(VOLUME, "t"),
        "sweep": driver.sweep,
        "in_use": lambda: driver.in_use(VOLUME),
    }
    for call in calls.values():
        with pytest.raises(ShareUnavailable, match="not the share it was"):
            call()
    assert set(os.listdir(share)) == {BASE, FIRST, SECOND, "hidden"}


def test_another_shares_marker_is_refused(driver: LocalDriver, share: Path) -> None:
    files.write_json(share, local.MARKER, {"share_id": "another"})
    with pytest.raises(ShareUnavailable):
        driver.probe()


def test_a_full_share_takes_nothing_new(share: Path) -> None:
    full = LocalDriver(share, local.prepare(share), 1 << 62)
    full.probe()
    with pytest.raises(ShareUnavailable, match="full"):
        full.probe_for_writing()
    with pytest.raises(ShareUnavailable, match="full"):
        full.create(OTHER_VOLUME, GIB, "t")


def test_a_chain_is_read_from_the_active_file_down(driver: LocalDriver) -> None:
    assert [image.name for image in driver.chain(VOLUME, SECOND).images] == [BASE, FIRST, SECOND]
    assert [image.name for image in driver.chain(VOLUME, FIRST).images] == [BASE, FIRST]


def test_a_chain_with_a_missing_file_is_told(driver: LocalDriver, share: Path) -> None:
    (share / BASE).unlink()
    with pytest.raises(ChainConflict, match="missing"):
        driver.chain(VOLUME, SECOND)


def test_a_chain_that_goes_in_circles_ends(driver: LocalDriver, share: Path) -> None:
    (share / BASE).write_bytes(overlay(SECOND.encode()).start().ljust(4 * CLUSTER, b"\0"))
    with pytest.raises(BadImage, match="does not end"):
        driver.chain(VOLUME, SECOND)


def test_a_chain_never_leaves_the_volume(driver: LocalDriver, share: Path) -> None:
    (share / base_name(OTHER_VOLUME)).write_bytes((share / BASE).read_bytes())
    (share / FIRST).write_bytes(overlay(base_name(OTHER_VOLUME).encode()).start().ljust(4 * CLUSTER, b"\0"))
    with pytest.raises(BadImage, match="is not a file of volume"):
        driver.chain(VOLUME, SECOND)


@pytest.mark.parametrize("name", HOSTILE)
def test_only_the_volumes_own_files_are_touched(driver: LocalDriver, share: Path, name: str) -> None:
    before = set(os.listdir(share))
    for call in (
        lambda: driver.remove(VOLUME, name),
        lambda: driver.chain(VOLUME, name),
        lambda: driver.commit(VOLUME, name, 2),
    ):
        with pytest.raises(BadImage):
            call()
    assert set(os.listdir(share)) == before


def test_a_file_that_another_is_backed_by_is_not_removed(driver: LocalDriver, share: Path) -> None:
    for name in (BASE, FIRST):
        with pytest.raises(ChainConflict, match="I4"):
            driver.remove(VOLUME, name)
    driver.remove(VOLUME, SECOND)
    driver.remove(VOLUME, FIRST)
    driver.remove(VOLUME, FIRST)
    assert driver.files(VOLUME) == [BASE]
    assert set(os.listdir(share)) == {BASE, local.MARKER}


def test_a_file_with_a_second_child_is_never_committed_into(
    driver: LocalDriver, share: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed: list[str] = []
    monkeypatch.setattr(qemu_img, "commit", lambda _share, top, _base, _depth: committed.append(top))
    driver.commit(VOLUME, SECOND, 3)
    clone = overlay_name(VOLUME, OTHER_VOLUME)
    (share / clone).write_bytes(overlay(FIRST.encode()).start().ljust(4 * CLUSTER, b"\0"))
    with pytest.raises(ChainConflict, match="I2"):
        driver.commit(VOLUME, SECOND, 3)
    assert committed == [SECOND]


def test_only_chain_files_of_the_volume_are_its_files(driver: LocalDriver, share: Path) -> None:
    for name in (info_name(VOLUME), temporary_name(VOLUME, "t"), trash_name(BASE), base_name(OTHER_VOLUME), f"{BASE}.bak"):
        (share / name).write_bytes(b"")
    assert sorted(driver.files(VOLUME)) == sorted([BASE, FIRST, SECOND])


def test_the_info_file_is_written_replaced_and_taken_away(driver: LocalDriver, share: Path) -> None:
    assert driver.read_info(VOLUME) == {}
    for document in ({"active": FIRST}, {"active": SECOND, SNAPSHOT: FIRST}):
        driver.write_info(VOLUME, document)
        assert driver.read_info(VOLUME) == document
    for _ in range(2):
        driver.write_info(VOLUME, {})
    assert not (share / info_name(VOLUME)).exists()


def test_old_trash_is_swept_and_nothing_else(driver: LocalDriver, share: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = [".trash.passwd", ".trash.", f".trash.{info_name(VOLUME)}", temporary_name(VOLUME, "t")]
    for name in (trash_name(BASE), trash_name(FIRST), *other):
        (share / name).write_bytes(b"")
    ages = {trash_name(BASE): local.TRASH_SECONDS + 1, trash_name(FIRST): local.TRASH_SECONDS - 1}
    monkeypatch.setattr(files, "age_seconds", lambda _share, name: ages.get(name, 1e9))
    driver.sweep()
    assert set(os.listdir(share)) == {BASE, FIRST, SECOND, local.MARKER, trash_name(FIRST), *other}


def test_the_hypervisor_is_told_where_the_active_file_lies(driver: LocalDriver, share: Path) -> None:
    info = driver.connection_info(SECOND, "qcow2")
    assert (info["export"], info["name"], info["format"], info["driver_volume_type"]) == (str(share), SECOND, "qcow2", "local")
