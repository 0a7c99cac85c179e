"""The rows of backups from the manifests in their store: all that a restore needs, but not the name and description that its
owner gave."""

from collections.abc import Mapping
from dataclasses import dataclass

from stillframe.db import backups, volumes
from stillframe.db.engine import Database
from stillframe.db.rows import VolumeRow
from stillframe.db.values import NewBackup
from stillframe.errors import BadBackup
from stillframe.units import GIB
from stillframe.volumes.backups import keys, manifest
from stillframe.volumes.backups.manifest import Manifest
from stillframe.volumes.backups.repository import Repository
from stillframe.volumes.recovery.rebuilt_rows import Given


@dataclass(frozen=True)
class Listed:
    """What a store gives: whole backups by id, and those whose manifest or parent is not sound, with the reason."""

    found: Mapping[str, Manifest]
    refused: Mapping[str, str]


def find(repository: Repository) -> Listed:
    """Reads every manifest of a container. Changes nothing. Raises BackupStoreUnavailable."""
    found: dict[str, Manifest] = {}
    refused: dict[str, str] = {}
    for key, _bytes in repository.list():
        parsed = keys.parse(key)
        if parsed is None or not key.endswith(".json"):
            continue
        try:
            text = repository.get_bytes(key, manifest.MOST_BYTES)
            found[parsed.backup_id] = manifest.parse(text, parsed.volume_id, parsed.backup_id)
        except BadBackup as error:
            refused[parsed.backup_id] = error.message
    while lost := {key: each.parent_id for key, each in found.items() if each.parent_id and each.parent_id not in found}:
        for key, parent_id in lost.items():
            del found[key]
            refused[key] = f"it builds on backup {parent_id}, which is not there or was refused"
    return Listed(found, refused)


def insert(database: Database, listed: Listed, container: str, given: Given) -> list[str]:
    """Writes the rows the database does not have, in one transaction; returns their ids, oldest first.

    A backup belongs to the project of its volume, or to the one that is given where the volume is gone.
    """
    with database.write() as connection:
        rows = [
            _row(each, container, given, volumes.get(connection, each.volume_id, None))
            for key, each in sorted(listed.found.items(), key=lambda item: (item[1].created_at, item[0]))
            if backups.get(connection, key, None) is None
        ]
        for row in rows:
            backups.insert(connection, row)
    return [row["id"] for row in rows]


def _row(found: Manifest, container: str, given: Given, volume: VolumeRow | None) -> NewBackup:
    return {
        "id": found.backup_id,
        "stored_id": found.backup_id,
        "project_id": volume["project_id"] if volume else given.project_id,
        "user_id": volume["user_id"] if volume else given.user_id,
        "name": None,
        "description": None,
        "volume_id": found.volume_id,
        "snapshot_id": None,
        "parent_id": found.parent_id,
        "status": "available",
        "size": -(-found.size // GIB),
        "object_count": len(found.objects),
        "bytes": sum(each.bytes for each in found.objects),
        "container": container,
        "metadata": {},
        "availability_zone": volume["availability_zone"] if volume else given.zone,
        "data_timestamp": found.created_at,
        "created_at": found.created_at,
        "held_file": None,  # only the database knew which file the next backup could start from: it will be a full one
    }
