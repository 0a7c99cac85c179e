"""From what was seen to findings. Pure: every rule is one small function over the values of ``seen``."""

from collections.abc import Iterator

from stillframe.db.rows import AssistedSnapshotRow, BackupRow, SnapshotRow, VolumeRow
from stillframe.journal.about import About, about
from stillframe.volumes.recovery.doctor import chains, guests, leftovers, natives, targets
from stillframe.volumes.recovery.doctor.findings import Finding
from stillframe.volumes.recovery.doctor.seen import ShareSeen, VolumeKnown, WorkerContext
from stillframe.volumes.storage.backends import ADOPTED

SNAPSHOT_STATES = ("creating", "deleting", "restoring", "backing-up", "unmanaging", "updating")
VOLUME_STATES = (
    "creating",
    "downloading",
    "deleting",
    "extending",
    "reverting",
    "unmanaging",
    "managing",
    "uploading",
    "backing-up",
    "restoring-backup",
    "retyping",
)
BACKUP_STATES = ("creating", "deleting", "restoring")
OPEN_TO_OTHERS = 0o007
WRITABLE_BY_OTHERS = 0o002


def judge(worker: WorkerContext) -> list[Finding]:
    """Returns everything that does not fit, shares first, then volumes, then servers."""
    found: list[Finding] = []
    for share in worker.shares:
        found += _share(share)
        if share.is_itself:
            found += leftovers.judge(worker, share)
            found += chains.judge(worker, share)
            found += targets.judge(worker, share)
    found += _not_enabled(worker)
    found += _statuses(worker)
    found += _operations(worker)
    found += _abandoned(worker)
    found += _sets(worker)
    found += natives.judge(worker)
    return found + list(guests.judge(worker))


def _share(share: ShareSeen) -> Iterator[Finding]:
    if not share.is_itself and share.marker is None:
        yield Finding(
            "marker_missing", f"{share.path} has no marker .share-id; share {share.export} should be there", share.export
        )
    elif not share.is_itself:
        what = f"the marker of {share.path} says {share.marker}, share {share.export} is {share.known}"
        yield Finding("marker_foreign", what, share.export)
    # The directory of adopted disks was there before, and libvirt's own is 0711: what counts is who may change it.
    if share.mode & (WRITABLE_BY_OTHERS if share.backend == ADOPTED else OPEN_TO_OTHERS):
        what = f"the directory {share.path} has mode {share.mode:04o}: it is open to everybody"
        yield Finding("share_open", what, share.export)


def _not_enabled(worker: WorkerContext) -> Iterator[Finding]:
    lost: dict[str, list[str]] = {}
    for volume_id, known in worker.known.volumes.items():
        if known.row["share"] and known.row["share"] not in worker.enabled:
            lost.setdefault(known.row["share"], []).append(volume_id)
    for export, ids in lost.items():
        what = f"{len(ids)} volumes are recorded on {export}, the first is {ids[0]}, and no enabled backend has that share"
        yield Finding("share_not_enabled", what, export, ids[0])


def _statuses(worker: WorkerContext) -> Iterator[Finding]:
    busy = worker.known.busy | worker.known.parked
    for volume_id, known in worker.known.volumes.items():
        if volume_id in worker.unsettled or volume_id in busy:
            continue
        if _is_stuck(worker, known):
            what = f"volume {volume_id} is {known.row['status']!r}, and no operation on it is under way"
            yield Finding("transitional_status", what, known.row["share"], volume_id)
        for row in known.snapshots:
            if row["status"] in SNAPSHOT_STATES and row["id"] not in busy and _age(worker, row) >= worker.older_than:
                what = f"snapshot {row['id']} of volume {volume_id} is {row['status']!r}, and no operation on it is under way"
                yield Finding("transitional_status", what, known.row["share"], volume_id, row["id"])
    for backup in worker.known.backups:
        if backup["status"] in BACKUP_STATES and backup["id"] not in busy:
            what = f"backup {backup['id']} is {backup['status']!r}, and no operation on it is under way"
            yield Finding("transitional_status", what, volume_id=backup["volume_id"])


def _is_stuck(worker: WorkerContext, known: VolumeKnown) -> bool:
    """A reserved or partly attached volume waits for another call; without an attachment that call will not come."""
    status = known.row["status"]
    if status in VOLUME_STATES:
        return True
    if status in ("attaching", "detaching"):
        return not known.attachments or _age(worker, known.row) >= worker.older_than
    return status == "reserved" and not known.attachments


def _age(worker: WorkerContext, row: VolumeRow | SnapshotRow) -> float:
    """Seconds since the row was changed."""
    changed = row["updated_at"] or row["created_at"]
    return (worker.wall - changed).total_seconds()


def _sets(worker: WorkerContext) -> Iterator[Finding]:
    """Sets that say "error" although each of their snapshots is good."""
    good = {row["id"] for known in worker.known.volumes.values() for row in known.snapshots if row["status"] == "available"}
    for row in worker.known.sets:
        ids = [entry["snapshot_id"] for entry in row["volumes"]]
        at_work = {row["id"], row["server_id"], *ids} & (worker.known.busy | worker.known.parked)
        if ids and set(ids) <= good and not at_work:
            what = f"assisted snapshot {row['id']} is 'error' ({row['fault']}), and its {len(ids)} snapshots are all available"
            yield Finding("set_is_good", what, server_id=row["server_id"], facts={"set": row})


def _abandoned(worker: WorkerContext) -> Iterator[Finding]:
    """Reported as long as something has an error status because of it."""
    failed = _failed(worker)
    for row in worker.known.abandoned_operations:
        fault = row["fault"]
        if fault is None or not any(fault["message"] in failed.get(each, "") for each in _ids(about(row["intent"]))):
            continue
        what = f"operation {row['id']} ({row['service']}, {row['kind']}): {fault['message']}."
        what += f" Next: {fault['details']['next']}"
        asked = about(row["intent"])
        yield Finding("abandoned_operation", what, None, asked.volume_id, server_id=asked.server_id)


def _ids(asked: About) -> Iterator[str]:
    yield from (each for each in (asked.volume_id, asked.snapshot_id, asked.set_id) if each)
    yield from asked.snapshot_ids
    if asked.backup is not None:
        yield asked.backup.id


def _failed(worker: WorkerContext) -> dict[str, str]:
    """What is said by the volumes, snapshots, backups and sets that are not as they should be."""
    rows: list[VolumeRow | SnapshotRow | BackupRow | AssistedSnapshotRow] = [*worker.known.backups, *worker.known.sets]
    for known in worker.known.volumes.values():
        rows += [known.row, *known.snapshots]
    return {row["id"]: row["fault"] for row in rows if row["fault"] and row["status"] not in ("available", "in-use")}


def _operations(worker: WorkerContext) -> Iterator[Finding]:
    for row in worker.known.operations:
        if row["service"] == "doctor":
            if row["id"] in worker.known.abandoned:
                volume_id = about(row["intent"]).volume_id
                what = f"operation {row['id']} of a doctor that runs no more holds {volume_id}"
                yield Finding("abandoned_repair", what, volume_id=volume_id, facts={"operation": row["id"]})
        elif row["state"] == "parked":
            reason = (row["fault"] or {}).get("message", "no reason was recorded")
            what = f"operation {row['id']} ({row['service']}, {row['kind']}) is parked: {reason}"
            asked = about(row["intent"])
            yield Finding("parked_operation", what, volume_id=asked.volume_id, server_id=asked.server_id)
