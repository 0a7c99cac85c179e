"""What is believed of a backup that comes out of a store, and how one is restored with qemu-img alone."""

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stillframe.errors import BadBackup, HostCommandFailed, ShareUnavailable
from stillframe.host import files, qcow2
from stillframe.volumes.backups import chain, keys, manifest, repository
from stillframe.volumes.backups.chain import BackupChain
from stillframe.volumes.backups.repository import Repository, Store
from tests.functional.test_tutorial import commands
from tests.support.backup_stores import BackupStore, directory_store, put_and_die, s3_store, small_filesystem
from tests.support.backups import FIRST, FULL, MIB, PARENTS, SECOND, VOLUME, BackupSet, make_backups, read_raw
from tests.support.s3 import s3_service
from tests.unit.builders import OTHER_VOLUME

PAGE = Path(__file__).parents[2] / "docs/how-to/restore-a-backup.md"
KEY = keys.object_key(VOLUME, keys.top_name(FULL))


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    with s3_service() as url:
        yield url


@pytest.fixture(params=["directory", "s3"])
def backup_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BackupStore]:
    if request.param == "directory":
        yield directory_store(tmp_path)
    else:
        with s3_store(request.getfixturevalue("service"), tmp_path) as made:
            yield made


@pytest.fixture
def held(backup_store: BackupStore) -> Repository:
    return backup_store.open(store_id=backup_store.open().prepare())


@pytest.fixture(scope="module")
def backups(tmp_path_factory: pytest.TempPathFactory) -> BackupSet:
    return make_backups(tmp_path_factory.mktemp("volume"))


# What is believed of a backup

Read = Callable[[Repository, str, str, Path], BackupChain]


def opened(repository: Repository, volume_id: str, backup_id: str, staging: Path) -> BackupChain:
    """Where it lies, if it lies in a directory; read before its sums are known, as a restore does."""
    with chain.opened(repository, volume_id, backup_id, staging) as (found, confirm):
        read_raw(found.directory, found.top.name)
        confirm()
    return found


@pytest.fixture(params=[chain.fetch_chain, opened], ids=["fetched", "opened"])
def read(request: pytest.FixtureRequest) -> Read:
    found: Read = request.param
    return found


@pytest.fixture
def full_of_backups(held: Repository, backups: BackupSet) -> Repository:
    backups.store(held)
    return held


@pytest.mark.parametrize("backup_id", PARENTS)
def test_a_backup_reads_as_the_volume_did(
    full_of_backups: Repository, backups: BackupSet, tmp_path: Path, backup_id: str
) -> None:
    fetched = chain.fetch_chain(full_of_backups, VOLUME, backup_id, tmp_path)
    assert fetched.manifest.backup_id == backup_id
    assert fetched.top.size == len(backups.content[backup_id])
    assert fetched.depth == len(list(tmp_path.glob("*.qcow2")))
    assert read_raw(tmp_path, fetched.top.name) == backups.content[backup_id]
    again = chain.fetch_chain(full_of_backups, VOLUME, backup_id, tmp_path)
    assert again == fetched


def _flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


FAULTS: dict[str, Callable[[bytes], bytes | None]] = {
    "missing": lambda _: None,
    "truncated": lambda data: data[:-1],
    "empty": lambda _: b"",
    "longer": lambda data: data + b"\0",
    "flipped": _flipped,
}
PARTS = [
    *(name for backup_id, layers in ((FULL, 1), (FIRST, 2), (SECOND, 1)) for name in keys.layer_names(backup_id, layers)),
    *(f"backup-{backup_id}.json" for backup_id in PARENTS),
]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_part_is_refused_by_its_name(full_of_backups: Repository, tmp_path: Path, read: Read, fault: str) -> None:
    for part in PARTS:
        key = keys.object_key(VOLUME, part)
        honest = full_of_backups.get_bytes(key, 1 << 30)
        damaged = FAULTS[fault](honest)
        if damaged is None:
            full_of_backups.delete(key)
        else:
            full_of_backups.put_bytes(key, damaged)
        with pytest.raises(BadBackup, match=re.escape(key)):
            read(full_of_backups, VOLUME, SECOND, tmp_path)
        full_of_backups.put_bytes(key, honest)
    assert read(full_of_backups, VOLUME, SECOND, tmp_path).depth == 4


