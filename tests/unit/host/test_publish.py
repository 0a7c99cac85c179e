"""Folders for a share's group: whole when they are there, and never in place of another."""

import os
import threading
from pathlib import Path

import pytest

from stillframe.errors import BadImage
from stillframe.host import files, publish, workdir


@pytest.fixture
def share(tmp_path: Path) -> Path:
    path = tmp_path / "share"
    workdir.make_share(path)
    return path


def test_a_folder_has_its_mode_whatever_the_umask_and_leaves_nothing_behind(share: Path) -> None:
    before = os.umask(0o077)
    try:
        publish.make_folder(share, "store")
        publish.make_folder(share, "store", "inner")
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o7777 for path in (share / "store", share / "store/inner")] == [0o2770] * 2
    assert workdir.lying(share) == []


def test_one_that_is_there_is_kept(share: Path) -> None:
    publish.make_folder(share, "store")
    seen = (share / "store").stat().st_ino
    publish.make_folder(share, "store")
    assert (share / "store").stat().st_ino == seen


def test_what_has_the_name_already_is_neither_followed_nor_replaced(share: Path, tmp_path: Path) -> None:
    (share / "link").symlink_to(tmp_path)
    (share / "file").touch()
    publish.make_folder(share, "link")
    publish.make_folder(share, "file")
    assert (share / "link").is_symlink() and (share / "file").is_file()
    for name in ("link", "file"):
        with pytest.raises(BadImage, match="something else was put in its place"):
            publish.make_folder(share, name, "inner")
    assert not (tmp_path / "inner").exists()


def test_a_rename_that_another_prevented_is_told_and_leaves_nothing(share: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_old: Path, _new: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(OSError, match="No space"):
        publish.make_folder(share, "store")
    assert files.listing(share) == [] and workdir.lying(share) == []


def test_those_who_make_the_same_one_at_once_use_the_same(share: Path) -> None:
    seen: list[int] = []

    def make() -> None:
        publish.make_folder(share, "store")
        seen.append((share / "store").stat().st_ino)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(seen) == 8 and len(set(seen)) == 1
