"""What every backup store promises, and which one an address means.

"May be repeated" means: the same call again has the same outcome. Keys are those of ``keys``; every method refuses
another text with BadBackup, before anything is touched. All methods raise BackupStoreUnavailable when the store does not
answer, is full, or is not the store it was: no answer never means "not there".
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from stillframe.errors import BadConfiguration
from stillframe.volumes.backups import keys
from stillframe.volumes.backups.directory import DirectoryRepository
from stillframe.volumes.backups.stream import Written

DEFAULT_CONTAINER = "volumebackups"


class Repository(Protocol):
    """One container of one store."""

    def prepare(self) -> str:
        """Gives the store its marker on first use and returns the store's id. May be repeated."""

    def probe(self) -> None:
        """Raises BackupStoreUnavailable unless the store answers and carries the id this was made with, if any."""

    def put(self, key: str, path: Path) -> Written:
        """Stores a file under ``key``, in place of what was there, and returns its bytes and sha256.

        Durable when it returns, and whole or not there at any other time, also after a kill. May be repeated.
        Raises ShareUnavailable when ``path`` cannot be read.
        """

    def put_bytes(self, key: str, data: bytes) -> Written:
        """As ``put``, for what is small."""

    def get(self, key: str, target: Path, limit: int | None = None) -> Written:
        """Copies an object into a new file, mode 0600, and returns what came: bytes and sha256. May be repeated.

        Judges nothing itself; but stops with BadBackup when more than ``limit`` bytes come. Raises NotFound,
        ShareUnavailable when ``target`` cannot be written. The file is not synced.
        """

    def folder(self, volume_id: str) -> Path | None:
        """Returns the directory where the volume's objects lie as files, each under its own name; None where there is none."""

    def pieces(self, key: str) -> Iterator[bytes]:
        """Yields an object's content. Judges nothing. Raises NotFound."""

    def get_bytes(self, key: str, limit: int) -> bytes:
        """Returns a small object. Raises NotFound, BadBackup when it has more than ``limit`` bytes."""

    def list(self, prefix: str = "") -> Sequence[tuple[str, int]]:
        """Returns (key, bytes) of every object whose key begins with ``prefix``, in the order of their keys.

        What is not named as a backup's object is passed over.
        """

    def unfinished(self, prefix: str = "") -> Sequence[str]:
        """Keys of which an interrupted ``put`` left something that takes space; ``delete`` of the key removes it."""

    def delete(self, key: str) -> None:
        """Removes an object, and what an interrupted ``put`` of it left. May be repeated."""

    def exists(self, key: str) -> bool: ...


@dataclass(frozen=True)
class Store:
    """Where backups are to lie. Credentials are never part of it, only where they are found (R20).

    ``url`` is ``file:///directory``, as ``Path.as_uri`` writes it, or ``s3://bucket[/prefix]``. The rest is for S3:
    ``endpoint`` is the URL of a service that is not Amazon's; ``credentials_file`` is an INI file with
    ``aws_access_key_id``, ``aws_secret_access_key`` and perhaps ``aws_session_token`` in its section ``default``, which
    others cannot read. Without it they are found as boto3 finds them: in the environment, in ``~/.aws``, from the machine.
    """

    url: str
    endpoint: str | None = None
    region: str | None = None
    credentials_file: Path | None = None


def make(store: Store, container: str = DEFAULT_CONTAINER, store_id: str | None = None) -> Repository:
    """Returns the repository an address means. Asks nothing of the store: it may be away.

    ``store_id`` is what ``prepare`` returned once; without it a store that is not mounted looks like an empty one.
    Raises BadConfiguration for an address or credentials that are not usable, BadRequest for a container's name that is none.
    """
    keys.check_container(container)
    try:
        parts = urlsplit(store.url)
    except ValueError as error:
        raise BadConfiguration("the backup store's address is no URL") from error
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise BadConfiguration("the backup store's address holds more than a place; credentials belong into a file")
    if parts.scheme == "file" and parts.netloc == "" and parts.path.startswith("/"):
        return DirectoryRepository(Path(unquote(parts.path)), container, store_id)
    if parts.scheme == "s3" and parts.netloc:
        # Late: an installation without the extra s3 has no boto3.
        from stillframe.volumes.backups import s3

        place = s3.Place(parts.netloc, parts.path.strip("/"), container, store_id)
        return s3.S3Repository(place, s3.connect(store.endpoint, store.region, store.credentials_file))
    raise BadConfiguration(f"the backup store {store.url!r} is neither file:///directory nor s3://bucket/prefix")
