"""Copies files to and from a store, piece by piece: counted and hashed on the way, never whole in memory."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from stillframe.errors import BadBackup
from stillframe.host import files

PIECE = 1 << 20  # bytes


class Written(NamedTuple):
    """What went through: bytes, and the sha256 of them in hexadecimal."""

    bytes: int
    sha256: str


class Tally:
    """Counts and hashes pieces in their order."""

    def __init__(self) -> None:
        self.bytes = 0
        self._hash = hashlib.sha256()

    def add(self, piece: bytes) -> bytes:
        """Takes a piece into account and returns it."""
        self.bytes += len(piece)
        self._hash.update(piece)
        return piece

    def written(self) -> Written:
        return Written(self.bytes, self._hash.hexdigest())


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Opens a file of our own to be stored. Raises ShareUnavailable, BadImage when it is a link or a special file."""
    with files.share_errors(path.parent):
        handle = files.open_regular(path.parent, path.name)
    with os.fdopen(handle, "rb", buffering=0) as source:
        yield source


def read(source: BinaryIO, share: Path, length: int) -> bytes:
    """Returns the next ``length`` bytes, fewer only at the end. Raises ShareUnavailable."""
    parts = bytearray()
    with files.share_errors(share):
        while len(parts) < length and (part := source.read(min(PIECE, length - len(parts)))):
            parts += part
    return bytes(parts)


def save(key: str, pieces: Iterable[bytes], target: Path, limit: int | None) -> Written:
    """Writes what a store sends into a new file, mode 0600; a file of that name is replaced.

    Raises BadBackup when more than ``limit`` bytes come, ShareUnavailable when the target's directory is full or gone.
    """
    tally = Tally()
    with files.share_errors(target.parent):
        target.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        sink = os.fdopen(os.open(target, flags, 0o600), "wb", buffering=0)
    with sink, ThreadPoolExecutor(1, "sha256") as helper:  # one processor hashes what the other one writes
        hashed: Future[bytes] | None = None
        for piece in pieces:
            if hashed is not None:
                hashed.result()
            if limit is not None and tally.bytes + len(piece) > limit:
                raise BadBackup(f"{key} is longer than the {limit} bytes it should have")
            hashed = helper.submit(tally.add, piece)
            with files.share_errors(target.parent):
                write(sink, piece)
    return tally.written()


def write(sink: BinaryIO, piece: bytes) -> None:
    """Writes all of ``piece`` to an unbuffered file. Raises OSError."""
    rest = memoryview(piece)
    while rest:
        rest = rest[sink.write(rest) :]


def bounded(key: str, pieces: Iterable[bytes], limit: int) -> bytes:
    """Returns all pieces as one; raises BadBackup when they are longer than ``limit``."""
    parts = bytearray()
    for piece in pieces:
        parts += piece
        if len(parts) > limit:
            raise BadBackup(f"{key} is longer than {limit} bytes")
    return bytes(parts)
