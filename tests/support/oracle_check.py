"""Compares block storage with the model: every byte of every volume, snapshot and backup; rows; and what lies on the shares."""

import json
import stat
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stillframe.chain import names
from stillframe.db.rows import VolumeRow
from tests.support.oracle import Model, Volume
from tests.support.oracle_reader import Layer, Reader
from tests.support.oracle_service import Storage


class Checker:
    """One look at everything."""

    def __init__(self, block: Storage, reader: Reader, model: Model) -> None:
        self._block, self._reader, self._model = block, reader, model
        reader.look_again()
        self._volumes, self._snapshots, self._backups = block.volumes(), block.snapshots(), block.backups()
        self._layers = {volume_id: self._files(row) for volume_id, row in self._volumes.items()}

    def check(self) -> None:
        """Raises AssertionError listing all that differs."""
        wrong = [*self._block.failed(), *self._rows(), *self._contents(), *self._shares()]
        assert not wrong, "\n".join(["what is there is not what must be:", *wrong])

    def check_sound(self) -> None:
        """QEMU finds nothing in any file: no damage, no leaked cluster. Takes a process for each file."""
        for row, layer in self._all_layers():
            if layer.format == "qcow2":
                command = ["qemu-img", "check", "-q", "-f", "qcow2", layer.name]
                done = subprocess.run(command, cwd=row["share"], capture_output=True, text=True, check=False)
                assert done.returncode == 0, f"{layer.name}: {done.stdout}{done.stderr}"

    def loose(self) -> list[str]:
        """Files that nobody needs and that nothing but their age keeps."""
        return [name for volume_id in self._volumes for name in self._loose(volume_id)]

    def _files(self, row: VolumeRow) -> dict[str, Layer]:
        """The volume's own files on its share."""
        share = Path(row["share"])
        found = [path.name for path in share.iterdir() if (names.parse(path.name) or ("",))[0] == row["id"]]
        lowest = names.base_name(row["id"])
        return {name: self._reader.look(share / name, row["base_format"] if name == lowest else "qcow2") for name in found}

    def _all_layers(self) -> Iterator[tuple[VolumeRow, Layer]]:
        for volume_id, row in self._volumes.items():
            for layer in self._layers[volume_id].values():
                yield row, layer

    def _rows(self) -> Iterator[str]:
        model = self._model
        yield from _compare("volumes", set(self._volumes), set(model.volumes))
        yield from _compare("backups", set(self._backups), set(model.backups))
        for volume_id, volume in model.volumes.items():
            mine = [key for key, row in self._snapshots.items() if row["volume_id"] == volume_id]
            yield from _compare(f"snapshots of {volume_id}", mine, list(volume.snapshots))
            wanted = {"size": volume.disk.gib, "status": volume.status, "fault": None}
            yield from _columns(self._volumes.get(volume_id), wanted)
        for snapshot_id, row in self._snapshots.items():
            disk = model.volumes[row["volume_id"]].snapshots.get(snapshot_id) if row["volume_id"] in model.volumes else None
            if disk is not None:
                yield from _columns(row, {"size": disk.gib, "status": "available", "fault": None})
        for backup_id, backup in model.backups.items():
            of_backup = {"size": backup.disk.gib, "status": "available", "parent_id": backup.parent_id, "fault": None}
            yield from _columns(self._backups.get(backup_id), of_backup)

    def _contents(self) -> Iterator[str]:
        for volume_id, volume in self._model.volumes.items():
            if volume_id in self._volumes:
                yield from self._content(self._volumes[volume_id], volume)
        for backup_id, backup in self._model.backups.items():
            if backup_id in self._backups:
                stored = self._block.stored(self._backups[backup_id])
                yield from self._told("backup", backup_id, self._reader.differences(stored, "qcow2", backup.disk))

    def _content(self, row: VolumeRow, volume: Volume) -> Iterator[str]:
        share = Path(row["share"])
        if row["active_file"] not in self._layers[row["id"]]:
            yield f"the active file {row['active_file']} is not on the share"
            return
        found = self._reader.differences(share / row["active_file"], row["format"], volume.disk)
        yield from self._told("volume", row["id"], found)
        for snapshot_id, disk in volume.snapshots.items():
            snapshot = self._snapshots.get(snapshot_id)
            if snapshot is not None:
                found = self._reader.differences(share / snapshot["backing"], snapshot["backing_format"], disk)
                yield from self._told("snapshot", snapshot_id, found)

    @staticmethod
    def _told(what: str, key: str, differences: list[str]) -> Iterator[str]:
        for each in differences:
            yield f"{what} {key}: {each}"

    def _shares(self) -> Iterator[str]:
        expected = {share: {".share-id"} for share in self._block.shares}
        for volume_id, row in self._volumes.items():
            share = Path(row["share"])
            expected.setdefault(share, {".share-id"}).update(self._reachable(row))
            yield from self._beside(row, expected[share])
            if row["needs_cleanup"]:  # housekeeping removes what its last reader has released
                expected[share].update(self._layers[volume_id])
            else:
                yield from (f"nobody needs {name}, and it is not merged" for name in self._loose(volume_id))
        for share, wanted in expected.items():
            yield from _compare(f"files of {share.name}", {path.name for path in share.rglob("*")} - {".stillframe"}, wanted)
            yield from _modes(share)

    def _needed(self, row: VolumeRow) -> set[str]:
        """Files the rows point at."""
        mine = {other["backing"] for other in self._snapshots.values() if other["volume_id"] == row["id"]}
        held = {other["held_file"] for other in self._backups.values() if other["volume_id"] == row["id"]}
        named = {row["active_file"], row["undo_file"], *mine, *held, *self._shared(row["id"])}
        return {name for name in named if name is not None}

    def _shared(self, volume_id: str) -> set[str]:
        linked = [row["linked_to"] for row in self._volumes.values() if row["linked_to"]]
        return {each["file"] for each in linked if each["volume_id"] == volume_id}

    def _reachable(self, row: VolumeRow) -> set[str]:
        layers, found, wanted = self._layers[row["id"]], set[str](), list(self._needed(row))
        while wanted:
            name = wanted.pop()
            if name not in found and name is not None:
                found.add(name)
                below = layers[name].backing if name in layers else None
                wanted += [below] if below in layers else []
        return found

    def _loose(self, volume_id: str) -> list[str]:
        """Files that nobody reads by themselves, with one file on top, and nothing of another volume above them."""
        layers, needed = self._layers[volume_id], self._needed(self._volumes[volume_id])
        shared = self._shared(volume_id)

        def read_elsewhere(name: str) -> bool:
            return name in shared or any(read_elsewhere(above) for above in self._above(layers, name))

        return [
            name for name in layers if name not in needed and len(self._above(layers, name)) == 1 and not read_elsewhere(name)
        ]

    @staticmethod
    def _above(layers: Mapping[str, Layer], name: str) -> list[str]:
        return [other.name for other in layers.values() if other.backing == name]

    def _beside(self, row: VolumeRow, expected: set[str]) -> Iterator[str]:
        """The documents beside a volume's files, as Cinder's file drivers keep them, and the record."""
        share, volume_id = Path(row["share"]), row["id"]
        mine = {key: other for key, other in self._snapshots.items() if other["volume_id"] == volume_id}
        expected.add(names.record_name(volume_id))
        record = _document(share / names.record_name(volume_id))
        yield from _compare(f"record of {volume_id}", [each["id"] for each in record.get("snapshots", [])], list(mine))
        overlays = {key: other["overlay"] for key, other in mine.items() if other["overlay"]}
        for overlay in overlays.items():
            yield from self._is_above(volume_id, *overlay)
        if mine or row["active_file"] != names.base_name(volume_id):
            expected.add(names.info_name(volume_id))
            wanted = {"active": row["active_file"], **overlays}
            yield from _compare(f".info of {volume_id}", _document(share / names.info_name(volume_id)), wanted)

    def _is_above(self, volume_id: str, snapshot_id: str, overlay: str) -> Iterator[str]:
        layer, backing = self._layers[volume_id].get(overlay), self._snapshots[snapshot_id]["backing"]
        if layer is None or layer.backing != backing:
            yield f"the overlay {overlay} of snapshot {snapshot_id} is not backed by its file {backing}"


def _compare(what: str, found: Any, wanted: Any) -> Iterator[str]:
    if found == wanted:
        return
    if isinstance(found, set):
        yield f"{what}: too much {sorted(found - wanted)}, missing {sorted(wanted - found)}"
    else:
        yield f"{what}: {found}, not {wanted}"


def _columns(row: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> Iterator[str]:
    if row is not None:
        for name, value in wanted.items():
            yield from _compare(f"{name} of {row['id']}", row[name], value)


def _modes(share: Path) -> Iterator[str]:
    for path, wanted in (
        (share, 0o2770),
        (share / ".stillframe", 0o2700),
        *((path, 0o660) for path in share.rglob("*") if path.is_file()),
    ):
        mode = stat.S_IMODE(path.lstat().st_mode)
        yield from _compare(f"mode of {path.name}", f"{mode:o}", f"{wanted:o}")


def _document(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found
