"""Which store an address means, and where its credentials come from."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stillframe.errors import BadConfiguration, BadRequest
from stillframe.volumes.backups import repository, s3
from stillframe.volumes.backups.directory import DirectoryRepository
from stillframe.volumes.backups.repository import Store
from stillframe.volumes.backups.s3 import S3Repository

ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "canary"}


@pytest.fixture(autouse=True)
def around(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An environment with credentials, and no home and no machine that could have others."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {**ENVIRONMENT, "AWS_EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    s3._session.cache_clear()
    yield
    s3._session.cache_clear()


def credentials(directory: Path, text: str, mode: int = 0o600) -> Path:
    path = directory / "credentials"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_directory(tmp_path: Path) -> None:
    root = tmp_path / "a b%"
    made = repository.make(Store(root.as_uri()))
    assert isinstance(made, DirectoryRepository)
    assert not root.exists(), "nothing is asked of the store"
    made.prepare()
    assert root.is_dir()


def test_a_bucket_with_and_without_a_prefix() -> None:
    for url, base in (("s3://bucket", "volumebackups/"), ("s3://bucket/a/b/", "a/b/volumebackups/")):
        made = repository.make(Store(url))
        assert isinstance(made, S3Repository)
        assert made._base == base


@pytest.mark.parametrize(
    "url",
    ["", "/srv/backups", "file://host/srv", "file:srv", "http://bucket", "s3:///prefix", "s3:bucket", "s3://[", "ftp://a/b"],
)
def test_what_is_no_address_of_a_store(url: str) -> None:
    with pytest.raises(BadConfiguration):
        repository.make(Store(url))


@pytest.mark.parametrize(
    "store",
    [
        Store("s3://id:canary@bucket/prefix"),
        Store("s3://bucket/prefix?secret=canary"),
        Store("s3://bucket#canary"),
        Store("s3://bucket", endpoint="http://id:canary@127.0.0.1"),
    ],
)
def test_an_address_that_holds_a_secret_is_refused_and_not_repeated(store: Store) -> None:
    with pytest.raises(BadConfiguration) as caught:
        repository.make(store)
    assert "canary" not in str(caught.value)


def test_a_container_is_a_plain_name() -> None:
    with pytest.raises(BadRequest):
        repository.make(Store("file:///srv"), "../etc")


def used(file: Path | None) -> tuple[str, str, str | None]:
    """What requests would be signed with."""
    found = s3.connect(None, None, file)._get_credentials()
    return found.access_key, found.secret_key, found.token


def test_credentials_from_a_file_win_over_the_environment(tmp_path: Path) -> None:
    text = "[default]\naws_access_key_id = a%b\naws_secret_access_key = c\naws_session_token = d\n[other]\nx = y\n"
    assert used(credentials(tmp_path, text)) == ("a%b", "c", "d")
    plain = "[default]\naws_access_key_id = a\naws_secret_access_key = c\n"
    assert used(credentials(tmp_path, plain)) == ("a", "c", None)


def test_without_a_file_they_are_found_where_boto3_finds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert used(None) == ("id", "canary", None)
    for name in ENVIRONMENT:
        monkeypatch.delenv(name)
    s3._session.cache_clear()
    (Path.home() / ".aws").mkdir()
    (Path.home() / ".aws/credentials").write_text("[default]\naws_access_key_id = h\naws_secret_access_key = s\n")
    assert used(None) == ("h", "s", None)


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o644, 0o666])
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    file = credentials(tmp_path, "[default]\naws_access_key_id = a\naws_secret_access_key = b\n", mode)
    with pytest.raises(BadConfiguration, match="others can read"):
        repository.make(Store("s3://bucket", credentials_file=file))


@pytest.mark.parametrize("text", ["", "[default]\n", "[default]\naws_access_key_id = a\n", "[other]\naws_access_key_id = a\n"])
def test_a_file_without_credentials_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadConfiguration, match=str(tmp_path)):
        repository.make(Store("s3://bucket", credentials_file=credentials(tmp_path, text)))


@pytest.mark.parametrize("text", ["canary", "[default]\ncanary\n", "[default]\nx = 1\nx = canary\n", "[canary"])
def test_a_file_that_is_no_ini_is_refused_without_its_text(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadConfiguration) as caught:
        repository.make(Store("s3://bucket", credentials_file=credentials(tmp_path, text)))
    assert "canary" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_no_credentials_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadConfiguration, match="cannot be read"):
        repository.make(Store("s3://bucket", credentials_file=tmp_path / "nothing"))
    for name in ENVIRONMENT:
        monkeypatch.delenv(name)
    with pytest.raises(BadConfiguration, match="neither the environment nor"):
        repository.make(Store("s3://bucket"))


def test_an_endpoint_that_is_none() -> None:
    with pytest.raises(BadConfiguration, match="endpoint"):
        repository.make(Store("s3://bucket", endpoint="not a url"))


@pytest.mark.parametrize(
    ("region", "environment", "expected"),
    [
        ("eu-1", {"AWS_REGION": "x"}, "eu-1"),
        (None, {"AWS_REGION": "x", "AWS_DEFAULT_REGION": "y"}, "x"),
        (None, {"AWS_DEFAULT_REGION": "y"}, "y"),
        (None, {}, "us-east-1"),
    ],
)
def test_the_region(monkeypatch: pytest.MonkeyPatch, region: str | None, environment: dict[str, str], expected: str) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert s3.connect(None, region, None).meta.region_name == expected


def test_without_boto3_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "stillframe.volumes.backups.s3")
    monkeypatch.delattr("stillframe.volumes.backups.s3", raising=False)
    monkeypatch.setitem(sys.modules, "boto3.session", None)
    with pytest.raises(BadConfiguration, match=r"stillframe\[s3\]"):
        repository.make(Store("s3://bucket"))
    assert isinstance(repository.make(Store("file:///srv")), DirectoryRepository)


@pytest.mark.parametrize("size", [0, 1, 16 << 20, 156 << 30, 1 << 40, 5 << 40])
def test_no_file_has_more_parts_than_s3_allows(size: int) -> None:
    length = s3.part_length(size)
    assert length >= 16 << 20
    assert size // length + 1 <= 10000
