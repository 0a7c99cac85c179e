"""Opens a backup and those it builds on for a reader, and believes nothing of it before it is verified."""

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stillframe.chain.image import Image
from stillframe.errors import BadBackup, BadImage, HostCommandFailed, NotFound, ShareUnavailable, StepFailed
from stillframe.host import files, qcow2
from stillframe.volumes.backups import keys, manifest
from stillframe.volumes.backups.manifest import Manifest
from stillframe.volumes.backups.repository import Repository
from stillframe.volumes.backups.stream import Tally

Confirm = Callable[[], None]


@dataclass(frozen=True)
class BackupChain:
    """A backup's files in ``directory``. ``manifests`` begin with the full backup, ``images`` with the base."""

    directory: Path
    manifests: tuple[Manifest, ...]
    images: tuple[Image, ...]

    @property
    def manifest(self) -> Manifest:
        """The backup that was asked for."""
        return self.manifests[-1]

    @property
    def top(self) -> Image:
        """The file that reads as the backup."""
        return self.images[-1]

    @property
    def depth(self) -> int:
        return len(self.images)


def read_manifest(repository: Repository, volume_id: str, backup_id: str) -> Manifest:
    """Raises BadBackup when the manifest is missing or damaged."""
    key = keys.manifest_key(volume_id, backup_id)
    try:
        text = repository.get_bytes(key, manifest.MOST_BYTES)
    except NotFound as error:
        raise BadBackup(f"the manifest {key} is missing: there is no such backup, or it was never finished") from error
    return manifest.parse(text, volume_id, backup_id)


def read_manifests(repository: Repository, volume_id: str, backup_id: str) -> tuple[Manifest, ...]:
    """Returns the manifests of a backup and of those it builds on, the full one first. Raises BadBackup."""
    found: list[Manifest] = []
    wanted: str | None = backup_id
    while wanted is not None:
        if any(each.backup_id == wanted for each in found):
            raise BadBackup(f"the manifest {keys.manifest_key(volume_id, wanted)} is part of a loop of parents")
        found.append(read_manifest(repository, volume_id, wanted))
        if sum(len(each.objects) for each in found) > keys.MAX_LAYERS:
            raise BadBackup(f"backup {backup_id} builds on more than {keys.MAX_LAYERS} files")
        wanted = found[-1].parent_id
    return tuple(reversed(found))


def check_listed(repository: Repository, manifests: Sequence[Manifest]) -> None:
    """Looks whether every object is there in its length, before the first is fetched. Raises BadBackup naming the first
    that is not. Says nothing about their content."""
    volume_id = manifests[0].volume_id
    lengths = dict(repository.list(keys.folder(volume_id)))
    for found in manifests:
        for each in found.objects:
            key = keys.object_key(volume_id, each.name)
            if key not in lengths:
                raise BadBackup(f"{key} is missing")
            if lengths[key] != each.bytes:
                raise BadBackup(f"{key} has {lengths[key]} bytes, its manifest says {each.bytes}")


@contextmanager
def opened(repository: Repository, volume_id: str, backup_id: str, staging: Path) -> Iterator[tuple[BackupChain, Confirm]]:
    """Gives a backup's chain, and what is to be called before anything made of it is believed.

    Where the store is a directory the files are read where they lie: our own reader has seen every header before QEMU reads
    the content, and the second sums every object and tells whether one was changed meanwhile. From elsewhere they are
    fetched into ``staging``, and summed, first. Raises BadBackup naming the first bad object, from the block too when that
    failed because of one.
    """
    folder = repository.folder(volume_id)
    if folder is None:
        yield fetch_chain(repository, volume_id, backup_id, staging), lambda: None
        return
    manifests = read_manifests(repository, volume_id, backup_id)
    check_listed(repository, manifests)
    parts = [(found, each.name) for found in manifests for each in found.objects]
    before = _marks(folder, parts)
    images: list[Image] = []
    for found, name in parts:
        images.append(_checked(found, name, images[-1] if images else None, folder))

    def confirm() -> None:
        for found, name in parts:
            tally = Tally()
            for piece in repository.pieces(keys.object_key(found.volume_id, name)):
                tally.add(piece)
            manifest.verify(found, name, tally.written())
        changed = [key for key, mark in _marks(folder, parts).items() if before[key] != mark]
        if changed:
            raise BadBackup(f"{changed[0]} was changed while it was read")

    try:
        yield BackupChain(folder, manifests, tuple(images)), confirm
    except (HostCommandFailed, StepFailed, BadImage):
        confirm()  # what QEMU stumbled over may be a damaged object: then that is what is told
        raise


