"""Backup stores for tests: a directory, or a new bucket of an S3 service behind a proxy of its own."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stillframe.volumes.backups import repository, s3
from stillframe.volumes.backups.repository import Repository, Store
from tests.support.s3 import Proxy, credentials_file, proxied
from tests.unit.builders import new_id


@dataclass
class BackupStore:
    """One store: how to reach it, and how a test changes it directly."""

    store: Store
    proxy: Proxy | None = None
    root: Path | None = None

    def open(self, container: str = "volumebackups", store_id: str | None = None) -> Repository:
        return repository.make(self.store, container, store_id)

    @property
    def arguments(self) -> list[str]:
        """The same store for a program: address, endpoint, credentials file."""
        return [self.store.url, self.store.endpoint or "", str(self.store.credentials_file or "")]


def directory_store(directory: Path) -> BackupStore:
    root = directory / "store"
    root.mkdir()
    return BackupStore(Store(root.as_uri()), root=root)


@contextmanager
def s3_store(service: str, directory: Path) -> Iterator[BackupStore]:
    """Makes a bucket at ``service``; ``directory`` receives the credentials file."""
    file = credentials_file(directory)
    name = f"bucket-{new_id()}"
    client = s3.connect(service, None, file)
    client.create_bucket(Bucket=name)
    client.close()
    with proxied(service) as proxy:
        yield BackupStore(Store(f"s3://{name}/some/prefix", proxy.url, None, file), proxy)


@contextmanager
def small_filesystem(point: Path) -> Iterator[Path]:
    """Mounts a file system of 4 MiB; needs root, as the guests of other tests do."""
    point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(point)], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", str(point)], check=True)


def put_and_die(backup_store: BackupStore, key: str, source: Path, place: str) -> None:
    """Stores a file from another process, which is killed at ``place``: "half-way" or "before the name"."""
    command = [sys.executable, "-c", _DYING, *backup_store.arguments, key, str(source), place]
    died = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert died.returncode == -signal.SIGKILL, died.stdout + died.stderr


_DYING = """
import os, signal, sys
from pathlib import Path
from stillframe.host import files
from stillframe.volumes.backups import directory, repository, s3, stream

url, endpoint, credentials, key, source, place = sys.argv[1:]

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

class Tally(stream.Tally):
    def add(self, piece):
        if self.bytes >= 11 << 20:
            die()
        return super().add(piece)

s3.PART = 5 << 20
if place == "half-way":
    stream.Tally = directory.Tally = s3.Tally = Tally
elif place == "before the name":
    directory._rename = die
store = repository.Store(url, endpoint or None, None, Path(credentials) if credentials else None)
made = repository.make(store)
if place == "before the name" and isinstance(made, s3.S3Repository):
    made._client.complete_multipart_upload = die
made.put(key, Path(source))
print("survived")
"""
