"""The content that block storage must have: every volume, snapshot and backup as a value, and how each operation changes it.

A disk is a mapping from blocks to the byte that fills them; a block it does not name reads as zeros. Only the blocks of
``places`` are ever written: first and last clusters of second-level tables, and the edges of each GiB.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

BLOCK = 1 << 15  # half a cluster, so that a write of one has the other half copied
GIB = 1 << 30
BLOCKS_PER_GIB = GIB // BLOCK
_CLUSTERS = (0, 1, 8191, 8192, 16383)
PLACES_PER_GIB = 2 * len(_CLUSTERS)

Newer = Literal["keep", "remove"]
Written = Literal["no", "yes", "perhaps"]  # since the last revert


class Refused(Exception):
    """The operation must be refused, and nothing may change."""


@dataclass(frozen=True)
class Disk:
    """``gib`` of bytes. ``blocks`` never holds a zero."""

    gib: int
    blocks: Mapping[int, int] = field(default_factory=dict)

    def written(self, place: int, count: int, value: int) -> "Disk":
        """``count`` blocks beginning at a place are filled with a byte, as far as the disk goes."""
        first = self.places()[place % (PLACES_PER_GIB * self.gib)]
        filled = range(first, min(first + count, self.gib * BLOCKS_PER_GIB))
        kept = {block: byte for block, byte in self.blocks.items() if block not in filled}
        return Disk(self.gib, {**kept, **(dict.fromkeys(filled, value) if value else {})})

    def grown(self, gib: int) -> "Disk":
        if gib < self.gib:
            raise Refused(f"{gib} GiB are less than {self.gib}")
        return Disk(gib, self.blocks)

    def places(self) -> list[int]:
        """The blocks that writes begin at, in order."""
        return [
            gib * BLOCKS_PER_GIB + 2 * cluster + half for gib in range(self.gib) for cluster in _CLUSTERS for half in (0, 1)
        ]


@dataclass
class Volume:
    """``snapshots`` are from the oldest to the newest. ``undo`` is what an undone revert brings back."""

    disk: Disk
    format: str = "qcow2"
    snapshots: dict[str, Disk] = field(default_factory=dict)
    linked_to: tuple[str, str] | None = None  # volume, snapshot
    linked: bool = False  # by its type: clones of its snapshots are linked ones too
    undo: Disk | None = None
    written: Written = "no"
    status: str = "available"


@dataclass(frozen=True)
class Backup:
    disk: Disk
    volume_id: str
    parent_id: str | None = None


@dataclass
class Model:
    """Everything there is. Methods follow operations that were accepted; Refused says that one must not be."""

    volumes: dict[str, Volume] = field(default_factory=dict)
    backups: dict[str, Backup] = field(default_factory=dict)

    def linked_volumes(self, volume_id: str) -> list[str]:
        return [key for key, other in self.volumes.items() if other.linked_to and other.linked_to[0] == volume_id]

    def is_linked(self, volume_id: str, snapshot_id: str) -> bool:
        return any(other.linked_to == (volume_id, snapshot_id) for other in self.volumes.values())

    def write(self, volume_id: str, place: int, count: int, value: int) -> None:
        volume = self.volumes[volume_id]
        volume.disk, volume.written = volume.disk.written(place, count, value), "yes"

    def create(self, volume_id: str, gib: int, format_: str = "qcow2") -> None:
        self.volumes[volume_id] = Volume(Disk(gib), format_)

    def copy(self, volume_id: str, source_id: str, disk: Disk, gib: int) -> None:
        """A full copy of ``disk``, which is the source's or one of its snapshots'."""
        source = self.volumes[source_id]
        self.volumes[volume_id] = Volume(disk.grown(gib), source.format, linked=source.linked)

    def link(self, volume_id: str, source: tuple[str, str], gib: int) -> None:
        disk = self.volumes[source[0]].snapshots[source[1]]
        self.volumes[volume_id] = Volume(disk.grown(gib), linked_to=source, linked=True)

    def extend(self, volume_id: str, gib: int) -> None:
        volume = self.volumes[volume_id]
        if gib == volume.disk.gib:
            raise Refused("the size is the one it has")
        volume.disk = volume.disk.grown(gib)

    def snapshot(self, volume_id: str, snapshot_id: str) -> None:
        volume = self.volumes[volume_id]
        volume.snapshots[snapshot_id] = volume.disk
        self._active_file_changes(volume)

    def delete_snapshots(self, volume_id: str, snapshot_ids: list[str]) -> None:
        volume = self.volumes[volume_id]
        for snapshot_id in snapshot_ids:
            if self.is_linked(volume_id, snapshot_id):
                raise Refused(f"a linked volume reads snapshot {snapshot_id}")
        volume.snapshots = {key: disk for key, disk in volume.snapshots.items() if key not in snapshot_ids}
        self._active_file_changes(volume)

    def revert(self, volume_id: str, snapshot_id: str, newer: Newer | None) -> None:
        volume = self.volumes[volume_id]
        ids = list(volume.snapshots)
        later = ids[ids.index(snapshot_id) + 1 :]
        disk = volume.snapshots[snapshot_id]
        if newer is None and (later or disk.gib != volume.disk.gib):
            raise Refused("not the newest snapshot, or not of the volume's size")
        gone = later if newer == "remove" else []
        volume.undo, volume.written = volume.disk, "no"
        volume.disk = disk.grown(volume.disk.gib)
        volume.snapshots = {key: kept for key, kept in volume.snapshots.items() if key not in gone}

    def undo(self, volume_id: str) -> None:
        volume = self.volumes[volume_id]
        if volume.undo is None or volume.written == "yes":
            raise Refused("there is nothing to undo, or the volume was written to")
        volume.disk = volume.undo.grown(volume.disk.gib)
        volume.undo = None

    def delete(self, volume_id: str, cascade: bool) -> None:
        volume = self.volumes[volume_id]
        if (volume.snapshots and not cascade) or self.linked_volumes(volume_id):
            raise Refused("the volume has snapshots, or linked volumes read it")
        del self.volumes[volume_id]

    def backup(self, backup_id: str, backup: Backup, of_volume: bool) -> None:
        self.backups[backup_id] = backup
        if of_volume:
            self._active_file_changes(self.volumes[backup.volume_id])

    def restore_new(self, volume_id: str, backup_id: str, gib: int) -> None:
        self.volumes[volume_id] = Volume(self.backups[backup_id].disk.grown(gib))

    def restore_over(self, volume_id: str, backup_id: str) -> None:
        volume = self.volumes[volume_id]
        volume.disk = self.backups[backup_id].disk.grown(volume.disk.gib)
        self._active_file_changes(volume)

    def delete_backup(self, backup_id: str) -> None:
        if any(other.parent_id == backup_id for other in self.backups.values()):
            raise Refused("another backup builds on it")
        del self.backups[backup_id]

    @staticmethod
    def _active_file_changes(volume: Volume) -> None:
        """Whether the undo is still possible depends on what lies in the active file, which is another one now."""
        if volume.undo is not None:
            volume.written = "perhaps"
