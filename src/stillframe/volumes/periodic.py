"""What block storage does by itself from time to time: it ends the undo of reverts whose volumes were written to, and merges
what nobody needs any more."""

import logging
from collections.abc import Iterator

from stillframe.chain import names, plan
from stillframe.chain.plan import Plan
from stillframe.chain.steps import removed, written
from stillframe.chain.tree import Tree
from stillframe.context import new_request_id
from stillframe.db import operations as journal
from stillframe.db import volumes
from stillframe.db.rows import VolumeRow
from stillframe.errors import Conflict, StillframeError
from stillframe.host import staging
from stillframe.journal import record
from stillframe.journal.about import about
from stillframe.volumes.backups import chain, repository
from stillframe.volumes.chain import observe
from stillframe.volumes.operations import chain_metadata
from stillframe.volumes.operations import snapshots as operations
from stillframe.volumes.operations.executors.executor import executor_for
from stillframe.volumes.requests import volumes as volume_requests
from stillframe.volumes.worker import exports
from stillframe.volumes.worker.context import WorkerContext

LOG = logging.getLogger(__name__)


def look(worker: WorkerContext) -> None:
    """One round; what fails is tried again in the next. Only volumes that nothing is attached to are changed."""
    worker.backends.sweep()
    exports.look(worker)
    staging.sweep(worker.settings.staging_dir, lambda: _live(worker))
    for row in _candidates(worker):
        try:
            _clean_up(worker, row)
        except (OSError, StillframeError) as error:
            # A request may remove a file meanwhile, or a file may be unreadable: continue with the others.
            LOG.info("volume %s is left as it is for now: %s", row["id"], error)


def sweep_backups(worker: WorkerContext) -> None:
    """Removes objects of backups that were never finished and that no operation is making."""
    try:
        store = worker.repository(repository.DEFAULT_CONTAINER)
        for key in chain.incomplete(store, None, lambda: _live_backups(worker)):
            LOG.info("removing %s: its backup was never finished", key)
            store.delete(key)
    except (OSError, StillframeError) as error:
        LOG.info("the backup store is left as it is for now: %s", error)


def _live(worker: WorkerContext) -> list[str]:
    with worker.database.read() as connection:
        return [row["id"] for row in journal.unfinished(connection, "volumes")]


def _live_backups(worker: WorkerContext) -> list[str]:
    with worker.database.read() as connection:
        rows = journal.unfinished(connection, "volumes")
    found = []
    for row in rows:
        backup = about(row["intent"]).backup
        if backup is not None and backup.stored_id is not None:
            found.append(backup.stored_id)
        elif "backup" in row["kind"]:
            raise Conflict(f"operation {row['id']} ({row['kind']}) is another release's, which does not say what it stores")
    return found


def _candidates(worker: WorkerContext) -> Iterator[VolumeRow]:
    """Returns the volumes with an undo, and those that linked clones read or read until the last round."""
    with worker.database.read() as connection:
        rows = volumes.with_undo(connection) + volumes.needing_cleanup(connection)
    for row in {row["id"]: row for row in rows}.values():
        with worker.database.read() as connection:
            busy = journal.on_resource(connection, f"volume:{row['id']}")
        if row["status"] in ("available", "in-use") and busy is None:
            yield row


def _clean_up(worker: WorkerContext, row: VolumeRow) -> None:
    before = observe.observe(worker, row)
    executor = executor_for(worker, row)
    found = _plan(worker, row, before, executor.running)
    if found is None and executor.running and _plan(worker, row, before, running=False) is not None:
        return  # what is left can be done when nobody has it open
    if found is None and not row["needs_cleanup"]:
        return
    if found is not None and executor.running:  # offline every file is repaired first
        worker.share(row).check_sound(row["id"], written(found.steps), removed(found.steps))
    request_id = new_request_id()
    with worker.database.write() as connection:
        try:
            volume_requests.unchanged(connection, row, before)
        except Conflict:
            return
        if found is not None:
            plans = (before, found, executor)
            record.submit(connection, operations.change_request("release_files", row, plans, [], request_id))
            return
        volumes.change(connection, row["id"], needs_cleanup=False)
        chain_metadata.submit_once(connection, row["id"], request_id)  # if it failed, it is tried again


def _plan(worker: WorkerContext, row: VolumeRow, tree: Tree, running: bool) -> Plan | None:
    visible = volume_requests.visible(worker, row, tree)
    if plan.UNDO in tree.holds and worker.share(row).holds_data(row["active_file"]):
        return plan.release(tree, plan.UNDO, visible, running)
    return plan.clean_up(tree, visible, running, _share_agrees(worker, row))


def _share_agrees(worker: WorkerContext, row: VolumeRow) -> bool:
    """Tells whether share and row agree on the active file: a database that was restored from a copy does not know which files
    were made since."""
    found = worker.share(row).read_document(names.info_name(row["id"]))
    return bool(found.get("active", names.base_name(row["id"], row["base_file"])) == row["active_file"])
