"""The directory of a share that only the service may enter: whose it is and who may enter is asked of what is open."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from stillframe.errors import BadConfiguration, BadImage, ShareUnavailable
from stillframe.host import files, workdir


@pytest.fixture
def share(tmp_path: Path) -> Path:
    path = tmp_path / "share"
    path.mkdir()
    path.chmod(0o2770)
    return path


def test_it_is_made_on_first_use_closed_to_others_and_files_in_it_are_of_the_shares_group(share: Path) -> None:
    with workdir.working(share) as place:
        assert stat.S_IMODE(place.stat().st_mode) == 0o2700
        assert os.path.samefile(place, share / workdir.NAME)
    assert files.listing(share) == []


def test_a_directory_nobody_else_may_enter_is_its_own(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with workdir.working(tmp_path) as place:
        assert os.path.samefile(place, tmp_path)
    assert os.listdir(tmp_path) == []


def test_one_that_others_may_enter_is_refused(share: Path) -> None:
    for mode in (0o710, 0o701, 0o777):
        (share / workdir.NAME).mkdir(exist_ok=True)
        (share / workdir.NAME).chmod(mode)
        with pytest.raises(ShareUnavailable, match=f"mode {mode:04o}"), workdir.working(share):
            pass


def test_one_of_another_user_is_refused(share: Path) -> None:
    (share / workdir.NAME).mkdir(mode=0o700)
    os.chown(share / workdir.NAME, 65534, -1)
    with pytest.raises(ShareUnavailable, match="user 65534"), workdir.working(share):
        pass
    assert os.listdir(share / workdir.NAME) == []


def test_where_root_counts_as_another_user_the_file_system_says_who_we_are(
    share: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with workdir.working(share) as place:
        (place / "a").write_bytes(b"")
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    with workdir.working(share) as place:
        assert os.listdir(place) == ["a"]


@pytest.mark.parametrize("kind", ["link", "file", "pipe"])
def test_what_is_no_directory_is_refused(share: Path, kind: str) -> None:
    target = share / workdir.NAME
    makers: dict[str, Callable[[], None]] = {
        "link": lambda: target.symlink_to("/tmp"),
        "file": target.touch,
        "pipe": lambda: os.mkfifo(target),
    }
    makers[kind]()
    with pytest.raises(ShareUnavailable, match="move it away"), workdir.working(share):
        pass


def test_it_stays_the_same_whatever_becomes_of_its_name(share: Path) -> None:
    with workdir.working(share) as place:
        (share / workdir.NAME).rename(share / "moved")
        (share / workdir.NAME).mkdir()
        (place / "a").write_bytes(b"")
    assert os.listdir(share / "moved") == ["a"]
    assert os.listdir(share / workdir.NAME) == []


def test_no_descriptor_stays_open_after_a_refusal(share: Path) -> None:
    (share / workdir.NAME).mkdir(mode=0o777)
    (share / workdir.NAME).chmod(0o777)
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        with pytest.raises(ShareUnavailable), workdir.working(share):
            pass
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_one_that_was_never_made_holds_nothing(share: Path) -> None:
    assert workdir.lying(share) == []
    with workdir.where(share, "a") as place:
        assert os.path.samefile(place, share)
    assert os.listdir(share) == []


def test_what_lies_there_is_found_by_its_name(share: Path) -> None:
    with workdir.working(share) as place:
        (place / "a").write_bytes(b"x")
    with workdir.where(share, "a") as place:
        assert (place / "a").read_bytes() == b"x"


def test_a_link_is_not_entered_on_the_way_down(share: Path) -> None:
    (share / "a").mkdir()
    (share / "a/b").symlink_to(share)
    with pytest.raises(BadImage, match="b is not a directory"), workdir.held(share, "a", "b"):
        pass
    with pytest.raises(FileNotFoundError), workdir.held(share, "a", "c"):
        pass


@pytest.mark.parametrize("mode", [0o700, 0o750, 0o755, 0o1777])
def test_a_directory_of_ours_that_nobody_else_may_change_is_taken(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "a/b"
    workdir.make_private(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    path.chmod(mode)
    workdir.make_private(path)
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize(("owner", "mode"), [(65534, 0o700), (0, 0o770), (0, 0o2770), (0, 0o777)])
def test_a_directory_that_others_may_change_is_not(tmp_path: Path, owner: int, mode: int) -> None:
    path = tmp_path / "a"
    path.mkdir()
    path.chmod(mode)
    os.chown(path, owner, -1)
    with pytest.raises(BadConfiguration, match=f"mode {mode:04o} and belongs to user {owner}"):
        workdir.make_private(path)


@pytest.mark.parametrize(("mode", "kept"), [(0o2770, 0o2750), (0o777, 0o755), (0o750, 0o750), (0o700, 0o700)])
def test_a_share_may_be_kept_to_its_owner(tmp_path: Path, mode: int, kept: int, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a"
    path.mkdir()
    path.chmod(mode)
    for _ in range(2):
        workdir.keep_to_owner(path)
        assert stat.S_IMODE(path.stat().st_mode) == kept
    assert [f"{mode:04o}" in each.message for each in caplog.records] == ([True] if mode != kept else [])


def test_a_share_of_another_user_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.mkdir(mode=0o700)
    os.chown(path, 65534, -1)
    with pytest.raises(BadConfiguration, match="belongs to user 65534"):
        workdir.keep_to_owner(path)


def test_a_share_is_made_whole_and_one_that_is_there_is_left(tmp_path: Path) -> None:
    path, old = tmp_path / "a/share", os.umask(0o077)
    try:
        workdir.make_share(path)
        workdir.make_share(path)
    finally:
        os.umask(old)
    assert [stat.S_IMODE(each.stat().st_mode) for each in (path, path / workdir.NAME)] == [0o2770, 0o2700]
    assert os.listdir(path.parent) == ["share"]
    path.chmod(0o750)
    workdir.make_share(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o750


def test_of_two_that_make_a_share_the_later_one_takes_nothing_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "share"
    workdir.make_share(path)
    (path / "file").write_bytes(b"x")
    monkeypatch.setattr(Path, "exists", lambda _self: False)  # it looked before the other one was done
    workdir.make_share(path)
    assert (path / "file").read_bytes() == b"x"
    assert os.listdir(tmp_path) == ["share"]
