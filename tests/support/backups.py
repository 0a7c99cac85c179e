"""A volume's backups: a full one and two incremental ones, and what each must read as."""

import shutil
import subprocess
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from stillframe.host import copies
from stillframe.host.copies import Source
from stillframe.volumes.backups import keys, manifest
from stillframe.volumes.backups.manifest import Manifest, StoredObject
from stillframe.volumes.backups.repository import Repository

MIB = 1 << 20
VOLUME = "1a1a1a1a-1111-4111-8111-111111111111"
FULL = "aaaaaaaa-0000-4000-8000-000000000001"
FIRST = "bbbbbbbb-0000-4000-8000-000000000002"
SECOND = "cccccccc-0000-4000-8000-000000000003"
PARENTS = {FULL: None, FIRST: FULL, SECOND: FIRST}
LAYERS = {FULL: 1, FIRST: 2, SECOND: 1}


@dataclass
class BackupSet:
    """The files of three backups in ``directory``, and the content of the disk at each, by backup id."""

    directory: Path
    content: dict[str, bytes] = field(default_factory=dict)

    def names(self, backup_id: str) -> tuple[str, ...]:
        return keys.layer_names(backup_id, LAYERS[backup_id])

    def store(self, repository: Repository) -> list[Manifest]:
        """Puts everything into a store as the service does: each backup's files, then its manifest."""
        return [self.store_one(repository, backup_id) for backup_id in PARENTS]

    def store_one(self, repository: Repository, backup_id: str) -> Manifest:
        objects = []
        for name in self.names(backup_id):
            written = repository.put(keys.object_key(VOLUME, name), self.directory / name)
            objects.append(StoredObject(name, written.bytes, written.sha256))
        made = Manifest(
            backup_id,
            VOLUME,
            PARENTS[backup_id],
            datetime(2026, 11, 23, 12, 0, 0, 5),
            len(self.content[backup_id]),
            manifest.Source("data of José", None, {"purpose": "ledger"}),
            tuple(objects),
        )
        repository.put_bytes(keys.manifest_key(VOLUME, backup_id), manifest.serialise(made))
        return made


def make_backups(directory: Path) -> BackupSet:
    """Makes a volume of four files, backs it up with what the service uses, and removes the volume.

    The disk has 8 MiB and is grown to 12 MiB before the last backup.
    """
    share, out = directory / "share", directory / "backups"
    for each in (share, out):
        each.mkdir()
    made = BackupSet(out)
    content = bytearray(8 * MIB)
    _run(share, "qemu-img", "create", "-q", "-f", "qcow2", "base", str(8 * MIB))
    _write(share, "base", content, b"A", 0, 3 * MIB)
    _write(share, "base", content, b"B", 5 * MIB, 70000)
    copies.copy_out(Source("base", "qcow2", 1), share, out / keys.top_name(FULL), "qcow2", True)
    made.content[FULL] = bytes(content)
    inner, first = made.names(FIRST)
    _overlay(share, "one", "base", 8 * MIB)
    _write(share, "one", content, b"C", MIB, 100000)
    copies.copy_layer_out(share, Source("one", "qcow2", 2), out / inner, keys.top_name(FULL))
    _overlay(share, "two", "one", 8 * MIB)
    _write(share, "two", content, b"D", MIB + 4096, 512)
    copies.copy_layer_out(share, Source("two", "qcow2", 3), out / first, inner)
    made.content[FIRST] = bytes(content)
    content.extend(bytes(4 * MIB))
    _overlay(share, "three", "two", 12 * MIB)
    _write(share, "three", content, b"E", 11 * MIB, 4096)
    _run(share, "qemu-io", "-f", "qcow2", "-c", f"write -z 0 {MIB}", "three")
    content[:MIB] = bytes(MIB)
    copies.copy_layer_out(share, Source("three", "qcow2", 4), out / keys.top_name(SECOND), first)
    made.content[SECOND] = bytes(content)
    shutil.rmtree(share)
    return made


def read_raw(directory: Path, name: str) -> bytes:
    """Returns what a reader of a file and those below it sees."""
    raw = directory / "raw"
    _run(directory, "qemu-img", "convert", "-f", "qcow2", "-O", "raw", name, raw.name)
    return raw.read_bytes()


def _overlay(directory: Path, name: str, backing: str, size: int) -> None:
    _run(directory, "qemu-img", "create", "-q", "-f", "qcow2", "-b", backing, "-F", "qcow2", name, str(size))


def _write(directory: Path, name: str, content: bytearray, letter: bytes, at: int, length: int) -> None:
    _run(directory, "qemu-io", "-f", "qcow2", "-c", f"write -P {letter[0]} {at} {length}", name)
    content[at : at + length] = letter * length


def _run(directory: Path, *command: str) -> None:
    subprocess.run(command, cwd=directory, check=True, capture_output=True)
