"""Files on a share: what is opened, and that every change is whole or not there after a crash."""

import errno
import fcntl
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stillframe.errors import BadImage, ShareUnavailable
from stillframe.host import files


class Crash(BaseException):
    """The worker dies here."""


def crash(*_arguments: object, **_more: object) -> None:
    raise Crash


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ESTALE, errno.ENOTCONN, errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_share_that_does_not_work_is_unavailable_and_may_be_tried_again(tmp_path: Path, number: int) -> None:
    with pytest.raises(ShareUnavailable, match=str(tmp_path)) as told, files.share_errors(tmp_path):
        raise OSError(number, os.strerror(number))
    assert told.value.may_retry


@pytest.mark.parametrize("number", [errno.EEXIST, errno.EACCES, errno.EPERM, errno.EISDIR])
def test_what_says_something_about_the_file_is_not_blamed_on_the_share(tmp_path: Path, number: int) -> None:
    with pytest.raises(OSError, match=os.strerror(number)) as told, files.share_errors(tmp_path):
        raise OSError(number, os.strerror(number))
    assert told.value.errno == number


@pytest.mark.parametrize("look", [files.listing, files.free_bytes, lambda share: files.exists(share, "a")])
def test_a_share_that_is_gone_is_never_taken_for_an_empty_one(tmp_path: Path, look: Callable[[Path], object]) -> None:
    with pytest.raises(ShareUnavailable):
        look(tmp_path / "gone")


