"""Changes of a row that the record beside the volume's files repeats: names, metadata and the like of volumes and snapshots."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypedDict, TypeVar

from sqlalchemy import Connection

from stillframe.context import Context
from stillframe.db import snapshots, volumes
from stillframe.db.rows import SnapshotRow, VolumeRow
from stillframe.db.values import SnapshotChanges, VolumeChanges
from stillframe.volumes.operations import chain_metadata
from stillframe.volumes.worker import lookup
from stillframe.volumes.worker.context import WorkerContext


class Labelled(TypedDict):
    """What rows of every noun here have."""

    id: str
    metadata: dict[str, str]


class Metadata(TypedDict, total=False):
    """The one column that changes."""

    metadata: dict[str, str]


Row = TypeVar("Row", bound=Labelled)
Changes = TypeVar("Changes")


@dataclass(frozen=True)
class Noun(Generic[Row, Changes]):
    """``find`` raises NotFound; ``store`` takes the row's id; ``volume_of`` says beside which volume the record lies."""

    name: str  # as messages have it
    find: Callable[[Connection, Context, str], Row]
    store: Callable[[Connection, str, Changes | Metadata], None]
    volume_of: Callable[[Row], str]


def _store_volume(connection: Connection, volume_id: str, changes: VolumeChanges | Metadata) -> None:
    volumes.change(connection, volume_id, **changes)


def _store_snapshot(connection: Connection, snapshot_id: str, changes: SnapshotChanges | Metadata) -> None:
    snapshots.change(connection, snapshot_id, **changes)


VOLUME: Noun[VolumeRow, VolumeChanges] = Noun("Volume", lookup.volume, _store_volume, lambda row: row["id"])
SNAPSHOT: Noun[SnapshotRow, SnapshotChanges] = Noun("Snapshot", lookup.snapshot, _store_snapshot, lambda row: row["volume_id"])


@dataclass(frozen=True)
class Asker:
    """In which worker, and for whom."""

    worker: WorkerContext
    context: Context


def change(
    asker: Asker, noun: Noun[Row, Changes], key: str, changed: Callable[[Row], Changes | Metadata]
) -> Changes | Metadata:
    """Changes what ``changed`` returns for the row, and has the record written; returns that. Raises NotFound, and what
    ``changed`` raises; nothing is changed then."""
    with asker.worker.database.write() as connection:
        row = noun.find(connection, asker.context, key)
        changes = changed(row)
        noun.store(connection, row["id"], changes)
        chain_metadata.submit_once(connection, noun.volume_of(row), asker.context.request_id)
    return changes


def set_metadata(asker: Asker, noun: Noun[Row, Changes], key: str, metadata: dict[str, str], replace: bool) -> dict[str, str]:
    """Adds or changes keys, or with ``replace`` sets all of them; returns the metadata as it is now. Raises NotFound."""
    found: dict[str, str] = {}

    def merged(row: Row) -> Metadata:
        found.update(metadata if replace else lookup.with_more(asker.context, row["metadata"], metadata))
        return {"metadata": found}

    change(asker, noun, key, merged)
    return found


def delete_metadata_key(asker: Asker, noun: Noun[Row, Changes], key: str, name: str) -> None:
    """Removes one key of the metadata. Raises NotFound, also when there is no such key."""

    def kept(row: Row) -> Metadata:
        return {"metadata": lookup.without(row["metadata"], name, f"{noun.name} {key} has no metadata")}

    change(asker, noun, key, kept)
