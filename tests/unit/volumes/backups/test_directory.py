"""Backups in a directory: the order in which things become durable, and what is never followed."""

import os
from pathlib import Path

import pytest

from stillframe.errors import BackupStoreUnavailable, BadBackup, NotFound
from stillframe.host import files
from stillframe.volumes.backups import directory, keys
from stillframe.volumes.backups.directory import MARKER, DirectoryRepository
from tests.unit.builders import OTHER_VOLUME, VOLUME, new_id

BACKUP = "aaaaaaaa-0000-4000-8000-000000000001"
KEY = keys.object_key(VOLUME, keys.top_name(BACKUP))
CONTAINER = "volumebackups"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def held(root: Path) -> DirectoryRepository:
    return DirectoryRepository(root, CONTAINER, DirectoryRepository(root, CONTAINER, None).prepare())


def test_a_name_is_given_only_to_what_is_durable(
    held: DirectoryRepository, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held.put_bytes(keys.manifest_key(VOLUME, BACKUP), b"{}")  # so that the folders are there
    told: list[tuple[str, str]] = []
    fsync, rename = os.fsync, os.rename

    def note_fsync(handle: int) -> None:
        told.append(("fsync", os.readlink(f"/proc/self/fd/{handle}")))
        fsync(handle)

    def note_rename(old: Path, new: Path) -> None:
        assert old.read_bytes() == b"content"
        told.append(("rename", f"{os.path.realpath(old)} {os.path.realpath(new)}"))
        rename(old, new)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "rename", note_rename)
    held.put_bytes(KEY, b"content")
    folder = root / CONTAINER / f"volume-{VOLUME}"
    temporary = told[0][1]
    assert temporary.startswith(f"{root}/.stillframe/.tmp.{CONTAINER}~volume-{VOLUME}~backup-{BACKUP}.qcow2.")
    assert told == [("fsync", temporary), ("rename", f"{temporary} {folder / keys.top_name(BACKUP)}"), ("fsync", str(folder))]


