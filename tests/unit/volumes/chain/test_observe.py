"""Headers and rows together are a volume's tree; where they do not fit nothing is planned."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stillframe.chain import plan
from stillframe.chain.image import Image
from stillframe.chain.names import base_name, overlay_name
from stillframe.chain.tree import Tree
from stillframe.db import backups, snapshots, volumes
from stillframe.db.engine import Database
from stillframe.db.rows import VolumeRow
from stillframe.db.values import SnapshotChanges
from stillframe.errors import BadImage, ChainConflict, ShareUnavailable
from stillframe.volumes.chain import observe as observe_module
from stillframe.volumes.worker.context import WorkerContext
from tests.unit import builders
from tests.unit.builders import BACKUP, GIB, OTHER_SNAPSHOT, OTHER_VOLUME, SNAPSHOT, VOLUME
from tests.unit.volumes import fakes
from tests.unit.volumes.memory_share import File

BASE, FIRST, SECOND = base_name(VOLUME), overlay_name(VOLUME, SNAPSHOT), overlay_name(VOLUME, OTHER_SNAPSHOT)
OTHER = base_name(OTHER_VOLUME)


@pytest.fixture
def worker(database: Database, tmp_path: Path) -> WorkerContext:
    """Two snapshots, a backup and an undo that hold what they must, and a linked clone of the first snapshot."""
    with database.write() as connection:
        builders.volume_row(connection, active_file=SECOND, undo_file=FIRST)
        builders.snapshot_row(connection)
        builders.snapshot_row(connection, id=OTHER_SNAPSHOT, backing=FIRST)
        builders.backup_row(connection, held_file=BASE)
        builders.backup_row(connection, id=builders.SET)
        linked = {"volume_id": VOLUME, "file": BASE, "format": "qcow2"}
        builders.volume_row(connection, id=OTHER_VOLUME, linked_to=linked)
    share = fakes.share(FIRST, SECOND)
    share.entries[OTHER] = File(Image(OTHER, "qcow2", 2 * GIB, BASE, "qcow2"))
    return fakes.worker(database, tmp_path, share)


def row(worker: WorkerContext, volume_id: str = VOLUME) -> VolumeRow:
    with worker.database.read() as connection:
        found = volumes.get(connection, volume_id, None)
    assert found is not None
    return found


def observe(worker: WorkerContext, volume_id: str = VOLUME) -> Tree:
    return observe_module.observe(worker, row(worker, volume_id))


def snapshot(worker: WorkerContext, snapshot_id: str, **values: Any) -> None:
    with worker.database.write() as connection:
        snapshots.change(connection, snapshot_id, **values)


def test_a_tree_is_the_headers_and_what_the_rows_need_them_for(worker: WorkerContext) -> None:
    tree = observe(worker)
    assert (sorted(tree.images), tree.active) == ([BASE, FIRST, SECOND], SECOND)
    assert tree.snapshots == {SNAPSHOT: BASE, OTHER_SNAPSHOT: FIRST}
    assert tree.holds == {plan.UNDO: FIRST, observe_module.held_for(BACKUP): BASE}
    assert tree.shared == {BASE: (OTHER_VOLUME,)}
    assert tree.parent_image is None


def test_a_linked_clone_stands_on_a_file_of_its_source(worker: WorkerContext) -> None:
    tree = observe(worker, OTHER_VOLUME)
    assert tree.parent_image == Image(BASE, "qcow2", GIB)
    assert list(tree.images) == [OTHER]


def test_a_linked_clone_whose_source_lost_the_file_is_told(worker: WorkerContext) -> None:
    del fakes.memory(worker).entries[BASE]
    with pytest.raises((FileNotFoundError, ChainConflict)):
        observe(worker, OTHER_VOLUME)


@pytest.mark.parametrize("status", ["available", "deleting", "error_deleting", "restoring"])
def test_a_snapshot_that_may_have_data_is_in_the_tree(worker: WorkerContext, status: str) -> None:
    snapshot(worker, SNAPSHOT, status=status)
    assert SNAPSHOT in observe(worker).snapshots


def test_one_that_is_being_taken_is_not(worker: WorkerContext) -> None:
    snapshot(worker, SNAPSHOT, status="creating")
    assert list(observe(worker).snapshots) == [OTHER_SNAPSHOT]


@pytest.mark.parametrize(
    ("values", "held"),
    [
        ({}, True),
        ({"overlay": None}, False),
        ({"overlay": overlay_name(VOLUME, OTHER_VOLUME)}, False),
        ({"overlay": SECOND}, False),
    ],
)
def test_one_in_error_is_there_only_when_its_overlay_lies_on_its_data(
    worker: WorkerContext, values: SnapshotChanges, held: bool
) -> None:
    snapshot(worker, SNAPSHOT, status="error", **values)
    assert (SNAPSHOT in observe(worker).snapshots) is held


def test_the_tip_of_a_branch_that_was_left_has_no_overlay(worker: WorkerContext) -> None:
    share = fakes.memory(worker)
    share.entries[overlay_name(VOLUME, OTHER_VOLUME)] = File(
        Image(overlay_name(VOLUME, OTHER_VOLUME), "qcow2", GIB, BASE, "qcow2")
    )
    with worker.database.write() as connection:
        volumes.change(connection, VOLUME, active_file=overlay_name(VOLUME, OTHER_VOLUME))
        snapshots.change(connection, OTHER_SNAPSHOT, backing=SECOND, overlay=None)
    tree = observe(worker)
    assert tree.overlay_of(OTHER_SNAPSHOT) is None
    assert tree.overlay_of(SNAPSHOT) == overlay_name(VOLUME, OTHER_VOLUME)


def break_header(worker: WorkerContext, name: str, **values: Any) -> None:
    entry = fakes.memory(worker).entries[name]
    entry.image = replace(entry.image, **values)


def test_where_rows_and_headers_do_not_fit_it_is_told(worker: WorkerContext) -> None:
    share = fakes.memory(worker)
    cases: list[tuple[Any, Any]] = [
        (lambda: share.entries.pop(BASE), lambda: share.entries.update({BASE: File(Image(BASE, "qcow2", GIB))})),
        (
            lambda: break_header(worker, FIRST, backing=OTHER),
            lambda: break_header(worker, FIRST, backing=BASE),
        ),
        (lambda: break_header(worker, SECOND, size=1), lambda: break_header(worker, SECOND, size=GIB)),
        (lambda: snapshot(worker, SNAPSHOT, backing=SECOND), lambda: snapshot(worker, SNAPSHOT, backing=BASE)),
    ]
    for damage, repair in cases:
        damage()
        with pytest.raises((ChainConflict, BadImage)):
            observe(worker)
        repair()
        observe(worker)


def test_a_share_that_does_not_answer_is_never_an_empty_tree(worker: WorkerContext) -> None:
    fakes.memory(worker).silent = True
    with pytest.raises(ShareUnavailable):
        observe(worker)


def test_a_raw_base_is_read_as_raw(database: Database, tmp_path: Path) -> None:
    share = fakes.share(FIRST)
    share.entries[BASE].image = Image(BASE, "raw", GIB)
    share.entries[FIRST].image = replace(share.entries[FIRST].image, backing_format="raw")
    with database.write() as connection:
        builders.volume_row(connection, active_file=FIRST, base_format="raw")
        builders.snapshot_row(connection, backing_format="raw")
    assert observe(fakes.worker(database, tmp_path, share)).images[BASE].format == "raw"


@pytest.mark.parametrize(
    "change",
    [
        lambda connection: snapshots.delete(connection, SNAPSHOT),
        lambda connection: snapshots.change(connection, OTHER_SNAPSHOT, backing=BASE),
        lambda connection: backups.change(connection, BACKUP, held_file=None),
        lambda connection: backups.change(connection, builders.SET, held_file=BASE),
        lambda connection: volumes.delete(connection, OTHER_VOLUME),
        lambda connection: volumes.change(connection, VOLUME, undo_file=None),
        lambda connection: builders.snapshot_row(connection, id=builders.new_id()),
    ],
)
def test_whatever_the_files_are_needed_for_is_noticed_when_it_changes(worker: WorkerContext, change: Any) -> None:
    tree = observe(worker)
    with worker.database.write() as connection:
        assert observe_module.is_still(connection, row(worker), tree)
    with worker.database.write() as connection:
        change(connection)
    with worker.database.read() as connection:
        assert not observe_module.is_still(connection, row(worker), tree)


def test_names_statuses_and_failed_snapshots_change_nothing_about_it(worker: WorkerContext) -> None:
    tree = observe(worker)
    with worker.database.write() as connection:
        snapshots.change(connection, SNAPSHOT, name="x", status="deleting")
        builders.snapshot_row(connection, id=builders.new_id(), status="error", overlay="gone")
        builders.snapshot_row(connection, id=builders.new_id(), status="creating")
        assert observe_module.is_still(connection, row(worker), tree)


def test_rows_follow_a_plan_to_the_letter(worker: WorkerContext) -> None:
    before = observe(worker)
    after = replace(
        before,
        images={BASE: replace(before.images[BASE], format="raw"), SECOND: replace(before.images[SECOND], backing=BASE)},
        snapshots={OTHER_SNAPSHOT: BASE},
        holds={observe_module.held_for(BACKUP): BASE},
    )
    with worker.database.write() as connection:
        observe_module.apply_after(connection, VOLUME, observe_module.after(before, after))
        left = snapshots.of_volume(connection, VOLUME)
        held = {found["id"]: found["held_file"] for found in backups.of_volume(connection, VOLUME)}
    assert [(found["id"], found["backing"], found["backing_format"], found["overlay"]) for found in left] == [
        (OTHER_SNAPSHOT, BASE, "raw", SECOND)
    ]
    assert held == {BACKUP: BASE, builders.SET: None}
    assert (row(worker)["active_file"], row(worker)["undo_file"], row(worker)["base_format"]) == (SECOND, None, "qcow2")


@pytest.mark.parametrize("format_", ["raw", "qcow2"])
def test_the_format_of_the_lowest_file_follows_when_it_becomes_the_active_one(worker: WorkerContext, format_: str) -> None:
    before = observe(worker)
    after = replace(before, images={BASE: replace(before.images[BASE], format=format_)}, active=BASE, snapshots={}, holds={})
    with worker.database.write() as connection:
        observe_module.apply_after(connection, VOLUME, observe_module.after(before, after))
    assert (row(worker)["format"], row(worker)["base_format"]) == (format_, format_)
