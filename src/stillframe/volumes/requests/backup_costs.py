"""What creating, restoring or deleting a backup would cost, without doing it.

Each answer has ``possible``, ``method``, ``steps``, ``bytes``, ``seconds``, ``why`` and ``dependants``, as for the deletion of
a snapshot (``chain/explain.py``), and figures of its own. Numbers are bytes and upper bounds; ``seconds`` is a guess.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from stillframe.chain import plan
from stillframe.chain.steps import cost
from stillframe.context import Context
from stillframe.db import volumes
from stillframe.db.rows import BackupRow, VolumeRow
from stillframe.errors import BadBackup, BadImage, BadRequest, ChainConflict, Conflict, QuotaExceeded, ShareUnavailable
from stillframe.host import staging
from stillframe.volumes.chain import explain as chain_explain
from stillframe.volumes.chain import observe
from stillframe.volumes.operations.executors.executor import executor_for
from stillframe.volumes.requests import backups as backup_requests
from stillframe.volumes.requests import new_volumes
from stillframe.volumes.requests import volumes as volume_requests
from stillframe.volumes.requests.backups import Prepared, Stored
from stillframe.volumes.storage import scheduler
from stillframe.volumes.storage.drivers.contract import Share
from stillframe.volumes.worker import lookup
from stillframe.volumes.worker.context import WorkerContext

REFUSALS = (BadBackup, BadImage, BadRequest, ChainConflict, Conflict, QuotaExceeded, ShareUnavailable)
CLUSTER = 64 << 10
_TABLE = 512 << 20  # of a disk, that one table of a qcow2 file with such clusters describes
_MARGIN = 16  # a sixteenth: incompressible data becomes slightly larger, and begins at a sector

Document = dict[str, Any]


def explain_create(worker: WorkerContext, context: Context, wanted: Mapping[str, Any]) -> Document:
    """Also ``parent_id``, ``bytes_stored``, ``staging_needed`` and ``staging_free``. ``bytes`` are read. Raises NotFound."""
    try:
        found = backup_requests.prepare(worker, context, wanted)
    except REFUSALS as error:
        return chain_explain.refused(error)
    reads = 2 * found.stored if found.parent else found.stored  # an incremental one compares with the earlier content
    kept = stored_at_most(found.stored, found.before.images[found.file].size)
    facts = {
        "method": "incremental backup" if found.parent else "full backup",
        "bytes": reads,
        "seconds": chain_explain.seconds(reads + kept),
        "why": _why_so_much(found),
        "parent_id": found.parent["id"] if found.parent else None,
        "bytes_stored": kept,
        **_staging(worker, found.staged),
    }

    def check() -> None:
        backup_requests.hold(worker, found, "")
        with worker.database.read() as connection:
            more = {"backups": 1, "backup_gigabytes": found.size}
            lookup.check_quota(worker, connection, context.project_id, more)

    return _explanation(facts, check)


def stored_at_most(held: int, size: int) -> int:
    """Bytes of a qcow2 file that holds so many of a disk of ``size`` bytes, if nothing of them can be compressed."""
    clusters = -(-held // CLUSTER)
    tables = 4 + min(-(-size // _TABLE), held // 4096 + 1) + clusters // (CLUSTER // 2) + size // (_TABLE * CLUSTER // 8)
    return held + held // _MARGIN + tables * CLUSTER


def _why_so_much(found: Prepared) -> str:
    if found.parent is None:
        return f"{found.file} and the files behind it hold {found.content} bytes; they are stored compressed"
    above = f"{found.parent['held_file']}, which backup {found.parent['id']} holds"
    return f"{found.stored} bytes lie above {above}; of them is stored, compressed, what differs"


def explain_restore(
    worker: WorkerContext, context: Context, backup_id: str, volume_id: str | None = None, name: str | None = None
) -> Document:
    """Also ``bytes_fetched`` from the store, ``share``, ``share_free``, ``staging_needed`` and ``staging_free``. ``bytes`` are
    written to the share. Raises NotFound."""
    with worker.database.read() as connection:
        lookup.backup(connection, context, backup_id)
        volume = lookup.volume(connection, context, volume_id) if volume_id else None
    try:
        found = backup_requests.stored(worker, context, backup_id)
    except REFUSALS as error:
        return chain_explain.refused(error)
    content = found.row["content_bytes"]
    writes = content if content is not None else found.manifests[-1].size
    facts = {
        "method": f"restore over volume {volume['id']}" if volume else "restore into a new volume",
        "bytes": writes,
        "seconds": chain_explain.seconds(found.fetched + 2 * writes),  # written, and compared
        "why": _why_written(found),
        "bytes_fetched": found.fetched,
        "share": None,
        "share_free": None,
        **_staging(worker, found.staged),
    }
    place: list[tuple[str, Share]] = []

    def check() -> None:
        staging.require_room(worker.settings.staging_dir, found.staged)
        if volume is None:
            row, size = new_volumes.find_type(worker, {}), found.row["size"]
            pool = scheduler.choose(worker.backends, row, size, backup_requests.written(found.row))
            place.append((pool.export.export, pool.share()))
            with worker.database.read() as connection:
                lookup.check_quota(worker, connection, context.project_id, {"volumes": 1, "gigabytes": size})
        else:
            place.append((volume["share"], worker.share(volume)))
            backup_requests.check_over(worker, found.row, volume)

    answer = _explanation(facts, check)
    with suppress(ShareUnavailable):
        if place:
            answer |= {"share": place[0][0], "share_free": place[0][1].free()}
    return answer


def _why_written(found: Stored) -> str:
    several = f" and the {len(found.manifests) - 1} it builds on" if len(found.manifests) > 1 else ""
    if found.row["content_bytes"] is None:
        return f"backup {found.row['id']}{several} is read; how much it holds is not recorded, so it may fill its whole disk"
    return f"backup {found.row['id']}{several} is read; it holds {found.row['content_bytes']} bytes"


def explain_delete(worker: WorkerContext, context: Context, backup_id: str) -> Document:
    """Also ``bytes_freed`` in the store. ``bytes`` are copied afterwards, when the file that was kept for the next incremental
    backup is merged away. Raises NotFound."""
    with worker.database.read() as connection:
        row = lookup.backup(connection, context, backup_id)
        try:
            backup_requests.check_deletable(connection, row)
        except REFUSALS as error:
            return chain_explain.refused(error)
        volume = volumes.get(connection, row["volume_id"], None)
    facts: Document = {
        "method": "remove",
        "bytes": 0,
        "seconds": 0.0,
        "why": f"{row['object_count']} files of {row['bytes']} bytes are removed from the store",
        "bytes_freed": row["bytes"],
    }
    merged: Mapping[str, Any] = {}
    if volume is not None and row["held_file"]:
        try:
            merged = _release(worker, row, volume)
        except REFUSALS as error:
            merged = {"why": f"what is copied when {row['held_file']} is no more kept cannot be told now: {error.message}"}
    why = "; ".join(filter(None, (facts["why"], merged.get("why"))))
    return _explanation({**facts, **merged, "why": why}, lambda: None)


def _release(worker: WorkerContext, row: BackupRow, volume: VolumeRow) -> Document:
    executor = executor_for(worker, volume)
    before = observe.observe(worker, volume)
    visible = volume_requests.visible(worker, volume, before)
    found = plan.release(before, observe.held_for(row["id"]), visible, executor.running)
    copied = cost(found.steps)
    return {
        "steps": chain_explain.steps(before, found),
        "bytes": copied,
        "seconds": chain_explain.seconds(copied, executor.usual_bandwidth_mib),
        "why": f"{row['held_file']} is no more kept for the next incremental one; {copied} bytes are copied"
        f" {'under the running server' if executor.running else 'with qemu-img'} to merge it away",
    }


def _staging(worker: WorkerContext, needed: int) -> Document:
    return {"staging_needed": needed, "staging_free": staging.room(worker.settings.staging_dir)}


def _explanation(facts: Document, check: Callable[[], None]) -> Document:
    """The figures are also given when the request would be refused now; ``why`` is the reason."""
    answer: Document = {"possible": True, "steps": [], "dependants": [], **facts}
    try:
        check()
    except REFUSALS as error:
        answer |= {"possible": False, "why": error.message}
    return answer