def test_a_regular_file_is_opened(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    assert files.read_start(tmp_path, "a", 4) == (b"cont", 7)


def test_a_symbolic_link_is_refused_wherever_it_leads(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    for target in ("a", "/etc/passwd", "missing"):
        (tmp_path / "link").symlink_to(target)
        with pytest.raises(BadImage, match="symbolic link"):
            files.open_regular(tmp_path, "link")
        (tmp_path / "link").unlink()


def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadImage):
        files.open_regular(tmp_path, "pipe")


def test_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    with pytest.raises(BadImage):
        files.open_regular(tmp_path, "directory")


def test_a_file_with_a_second_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    os.link(tmp_path / "a", tmp_path / "b")
    with pytest.raises(BadImage, match="one name"):
        files.open_regular(tmp_path, "a")


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.open_regular(tmp_path, "a")


def test_no_descriptor_is_left_open_whatever_is_found(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    os.link(tmp_path / "a", tmp_path / "b")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("a")
    before = descriptors()
    for name in ("a", "b", "pipe", "link", "missing"):
        with pytest.raises((BadImage, FileNotFoundError)):
            files.open_regular(tmp_path, name)
    assert descriptors() == before


def test_a_link_counts_as_a_directory_entry(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("missing")
    assert files.exists(tmp_path, "link")
    assert not files.exists(tmp_path, "missing")
    assert files.listing(tmp_path) == ["link"]


def test_publishing_gives_the_file_its_name_and_takes_the_temporary_one(tmp_path: Path) -> None:
    (tmp_path / ".tmp").write_bytes(b"new")
    files.publish(tmp_path, ".tmp", "a")
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == {"a": b"new"}


def test_publishing_never_replaces_another_file(tmp_path: Path) -> None:
    (tmp_path / ".tmp").write_bytes(b"new")
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        files.publish(tmp_path, ".tmp", "a")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert (tmp_path / ".tmp").read_bytes() == b"new"


def test_publishing_again_after_a_crash_between_link_and_unlink_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".tmp").write_bytes(b"new")
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", crash)
        with pytest.raises(Crash):
            files.publish(tmp_path, ".tmp", "a")
    assert set(os.listdir(tmp_path)) == {".tmp", "a"}
    files.publish(tmp_path, ".tmp", "a")
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == {"a": b"new"}
    os.close(files.open_regular(tmp_path, "a"))


def test_a_file_is_durable_before_it_has_a_name_and_the_name_before_anybody_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    real_link, real_unlink = os.link, os.unlink
    monkeypatch.setattr(files, "sync_file", lambda _share, name: calls.append(f"sync {name}"))
    monkeypatch.setattr(files, "sync_directory", lambda _share: calls.append("sync directory"))

    def link(*paths: Any, **more: Any) -> None:
        calls.append("link")
        real_link(*paths, **more)

    def unlink(path: Path) -> None:
        calls.append("unlink")
        real_unlink(path)

    monkeypatch.setattr(os, "link", link)
    monkeypatch.setattr(os, "unlink", unlink)
    (tmp_path / ".tmp").write_bytes(b"")
    files.publish(tmp_path, ".tmp", "a")
    assert calls == ["sync .tmp", "link", "unlink", "sync directory"]


def test_a_failed_sync_gives_the_file_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_handle: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    (tmp_path / ".tmp").write_bytes(b"")
    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match="Input/output"):
        files.publish(tmp_path, ".tmp", "a")
    assert os.listdir(tmp_path) == [".tmp"]


def test_a_json_file_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    files.write_json(tmp_path, "a", {"é": [1, None]})
    assert files.read_json(tmp_path, "a") == {"é": [1, None]}
    assert os.listdir(tmp_path) == ["a"]


def test_a_json_file_is_as_long_as_what_it_holds(tmp_path: Path) -> None:
    files.write_json(tmp_path, "a", ["\N{GRINNING FACE}" * 1000])
    assert (tmp_path / "a").stat().st_size < 4100


def test_a_json_file_that_is_too_long_is_refused_and_not_read_in_part(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("[1" + " " * files.LONGEST_DOCUMENT + "]")
    with pytest.raises(ValueError, match=r"has 1048579 bytes, and at most 1048576 are read"):
        files.read_json(tmp_path, "a")
    assert files.read_json(tmp_path, "a", files.LONGEST_RECORD) == [1]


def test_a_long_json_file_of_brackets_alone_is_refused(tmp_path: Path) -> None:
    """Twenty times as much memory: 600 MiB for a record that somebody made on the share."""
    (tmp_path / "a").write_text("[" + "[]," * 1_000_000 + "1]")
    with pytest.raises(ValueError, match="more than 200000 entries"):
        files.read_json(tmp_path, "a", files.LONGEST_RECORD)
    files.write_json(tmp_path, "a", {"[{,": ['[{,"\\' * 1_000_000]})
    assert files.read_json(tmp_path, "a", files.LONGEST_RECORD) == {"[{,": ['[{,"\\' * 1_000_000]}


def test_a_json_file_has_its_mode_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o777)
    try:
        files.write_json(tmp_path, "a", {})
        files.write_json(tmp_path, "b", {}, mode=0o600)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o660
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o600


@pytest.mark.parametrize("verb", ["write", "fsync", "fchmod", "rename"])
def test_a_crash_while_writing_leaves_the_old_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    files.write_json(tmp_path, "a", {"old": True})
    with monkeypatch.context() as patch:
        patch.setattr(os, verb, crash)
        with pytest.raises(Crash):
            files.write_json(tmp_path, "a", {"new": True})
    assert files.read_json(tmp_path, "a") == {"old": True}
    files.write_json(tmp_path, "a", {"newer": True})
    assert files.read_json(tmp_path, "a") == {"newer": True}
    assert os.listdir(tmp_path) == ["a"]


def test_a_document_that_is_no_json_leaves_the_old_one(tmp_path: Path) -> None:
    files.write_json(tmp_path, "a", {"old": True})
    with pytest.raises(TypeError):
        files.write_json(tmp_path, "a", {"new": object()})
    assert files.read_json(tmp_path, "a") == {"old": True}


def test_writing_does_not_follow_a_link_laid_in_its_way(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("victim")
    (tmp_path / ".tmp.a").symlink_to("victim")
    files.write_json(tmp_path, "a", {})
    assert (tmp_path / "victim").read_text() == "victim"
    assert files.read_json(tmp_path, "a") == {}


def test_reading_a_json_file_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("{}")
    (tmp_path / "a").symlink_to("b")
    with pytest.raises(BadImage):
        files.read_json(tmp_path, "a")


def test_a_json_file_that_is_missing_has_no_document(tmp_path: Path) -> None:
    assert files.read_json(tmp_path, "a") is None


def test_removing_may_be_repeated(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    files.remove(tmp_path, "a")
    files.remove(tmp_path, "a")
    assert os.listdir(tmp_path) == []


def shared(path: Path) -> Path:
    """A share that others may write to."""
    path.mkdir()
    path.chmod(0o2770)
    return path


def test_what_is_removed_from_a_share_leaves_nothing(tmp_path: Path) -> None:
    share = shared(tmp_path / "share")
    (share / "a").write_bytes(b"data")
    (share / "link").symlink_to("a")
    for name in ("link", "a", "a"):
        files.remove(share, name)
    assert files.listing(share) == []
    assert os.listdir(share / ".stillframe") == []


@pytest.mark.parametrize("kind", ["file", "link", "directory"])
def test_another_file_in_place_of_the_one_to_be_removed_goes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Somebody swaps the names in the very moment of the removal."""
    share = shared(tmp_path / "share")
    make: dict[str, Callable[[Path], object]] = {
        "file": lambda path: path.write_bytes(b"other"),
        "link": lambda path: path.symlink_to("kept"),
        "directory": lambda path: path.mkdir(),
    }
    make[kind](share / "other")
    (share / "a").write_bytes(b"data")
    number, real = (share / "other").lstat().st_ino, os.rename

    def swapped(old: Path, new: Path, **more: Any) -> None:
        monkeypatch.undo()
        real(share / "a", share / "kept")
        real(share / "other", share / "a")
        real(old, new, **more)

    monkeypatch.setattr(os, "rename", swapped)
    with pytest.raises(BadImage, match="another file was put in place of a"):
        files.remove(share, "a")
    assert (share / "a").lstat().st_ino == number
    assert files.listing(share) == ["a", "kept"]
    assert os.listdir(share / ".stillframe") == []


def test_another_file_than_the_one_that_was_looked_at_is_not_removed(tmp_path: Path) -> None:
    share = shared(tmp_path / "share")
    (share / "a").write_bytes(b"data")
    with files.seen(share, "a") as handle, files.seen(share, "b") as missing:
        (share / "a").rename(share / "kept")
        (share / "a").write_bytes(b"other")
        with pytest.raises(BadImage, match="another file"):
            files.remove(share, "a", handle)
        assert missing is None
        assert (share / "a").read_bytes() == b"other"
        files.remove(share, "kept", handle)
    assert files.listing(share) == ["a"]


def test_a_directory_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for call in (files.remove, files.unlink):
        with pytest.raises(BadImage, match="directory"):
            call(tmp_path, "a")


def test_the_space_a_file_takes_is_what_it_holds_not_how_long_it_is(tmp_path: Path) -> None:
    with (tmp_path / "a").open("wb") as file:
        file.truncate(1 << 30)
    assert files.allocated(tmp_path, "a") < 1 << 20
    assert files.free_bytes(tmp_path) > 0


def test_a_file_another_program_holds_open_is_locked(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    assert not files.is_locked(tmp_path, "a")
    with (tmp_path / "a").open("rb+") as holder:
        lock = files._FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, 201, 1, 0)
        fcntl.fcntl(holder, fcntl.F_OFD_SETLK, lock)
        assert files.is_locked(tmp_path, "a")
    assert not files.is_locked(tmp_path, "a")


def test_json_on_a_share_ends_with_a_newline_and_sorted_keys(tmp_path: Path) -> None:
    files.write_json(tmp_path, "a", {"b": 1, "a": 2})
    text = (tmp_path / "a").read_text()
    assert text.endswith("}\n")
    assert list(json.loads(text)) == ["a", "b"]


def test_a_lock_is_a_file_or_is_refused_at_once(tmp_path: Path) -> None:
    for _ in range(2):
        os.close(files.open_lock(tmp_path, "a"))
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600
    (tmp_path / "victim").write_text("victim")
    (tmp_path / "link").symlink_to("victim")
    (tmp_path / "dangling").symlink_to("missing")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    for name in ("link", "dangling", "pipe", "directory"):
        with pytest.raises(BadImage):
            files.open_lock(tmp_path, name)
    assert not (tmp_path / "missing").exists()
