"""A share that is a directory, without qemu-img: what is believed of it, and what is never removed."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stillframe.chain.image import Image
from stillframe.chain.names import base_name, info_name, overlay_name, record_name, temporary_name, trash_name
from stillframe.errors import BadImage, ChainConflict, ShareUnavailable, StepFailed
from stillframe.host import files, qemu_img
from stillframe.volumes.storage.drivers import directory, local, markers
from stillframe.volumes.storage.drivers.directory import DirectoryShare
from stillframe.volumes.storage.drivers.shares_config import Export
from tests.unit.builders import GIB, OTHER_SNAPSHOT, OTHER_VOLUME, SNAPSHOT, VOLUME
from tests.unit.host.headers import CLUSTER, Header, overlay

BASE, FIRST, SECOND = base_name(VOLUME), overlay_name(VOLUME, SNAPSHOT), overlay_name(VOLUME, OTHER_SNAPSHOT)
HOSTILE = ["", "..", "passwd", f"../{BASE}", base_name(OTHER_VOLUME), info_name(VOLUME), markers.MARKER, f"{BASE}\n"]


def made(path: Path) -> Path:
    return local.prepare(Export(str(path)), path.parent)


@pytest.fixture
def share(tmp_path: Path) -> Path:
    """A share with a base and two overlays."""
    path = made(tmp_path / "share")
    for name, header in ((BASE, Header()), (FIRST, overlay(BASE.encode())), (SECOND, overlay(FIRST.encode()))):
        (path / name).write_bytes(header.start().ljust(4 * CLUSTER, b"\0"))
    return path


@pytest.fixture
def driver(share: Path) -> DirectoryShare:
    return DirectoryShare(share, markers.prepare(share), 0)


def test_a_file_that_goes_away_while_it_is_looked_at_counts_as_in_use(
    driver: DirectoryShare, share: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may write to the share moves it away for a moment; that is no defect of ours."""
    monkeypatch.setattr(files, "listing", lambda _path: [BASE, FIRST])
    (share / BASE).rename(share / "kept")
    assert driver.in_use(VOLUME) == [BASE]


def test_a_share_is_prepared_once_and_keeps_its_id(tmp_path: Path) -> None:
    first = markers.prepare(made(tmp_path / "a"))
    assert markers.prepare(made(tmp_path / "a")) == first != markers.prepare(made(tmp_path / "b"))
    assert (tmp_path / "a").stat().st_mode & 0o7777 == 0o2770


def test_a_directory_that_is_not_the_share_it_was_is_not_used(driver: DirectoryShare, share: Path) -> None:
    (share / markers.MARKER).rename(share / "hidden")
    calls: dict[str, Any] = {
        "files": lambda: driver.files(VOLUME),
        "images": lambda: driver.images(VOLUME, "qcow2"),
        "image": lambda: driver.image(SECOND, "qcow2"),
        "remove": lambda: driver.remove(VOLUME, SECOND),
        "read_document": lambda: driver.read_document(info_name(VOLUME)),
        "write_document": lambda: driver.write_document(info_name(VOLUME), {"active": BASE}),
        "repoint": lambda: driver.repoint(VOLUME, SECOND, BASE, "qcow2"),
        "rename": lambda: driver.rename(VOLUME, SECOND, overlay_name(VOLUME, VOLUME)),
        "manage_file": lambda: driver.manage_file(VOLUME, SECOND, overlay_name(VOLUME, VOLUME)),
        "unmanage_file": lambda: driver.unmanage_file(VOLUME, SECOND, "x"),
        "commit": lambda: driver.commit(VOLUME, SECOND, BASE),
        "pull": lambda: driver.pull(VOLUME, SECOND, None, None),
        "resize": lambda: driver.resize(VOLUME, SECOND, "qcow2", 2 * GIB),
        "dependants": lambda: driver.dependants(BASE),
        "holds_data": lambda: driver.holds_data(SECOND),
        "free": driver.free,
        "total": driver.total,
        "remove_temporary": lambda: driver.remove_temporary(VOLUME, "t"),
        "sweep": driver.sweep,
        "in_use": lambda: driver.in_use(VOLUME),
    }
    for call in calls.values():
        with pytest.raises(ShareUnavailable, match="not the share it was"):
            call()
    assert set(files.listing(share)) == {BASE, FIRST, SECOND, "hidden"}


@pytest.mark.parametrize("marker", [b'{"share_id": "another"}', b"{}", b"[]", b"", b"\xff", b"[" * 100_000])
def test_another_shares_marker_is_refused(driver: DirectoryShare, share: Path, marker: bytes) -> None:
    (share / markers.MARKER).write_bytes(marker)
    with pytest.raises(ShareUnavailable):
        driver.probe()