def _marks(folder: Path, parts: Sequence[tuple[Manifest, str]]) -> dict[str, tuple[int, ...]]:
    """By key, what changes when a file is written to or replaced."""
    found: dict[str, tuple[int, ...]] = {}
    for each, name in parts:
        key = keys.object_key(each.volume_id, name)
        try:
            seen = os.stat(folder / name, follow_symlinks=False)
        except FileNotFoundError as error:
            raise BadBackup(f"{key} is missing") from error
        found[key] = (seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)
    return found


def fetch_chain(repository: Repository, volume_id: str, backup_id: str, into: Path) -> BackupChain:
    """Copies a backup and those it builds on into ``into``, a private directory, and verifies every one.

    First that all are there, then bytes and sha256 of each while it comes, then what its header says, in our own reader:
    QEMU has not seen any of them yet. Raises BadBackup naming the first bad object, ShareUnavailable when ``into`` has too
    little space. What was fetched until then stays; the directory is the caller's to remove. May be repeated.
    """
    manifests = read_manifests(repository, volume_id, backup_id)
    check_listed(repository, manifests)
    needed = sum(each.bytes for found in manifests for each in found.objects)
    if files.free_bytes(into) < needed:
        raise ShareUnavailable(f"{into} has too little space: backup {backup_id} needs {needed} bytes")
    images: list[Image] = []
    for found in manifests:
        for each in found.objects:
            _fetch(repository, found, each.name, into)
            images.append(_checked(found, each.name, images[-1] if images else None, into))
    return BackupChain(into, manifests, tuple(images))


def incomplete(repository: Repository, volume_id: str | None, live: Callable[[], Collection[str]]) -> tuple[str, ...]:
    """Returns the keys of backups that have no manifest, for a sweeper to delete; of one volume, or of all for None.

    ``live`` returns the ids of the backups some operation is still making. It is called between two looks at the store:
    an operation that began before the first look is in it or has written its manifest by the second.
    """
    prefix = keys.folder(volume_id) if volume_id else ""
    found = {key for key, _ in repository.list(prefix)} | set(repository.unfinished(prefix))
    kept = set(live())
    whole = {key for key, _ in repository.list(prefix) if key.endswith(".json")}
    return tuple(sorted(key for key in found if _is_left_over(key, kept, whole)))


def _is_left_over(key: str, kept: Collection[str], whole: Collection[str]) -> bool:
    parsed = keys.parse(key)
    if parsed is None or parsed.backup_id in kept:
        return False
    return keys.manifest_key(parsed.volume_id, parsed.backup_id) not in whole


def _fetch(repository: Repository, found: Manifest, name: str, into: Path) -> None:
    key = keys.object_key(found.volume_id, name)
    length = next(each.bytes for each in found.objects if each.name == name)
    try:
        written = repository.get(key, into / name, length)
    except NotFound as error:
        raise BadBackup(f"{key} is missing") from error
    manifest.verify(found, name, written)


def _checked(found: Manifest, name: str, below: Image | None, into: Path) -> Image:
    """Reads a fetched file's header and compares it with what it must be in this place of the chain."""
    key = keys.object_key(found.volume_id, name)
    try:
        image = qcow2.read(into, name)
    except BadImage as error:
        raise BadBackup(f"{key}: {error.message}") from error
    backing = (below.name, below.format) if below else (None, None)
    if (image.backing, image.backing_format) != backing:
        raise BadBackup(f"{key} names {image.backing!r} ({image.backing_format}) as its backing file, not {backing[0]!r}")
    if image.size > found.size or (name == found.top and image.size != found.size):
        raise BadBackup(f"{key} is a disk of {image.size} bytes, its manifest says {found.size}")
    if below and image.size < below.size:
        raise BadBackup(f"{key} is a disk of {image.size} bytes, less than the {below.size} of the one it is backed by")
    return image