@pytest.mark.parametrize("fault", ["missing", "flipped"])
def test_damage_to_a_newer_backup_leaves_older_ones_restorable(
    full_of_backups: Repository, backups: BackupSet, tmp_path: Path, read: Read, fault: str
) -> None:
    key = keys.object_key(VOLUME, keys.top_name(SECOND))
    data = FAULTS[fault](full_of_backups.get_bytes(key, 1 << 30))
    full_of_backups.delete(key) if data is None else full_of_backups.put_bytes(key, data)
    fetched = read(full_of_backups, VOLUME, FIRST, tmp_path)
    assert read_raw(fetched.directory, fetched.top.name) == backups.content[FIRST]


@pytest.mark.parametrize(
    "backing", ["/etc/passwd", f"backup-{FULL}.qcow2", "json:{}", "nbd://127.0.0.1/x", f"./{keys.layer_names(FIRST, 2)[0]}"]
)
def test_a_file_that_names_another_is_refused_though_its_sum_is_right(
    held: Repository, backups: BackupSet, tmp_path: Path, read: Read, backing: str
) -> None:
    """A manifest made by whoever made the file proves nothing about what the file names."""
    for name in backups.directory.iterdir():
        (tmp_path / name.name).write_bytes(name.read_bytes())
    hostile = BackupSet(tmp_path, backups.content)
    top = keys.top_name(FIRST)
    subprocess.run(["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", backing, top], cwd=tmp_path, check=True)
    hostile.store(held)
    (tmp_path / "fetched").mkdir()
    with pytest.raises(BadBackup, match=re.escape(keys.object_key(VOLUME, top))):
        read(held, VOLUME, SECOND, tmp_path / "fetched")


def test_a_disk_that_is_not_as_large_as_its_manifest_says_is_refused(
    held: Repository, backups: BackupSet, tmp_path: Path, read: Read
) -> None:
    lying = BackupSet(backups.directory, {**backups.content, FULL: bytes(4 * MIB)})
    lying.store_one(held, FULL)
    with pytest.raises(BadBackup, match=f"{re.escape(KEY)} is a disk of {8 * MIB} bytes"):
        read(held, VOLUME, FULL, tmp_path)


def test_backups_that_are_each_others_parents_are_refused(
    held: Repository, backups: BackupSet, tmp_path: Path, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PARENTS, FULL, SECOND)
    backups.store(held)
    with pytest.raises(BadBackup, match="loop of parents"):
        read(held, VOLUME, SECOND, tmp_path)


@pytest.mark.parametrize("restored", [False, True])
def test_an_object_that_changes_while_it_is_read_is_found_out(tmp_path: Path, backups: BackupSet, restored: bool) -> None:
    """Its sum may be right before and after."""
    held = directory_store(tmp_path).open()
    held.prepare()
    backups.store_one(held, FULL)
    folder = held.folder(VOLUME)
    assert folder is not None
    file = folder / keys.top_name(FULL)
    honest = file.read_bytes()
    with chain.opened(held, VOLUME, FULL, tmp_path) as (_found, confirm):
        time.sleep(0.02)  # ext4 counts time in ticks of the kernel
        file.write_bytes(_flipped(honest))
        if restored:
            file.write_bytes(honest)
        with pytest.raises(BadBackup, match="was changed while it was read" if restored else "sha256"):
            confirm()


def test_an_object_that_qemu_cannot_read_is_reported_as_damaged(tmp_path: Path, backups: BackupSet) -> None:
    held = directory_store(tmp_path).open()
    held.prepare()
    backups.store_one(held, FULL)
    data = held.get_bytes(KEY, 1 << 30)
    held.put_bytes(KEY, _flipped(data))
    with pytest.raises(BadBackup, match=re.escape(KEY)), chain.opened(held, VOLUME, FULL, tmp_path):
        raise HostCommandFailed("qemu-img: corrupt", exit_code=1)
    held.put_bytes(KEY, data)
    with pytest.raises(HostCommandFailed), chain.opened(held, VOLUME, FULL, tmp_path):
        raise HostCommandFailed("qemu-img: no space", exit_code=1)


def test_what_is_left_without_its_manifest_is_found(full_of_backups: Repository) -> None:
    manifest, *others = (f"backup-{FIRST}.{suffix}" for suffix in ("json", "1.qcow2", "qcow2"))
    found = {key.rpartition("/")[2]: key for key, _bytes in full_of_backups.list() if FIRST in key.rpartition("/")[2]}
    full_of_backups.delete(found[manifest])
    assert [key.rpartition("/")[2] for key in chain.incomplete(full_of_backups, VOLUME, list)] == others


