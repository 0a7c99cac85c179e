"""What another user made or may change is refused, with its path and what to do. The tests run as root."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from stillframe import trust
from stillframe.errors import BadConfiguration

NOBODY = 65534


def belongs_to_nobody(path: Path) -> None:
    os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    made = tmp_path / "state"
    made.mkdir(mode=0o700)
    return made


def test_what_is_ours_alone_is_taken(place: Path) -> None:
    (place / "users.yaml").write_text("[]")
    (place / "link").symlink_to(place / "users.yaml")
    (place / "share").mkdir()
    (place / "share").chmod(0o2770)
    trust.require_way(place, "state_dir")
    trust.require_way(place / "not" / "there" / "yet", "state_dir")
    trust.require_contents(place, "state_dir", but=("share",))
    assert trust.resolved(place, "state_dir") == place.resolve()


@pytest.mark.parametrize("spoil", [belongs_to_nobody, lambda path: path.chmod(0o770), lambda path: path.chmod(0o1777)])
def test_a_directory_that_others_own_or_may_write_to_is_refused(place: Path, spoil: Callable[[Path], None]) -> None:
    spoil(place)
    with pytest.raises(BadConfiguration, match=f"state_dir: .*{place}"):
        trust.require_way(place, "state_dir")


def test_so_is_one_below_such_a_directory(place: Path) -> None:
    below = place / "below"
    below.mkdir(mode=0o700)
    place.chmod(0o775)
    with pytest.raises(BadConfiguration, match=rf"users other than its owner may write to {place} \(mode 0775\)"):
        trust.require_way(below, "state_dir")
    place.chmod(0o1777)  # sticky, as /tmp: nobody else may put another in its place
    trust.require_way(below, "state_dir")
    belongs_to_nobody(below)
    with pytest.raises(BadConfiguration, match=f"{below} belongs to user {NOBODY}"):
        trust.require_way(below, "state_dir")


def test_who_may_write_to_a_share_is_its_own_affair(place: Path) -> None:
    share = place / "share"
    trust.require_place(share, "share_dir")  # not there yet
    share.mkdir()
    share.chmod(0o2770)
    trust.require_place(share, "share_dir")
    belongs_to_nobody(share)
    trust.require_place(share, "share_dir")
    (place.parent / "link").symlink_to(place)
    trust.require_place(place.parent / "link/share", "share_dir")


@pytest.mark.parametrize("spoil", [belongs_to_nobody, lambda path: path.chmod(0o770), lambda path: path.chmod(0o777)])
@pytest.mark.parametrize("at", [".", ".."])
def test_a_share_in_whose_place_others_may_put_another_one_is_refused(
    place: Path, spoil: Callable[[Path], None], at: str
) -> None:
    spoiled = place.parent / "above" if at == ".." else place.parent / "above/below"
    (place.parent / "above/below/share").mkdir(parents=True)
    spoil(spoiled)
    (place / "link").symlink_to(place.parent / "above/below")
    for path in (place.parent / "above/below/share", place.parent / "above/below/missing", place / "link/share"):
        with pytest.raises(BadConfiguration, match=f"share_dir: .*{spoiled}[ ,]"):
            trust.require_place(path, "share_dir")


def test_in_a_sticky_directory_a_share_has_to_be_ours(place: Path) -> None:
    place.chmod(0o1777)
    share = place / "share"
    trust.require_place(share, "share_dir")
    share.mkdir()
    trust.require_place(share, "share_dir")
    belongs_to_nobody(share)
    with pytest.raises(BadConfiguration, match=f"{share} belongs to user {NOBODY}"):
        trust.require_place(share, "share_dir")


def test_a_share_behind_a_link_of_another_user_is_refused(place: Path) -> None:
    (place / "share").mkdir()
    (place / "link").symlink_to(place / "share")
    belongs_to_nobody(place / "link")
    with pytest.raises(BadConfiguration, match="symbolic link"):
        trust.require_place(place / "link", "share_dir")


def test_a_link_that_another_user_made_is_not_followed(place: Path) -> None:
    link = place.parent / "link"
    link.symlink_to(place)
    assert trust.resolved(link / "below", "state_dir") == place.resolve() / "below"
    belongs_to_nobody(link)
    for path in (link, link / "below"):
        with pytest.raises(BadConfiguration, match=f"{link} is a symbolic link of user {NOBODY}"):
            trust.resolved(path, "state_dir")


def own_file(path: Path) -> None:
    path.write_text("somebody's")
    belongs_to_nobody(path)


def writable_file(path: Path) -> None:
    path.write_text("anybody's")
    path.chmod(0o666)


def foreign_link(path: Path) -> None:
    path.symlink_to("/etc/passwd")
    belongs_to_nobody(path)


def second_name(path: Path) -> None:
    victim = path.parent.parent / "victim"
    victim.write_text("keep")
    os.link(victim, path)


@pytest.mark.parametrize("plant", [own_file, writable_file, foreign_link, second_name])
def test_what_was_planted_is_named(place: Path, plant: Callable[[Path], None]) -> None:
    plant(place / "users.yaml")
    with pytest.raises(BadConfiguration, match=f"{place}/users.yaml"):
        trust.require_contents(place, "state_dir")
    trust.require_contents(place, "state_dir", but=("users.yaml",))


def test_a_directory_of_mount_points_is_ours_alone(place: Path) -> None:
    """What is in it is not looked at: the server of a share may be away."""
    base = place / "mnt"
    trust.require_base(base, "nfs_mount_point_base")  # not there yet
    base.mkdir()
    trust.require_base(base, "nfs_mount_point_base")
    for mode in (0o775, 0o757, 0o1777):  # in a sticky one, too, others may make the mount point first
        base.chmod(mode)
        with pytest.raises(BadConfiguration, match=f"nfs_mount_point_base: .*{base}"):
            trust.require_base(base, "nfs_mount_point_base")
    base.chmod(0o755)
    (place / "link").symlink_to(base)
    trust.require_base(place / "link", "nfs_mount_point_base")
    belongs_to_nobody(base)
    for path in (base, place / "link"):
        with pytest.raises(BadConfiguration, match=f"{base} belongs to user {NOBODY}"):
            trust.require_base(path, "nfs_mount_point_base")


def test_so_is_what_is_above_it(place: Path) -> None:
    (place / "mnt").mkdir()
    place.chmod(0o770)
    with pytest.raises(BadConfiguration, match=f"users other than its owner may write to {place}"):
        trust.require_base(place / "mnt", "nfs_mount_point_base")
