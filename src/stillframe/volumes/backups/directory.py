"""Backups in a directory, local or mounted. An object has its name only when it is whole and durable."""

import os
import secrets
import stat
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from stillframe.errors import BackupStoreUnavailable, BadBackup, BadImage, NotFound, ShareUnavailable
from stillframe.host import files, publish, workdir
from stillframe.volumes.backups import keys, stream
from stillframe.volumes.backups.stream import Tally, Written

MARKER = ".backup-store"
_TEMPORARY = ".tmp."


class DirectoryRepository:
    """See ``repository.Repository``. Files are ``<root>/<container>/volume-<VOLUME>/<name>``."""

    def __init__(self, root: Path, container: str, store_id: str | None) -> None:
        self._root = root
        self._base = root / keys.check_container(container)
        self._store_id = store_id

    def prepare(self) -> str:
        """Gives the store its marker on first use and returns the store's id."""
        with self._working():
            workdir.make_share(self._root)
            found = self._read_marker()
            if found is None:
                found = str(uuid.uuid4())
                files.write_json(self._root, MARKER, {"store_id": found})
        return found

    def probe(self) -> None:
        """Raises BackupStoreUnavailable unless the store answers and carries the id this was made with, if any."""
        with self._working():
            os.listdir(self._root)  # a directory that is away has no marker either, but that is not what is wrong
            if self._store_id is not None and self._read_marker() != self._store_id:
                raise BackupStoreUnavailable(
                    f"the directory {self._root} is not the backup store it was: its marker file {MARKER} is missing "
                    "or another's"
                )

    def put(self, key: str, path: Path) -> Written:
        """Stores a file under ``key``, in place of what was there, and returns its bytes and sha256. Raises ShareUnavailable
        when ``path`` cannot be read."""
        keys.check(key)
        with stream.opened(path) as source:
            return self._store(key, iter(lambda: stream.read(source, path.parent, stream.PIECE), b""))

    def put_bytes(self, key: str, data: bytes) -> Written:
        """As ``put``, for what is small."""
        return self._store(keys.check(key), iter([data]))

    def get(self, key: str, target: Path, limit: int | None = None) -> Written:
        """Copies an object into a new file, mode 0600, and returns what came: bytes and sha256. Raises NotFound,
        ShareUnavailable when ``target`` cannot be written."""
        return stream.save(key, self.pieces(key), target, limit)

    def folder(self, volume_id: str) -> Path | None:
        """Returns the directory where the volume's objects lie as files, each under its own name."""
        return self._base / keys.folder(volume_id).rstrip("/")

    def get_bytes(self, key: str, limit: int) -> bytes:
        """Returns a small object. Raises NotFound, BadBackup when it has more than ``limit`` bytes."""
        return stream.bounded(key, self.pieces(key), limit)

    def list(self, prefix: str = "") -> Sequence[tuple[str, int]]:
        """Returns (key, bytes) of every object whose key begins with ``prefix``, in the order of their keys."""
        return sorted((key, size) for key, whole, size in self._walk(prefix) if whole)

    def unfinished(self, prefix: str = "") -> Sequence[str]:
        """Keys of which an interrupted ``put`` left something that takes space."""
        return sorted({key for key, whole, _ in self._walk(prefix) if not whole})

    def delete(self, key: str) -> None:
        """Removes an object, and what an interrupted ``put`` of it left."""
        self.probe()
        folder, name = self._split(key)
        with self._working(), suppress(FileNotFoundError):
            self._drop_temporaries(folder, name)
            with self._inside(folder) as place:
                self._remove(place, folder, name)
            with suppress(OSError), self._inside() as base:  # not empty: other backups of the volume lie there
                (base / folder).rmdir()

    def exists(self, key: str) -> bool:
        keys.check(key)
        return any(found == key for found, _ in self.list(key))

    def _store(self, key: str, pieces: Iterator[bytes]) -> Written:
        self.probe()
        folder, name = self._split(key)
        temporary = f"{self._on_the_way(folder, name)}{secrets.token_hex(8)}"
        with self._working():
            self._make_folders(folder)
            self._drop_temporaries(folder, name)
            with workdir.working(self._root) as place, self._inside(folder) as target:
                try:
                    files.create_empty(place, temporary)
                    written = _fill(place, temporary, pieces)
                    _rename(place / temporary, target / name)
                    files.sync_directory(target)
                except BaseException:
                    with suppress(OSError):
                        (place / temporary).unlink(missing_ok=True)
                    raise
        return written

    def _on_the_way(self, folder: str, name: str) -> str:
        """How the names in the working directory of the store begin that become this object."""
        return f"{_TEMPORARY}{self._base.name}~{folder}~{name}."

    def pieces(self, key: str) -> Iterator[bytes]:
        """Yields an object's content. Raises NotFound."""
        self.probe()
        folder, name = self._split(key)
        try:
            with self._working(), self._inside(folder) as place:
                handle = files.open_regular(place, name)
        except BackupStoreUnavailable as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise NotFound(f"the backup store holds no {key}") from error
            raise
        except BadImage as error:
            raise BadBackup(f"{key}: {error.message}") from error
        with os.fdopen(handle, "rb", buffering=0) as source:
            while True:
                with self._working():
                    piece = source.read(stream.PIECE)
                if not piece:
                    return
                yield piece

    def _walk(self, prefix: str) -> Iterator[tuple[str, bool, int]]:
        """Yields (key, whether it is whole, bytes) of every file that is, or was to become, an object."""
        self.probe()
        with self._working():
            for folder in self._folders(prefix):
                with suppress(FileNotFoundError), self._inside(folder) as place:
                    for name in os.listdir(place):
                        whole = not name.startswith(_TEMPORARY)  # others are of before there was a working directory
                        found = name if whole else name.removeprefix(_TEMPORARY).rpartition(".")[0]
                        yield from _object(f"{folder}/{found}", prefix, whole, place / name)
            begin = self._on_the_way("", "").removesuffix("~.")
            for name in workdir.lying(self._root):
                if name.startswith(begin):
                    key = name.removeprefix(begin).rpartition(".")[0].replace("~", "/", 1)
                    with workdir.working(self._root) as place:
                        yield from _object(key, prefix, False, place / name)

    def _folders(self, prefix: str) -> Sequence[str]:
        """The folders a key with this prefix can lie in; a container that was never used has none."""
        try:
            with self._inside() as base:
                found = [entry.name for entry in os.scandir(base) if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return []
        return [name for name in found if f"{name}/".startswith(prefix[: len(name) + 1])]

    @staticmethod
    def _split(key: str) -> tuple[str, str]:
        folder, _, name = keys.check(key).partition("/")
        return folder, name

    @contextmanager
    def _inside(self, *folder: str) -> Iterator[Path]:
        """Holds the container, or a folder of it: nobody puts another directory in its place."""
        with ExitStack() as held:
            try:
                place = held.enter_context(workdir.held(self._root, self._base.name, *folder))
            except BadImage as error:
                raise BadBackup(f"{'/'.join((str(self._base), *folder))} is not a directory: {error.message}") from error
            yield place

    def _make_folders(self, folder: str) -> None:
        publish.make_folder(self._root, self._base.name)
        with self._inside():  # something else of that name is refused in words
            publish.make_folder(self._root, self._base.name, folder)

    def _drop_temporaries(self, folder: str, name: str) -> None:
        for left in workdir.lying(self._root):
            if left.startswith(self._on_the_way(folder, name)):
                with workdir.working(self._root) as place:
                    files.unlink(place, left)
        with suppress(FileNotFoundError), self._inside(folder) as place:
            for left in os.listdir(place):
                if left.startswith(f"{_TEMPORARY}{name}."):
                    self._remove(place, folder, left)

    def _remove(self, place: Path, folder: str, name: str) -> None:
        """By way of the working directory, as ``files.remove`` does on a share: what is unlinked is what was looked at."""
        with files.seen(place, name) as handle:
            if handle is None:
                return
            if stat.S_ISDIR(os.fstat(handle).st_mode):
                raise BadBackup(f"{folder}/{name} is a directory: it is not removed")
            to = f"{self._on_the_way(folder, name)}{secrets.token_hex(8)}"
            with workdir.working(self._root) as aside, suppress(FileNotFoundError):
                files.move_to(place / name, aside / to, handle)
                files.unlink(aside, to)
        files.sync_directory(place)

    def _read_marker(self) -> str | None:
        try:
            found = files.read_json(self._root, MARKER)
            return None if found is None else str(found["store_id"])
        except (BadImage, ValueError, TypeError, KeyError) as error:
            raise BackupStoreUnavailable(f"the marker file {self._root / MARKER} cannot be read: {error}") from error

    @contextmanager
    def _working(self) -> Iterator[None]:
        """Whatever the operating system objects to, the store does not work: no answer never means "not there"."""
        try:
            yield
        except ShareUnavailable as error:
            raise BackupStoreUnavailable(error.message) from error
        except OSError as error:
            reason = f"the backup directory {self._root} does not work: {error.strerror or error}"
            raise BackupStoreUnavailable(reason) from error


def _object(key: str, prefix: str, whole: bool, path: Path) -> Iterator[tuple[str, bool, int]]:
    if keys.parse(key) is not None and key.startswith(prefix):
        with suppress(FileNotFoundError):
            yield key, whole, path.stat(follow_symlinks=False).st_size


def _fill(folder: Path, name: str, pieces: Iterator[bytes]) -> Written:
    """Writes all pieces into an empty file, durably."""
    tally = Tally()
    with files.made_durable(folder, name):
        flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(folder / name, flags), "wb", buffering=0) as sink:
            for piece in pieces:
                stream.write(sink, tally.add(piece))
    return tally.written()


def _rename(temporary: Path, target: Path) -> None:
    """Replaces what had the name. A repeated rename on NFS may answer ENOENT though the first one worked."""
    made = temporary.stat(follow_symlinks=False).st_ino
    try:
        os.rename(temporary, target)
    except FileNotFoundError:
        if target.stat(follow_symlinks=False).st_ino != made:
            raise
