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
from stillframe.db.rows import Row
from stillframe.errors import Conflict, StillframeError
from stillframe.host import staging
from stillframe.journal import record
from stillframe.volumes.backups import chain, repository
from stillframe.volumes.chain import observe
from stillframe.volumes.operations import chain_metadata
from stillframe.volumes.operations import snapshots as operations
from stillframe.volumes.operations.executors.executor import hand_for
from stillframe.volumes.requests import volumes as volume_requests
from stillframe.volumes.worker.context import WorkerContext

LOG = logging.getLogger(__name__)


def look(world: WorkerContext) -> None:
    """One round; what fails is tried again in the next. Only volumes that nothing is attached to are changed."""
    world.backends.sweep()
    staging.sweep(world.settings.staging_dir, lambda: _live(world))
    for row in _candidates(world):
        try:
            _tidy(world, row)
        except (OSError, StillframeError) as error:
            # A request may remove a file meanwhile, or a file may be unreadable: continue with the others.
            LOG.info("volume %s is left as it is for now: %s", row["id"], error)


def sweep_backups(world: WorkerContext) -> None:
    """Removes objects of backups that were never finished and that no operation is making."""
    try:
        store = world.repository(repository.DEFAULT_CONTAINER)
        for key in chain.incomplete(store, None, lambda: _live_backups(world)):
            LOG.info("removing %s: its backup was never finished", key)
            store.delete(key)
    except (OSError, StillframeError) as error:
        LOG.info("the backup store is left as it is for now: %s", error)


def _live(world: WorkerContext) -> list[str]:
    with world.database.read() as connection:
        return [row["id"] for row in journal.unfinished(connection, "volumes")]


def _live_backups(world: WorkerContext) -> list[str]:
    with world.database.read() as connection:
        rows = journal.unfinished(connection, "volumes")
    return [row["intent"]["backup"]["stored_id"] for row in rows if "backup" in row["intent"]]


def _candidates(world: WorkerContext) -> Iterator[Row]:
    """Returns the volumes with an undo, and those that linked clones read or read until the last round."""
    with world.database.read() as connection:
        rows = volumes.with_undo(connection) + volumes.marked_untidy(connection)
    for row in {row["id"]: row for row in rows}.values():
        with world.database.read() as connection:
            busy = journal.on_resource(connection, f"volume:{row['id']}")
        if row["status"] in ("available", "in-use") and busy is None:
            yield row


def _tidy(world: WorkerContext, row: Row) -> None:
    before = observe.observe(world, row)
    hand = hand_for(world, row)
    found = _plan(world, row, before, hand.running)
    if found is None and hand.running and _plan(world, row, before, running=False) is not None:
        return  # what is left can be done when nobody has it open
    if found is None and not row["untidy"]:
        return
    if found is not None and hand.running:  # offline every file is repaired first
        world.share(row).check_sound(row["id"], written(found.steps), removed(found.steps))
    request_id = new_request_id()
    with world.database.write() as connection:
        try:
            volume_requests.unchanged(connection, row, before)
        except Conflict:
            return
        if found is not None:
            options = {"request_id": request_id, "snapshot_ids": []}
            record.submit(connection, operations.change_request("let_go", row, (before, found, hand), options))
            return
        volumes.change(connection, row["id"], untidy=False)
        chain_metadata.submit_once(connection, row["id"], request_id)  # if it failed, it is tried again


def _plan(world: WorkerContext, row: Row, tree: Tree, running: bool) -> Plan | None:
    visible = volume_requests.visible(world, row, tree)
    if plan.UNDO in tree.holds and world.share(row).holds_data(row["active_file"]):
        return plan.let_go(tree, plan.UNDO, visible, running)
    return plan.tidy(tree, visible, running, _share_agrees(world, row))


def _share_agrees(world: WorkerContext, row: Row) -> bool:
    """Tells whether share and row agree on the active file: a database that was restored from a copy does not know which files
    were made since."""
    found = world.share(row).read_document(names.info_name(row["id"]))
    return bool(found.get("active", names.base_name(row["id"])) == row["active_file"])
