"""What a sound share is: rows, headers, documents and names agree; nothing is left over, leaked or damaged.

This is read from the database and the share directly, so it does not depend on what a service believes.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from sqlalchemy import select

from stillframe import config
from stillframe.chain import names, plan
from stillframe.db import operations, snapshots, volumes
from stillframe.db.engine import Database
from stillframe.db.queries import many
from stillframe.db.rows import BackupRow, OperationRow, VolumeRow
from stillframe.db.tables import backups
from stillframe.host import files
from stillframe.volumes.backups import keys
from stillframe.volumes.chain import observe
from stillframe.volumes.operations import chain_metadata
from stillframe.volumes.storage.backends import Backends
from stillframe.volumes.worker.context import WorkerContext
from tests.support.leaks import leaked_clusters
from tests.support.stack import wait_for

SETTLED = ("available", "in-use")


@contextmanager
def worker(state_dir: Path, *config_files: Path) -> Iterator[WorkerContext]:
    """Block storage's view of a state directory: database and shares, nothing to call."""
    settings = config.load([str(each) for each in config_files], {(None, "state_dir"): str(state_dir)})
    database = Database(settings.database)
    try:
        yield WorkerContext(database, Backends(settings, database), cast("Any", None), cast("Any", None), settings)
    finally:
        database.close()


def unfinished(found: WorkerContext) -> list[OperationRow]:
    """Operations that have not ended; fails for one that is parked."""
    with found.database.read() as connection:
        rows = [row for service in ("volumes", "compute") for row in operations.unfinished(connection, service)]
    assert [(row["kind"], row["fault"]) for row in rows if row["state"] == "parked"] == []
    return rows


def check(found: WorkerContext, allowed: Collection[str] = ()) -> None:
    """Fails unless everything is sound; ``allowed`` are further files of the first share. Waits for the documents of the
    rows."""
    places = [pool.share().path for pool in found.backends.pools]
    expected = {place / ".share-id" for place in places} | {places[0] / name for name in allowed}
    for row in _rows(found):
        if row["status"] in SETTLED:
            expected |= {found.share(row).path / name for name in _check_volume(found, row)}
    listed = {place / name for place in places for name in files.listing(place)}
    assert listed == expected, f"strange: {sorted(listed - expected)}, missing: {sorted(expected - listed)}"
    wait_for(lambda: not _staged(found), "the end of what lay in the staging directory")
    _check_backups(found)


def check_volumes(found: WorkerContext, volume_ids: Collection[str]) -> None:
    """As ``check``, of these volumes alone, and into every file: none leaks, none is damaged."""
    for row in _rows(found):
        if row["id"] in volume_ids:
            _check_volume(found, row)
            _check_files(found, row)


def _rows(found: WorkerContext) -> list[VolumeRow]:
    with found.database.read() as connection:
        return volumes.list_all(connection)


def _documents_are_right(found: WorkerContext, volume_id: str) -> bool:
    verb, operation = chain_metadata.KIND.verbs["write_info"], cast("Any", None)
    return verb.done(found, operation, chain_metadata.WriteInfo(volume_id=volume_id)) is not None


def _check_volume(found: WorkerContext, row: VolumeRow) -> set[str]:
    """One volume; returns the names it has a right to."""
    wait_for(lambda: _documents_are_right(found, row["id"]), f"the documents beside volume {row['id']}, which follow the rows")
    tree = observe.observe(found, row)
    with found.database.read() as connection:
        rows = snapshots.of_volume(connection, row["id"])
    if row["status"] == "available" and not row["undo_file"] and not row["needs_cleanup"]:
        cleaned = plan.clean_up(tree, lambda _name: (), ends=True)
        assert cleaned is None, f"nobody needs some of {sorted(tree.images)}: {cleaned}"
    assert tree.images[tree.active].format == row["format"]
    for snapshot in rows:
        if snapshot["status"] in SETTLED:
            assert snapshot["backing_format"] == tree.images[snapshot["backing"]].format
            assert snapshot["overlay"] == tree.overlay_of(snapshot["id"])
    plain = not tree.snapshots and tree.active == names.base_name(row["id"])
    info = set() if plain else {names.info_name(row["id"])}
    return {*tree.images, names.record_name(row["id"])} | info


def _check_files(found: WorkerContext, row: VolumeRow) -> None:
    share = found.share(row)
    for name, image in observe.observe(found, row).images.items():
        if not files.is_locked(share.path, name):
            assert leaked_clusters(share.path, name, image.format) == 0, f"{name} leaks"


def _staged(found: WorkerContext) -> list[str]:
    directory = found.settings.staging_dir
    return [path.name for path in directory.iterdir()] if directory.is_dir() else []


def _check_backups(found: WorkerContext) -> None:
    """Every object of the store is a backup's, and every backup has its own."""
    directory = found.settings.state_dir / "backups"
    with found.database.read() as connection:
        rows = many(BackupRow, connection, select(backups).where(backups.c.status == "available"))
    stored = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
    owned = {name for row in rows for name in stored if row["stored_id"] in name}
    strange = {name for name in stored - owned if keys.parse(name.partition("/")[2]) is not None}
    assert strange == set(), f"objects of no backup: {sorted(strange)}"
    for row in rows:
        mine = [name for name in owned if row["stored_id"] in name]
        assert len(mine) == row["object_count"] + 1, (row["id"], mine)
