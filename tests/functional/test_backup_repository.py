"""Backup stores, the same promises for each: a directory, and S3 over HTTP."""

import hashlib
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stillframe.errors import BackupStoreUnavailable, BadBackup, NotFound, ShareUnavailable, StillframeError
from stillframe.volumes.backups import keys, repository, s3
from stillframe.volumes.backups.repository import Repository, Store
from tests.support.backup_stores import BackupStore, directory_store, put_and_die, s3_store, small_filesystem
from tests.support.backups import FIRST, FULL, MIB, SECOND, VOLUME
from tests.support.s3 import SECRET, Fault, s3_service
from tests.unit.builders import OTHER_VOLUME, new_id

KEY = keys.object_key(VOLUME, keys.top_name(FULL))
OTHER_KEY = keys.object_key(OTHER_VOLUME, keys.top_name(FIRST))
Verb = Callable[[Repository], object]


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


@pytest.fixture
def bucket(service: str, tmp_path: Path) -> Iterator[BackupStore]:
    with s3_store(service, tmp_path) as made:
        yield made


def write_file(directory: Path, content: bytes, name: str = "source") -> Path:
    path = directory / name
    path.write_bytes(content)
    return path


def verbs(directory: Path) -> dict[str, Verb]:
    source = write_file(directory, b"content")
    return {
        "put": lambda to: to.put(KEY, source),
        "put_bytes": lambda to: to.put_bytes(KEY, b"content"),
        "get": lambda to: to.get(KEY, directory / "fetched"),
        "get_bytes": lambda to: to.get_bytes(KEY, 100),
        "list": lambda to: to.list(),
        "unfinished": lambda to: to.unfinished(),
        "delete": lambda to: to.delete(KEY),
        "exists": lambda to: to.exists(KEY),
        "probe": lambda to: to.probe(),
    }


# What every store promises


@pytest.mark.parametrize("length", [0, 1, 5 * MIB, 5 * MIB + 1, 16 * MIB - 1])
def test_an_object_reads_back_as_it_was_put(
    held: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    monkeypatch.setattr(s3, "PART", 5 * MIB)  # the least part that S3 allows
    content = os.urandom(length)
    expected = (length, hashlib.sha256(content).hexdigest())
    assert held.put(KEY, write_file(tmp_path, content)) == expected
    assert held.get(KEY, tmp_path / "fetched") == expected
    assert (tmp_path / "fetched").read_bytes() == content
    assert held.get_bytes(KEY, length) == content
    assert list(held.list()) == [(KEY, length)]
    assert (held.exists(KEY), held.exists(OTHER_KEY)) == (True, False)


def test_a_put_replaces_what_was_there_and_may_be_repeated(held: Repository, tmp_path: Path) -> None:
    for content in (b"first", b"second and longer", b"third", b"third"):
        assert held.put(KEY, write_file(tmp_path, content)).bytes == len(content)
        assert held.put_bytes(OTHER_KEY, content).sha256 == hashlib.sha256(content).hexdigest()
        assert held.get_bytes(KEY, 100) == held.get_bytes(OTHER_KEY, 100) == content
    assert list(held.unfinished()) == []


def test_a_delete_may_be_repeated_and_takes_only_its_own(held: Repository) -> None:
    held.put_bytes(KEY, b"1")
    held.put_bytes(OTHER_KEY, b"22")
    for _ in range(2):
        held.delete(KEY)
        assert list(held.list()) == [(OTHER_KEY, 2)]
    with pytest.raises(NotFound, match=re.escape(KEY)):
        held.get_bytes(KEY, 100)


def test_lists_are_in_order_and_by_prefix(held: Repository) -> None:
    names = [f"backup-{FULL}.json", f"backup-{FULL}.qcow2", f"backup-{SECOND}.1.qcow2", f"backup-{SECOND}.qcow2"]
    made = sorted(keys.object_key(volume, name) for volume in (VOLUME, OTHER_VOLUME) for name in names)
    for key in reversed(made):
        held.put_bytes(key, b"x")
    assert [key for key, _ in held.list()] == made
    assert [key for key, _ in held.list(keys.folder(VOLUME))] == made[: len(names)]
    assert [key for key, _ in held.list(f"volume-{VOLUME}/backup-{SECOND}.")] == made[2:4]
    assert list(held.list("volume-f")) == []


def test_containers_do_not_see_each_other(backup_store: BackupStore) -> None:
    store_id = backup_store.open().prepare()
    one, two = backup_store.open("one", store_id), backup_store.open("two", store_id)
    one.put_bytes(KEY, b"1")
    assert list(two.list()) == []
    two.delete(KEY)
    assert one.get_bytes(KEY, 1) == b"1"


def test_what_is_longer_than_it_may_be_is_refused(held: Repository, tmp_path: Path) -> None:
    held.put_bytes(KEY, b"12345")
    for fetch in (lambda: held.get(KEY, tmp_path / "fetched", 4), lambda: held.get_bytes(KEY, 4)):
        with pytest.raises(BadBackup, match=re.escape(KEY)):
            fetch()


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/etc/passwd",
        f"../{KEY}",
        f"volume-{VOLUME}/../../passwd",
        f"volume-{VOLUME}/.tmp.x",
        f"{KEY}\n",
        KEY.upper(),
        f"volume-{VOLUME}/backup-{FULL}.0.qcow2",
        ".backup-store",
    ],
)
def test_no_other_name_is_touched(held: Repository, tmp_path: Path, key: str) -> None:
    source = write_file(tmp_path, b"content")
    calls: list[Callable[[], object]] = [
        lambda: held.put(key, source),
        lambda: held.put_bytes(key, b""),
        lambda: held.get(key, tmp_path / "fetched"),
        lambda: held.get_bytes(key, 100),
        lambda: held.delete(key),
        lambda: held.exists(key),
    ]
    for call in calls:
        with pytest.raises(BadBackup, match="not the name"):
            call()
    assert list(held.list()) == []


