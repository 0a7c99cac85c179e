"""Files held for qemu-img: what the names in its directory lead to, and what a file that was written meanwhile means."""

import os
import tempfile
import time
from pathlib import Path

import pytest

from stillframe.errors import ChainConflict
from stillframe.host import pins
from tests.unit.host.headers import CLUSTER, Header, overlay


@pytest.fixture
def share(tmp_path: Path) -> Path:
    path = tmp_path / "share"
    path.mkdir()
    for name, header in (("base", Header()), ("top", overlay(b"base"))):
        (path / name).write_bytes(header.start().ljust(4 * CLUSTER, b"\0"))
    return path


def test_a_name_leads_to_the_file_that_was_looked_at_whatever_has_it_now(share: Path) -> None:
    with pins.chain(share, "top", "qcow2") as pinned:
        known = [os.fstat(handle).st_ino for handle in pinned.descriptors]
        for name in ("top", "base"):
            (share / name).rename(share / f"{name}.away")
            (share / name).symlink_to("/etc/passwd")
        assert [(pinned.directory / name).stat().st_ino for name in ("top", "base")] == known
        assert os.stat(pinned.directory).st_mode & 0o777 == 0o700
    assert not pinned.directory.exists()


def test_backing_files_may_lie_elsewhere(share: Path, tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    (share / "top").rename(tmp_path / "place/top")
    with pins.chain(tmp_path / "place", "top", "qcow2", share) as pinned:
        assert [image.name for image in pinned.images] == ["top", "base"]
    with pytest.raises(ChainConflict, match="does not exist"), pins.chain(tmp_path / "place", "top", "qcow2"):
        pass


def test_what_nobody_wrote_to_is_confirmed(share: Path) -> None:
    with pins.chain(share, "top", "qcow2") as pinned:
        pinned.confirm()


@pytest.mark.parametrize("name", ["top", "base"])
def test_a_file_that_was_written_and_put_back_is_told(share: Path, name: str) -> None:
    long_ago = time.time_ns() - 10**10
    os.utime(share / name, ns=(long_ago, long_ago))
    with pins.chain(share, "top", "qcow2") as pinned:
        content = (share / name).read_bytes()
        (share / name).write_bytes(b"")
        (share / name).write_bytes(content)
        with pytest.raises(ChainConflict, match=f"{name} was written"):
            pinned.confirm()


@pytest.mark.parametrize("made", ["nothing", "a directory", "a link"])
def test_a_directory_that_a_cleaner_removed_is_made_anew_and_another_of_its_name_is_not_used(
    share: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: str
) -> None:
    """Whoever made it could put other files in place of those that qemu-img is to open."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(pins, "_own", {})
    with pins.alone(share, "base", "qcow2") as pinned:
        own = pinned.directory.parent
    own.rmdir()
    if made == "a directory":
        own.mkdir()
    elif made == "a link":
        own.symlink_to(share)
    with pins.alone(share, "base", "qcow2") as pinned:
        assert pinned.directory.parent != own
        assert (pinned.directory / "base").stat().st_ino == (share / "base").stat().st_ino


def test_directories_of_processes_that_died_are_removed_and_no_others(tmp_path: Path) -> None:
    for name in ("stillframe-pins-dead", "stillframe-pins-other", "else"):
        (tmp_path / name).mkdir()
    os.chown(tmp_path / "stillframe-pins-other", 65534, -1)
    (tmp_path / "stillframe-pins-link").symlink_to("else")
    (tmp_path / "stillframe-pins-dead/volume").symlink_to("/proc/self/fd/7")
    pins._sweep(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["else", "stillframe-pins-link", "stillframe-pins-other"]


def test_a_directory_that_was_swept_before_it_was_locked_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process takes it for one that a dead process left: no clock tells how old it is."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    mkdtemp, made = tempfile.mkdtemp, list[str]()

    def swept(prefix: str) -> str:
        made.append(mkdtemp(prefix=prefix))
        if len(made) == 1:
            pins._sweep(tmp_path)
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", swept)
    path, handle = pins._made()
    os.close(handle)
    assert (str(path), os.listdir(tmp_path)) == (made[1], [path.name])
