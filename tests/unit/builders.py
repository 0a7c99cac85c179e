"""Values that many tests need: ids, contexts, rows, one call as a handler sees it."""

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from stillframe import config
from stillframe.config import Settings
from stillframe.context import Context
from stillframe.db import backups, snapshots, volume_types, volumes
from stillframe.db.engine import Database
from stillframe.db.rows import BackupRow, SnapshotRow, VolumeRow
from stillframe.db.tables import now
from stillframe.web.route import ApiContext, Call, Version

VOLUME = "1a1a1a1a-1111-4111-8111-111111111111"
OTHER_VOLUME = "2b2b2b2b-2222-4222-8222-222222222222"
SNAPSHOT = "3c3c3c3c-3333-4333-8333-333333333333"
OTHER_SNAPSHOT = "4d4d4d4d-4444-4444-8444-444444444444"
SERVER = "5e5e5e5e-5555-4555-8555-555555555555"
OTHER_SERVER = "5c5c5c5c-5555-4555-8555-555555555555"
BACKUP = "7a7a7a7a-7777-4777-8777-777777777777"
SET = "6f6f6f6f-6666-4666-8666-666666666666"
SHARE = "/srv/share"
GIB = 1 << 30


def new_id() -> str:
    return str(uuid.uuid4())


def context(*roles: str, project: str = "demo") -> Context:
    return Context("somebody", project, roles or ("member", "reader"), "req-1")


def settings(state_dir: Path, local: Mapping[str, Any] | None = None, **volumes_options: Any) -> Settings:
    """``local`` are options of the built-in backend, the others of the volumes section."""
    overrides: dict[tuple[str | None, str], Any] = {(None, "state_dir"): str(state_dir), (None, "host"): "here"}
    overrides.update({("volumes", name): value for name, value in volumes_options.items()})
    overrides.update({("local", name): value for name, value in (local or {}).items()})
    return config.load(overrides=overrides)


class Bus:
    """Answers each method with what the test put there and remembers what was asked."""

    def __init__(self, answers: Mapping[str, Any] | None = None) -> None:
        self.answers = dict(answers or {})
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def call(self, method: str, context: Context, **parameters: Any) -> Any:
        self.asked.append((method, parameters))
        answer = self.answers.get(method)
        if isinstance(answer, Exception):
            raise answer
        return answer(context, **parameters) if callable(answer) else answer


def call(api: ApiContext, version: Version = (3, 0), who: Context | None = None, **more: Any) -> Call:
    """One request; ``more`` sets path, query, body, base_url or collection_url."""
    given: dict[str, Any] = {
        "path": {},
        "query": {},
        "body": None,
        "base_url": "http://here/v3",
        "collection_url": "http://here/v3/volumes",
        **more,
    }
    return Call(context=who or context(), version=version, api=api, **given)


def api(database: Database, state_dir: Path, answers: Mapping[str, Any] | None = None) -> ApiContext:
    return ApiContext(database, Bus(answers), settings(state_dir))


def volume_row(connection: Connection, **changes: Any) -> VolumeRow:
    """Inserts a volume and returns its row."""
    volume_types.ensure_default(connection)
    kind = volume_types.find(connection, volume_types.DEFAULT)
    assert kind is not None
    volume_id = changes.get("id", VOLUME)
    row: Any = {
        "id": volume_id,
        "project_id": "demo",
        "user_id": "somebody",
        "name": "data",
        "description": None,
        "size": 1,
        "status": "available",
        "volume_type_id": kind["id"],
        "availability_zone": "nova",
        "metadata": {},
        "active_file": f"volume-{volume_id}",
        "format": "qcow2",
        "backend": "local",
        "share": SHARE,
        "base_format": "qcow2",
        **changes,
    }
    volumes.insert(connection, row)
    found = volumes.get(connection, volume_id, None)
    assert found is not None
    return found


def snapshot_row(connection: Connection, **changes: Any) -> SnapshotRow:
    """Inserts a snapshot of ``VOLUME`` (or ``volume_id``) and returns its row."""
    snapshot_id, volume_id = changes.get("id", SNAPSHOT), changes.get("volume_id", VOLUME)
    row: Any = {
        "id": snapshot_id,
        "project_id": "demo",
        "user_id": "somebody",
        "name": "before",
        "description": None,
        "volume_id": volume_id,
        "size": 1,
        "status": "available",
        "progress": "100%",
        "metadata": {},
        "overlay": f"volume-{volume_id}.{snapshot_id}",
        "backing": f"volume-{volume_id}",
        "backing_format": "qcow2",
        "created_at": now(),
        **changes,
    }
    snapshots.insert(connection, row)
    found = snapshots.get(connection, snapshot_id, None)
    assert found is not None
    return found


def backup_row(connection: Connection, **changes: Any) -> BackupRow:
    """Inserts a backup of ``VOLUME`` (or ``volume_id``) and returns its row."""
    backup_id = changes.get("id", BACKUP)
    row: Any = {
        "id": backup_id,
        "project_id": "demo",
        "user_id": "somebody",
        "name": "nightly",
        "description": None,
        "volume_id": VOLUME,
        "status": "available",
        "size": 1,
        "object_count": 1,
        "bytes": 4096,
        "container": "backups",
        "metadata": {},
        "availability_zone": "nova",
        "data_timestamp": now(),
        "stored_id": backup_id,
        **changes,
    }
    backups.insert(connection, row)
    found = backups.get(connection, backup_id, None)
    assert found is not None
    return found
