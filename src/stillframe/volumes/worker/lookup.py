"""Finds rows that a caller may see, and the limits of a project."""

import json
from collections.abc import Callable, Mapping, Sequence

from sqlalchemy import Connection

from stillframe.chain import names
from stillframe.context import Context
from stillframe.db import backups, quotas, snapshots, volume_groups, volumes
from stillframe.db.rows import BackupRow, SnapshotRow, VolumeRow
from stillframe.errors import BadRequest, Busy, NotFound, QuotaExceeded
from stillframe.volumes.worker.context import WorkerContext

MOST_METADATA = 128  # pairs of one resource, as of one request
MOST_METADATA_BYTES = 72 << 10  # of them as JSON: 128 pairs of 255 plain letters each; what a record holds follows from it


def volume(connection: Connection, context: Context, volume_id: str) -> VolumeRow:
    """Returns the volume's row. Raises NotFound, the same for a volume that is missing and one of another project."""
    row = volumes.get(connection, names.canonical_id(volume_id, "volume id"), _project(context))
    if row is None:
        raise NotFound(f"Volume {volume_id} could not be found.")
    return row


def snapshot(connection: Connection, context: Context, snapshot_id: str) -> SnapshotRow:
    """Returns the snapshot's row. Raises NotFound."""
    row = snapshots.get(connection, names.canonical_id(snapshot_id, "snapshot id"), _project(context))
    if row is None:
        raise NotFound(f"Snapshot {snapshot_id} could not be found.")
    return row


def backup(connection: Connection, context: Context, backup_id: str) -> BackupRow:
    """Returns the backup's row. Raises NotFound."""
    row = backups.get(connection, names.canonical_id(backup_id, "backup id"), _project(context))
    if row is None:
        raise NotFound(f"Backup {backup_id} could not be found.")
    return row


def with_more(context: Context, known: Mapping[str, str] | None, added: Mapping[str, str]) -> dict[str, str]:
    """Returns metadata with what is added to it or changed in it. Raises QuotaExceeded when there are too many pairs, or they
    are too long: otherwise, request by request, every list and the record on the share could grow without limit."""
    merged = {**(known or {}), **added}
    if len(merged) > max(MOST_METADATA, len(known or {})) and not context.has_service_identity:
        raise QuotaExceeded(f"it would have {len(merged)} metadata pairs, at most {MOST_METADATA} are allowed")
    if _length(merged) > max(MOST_METADATA_BYTES, _length(known or {})) and not context.has_service_identity:
        raise QuotaExceeded(f"it would have {_length(merged)} bytes of metadata, at most {MOST_METADATA_BYTES} are allowed")
    return merged


def _length(metadata: Mapping[str, str]) -> int:
    return len(json.dumps(dict(metadata), ensure_ascii=False).encode())


def without(known: Mapping[str, str] | None, key: str, whose: str) -> dict[str, str]:
    """Returns metadata without one of its keys. ``whose`` begins what is said otherwise: "Volume ID has no metadata". Raises
    NotFound."""
    if key not in (known or {}):
        raise NotFound(f"{whose} with key {key!r}.")
    return {name: value for name, value in (known or {}).items() if name != key}


def _project(context: Context) -> str | None:
    return None if context.sees_all_projects else context.project_id


def limits(worker: WorkerContext, connection: Connection, project_id: str) -> dict[str, int]:
    """Returns the project's limits; -1 is unlimited."""
    options = worker.settings.volumes
    return {
        "volumes": options.quota_volumes,
        "snapshots": options.quota_snapshots,
        "gigabytes": options.quota_gigabytes,
        "backups": options.quota_backups,
        "backup_gigabytes": options.quota_backup_gigabytes,
        "snapshots_per_volume": options.quota_snapshots_per_volume,
        "groups": options.quota_groups,
        "per_volume_gigabytes": options.per_volume_gigabytes,
        **quotas.class_limits(connection, "default"),
        **quotas.limits(connection, project_id),
    }


_USED: Mapping[str, Callable[[Connection, str], int]] = {
    "volumes": lambda connection, project_id: volumes.usage(connection, project_id)[0],
    "gigabytes": lambda connection, project_id: (
        volumes.usage(connection, project_id)[1] + snapshots.usage(connection, project_id)[1]
    ),
    "snapshots": lambda connection, project_id: snapshots.usage(connection, project_id)[0],
    "backups": lambda connection, project_id: backups.usage(connection, project_id)[0],
    "groups": volume_groups.usage,
    "backup_gigabytes": lambda connection, project_id: backups.usage(connection, project_id)[1],
}


