"""The record beside a volume's files: its row, its snapshots' rows, as a JSON document and back.

Together with the headers of the files it is enough to make the rows again. What belongs to the moment (a status under
way, attachments) is not in it. Nor are groups, which no file knows of: a volume of a group that is not there could not be
deleted.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from stillframe.db import snapshots, volume_types
from stillframe.db.rows import VolumeRow

VERSION = 1
_VOLUME = [
    "id",
    "project_id",
    "user_id",
    "name",
    "description",
    "size",
    "availability_zone",
    "metadata",
    "active_file",
    "format",
    "base_format",
    "backend",
    "share",
    "snapshot_id",
    "source_volid",
    "bootable",
    "image_metadata",
    "linked_to",
    "undo_file",
    "readonly",
    "base_file",
    "created_at",
]
_SNAPSHOT = [
    "id",
    "project_id",
    "user_id",
    "name",
    "description",
    "volume_id",
    "size",
    "metadata",
    "overlay",
    "backing",
    "backing_format",
    "consistency",
    "server_id",
    "created_at",
]


def document(connection: Connection, volume: VolumeRow) -> dict[str, Any]:
    """Returns ``{"version", "volume": {..., "volume_type"}, "snapshots": [...]}``; times as ISO 8601."""
    types = {row["id"]: row["name"] for row in volume_types.list_all(connection)}
    rows = [
        row
        for row in snapshots.of_volume(connection, volume["id"])
        if row["status"] != "error" and not snapshots.being_taken(row)
    ]
    shown = {**_shown(volume, _VOLUME), "volume_type": types[volume["volume_type_id"]]}
    return {"version": VERSION, "volume": shown, "snapshots": [_shown(row, _SNAPSHOT) for row in rows]}


def _shown(row: Mapping[str, Any], columns: list[str]) -> dict[str, Any]:
    return {name: row[name].isoformat() if isinstance(row[name], datetime) else row[name] for name in columns}