def test_a_store_keeps_its_id_and_another_one_is_not_used(backup_store: BackupStore, tmp_path: Path) -> None:
    store_id = backup_store.open().prepare()
    assert backup_store.open("another").prepare() == store_id
    backup_store.open(store_id=store_id).probe()
    for verb in verbs(tmp_path).values():
        with pytest.raises(BackupStoreUnavailable, match="not the backup store it was"):
            verb(backup_store.open(store_id=new_id()))
    assert list(backup_store.open().list()) == []


def test_a_store_that_is_away_is_never_an_empty_one(
    backup_store: BackupStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "_TRIES", 1)
    plain = backup_store.open()
    store_id = plain.prepare()
    if backup_store.root is not None:
        backup_store.root.rename(tmp_path / "elsewhere")
        away = [plain, backup_store.open(store_id=store_id)]
    else:
        nobody = Store(backup_store.store.url, "http://127.0.0.1:1", None, backup_store.store.credentials_file)
        unknown = Store("s3://no-such-bucket", backup_store.store.endpoint, None, backup_store.store.credentials_file)
        away = [repository.make(each, store_id=id_) for each in (nobody, unknown) for id_ in (None, store_id)]
    for each in away:
        for verb in verbs(tmp_path).values():
            with pytest.raises(BackupStoreUnavailable):
                verb(each)


def test_a_source_that_cannot_be_read_is_not_the_stores_fault(held: Repository, tmp_path: Path) -> None:
    with pytest.raises(ShareUnavailable):
        held.put(KEY, tmp_path / "nothing")
    assert list(held.list()) == []


# A death in the middle


@pytest.mark.parametrize("place", ["half-way", "before the name"])
@pytest.mark.parametrize("earlier", [None, b"what was there before"])
def test_a_killed_put_publishes_nothing(
    held: Repository, backup_store: BackupStore, tmp_path: Path, place: str, earlier: bytes | None
) -> None:
    content = os.urandom(17 * MIB)
    source = write_file(tmp_path, content)
    if earlier is not None:
        held.put_bytes(KEY, earlier)
    put_and_die(backup_store, KEY, source, place)
    assert list(held.list()) == ([] if earlier is None else [(KEY, len(earlier))])
    assert list(held.unfinished()) == [KEY]
    assert held.put(KEY, source).bytes == len(content)
    assert list(held.unfinished()) == []
    assert held.get_bytes(KEY, len(content)) == content


# Space


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    with small_filesystem(tmp_path / "small") as point:
        yield point


def test_a_full_directory_keeps_its_objects_and_no_partial_one(small: Path, tmp_path: Path) -> None:
    full = repository.make(Store(small.as_uri()))
    store_id = full.prepare()
    full = repository.make(Store(small.as_uri()), store_id=store_id)
    full.put_bytes(OTHER_KEY, b"kept")
    for content in (bytes(5 * MIB), os.urandom(9 * MIB)):
        with pytest.raises(BackupStoreUnavailable, match="No space left"):
            full.put(KEY, write_file(tmp_path, content))
        assert list(full.list()) == [(OTHER_KEY, 4)]
        assert list(full.unfinished()) == []
    assert full.put(KEY, write_file(tmp_path, bytes(3 * MIB))).bytes == 3 * MIB


