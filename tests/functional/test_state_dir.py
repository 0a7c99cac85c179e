"""A state directory that somebody else prepared: the service does not start, and nothing of the host is changed."""

import os
import sqlite3
import stat
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.lab import Lab
from tests.support.service import PROGRAM

NOBODY = 65534


def serve(state_dir: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [*PROGRAM, "serve", "--state-dir", str(state_dir), "--volumes-port", "0", "--compute-port", "0", *more]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def owned(state_dir: Path, _victim: Path) -> None:
    state_dir.mkdir(mode=0o755)
    os.chown(state_dir, NOBODY, NOBODY)


def open_to_all(state_dir: Path, _victim: Path) -> None:
    state_dir.mkdir()
    state_dir.chmod(0o777)


def with_users(state_dir: Path, _victim: Path) -> None:
    """Whoever wrote ``users.yaml`` knows an administrator's password."""
    state_dir.mkdir(mode=0o700)
    for name in ("users.yaml", "service.yaml"):
        (state_dir / name).write_text("[]")
        os.chown(state_dir / name, NOBODY, NOBODY)


def with_links(state_dir: Path, victim: Path) -> None:
    state_dir.mkdir(mode=0o700)
    for name in ("users.yaml", ".service.yaml.new", "stillframe.sqlite"):
        (state_dir / name).symlink_to(victim)
        os.chown(state_dir / name, NOBODY, NOBODY, follow_symlinks=False)


def with_a_lock(state_dir: Path, victim: Path) -> None:
    (state_dir / "locks").mkdir(parents=True)
    (state_dir / "locks/api-volumes").symlink_to(victim)
    os.chown(state_dir / "locks/api-volumes", NOBODY, NOBODY, follow_symlinks=False)


def itself_a_link(state_dir: Path, victim: Path) -> None:
    target = victim.parent / "target"
    target.mkdir()
    state_dir.symlink_to(target)
    os.chown(state_dir, NOBODY, NOBODY, follow_symlinks=False)


@pytest.mark.parametrize("prepare", [owned, open_to_all, with_users, with_links, with_a_lock, itself_a_link])
def test_a_state_directory_that_somebody_else_prepared_is_refused(
    tmp_path: Path, prepare: Callable[[Path, Path], None]
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("a file of the host")
    state_dir = tmp_path / "state"
    prepare(state_dir, victim)
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    done = serve(state_dir)
    assert done.returncode == 1, done.stdout + done.stderr
    assert str(state_dir) in done.stderr
    assert str(NOBODY) in done.stderr or "users other than its owner" in done.stderr
    assert victim.read_text() == "a file of the host"
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def parent_of_another_user(parent: Path) -> None:
    os.chown(parent, NOBODY, NOBODY)


def parent_for_a_group(parent: Path) -> None:
    parent.chmod(0o2775)


def share_made_beforehand(parent: Path) -> None:
    parent.chmod(0o1777)
    os.chown(parent / "share", NOBODY, NOBODY)


@pytest.mark.parametrize("spoil", [parent_of_another_user, parent_for_a_group, share_made_beforehand])
def test_a_share_in_whose_place_another_user_may_put_another_is_refused(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    """He could have put a directory of the host there between two of the service's calls, or a share of his own."""
    share = tmp_path / "srv/share"
    share.mkdir(parents=True)
    spoil(share.parent)
    configuration = tmp_path / "stillframe.conf"
    configuration.write_text(f"[volumes]\nshare_dir = {share}\n")
    configuration.chmod(0o600)
    done = serve(tmp_path / "state", "--config-file", str(configuration))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "share_dir: " in done.stderr
    assert str(share.parent) in done.stderr
    assert os.listdir(share) == []


def test_a_configuration_that_others_may_write_is_refused(tmp_path: Path) -> None:
    configuration = tmp_path / "stillframe.conf"
    configuration.write_text("[DEFAULT]\n")
    configuration.chmod(0o666)
    done = serve(tmp_path / "state", "--config-file", str(configuration))
    assert done.returncode == 1
    assert "users other than its owner may write to" in done.stderr
    assert not (tmp_path / "state").exists()


def test_only_the_owner_may_read_the_state_directory(services: Lab) -> None:
    """Each by itself: the directory's mode is not the only thing in the way."""
    state_dir = services.stack.state_dir
    open_to_others = []
    for path in state_dir.rglob("*"):
        if path.relative_to(state_dir).parts[0] in ("share", "backups", "mnt") or path.is_symlink():
            continue
        mode = path.lstat().st_mode
        if (stat.S_ISREG(mode) or stat.S_ISSOCK(mode)) and mode & 0o077:
            open_to_others.append((str(path.relative_to(state_dir)), oct(mode)))
    assert open_to_others == []


def test_reading_the_database_beside_the_service_removes_nothing(services: Lab) -> None:
    """The last program that closes a SQLite database removes its log: the service's locks say that it is not the last."""

    def count() -> int:
        with closing(sqlite3.connect(services.stack.state_dir / "stillframe.sqlite")) as database:
            return int(database.execute("select count(*) from volumes").fetchone()[0])

    for _ in range(3):
        before = count()
        services.api.create_volume("seen")
        assert count() == before + 1
