"""Backups in S3 or a store that speaks it. Imported only where one is configured: boto3 is the extra ``s3``.

An object of S3 appears when its upload is completed, whole, or not at all. What a killed upload leaves are parts that no
listing of objects shows; they take space until ``delete`` of the key, or the next ``put``, removes them.
"""

import json
import os
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from stillframe.errors import BackupStoreUnavailable, BadConfiguration, NotFound
from stillframe.volumes.backups import keys, s3_answers, stream
from stillframe.volumes.backups.stream import Tally, Written

try:
    from boto3.s3.transfer import TransferConfig
    from boto3.session import Session
    from botocore.config import Config
    from botocore.credentials import SharedCredentialProvider
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        ConfigParseError,
        HTTPClientError,
        IncompleteReadError,
        PartialCredentialsError,
    )
except ImportError as error:
    raise BadConfiguration("a backup store in S3 needs the extra s3: pip install 'stillframe[s3]'") from error

MARKER = ".backup-store"
PART = 16 << 20  # bytes; one part is in memory at a time
_MOST_PARTS = 10000  # S3's limit
_TRIES = 5
_PROGRESS = 1 << 20  # bytes that a try must bring, else it counts as one in vain: a store could drip for ever
_MOST_LISTED = 1_000_000  # entries of one listing; a store may answer that there is always one page more
_MAKING = threading.Lock()


@dataclass(frozen=True)
class Place:
    """Where in S3: ``<bucket>/<prefix>/<container>/<key>``; the store's marker lies at ``<bucket>/<prefix>``."""

    bucket: str
    prefix: str
    container: str
    store_id: str | None


def connect(endpoint: str | None, region: str | None, credentials_file: Path | None) -> Any:
    """Returns a boto3 client; sends nothing to the store yet. Raises BadConfiguration for credentials or an endpoint that are
    none.

    Without ``credentials_file`` they are found as boto3 finds them: in the environment, in ``~/.aws``, from the container or
    the machine. Without ``region`` it is AWS_REGION, or what boto3 finds, else us-east-1, which stores that know no regions
    accept. The credentials must allow ListBucket, ListBucketMultipartUploads, GetObject, PutObject, DeleteObject and
    AbortMultipartUpload.

    Checksum headers are sent only where S3 demands them: by default boto3 (1.36 and later) adds one that many other
    stores refuse. Instead every body is signed, so that the store itself refuses one that changed on its way.
    """
    if endpoint and "@" in endpoint:
        raise BadConfiguration("the endpoint of the backup store holds more than a place; credentials belong into a file")
    found = _read_credentials(credentials_file) if credentials_file else {}
    config = Config(
        connect_timeout=10,
        read_timeout=60,
        retries={"mode": "standard", "total_max_attempts": _TRIES},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"payload_signing_enabled": True, "addressing_style": "path" if endpoint else "auto"},
    )
    try:
        with _MAKING:
            session = _session()
            if not found and session.get_credentials() is None:
                raise BadConfiguration(
                    "neither the environment nor ~/.aws nor this machine holds credentials for the backup store: name a file"
                    " with backup_s3_credentials_file"
                )
            place = region or os.environ.get("AWS_REGION") or session.region_name or "us-east-1"
            return s3_answers.bound(session.client("s3", endpoint_url=endpoint, region_name=place, config=config, **found))
    except (BotoCoreError, ValueError) as error:
        raise BadConfiguration(f"the S3 client cannot be made: {type(error).__name__}, look at endpoint and region") from error


@cache
def _session() -> Session:
    """One for all clients: it reads the description of S3 once, a third of a second of CPU. Not made for several threads."""
    return Session()