def test_a_full_share_takes_nothing_new(share: Path) -> None:
    full = DirectoryShare(share, markers.prepare(share), 1 << 62)
    full.probe()
    with pytest.raises(ShareUnavailable, match="full"):
        full.probe_for_writing()
    with pytest.raises(ShareUnavailable, match="full"):
        full.create(OTHER_VOLUME, Image(base_name(OTHER_VOLUME), "qcow2", GIB), "t")
    with pytest.raises(ShareUnavailable, match="full"):
        full.create_overlay(VOLUME, Image(overlay_name(VOLUME, VOLUME), "qcow2", GIB, SECOND, "qcow2"), "t")
    with pytest.raises(ShareUnavailable, match="full"):
        full.resize(VOLUME, SECOND, "qcow2", 2 * GIB)


def test_every_file_of_a_volume_is_read_and_no_other(driver: DirectoryShare, share: Path) -> None:
    (share / base_name(OTHER_VOLUME)).write_bytes((share / BASE).read_bytes())
    found = driver.images(VOLUME, "qcow2")
    assert {name: image.backing for name, image in found.items()} == {BASE: None, FIRST: BASE, SECOND: FIRST}


def test_a_raw_base_is_its_length_whatever_lies_in_it(driver: DirectoryShare, share: Path) -> None:
    """A guest may write a header into its disk that names a file of the host (R3)."""
    (share / BASE).write_bytes(overlay(b"etc-passwd").start().ljust(4 * CLUSTER, b"\0"))
    assert driver.images(VOLUME, "raw")[BASE] == Image(BASE, "raw", 4 * CLUSTER)


def test_a_raw_files_content_is_never_taken_for_a_header(share: Path) -> None:
    (share / base_name(OTHER_VOLUME)).write_bytes(overlay(SECOND.encode()).start().ljust(4 * CLUSTER, b"\0"))
    raw: set[str] = set()
    driver = DirectoryShare(share, markers.prepare(share), 0, lambda: raw)
    with pytest.raises(ChainConflict):
        driver.remove(VOLUME, SECOND)
    raw.add(base_name(OTHER_VOLUME))
    driver.remove(VOLUME, SECOND)


def test_a_header_that_names_a_file_elsewhere_is_refused(driver: DirectoryShare, share: Path) -> None:
    (share / FIRST).write_bytes(overlay(b"../etc/passwd").start().ljust(4 * CLUSTER, b"\0"))
    with pytest.raises(BadImage, match="not a plain file name"):
        driver.images(VOLUME, "qcow2")


@pytest.mark.parametrize("name", HOSTILE)
def test_only_the_volumes_own_files_are_touched(driver: DirectoryShare, share: Path, name: str) -> None:
    before = set(files.listing(share))
    calls: list[Callable[[], object]] = [
        lambda: driver.remove(VOLUME, name),
        lambda: driver.commit(VOLUME, name, BASE),
        lambda: driver.pull(VOLUME, name, None, None),
        lambda: driver.repoint(VOLUME, name, BASE, "qcow2"),
        lambda: driver.repoint(VOLUME, SECOND, name, "qcow2"),
        lambda: driver.rename(VOLUME, name, overlay_name(VOLUME, VOLUME)),
        lambda: driver.rename(VOLUME, SECOND, name),
        lambda: driver.resize(VOLUME, name, "qcow2", 9 * GIB),
        lambda: driver.repair(VOLUME, name, "qcow2"),
        lambda: driver.manage_file(VOLUME, SECOND, name),
        lambda: driver.unmanage_file(VOLUME, name, "x"),
        lambda: driver.create(VOLUME, Image(name, "qcow2", GIB), "t"),
        lambda: driver.create_overlay(VOLUME, Image(name, "qcow2", GIB, SECOND, "qcow2"), "t"),
    ]
    for call in calls:
        with pytest.raises(BadImage):
            call()
    assert set(files.listing(share)) == before


def test_a_file_that_another_is_backed_by_is_not_removed(driver: DirectoryShare, share: Path) -> None:
    for name in (BASE, FIRST):
        with pytest.raises(ChainConflict, match="is backed by it"):
            driver.remove(VOLUME, name)
    driver.remove(VOLUME, SECOND)
    driver.remove(VOLUME, FIRST)
    driver.remove(VOLUME, FIRST)
    assert driver.files(VOLUME) == [BASE]
    assert set(files.listing(share)) == {BASE, markers.MARKER}