def test_new_folders_are_durable_too(held: DirectoryRepository, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(files, "sync_directory", lambda place: synced.append(place.resolve()))
    held.put_bytes(KEY, b"content")
    folder = root / CONTAINER / f"volume-{VOLUME}"
    assert synced == [root, root / CONTAINER, folder]


def test_others_are_kept_out(held: DirectoryRepository, root: Path) -> None:
    before = os.umask(0)
    try:
        held.put_bytes(KEY, b"content")
    finally:
        os.umask(before)
    folder = root / CONTAINER / f"volume-{VOLUME}"
    assert [path.stat().st_mode & 0o7777 for path in (root, folder.parent, folder)] == [0o2770] * 3
    assert (folder / keys.top_name(BACKUP)).stat().st_mode & 0o7777 == 0o660


def test_a_failed_sync_publishes_nothing(held: DirectoryRepository, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_handle: int) -> None:
        raise OSError(5, "Input/output error")

    held.put_bytes(KEY, b"before")
    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(BackupStoreUnavailable, match="Input/output error"):
        held.put_bytes(KEY, b"after")
    monkeypatch.undo()
    assert held.get_bytes(KEY, 100) == b"before"
    assert os.listdir(root / CONTAINER / f"volume-{VOLUME}") == [keys.top_name(BACKUP)]


def test_a_repeated_rename_that_says_there_is_nothing_is_done(
    held: DirectoryRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS: the first answer was lost, the second try finds its own work."""
    rename = os.rename

    def lost(old: Path, new: Path) -> None:
        rename(old, new)
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(os, "rename", lost)
    held.put_bytes(KEY, b"content")
    assert held.get_bytes(KEY, 100) == b"content"


def test_a_rename_that_another_prevented_is_not_taken_for_done(
    held: DirectoryRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    held.put_bytes(KEY, b"another's")

    def stolen(old: Path, _new: Path) -> None:
        old.unlink()
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(os, "rename", stolen)
    with pytest.raises(BackupStoreUnavailable):
        held.put_bytes(KEY, b"content")
    assert held.get_bytes(KEY, 100) == b"another's"


@pytest.mark.parametrize("special", ["link", "second name", "pipe"])
def test_an_object_that_is_no_plain_file_is_refused(
    held: DirectoryRepository, root: Path, tmp_path: Path, special: str
) -> None:
    held.put_bytes(KEY, b"content")
    path = root / CONTAINER / f"volume-{VOLUME}" / keys.top_name(BACKUP)
    path.unlink()
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    if special == "link":
        path.symlink_to(secret)
    elif special == "second name":
        os.link(secret, path)
    else:
        os.mkfifo(path)
    with pytest.raises(BadBackup, match=f"^{KEY}: "):
        held.get(KEY, tmp_path / "fetched")
    held.put_bytes(KEY, b"content")
    assert secret.read_bytes() == b"secret"
    assert held.get_bytes(KEY, 100) == b"content"


@pytest.mark.parametrize("linked", [CONTAINER, f"{CONTAINER}/volume-{VOLUME}"])
def test_a_folder_that_is_a_link_is_not_written_through(
    held: DirectoryRepository, root: Path, tmp_path: Path, linked: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (root / linked).parent.mkdir(exist_ok=True)
    (root / linked).symlink_to(elsewhere)
    with pytest.raises(BadBackup, match="not a directory"):
        held.put_bytes(KEY, b"content")
    assert os.listdir(elsewhere) == []


def test_what_an_interrupted_try_left_is_told_and_removed_wherever_it_lies(held: DirectoryRepository, root: Path) -> None:
    other = DirectoryRepository(root, "another", None)
    for each in (held, other):
        each.put_bytes(KEY, b"content")
    name = keys.top_name(BACKUP)
    (root / ".stillframe" / f".tmp.{CONTAINER}~volume-{VOLUME}~{name}.0123456789abcdef").write_bytes(b"half")
    assert (list(held.unfinished()), list(other.unfinished())) == ([KEY], [])
    assert list(held.unfinished(keys.folder(OTHER_VOLUME))) == []
    (root / CONTAINER / f"volume-{VOLUME}" / f".tmp.{name}.0123456789abcdef").write_bytes(b"half")  # as older versions did
    held.put_bytes(KEY, b"other")
    assert list(held.unfinished()) == []
    assert held.get_bytes(KEY, 100) == b"other"
    assert other.get_bytes(KEY, 100) == b"content"


def test_what_is_no_backup_is_passed_over(held: DirectoryRepository, root: Path) -> None:
    held.put_bytes(KEY, b"content")
    folder = root / CONTAINER / f"volume-{VOLUME}"
    for name in ("notes.txt", "backup-x.qcow2", ".tmp.notes", f"{keys.top_name(BACKUP)}~"):
        (folder / name).write_text("x")
    (root / CONTAINER / "lost+found").mkdir()
    assert list(held.list()) == [(KEY, 7)]
    assert list(held.unfinished()) == []
    held.delete(KEY)
    assert sorted(os.listdir(folder)) == sorted(["notes.txt", "backup-x.qcow2", ".tmp.notes", f"{keys.top_name(BACKUP)}~"])


def test_the_last_object_takes_its_folder_with_it(held: DirectoryRepository, root: Path) -> None:
    other = keys.object_key(OTHER_VOLUME, keys.top_name(BACKUP))
    for key in (KEY, other):
        held.put_bytes(key, b"content")
    held.delete(KEY)
    assert os.listdir(root / CONTAINER) == [f"volume-{OTHER_VOLUME}"]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"id": 1}'])
def test_a_marker_that_cannot_be_read_is_never_replaced(root: Path, text: str) -> None:
    plain = DirectoryRepository(root, CONTAINER, None)
    plain.prepare()
    (root / MARKER).write_text(text)
    with pytest.raises(BackupStoreUnavailable, match=MARKER):
        plain.prepare()
    assert (root / MARKER).read_text() == text
    with pytest.raises(BackupStoreUnavailable):
        DirectoryRepository(root, CONTAINER, new_id()).list()


def test_nobody_may_list_a_store_that_has_no_directory(root: Path, tmp_path: Path) -> None:
    for each in (DirectoryRepository(root, CONTAINER, None), DirectoryRepository(root, CONTAINER, new_id())):
        for call in (each.list, each.unfinished, each.probe, lambda each=each: each.get(KEY, tmp_path / "x")):
            with pytest.raises(BackupStoreUnavailable, match="does not work"):
                call()


def test_a_missing_object_of_a_volume_nobody_backed_up(held: DirectoryRepository, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=KEY):
        held.get(KEY, tmp_path / "fetched")
    assert not held.exists(KEY)
    held.delete(KEY)
    assert directory.MARKER in os.listdir(tmp_path / "store")