def _read_credentials(file: Path) -> dict[str, str | None]:
    """Reads the section default of a file of AWS's form, which others may not read."""
    try:
        with file.open() as opened:
            if os.fstat(opened.fileno()).st_mode & 0o007:
                raise BadConfiguration(f"others can read or change {file}, which holds the backup store's credentials")
            found = SharedCredentialProvider(f"/proc/self/fd/{opened.fileno()}", "default").load()
    except OSError as error:
        raise BadConfiguration(f"the backup store's credentials cannot be read from {file}: {error}") from error
    except ConfigParseError:  # its text holds the line, which may be the secret
        raise BadConfiguration(f"the backup store's credentials file {file} is no INI file") from None
    except PartialCredentialsError:
        found = None
    if found is None or not found.access_key or not found.secret_key:
        raise BadConfiguration(
            f"the file {file} holds no aws_access_key_id and aws_secret_access_key for the backup store, in a section [default]"
        )
    keys_of = {"aws_access_key_id": found.access_key, "aws_secret_access_key": found.secret_key}
    return {**keys_of, "aws_session_token": found.token or None}


class S3Repository:
    """See ``repository.Repository``."""

    def __init__(self, place: Place, client: Any) -> None:
        self._place = place
        self._client = client
        self._top = f"{place.prefix}/" if place.prefix else ""
        self._base = f"{self._top}{keys.check_container(place.container)}/"

    def prepare(self) -> str:
        """Gives the store its marker on first use and returns the store's id."""
        found = self._read_marker()
        if found is None:
            found = str(uuid.uuid4())
            with self._working(MARKER):
                body = json.dumps({"store_id": found}).encode()
                self._client.put_object(Bucket=self._place.bucket, Key=self._top + MARKER, Body=body)
        return found

    def probe(self) -> None:
        """Raises BackupStoreUnavailable unless the store answers and carries the id this was made with, if any."""
        if self._read_marker() != self._place.store_id and self._place.store_id is not None:
            raise BackupStoreUnavailable(
                f"{self._shown()} is not the backup store it was: its marker object {MARKER} is missing or another's"
            )

    def put(self, key: str, path: Path) -> Written:
        """Stores a file under ``key``, in place of what was there, and returns its bytes and sha256. Raises ShareUnavailable
        when ``path`` cannot be read."""
        name = self._name(key)
        self.probe()
        tally = Tally()
        with stream.opened(path) as source, self._working(key):
            self._cancel(key)
            config = _transfer(part_length(os.fstat(source.fileno()).st_size))
            self._client.upload_fileobj(_Source(source, path.parent, tally), self._place.bucket, name, Config=config)
        return tally.written()

    def put_bytes(self, key: str, data: bytes) -> Written:
        """As ``put``, for what is small."""
        name = self._name(key)
        self.probe()
        with self._working(key):
            self._client.put_object(Bucket=self._place.bucket, Key=name, Body=data)
        tally = Tally()
        tally.add(data)
        return tally.written()

    def get(self, key: str, target: Path, limit: int | None = None) -> Written:
        """Copies an object into a new file, mode 0600, and returns what came: bytes and sha256. Raises NotFound,
        ShareUnavailable when ``target`` cannot be written."""
        return stream.save(key, self.pieces(key), target, limit)

    def folder(self, volume_id: str) -> Path | None:
        """Returns the directory where the volume's objects lie as files, each under its own name."""
        return None

    def pieces(self, key: str) -> Iterator[bytes]:
        """Yields an object's content. Raises NotFound."""
        return self._pieces(self._name(key), key)

    def get_bytes(self, key: str, limit: int) -> bytes:
        """Returns a small object. Raises NotFound, BadBackup when it has more than ``limit`` bytes."""
        return stream.bounded(key, self.pieces(key), limit)

    def list(self, prefix: str = "") -> Sequence[tuple[str, int]]:
        """Returns (key, bytes) of every object whose key begins with ``prefix``, in the order of their keys."""
        self.probe()
        with self._working(prefix):
            return sorted((key, entry["Size"]) for key, entry in self._each("list_objects_v2", "Contents", prefix))

    def unfinished(self, prefix: str = "") -> Sequence[str]:
        """Keys of which an interrupted ``put`` left something that takes space."""
        self.probe()
        return sorted({key for key, _ in self._uploads(prefix)})

    def delete(self, key: str) -> None:
        """Removes an object, and what an interrupted ``put`` of it left."""
        name = self._name(key)
        self.probe()
        with self._working(key):
            self._cancel(key)
            self._client.delete_object(Bucket=self._place.bucket, Key=name)

    def exists(self, key: str) -> bool:
        return any(found == key for found, _ in self.list(keys.check(key)))

    def _cancel(self, key: str) -> None:
        for found, entry in self._uploads(key):
            if found == key:
                self._client.abort_multipart_upload(Bucket=self._place.bucket, Key=self._name(key), UploadId=entry["UploadId"])

    def _uploads(self, prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
        return self._each("list_multipart_uploads", "Uploads", prefix)

    def _each(self, verb: str, field: str, prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields (key, entry) of a listing, page by page, for what is named as a backup's object."""
        count = 0
        with self._working(prefix):
            pages = self._client.get_paginator(verb).paginate(Bucket=self._place.bucket, Prefix=self._base + prefix)
            for page in pages:
                for entry in page.get(field, ()):
                    count += 1
                    if count > _MOST_LISTED:
                        raise BackupStoreUnavailable(f"the listing of {self._shown()} does not end: {count} entries")
                    key = entry["Key"].removeprefix(self._base)
                    if keys.parse(key) is not None:
                        yield key, entry

    def _pieces(self, name: str, shown: str) -> Iterator[bytes]:
        """Yields an object; one whose connection breaks is taken up again where it broke, if it is still the same."""
        if name != self._top + MARKER:
            self.probe()
        at, stuck, more = 0, 0, dict[str, str]()
        while True:
            begun = at
            with self._working(shown):
                try:
                    answer = self._client.get_object(Bucket=self._place.bucket, Key=name, **more)
                    for piece in answer["Body"].iter_chunks(stream.PIECE):
                        at += len(piece)
                        yield piece
                    return
                except (HTTPClientError, IncompleteReadError):
                    stuck = 0 if at - begun >= _PROGRESS else stuck + 1
                    if not at or stuck == _TRIES:
                        raise
                more = {"Range": f"bytes={at}-", "IfMatch": answer["ETag"]}

    def _read_marker(self) -> str | None:
        try:
            found = json.loads(stream.bounded(MARKER, self._pieces(self._top + MARKER, MARKER), 4096))
            return str(found["store_id"])
        except NotFound:
            return None
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise BackupStoreUnavailable(f"the marker {MARKER} of {self._shown()} cannot be read: {error}") from error

    def _name(self, key: str) -> str:
        return self._base + keys.check(key)

    def _shown(self) -> str:
        place = f"s3://{self._place.bucket}/{self._place.prefix}".rstrip("/")
        return f"{place} at {self._client.meta.endpoint_url}"

    @contextmanager
    def _working(self, key: str) -> Iterator[None]:
        """Turns boto3's errors into ours. Only their codes are told: their texts may repeat parts of a request (R20)."""
        try:
            yield
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", "unknown"))
            if code == "NoSuchKey":
                raise NotFound(f"the backup store holds no {key}") from error
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            reason = f"{error.operation_name} was answered with {status} {code}"
            raise BackupStoreUnavailable(f"the backup store {self._shown()} refuses {key or 'a listing'}: {reason}") from error
        except BotoCoreError as error:
            reason = type(error).__name__
            raise BackupStoreUnavailable(f"the backup store {self._shown()} does not answer: {reason}") from error
        except (KeyError, ValueError, TypeError, RecursionError) as error:  # an entry without a name, a length of letters ...
            reason = type(error).__name__
            raise BackupStoreUnavailable(f"what the backup store {self._shown()} answers cannot be read: {reason}") from error


def part_length(size: int) -> int:
    """Bytes of one part, so that a file of ``size`` bytes has no more parts than S3 allows."""
    return max(PART, -(-size // (_MOST_PARTS - 1)))


def _transfer(length: int) -> TransferConfig:
    """One part after the other, in the caller's thread. When one cannot be sent, boto3 aborts the upload."""
    return TransferConfig(
        multipart_threshold=length, multipart_chunksize=length, use_threads=False, preferred_transfer_client="classic"
    )


class _Source:
    """A file as boto3 reads what cannot be read twice: from its beginning to its end, counted and hashed."""

    def __init__(self, source: BinaryIO, share: Path, tally: Tally) -> None:
        self._source, self._share, self._tally = source, share, tally

    def read(self, length: int = -1) -> bytes:
        return self._tally.add(stream.read(self._source, self._share, length if length >= 0 else PART))