def test_a_file_with_a_second_child_is_never_committed_into(
    driver: DirectoryShare, share: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed: list[tuple[str, str]] = []
    monkeypatch.setattr(qemu_img, "commit", lambda _share, top, base, _depth: committed.append((top, base)))
    for base in (FIRST, BASE):
        driver.commit(VOLUME, SECOND, base)
    wanted = [(SECOND, FIRST), (SECOND, BASE)]
    for name, child, bases in ((base_name(OTHER_VOLUME), FIRST, (FIRST, BASE)), (overlay_name(VOLUME, VOLUME), BASE, (BASE,))):
        (share / name).write_bytes(overlay(child.encode()).start().ljust(4 * CLUSTER, b"\0"))
        for base in bases:
            with pytest.raises(ChainConflict, match="would change what"):
                driver.commit(VOLUME, SECOND, base)
        (share / name).unlink()
    assert committed == wanted


def test_a_commit_into_what_is_not_behind_is_refused(driver: DirectoryShare) -> None:
    with pytest.raises(StepFailed, match="is not backed by"):
        driver.commit(VOLUME, FIRST, SECOND)
    with pytest.raises(StepFailed, match="is not backed by"):
        driver.commit(VOLUME, SECOND, overlay_name(VOLUME, VOLUME))


def test_a_file_gets_a_free_name_only_when_nothing_is_backed_by_it(driver: DirectoryShare, share: Path) -> None:
    with pytest.raises(ChainConflict, match="is backed by it"):
        driver.rename(VOLUME, FIRST, overlay_name(VOLUME, VOLUME))
    with pytest.raises(FileExistsError):
        driver.rename(VOLUME, SECOND, BASE)
    for _ in range(2):
        driver.rename(VOLUME, SECOND, overlay_name(VOLUME, VOLUME))
    assert sorted(driver.files(VOLUME)) == sorted([BASE, FIRST, overlay_name(VOLUME, VOLUME)])
    os.link(share / overlay_name(VOLUME, VOLUME), share / SECOND)
    driver.rename(VOLUME, overlay_name(VOLUME, VOLUME), SECOND)
    assert sorted(driver.files(VOLUME)) == sorted([BASE, FIRST, SECOND]), "a crash between link and unlink is ended"


def test_a_file_is_taken_over_and_given_back(driver: DirectoryShare, share: Path) -> None:
    (share / "foreign").write_bytes((share / BASE).read_bytes())
    for _ in range(2):
        driver.manage_file(OTHER_VOLUME, "foreign", base_name(OTHER_VOLUME))
    assert driver.files(OTHER_VOLUME) == [base_name(OTHER_VOLUME)]
    with pytest.raises(FileExistsError):
        driver.unmanage_file(OTHER_VOLUME, base_name(OTHER_VOLUME), SECOND)
    for _ in range(2):
        driver.unmanage_file(OTHER_VOLUME, base_name(OTHER_VOLUME), "foreign")
    assert (driver.files(OTHER_VOLUME), "foreign" in driver.listing()) == ([], True)


def test_whether_an_overlay_was_ever_written_to(driver: DirectoryShare, share: Path) -> None:
    assert not driver.holds_data(SECOND)
    with (share / SECOND).open("r+b") as file:
        file.seek(3 * CLUSTER)
        file.write(b"\x80" + b"\0" * 6 + b"\1")
    assert driver.holds_data(SECOND)


def test_only_chain_files_of_the_volume_are_its_files(driver: DirectoryShare, share: Path) -> None:
    for name in (info_name(VOLUME), temporary_name(VOLUME, "t"), trash_name(BASE), base_name(OTHER_VOLUME), f"{BASE}.bak"):
        (share / name).write_bytes(b"")
    assert sorted(driver.files(VOLUME)) == sorted([BASE, FIRST, SECOND])


@pytest.mark.parametrize("name", [info_name(VOLUME), record_name(VOLUME)])
def test_a_document_is_written_replaced_and_taken_away(driver: DirectoryShare, share: Path, name: str) -> None:
    assert driver.read_document(name) == {}
    for document in ({"active": FIRST}, {"active": SECOND, SNAPSHOT: FIRST}):
        driver.write_document(name, document)
        assert driver.read_document(name) == document
        assert (share / name).stat().st_mode & 0o777 == 0o660
    for _ in range(2):
        driver.write_document(name, {})
    assert not (share / name).exists()


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[]", b"1", b"[" * 100_000])
def test_a_document_that_is_none_is_told(driver: DirectoryShare, share: Path, content: bytes) -> None:
    (share / info_name(VOLUME)).write_bytes(content)
    with pytest.raises(BadImage, match=info_name(VOLUME)):
        driver.read_document(info_name(VOLUME))


def test_old_trash_is_swept_and_nothing_else(driver: DirectoryShare, share: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = [".trash.passwd", ".trash.", f".trash.{info_name(VOLUME)}.old", temporary_name(VOLUME, "t")]
    gone = (trash_name(BASE), trash_name(info_name(VOLUME)), trash_name(temporary_name(VOLUME, "t")))
    for name in (*gone, trash_name(FIRST), *other):
        (share / name).write_bytes(b"")
    ages = dict.fromkeys(gone, directory.TRASH_SECONDS + 1) | {trash_name(FIRST): directory.TRASH_SECONDS - 1}
    monkeypatch.setattr(files, "age_seconds", lambda _share, name: ages.get(name, 1e9))
    driver.sweep()
    assert set(files.listing(share)) == {BASE, FIRST, SECOND, markers.MARKER, trash_name(FIRST), *other}


def test_the_hypervisor_is_told_where_the_active_file_lies(share: Path) -> None:
    info = local.connection_info(str(share), (), SECOND, "qcow2", share.parent)
    assert (info["export"], info["name"], info["format"], info["driver_volume_type"]) == (str(share), SECOND, "qcow2", "local")
    assert Path(info["mount_point_base"]) == share.parent