# What no manifest speaks of


def test_what_a_killed_put_left_is_found_and_swept(
    held: Repository, backup_store: BackupStore, backups: BackupSet, tmp_path: Path
) -> None:
    backups.store_one(held, FULL)
    key = keys.object_key(VOLUME, keys.top_name(FIRST))
    inner = keys.object_key(VOLUME, backups.names(FIRST)[0])
    held.put(inner, backups.directory / backups.names(FIRST)[0])
    source = tmp_path / "source"
    source.write_bytes(bytes(12 * MIB))
    put_and_die(backup_store, key, source, "half-way")
    assert chain.incomplete(held, VOLUME, lambda: [FIRST]) == ()
    assert chain.incomplete(held, None, list) == chain.incomplete(held, VOLUME, list) == (inner, key)
    assert chain.incomplete(held, OTHER_VOLUME, list) == ()
    for left in chain.incomplete(held, VOLUME, list):
        held.delete(left)
    assert list(held.unfinished()) == []
    assert chain.fetch_chain(held, VOLUME, FULL, tmp_path).depth == 1


def test_a_backup_finished_between_two_checks_is_not_swept(held: Repository, backups: BackupSet) -> None:
    held.put(KEY, backups.directory / keys.top_name(FULL))

    def live() -> list[str]:
        backups.store_one(held, FULL)  # its operation ends here, and is live no more
        return []

    assert chain.incomplete(held, VOLUME, live) == ()


def test_too_little_space_to_fetch_is_the_shares_fault(
    full_of_backups: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_filesystem(tmp_path / "small") as small:
        (small / "filler").write_bytes(bytes(4 * MIB - 8192))
        with pytest.raises(ShareUnavailable, match="too little space"):
            chain.fetch_chain(full_of_backups, VOLUME, SECOND, small)
        monkeypatch.setattr(files, "free_bytes", lambda _: 1 << 40)  # it went while the files came
        with pytest.raises(ShareUnavailable, match="No space left"):
            chain.fetch_chain(full_of_backups, VOLUME, SECOND, small)


# A person with qemu-img


@pytest.mark.parametrize("backup_id", PARENTS)
def test_the_how_to_restores_with_qemu_img_alone(backups: BackupSet, tmp_path: Path, backup_id: str) -> None:
    store = Store((tmp_path / "store").as_uri())
    held = repository.make(store)
    held.prepare()
    backups.store(held)
    done = follow(tmp_path, backup_id)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": OK\n") == 4
    assert read_raw(tmp_path / "restore", "restored.qcow2") == backups.content[backup_id]
    assert qcow2.read(tmp_path / "restore", "restored.qcow2").backing is None


def test_the_how_to_notices_damage(backups: BackupSet, tmp_path: Path) -> None:
    held = repository.make(Store((tmp_path / "store").as_uri()))
    held.prepare()
    backups.store(held)
    held.put_bytes(KEY, _flipped(held.get_bytes(KEY, 1 << 30)))
    done = follow(tmp_path, SECOND)
    assert done.returncode != 0
    assert f"{keys.top_name(FULL)}: FAILED" in done.stdout
    assert not (tmp_path / "restore" / "restored.qcow2").exists()


def follow(directory: Path, backup_id: str) -> subprocess.CompletedProcess[str]:
    """Does what the page says, with the reader's own directories and ids where the page has its writer's."""
    own = {
        "STORE": str(directory / "store/volumebackups"),
        "VOLUME": VOLUME,
        "BACKUP": backup_id,
        "WORK": str(directory / "restore"),
    }
    told = commands(PAGE.read_text())
    assert len(told) == 11
    script = [
        re.sub(r"(STORE|VOLUME|BACKUP|WORK)=\S+", lambda match: f"{match[1]}={own[match[1]]}", command)
        if command.startswith("export ")
        else command
        for command in told
    ]
    text = "\n".join(["set -e -o pipefail", *script])
    return subprocess.run(["bash", "-c", text], cwd=directory, capture_output=True, text=True, check=False)


def test_a_manifest_reads_back_as_it_was_written(held: Repository, backups: BackupSet) -> None:
    for made in backups.store(held):
        assert chain.read_manifest(held, VOLUME, made.backup_id) == made
        assert manifest.parse(manifest.serialise(made), VOLUME, made.backup_id) == made