def test_a_full_s3_store_keeps_its_objects_and_no_partial_one(
    bucket: BackupStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "PART", 5 * MIB)
    held = bucket.open()
    held.put_bytes(OTHER_KEY, b"kept")
    assert bucket.proxy is not None
    for length, refused in ((MIB, "PUT"), (12 * MIB, "partNumber=2"), (12 * MIB, "POST")):
        seen: list[str] = []

        def plan(method: str, path: str, refused: str = refused, seen: list[str] = seen) -> Fault | None:
            if refused in f"{method} {path}" and "uploads" not in path:
                seen.append(path)
                return Fault(status=507)
            return None

        bucket.proxy.plan = plan
        with pytest.raises(BackupStoreUnavailable, match="507 InsufficientStorage"):
            held.put(KEY, write_file(tmp_path, bytes(length)))
        assert seen
        assert list(held.list()) == [(OTHER_KEY, 4)]
        assert list(held.unfinished()) == []
    bucket.proxy.plan = lambda _method, _path: None
    assert held.put(KEY, write_file(tmp_path, bytes(12 * MIB))).bytes == 12 * MIB


# S3 alone


def test_a_broken_download_continues_where_it_broke(bucket: BackupStore, tmp_path: Path) -> None:
    content = os.urandom(6 * MIB)
    held = bucket.open()
    held.put_bytes(KEY, content)
    proxy = bucket.proxy
    assert proxy is not None
    cuts = [2 * MIB + 17, MIB + 5]

    def plan(method: str, path: str) -> Fault | None:
        return Fault(cut_after=cuts.pop(0)) if method == "GET" and path.endswith(".qcow2") and cuts else None

    proxy.plan = plan
    proxy.seen.clear()
    assert held.get(KEY, tmp_path / "fetched").sha256 == hashlib.sha256(content).hexdigest()
    assert (tmp_path / "fetched").read_bytes() == content
    ranges = [headers["Range"] for headers in proxy.seen if "Range" in headers]
    assert ranges[-1] == f"bytes={3 * MIB + 22}-"
    assert len(ranges) == 2


def test_an_object_that_changes_while_it_comes_is_not_mixed(bucket: BackupStore, tmp_path: Path) -> None:
    held, other = bucket.open(), bucket.open()
    held.put_bytes(KEY, b"1" * 6 * MIB)
    proxy = bucket.proxy
    assert proxy is not None
    cuts = [2 * MIB]

    def plan(method: str, path: str) -> Fault | None:
        if method == "GET" and path.endswith(".qcow2") and cuts:
            return Fault(cut_after=cuts.pop())
        if method == "GET" and path.endswith(".qcow2"):
            proxy.plan = lambda _method, _path: None
            other.put_bytes(KEY, b"2" * 6 * MIB)
        return None

    proxy.plan = plan
    with pytest.raises(BackupStoreUnavailable, match="PreconditionFailed"):
        held.get(KEY, tmp_path / "fetched")


def test_requests_carry_no_checksum_header_that_other_stores_refuse(
    bucket: BackupStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "PART", 5 * MIB)
    held = bucket.open()
    for length in (1, 6 * MIB):
        held.put(KEY, write_file(tmp_path, bytes(length)))
    assert bucket.proxy is not None
    names = {name.lower() for headers in bucket.proxy.seen for name in headers}
    assert not [name for name in names if name.startswith(("x-amz-checksum", "x-amz-sdk-checksum", "x-amz-trailer"))]
    assert not [headers for headers in bucket.proxy.seen if headers.get("X-Amz-Content-SHA256") == "UNSIGNED-PAYLOAD"]


def test_secrets_appear_nowhere(bucket: BackupStore, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    held = bucket.open()
    told = [repr(bucket.store), repr(held)]
    held.put(KEY, write_file(tmp_path, b"content"))
    assert bucket.proxy is not None
    bucket.proxy.plan = lambda _method, _path: Fault(status=403)
    for verb in verbs(tmp_path).values():
        with pytest.raises(StillframeError) as caught:
            verb(held)
        told += [repr(caught.getrepr()), repr(caught.value.to_document())]
    assert SECRET not in "".join(told) + caplog.text
    assert "AKIDEXAMPLE" not in "".join(told)
    assert len(caplog.text) > 1000


_MEASURED = """
import resource, sys
from pathlib import Path
from stillframe.volumes.backups import repository

url, endpoint, credentials, key, source, target = sys.argv[1:]
store = repository.Store(url, endpoint or None, None, Path(credentials) if credentials else None)
made = repository.make(store)
made.list()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
made.put(key, Path(source))
made.get(key, Path(target))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_the_backup(held: Repository, backup_store: BackupStore, tmp_path: Path) -> None:
    source = tmp_path / "large"
    with source.open("wb") as large:
        large.truncate(128 * MIB)
    command = [sys.executable, "-c", _MEASURED, *backup_store.arguments, KEY]
    done = subprocess.run([*command, str(source), str(tmp_path / "back")], capture_output=True, text=True, check=True)
    assert (tmp_path / "back").stat().st_size == 128 * MIB
    assert int(done.stdout) < 96 * 1024  # KiB
