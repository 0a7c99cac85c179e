"""Finds rows that a caller may see, and the limits of a project."""

from collections.abc import Callable, Mapping, Sequence

from sqlalchemy import Connection

from stillframe.chain import names
from stillframe.context import Context
from stillframe.db import backups, quotas, snapshots, volumes
from stillframe.db.rows import Row
from stillframe.errors import BadRequest, Busy, NotFound, QuotaExceeded
from stillframe.volumes.worker.context import WorkerContext

MOST_METADATA = 128  # pairs of one resource, as of one request


def volume(connection: Connection, context: Context, volume_id: str) -> Row:
    """Returns the volume's row. Raises NotFound, the same for a volume that is missing and one of another project."""
    row = volumes.get(connection, names.canonical_id(volume_id, "volume id"), _project(context))
    if row is None:
        raise NotFound(f"Volume {volume_id} could not be found.")
    return row


def snapshot(connection: Connection, context: Context, snapshot_id: str) -> Row:
    """Returns the snapshot's row. Raises NotFound."""
    row = snapshots.get(connection, names.canonical_id(snapshot_id, "snapshot id"), _project(context))
    if row is None:
        raise NotFound(f"Snapshot {snapshot_id} could not be found.")
    return row


def backup(connection: Connection, context: Context, backup_id: str) -> Row:
    """Returns the backup's row. Raises NotFound."""
    row = backups.get(connection, names.canonical_id(backup_id, "backup id"), _project(context))
    if row is None:
        raise NotFound(f"Backup {backup_id} could not be found.")
    return row


def with_more(context: Context, known: Mapping[str, str] | None, added: Mapping[str, str]) -> dict[str, str]:
    """Returns metadata with what is added to it or changed in it. Raises QuotaExceeded when there are too many pairs:
    otherwise, request by request, every list and the record on the share could grow without limit."""
    merged = {**(known or {}), **added}
    if len(merged) > max(MOST_METADATA, len(known or {})) and not context.has_service_identity:
        raise QuotaExceeded(f"it would have {len(merged)} metadata pairs, at most {MOST_METADATA} are allowed")
    return merged


def without(known: Mapping[str, str] | None, key: str, whose: str) -> dict[str, str]:
    """Returns metadata without one of its keys. ``whose`` begins what is said otherwise: "Volume ID has no metadata". Raises
    NotFound."""
    if key not in (known or {}):
        raise NotFound(f"{whose} with key {key!r}.")
    return {name: value for name, value in (known or {}).items() if name != key}


def _project(context: Context) -> str | None:
    return None if context.sees_all_projects else context.project_id


def limits(world: WorkerContext, connection: Connection, project_id: str) -> dict[str, int]:
    """Returns the project's limits; -1 is unlimited."""
    options = world.settings.volumes
    return {
        "volumes": options.quota_volumes,
        "snapshots": options.quota_snapshots,
        "gigabytes": options.quota_gigabytes,
        "backups": options.quota_backups,
        "backup_gigabytes": options.quota_backup_gigabytes,
        "snapshots_per_volume": options.quota_snapshots_per_volume,
        "per_volume_gigabytes": options.per_volume_gigabytes,
        **quotas.limits(connection, project_id),
    }


_USED: Mapping[str, Callable[[Connection, str], int]] = {
    "volumes": lambda connection, project_id: volumes.usage(connection, project_id)[0],
    "gigabytes": lambda connection, project_id: volumes.usage(connection, project_id)[1],
    "snapshots": snapshots.usage,
    "backups": lambda connection, project_id: backups.usage(connection, project_id)[0],
    "backup_gigabytes": lambda connection, project_id: backups.usage(connection, project_id)[1],
}


def used(connection: Connection, project_id: str) -> dict[str, int]:
    """Returns how much the project has of everything that has a limit."""
    return {resource: count(connection, project_id) for resource, count in _USED.items()}


def check_quota(world: WorkerContext, connection: Connection, project_id: str, more: dict[str, int]) -> None:
    """Raises QuotaExceeded naming the limit that ``more`` would break. Called in the transaction that takes it."""
    _check_quota(limits(world, connection, project_id), connection, project_id, more)


def _check_quota(allowed: Mapping[str, int], connection: Connection, project_id: str, more: dict[str, int]) -> None:
    for resource, asked in more.items():
        if asked <= 0 or allowed[resource] < 0:
            continue
        has = _USED[resource](connection, project_id)
        if allowed[resource] < has + asked:
            raise QuotaExceeded(
                f"quota exceeded for {resource}: {has} used, {asked} asked, {allowed[resource]} allowed",
                resource=resource,
            )


def check_size(world: WorkerContext, connection: Connection, project_id: str, size: int) -> None:
    """Raises BadRequest for a volume larger than one may be."""
    largest = limits(world, connection, project_id)["per_volume_gigabytes"]
    if 0 <= largest < size:
        raise BadRequest(f"a volume of {size} GiB is larger than the allowed {largest} GiB")


def check_snapshot_quota(world: WorkerContext, connection: Connection, row: Row, rows: Sequence[Row]) -> None:
    """Raises QuotaExceeded when the project, or this volume, which has the snapshots ``rows``, may have no further one."""
    allowed = limits(world, connection, row["project_id"])
    _check_quota(allowed, connection, row["project_id"], {"snapshots": 1})
    has, most = len(rows), allowed["snapshots_per_volume"]
    if 0 <= most < has + 1:
        raise QuotaExceeded(f"quota exceeded for snapshots_per_volume: volume {row['id']} has {has}, {most} are allowed")


def refuse_if_being_taken(connection: Connection, volume_id: str) -> Sequence[Row]:
    """Returns the volume's snapshots. Raises Busy naming the one that compute takes: its switch will make another file
    active."""
    rows = snapshots.of_volume(connection, volume_id)
    pending = [row["id"] for row in rows if row["status"] == "creating"]
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
