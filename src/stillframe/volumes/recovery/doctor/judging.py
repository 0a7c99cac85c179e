"""From what was seen to findings. Pure: every rule is one small function over the values of ``seen``."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from stillframe.db.rows import Row
from stillframe.volumes.recovery.doctor import chains, guests, leftovers
from stillframe.volumes.recovery.doctor.findings import Finding
from stillframe.volumes.recovery.doctor.seen import ShareSeen, VolumeKnown, WorkerContext

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


def judge(world: WorkerContext) -> list[Finding]:
    """Returns everything that does not fit, shares first, then volumes, then servers."""
    found: list[Finding] = []
    for share in world.shares:
        found += _share(share)
        if share.is_itself:
            found += leftovers.judge(world, share)
            found += chains.judge(world, share)
    found += _not_enabled(world)
    found += _statuses(world)
    found += _operations(world)
    found += _abandoned(world)
    found += _sets(world)
    return found + list(guests.judge(world))


def _share(share: ShareSeen) -> Iterator[Finding]:
    if not share.is_itself and share.marker is None:
        yield Finding(
            "marker_missing", f"{share.path} has no marker .share-id; share {share.export} should be there", share.export
        )
    elif not share.is_itself:
        what = f"the marker of {share.path} says {share.marker}, share {share.export} is {share.known}"
        yield Finding("marker_foreign", what, share.export)
    if share.mode & OPEN_TO_OTHERS:
        what = f"the directory {share.path} has mode {share.mode:04o}: it is open to everybody"
        yield Finding("share_open", what, share.export)


def _not_enabled(world: WorkerContext) -> Iterator[Finding]:
    lost: dict[str, list[str]] = {}
    for volume_id, known in world.known.volumes.items():
        if known.row["share"] not in world.enabled:
            lost.setdefault(known.row["share"], []).append(volume_id)
    for export, ids in lost.items():
        what = f"{len(ids)} volumes are recorded on {export}, the first is {ids[0]}, and no enabled backend has that share"
        yield Finding("share_not_enabled", what, export, ids[0])


def _statuses(world: WorkerContext) -> Iterator[Finding]:
    busy = world.known.busy | world.known.parked
    for volume_id, known in world.known.volumes.items():
        if volume_id in world.unsettled or volume_id in busy:
            continue
        if _is_stuck(world, known):
            what = f"volume {volume_id} is {known.row['status']!r}, and no operation on it is under way"
            yield Finding("transitional_status", what, known.row["share"], volume_id)
        for row in known.snapshots:
            if row["status"] in SNAPSHOT_STATES and row["id"] not in busy and _age(world, row) >= world.older_than:
                what = f"snapshot {row['id']} of volume {volume_id} is {row['status']!r}, and no operation on it is under way"
                yield Finding("transitional_status", what, known.row["share"], volume_id, row["id"])
    for row in world.known.backups:
        if row["status"] in BACKUP_STATES and row["id"] not in busy:
            what = f"backup {row['id']} is {row['status']!r}, and no operation on it is under way"
            yield Finding("transitional_status", what, volume_id=row["volume_id"])


def _is_stuck(world: WorkerContext, known: VolumeKnown) -> bool:
    """A reserved or partly attached volume waits for another call; without an attachment that call will not come."""
    status = known.row["status"]
    if status in VOLUME_STATES:
        return True
    if status in ("attaching", "detaching"):
        return not known.attachments or _age(world, known.row) >= world.older_than
    return status == "reserved" and not known.attachments


def _age(world: WorkerContext, row: Row) -> float:
    """Seconds since the row was changed."""
    changed: datetime = row["updated_at"] or row["created_at"]
    return (world.wall - changed).total_seconds()


def _sets(world: WorkerContext) -> Iterator[Finding]:
    """Sets that say "error" although each of their snapshots is good."""
    good = {row["id"] for known in world.known.volumes.values() for row in known.snapshots if row["status"] == "available"}
    for row in world.known.sets:
        ids = [entry["snapshot_id"] for entry in row["volumes"]]
        at_work = {row["id"], row["server_id"], *ids} & (world.known.busy | world.known.parked)
        if ids and set(ids) <= good and not at_work:
            what = f"assisted snapshot {row['id']} is 'error' ({row['fault']}), and its {len(ids)} snapshots are all available"
            yield Finding("set_is_good", what, server_id=row["server_id"], facts={"set": row})


def _abandoned(world: WorkerContext) -> Iterator[Finding]:
    """Reported as long as something has an error status because of it."""
    failed = _failed(world)
    for row in world.known.given_up:
        if not any(row["fault"]["message"] in failed.get(each, "") for each in _about(row["intent"])):
            continue
        what = f"operation {row['id']} ({row['service']}, {row['kind']}): {row['fault']['message']}."
        what += f" Next: {row['fault']['details']['next']}"
        yield Finding(
            "abandoned_operation", what, None, row["intent"].get("volume_id"), server_id=row["intent"].get("server_id")
        )


def _about(intent: Mapping[str, Any]) -> Iterator[str]:
    """Ids of what an operation was about."""
    yield from (str(intent[name]) for name in ("volume_id", "snapshot_id", "set_id") if intent.get(name))
    yield from intent.get("snapshot_ids", ())
    if intent.get("backup"):
        yield str(intent["backup"]["id"])


def _failed(world: WorkerContext) -> dict[str, str]:
    """What is said by the volumes, snapshots, backups and sets that are not as they should be."""
    rows: list[Row] = [*world.known.backups, *world.known.sets]
    for known in world.known.volumes.values():
        rows += [known.row, *known.snapshots]
    return {row["id"]: row["fault"] for row in rows if row.get("fault") and row["status"] not in ("available", "in-use")}


def _operations(world: WorkerContext) -> Iterator[Finding]:
    for row in world.known.operations:
        if row["service"] == "doctor":
            if row["id"] in world.known.abandoned:
                what = f"operation {row['id']} of a doctor that runs no more holds {row['intent'].get('volume_id')}"
                yield Finding(
                    "abandoned_repair", what, volume_id=row["intent"].get("volume_id"), facts={"operation": row["id"]}
                )
        elif row["state"] == "parked":
            told = (row["fault"] or {}).get("message", "no reason was recorded")
            what = f"operation {row['id']} ({row['service']}, {row['kind']}) is parked: {told}"
            volume_id, server_id = row["intent"].get("volume_id"), row["intent"].get("server_id")
            yield Finding("parked_operation", what, volume_id=volume_id, server_id=server_id)