_EXCEEDED: Mapping[str, str] = {  # as Cinder says it: scripts match these words
    "volumes": "Maximum number of volumes allowed ({allowed}) exceeded for quota 'volumes'",
    "snapshots": "Maximum number of snapshots allowed ({allowed}) exceeded for quota 'snapshots'",
    "backups": "Maximum number of backups allowed ({allowed}) exceeded",
    "groups": "Maximum number of groups allowed ({allowed}) exceeded",
    "gigabytes": (
        "Requested volume or snapshot exceeds allowed gigabytes quota. Requested {asked}G, quota is {allowed}G and {has}G"
        " has been consumed"
    ),
    "backup_gigabytes": (
        "Requested backup exceeds allowed Backup gigabytes quota. Requested {asked}G, quota is {allowed}G and {has}G has been"
        " consumed"
    ),
}


def used(connection: Connection, project_id: str) -> dict[str, int]:
    """Returns how much the project has of everything that has a limit."""
    return {resource: count(connection, project_id) for resource, count in _USED.items()}


def check_quota(worker: WorkerContext, connection: Connection, project_id: str, more: dict[str, int]) -> None:
    """Raises QuotaExceeded naming the limit that ``more`` would break. Called in the transaction that takes it."""
    _check_quota(limits(worker, connection, project_id), connection, project_id, more)


def _check_quota(allowed: Mapping[str, int], connection: Connection, project_id: str, more: dict[str, int]) -> None:
    for resource, asked in more.items():
        if asked <= 0 or allowed[resource] < 0:
            continue
        has = _USED[resource](connection, project_id)
        if allowed[resource] < has + asked:
            raise QuotaExceeded(
                _EXCEEDED[resource].format(has=has, asked=asked, allowed=allowed[resource]),
                resource=resource,
                used=has,
                asked=asked,
                allowed=allowed[resource],
            )


def check_size(worker: WorkerContext, connection: Connection, project_id: str, size: int) -> None:
    """Raises BadRequest for a volume larger than one may be."""
    largest = limits(worker, connection, project_id)["per_volume_gigabytes"]
    if 0 <= largest < size:
        raise BadRequest(f"Requested volume size {size} is larger than maximum allowed limit {largest}, in GiB")


def check_growth(worker: WorkerContext, connection: Connection, row: VolumeRow, new_size: int) -> None:
    """Raises BadRequest, QuotaExceeded for a volume that may not grow to ``new_size`` GiB."""
    check_quota(worker, connection, row["project_id"], {"gigabytes": new_size - row["size"]})
    check_size(worker, connection, row["project_id"], new_size)


def check_new_volume(worker: WorkerContext, connection: Connection, project_id: str, size: int) -> None:
    """Raises BadRequest, QuotaExceeded for a further volume of ``size`` GiB that the project may not have."""
    check_quota(worker, connection, project_id, {"volumes": 1, "gigabytes": size})
    check_size(worker, connection, project_id, size)


def check_snapshot_quota(worker: WorkerContext, connection: Connection, row: VolumeRow, rows: Sequence[SnapshotRow]) -> None:
    """Raises QuotaExceeded when the project, or this volume, which has the snapshots ``rows``, may have no further one."""
    allowed = limits(worker, connection, row["project_id"])
    _check_quota(allowed, connection, row["project_id"], {"snapshots": 1, "gigabytes": row["size"]})
    has, most = len(rows), allowed["snapshots_per_volume"]
    if 0 <= most < has + 1:
        raise QuotaExceeded(f"quota exceeded for snapshots_per_volume: volume {row['id']} has {has}, {most} are allowed")


def refuse_if_being_taken(connection: Connection, volume_id: str) -> Sequence[SnapshotRow]:
    """Returns the volume's snapshots. Raises Busy naming the one that compute takes: its switch will make another file
    active."""
    rows = snapshots.of_volume(connection, volume_id)
    pending = [row["id"] for row in rows if snapshots.being_taken(row)]
    if pending:
        raise Busy(f"snapshot {pending[0]} of volume {volume_id} is still being taken", snapshot_id=pending[0])
    return rows


def refuse_if_busy(connection: Connection, volume_id: str, shared: bool = False) -> None:
    """Raises Busy naming the operation that holds the volume; with ``shared`` an operation that only reads does not count."""
    busy = volumes.busy_operation(connection, volume_id, shared)
    if busy:
        raise Busy(f"volume {volume_id} is busy with operation {busy}", operation_id=busy)


def refuse_unless(status: str, allowed: Sequence[str], what: str) -> None:
    """Raises BadRequest for what is in another status than the ``allowed`` ones."""
    if status not in allowed:
        raise BadRequest(f"Invalid {what}: the status must be {' or '.join(allowed)}, but it is {status}")
