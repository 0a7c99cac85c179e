"""Requests for new volumes: sources, sizes, quotas, and what must not have changed since it was looked at."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from stillframe.chain.names import base_name, overlay_name
from stillframe.context import Context
from stillframe.db import operations, quotas, snapshots, volume_types, volumes
from stillframe.db.engine import Database
from stillframe.db.rows import OperationRow, VolumeRow
from stillframe.db.tables import operation_resources as held
from stillframe.db.values import NewVolumeType, SnapshotChanges
from stillframe.errors import BadImage, BadRequest, Busy, Conflict, NotFound, QuotaExceeded, ShareUnavailable
from stillframe.journal import record
from stillframe.volumes.requests import new_volumes
from stillframe.volumes.storage import scheduler
from stillframe.volumes.worker.context import WorkerContext
from tests.unit import builders
from tests.unit.builders import GIB, OTHER_SNAPSHOT, SHARE, SNAPSHOT, VOLUME, context
from tests.unit.volumes import fakes

MEMBER = context()
BASE, OVERLAY = base_name(VOLUME), overlay_name(VOLUME, SNAPSHOT)
LINKED: dict[str, Any] = {new_volumes.LINKED: "<is> True"}


@pytest.fixture
def worker(database: Database, tmp_path: Path) -> WorkerContext:
    """A volume of 2 GiB with one snapshot of its base."""
    with database.write() as connection:
        builders.volume_row(connection, size=2, active_file=OVERLAY, bootable=True, image_metadata={"os": "x"})
        builders.snapshot_row(connection, size=2)
    return fakes.worker(database, tmp_path, fakes.share(OVERLAY))


def create(worker: WorkerContext, who: Context = MEMBER, **wanted: Any) -> VolumeRow:
    made = new_volumes.create(worker, who, wanted)
    with worker.database.read() as connection:
        found = volumes.get(connection, made, None)
    assert found is not None
    return found


def planned(worker: WorkerContext) -> list[OperationRow]:
    with worker.database.read() as connection:
        return operations.unfinished(connection, "volumes")


def resources(worker: WorkerContext, operation: OperationRow) -> dict[str, int]:
    with worker.database.read() as connection:
        rows = connection.execute(select(held).where(held.c.operation_id == operation["id"])).mappings()
        return {row["resource"]: row["shared"] for row in rows}


def add_type(worker: WorkerContext, name: str, **extra_specs: str) -> None:
    row: NewVolumeType = {"id": name, "name": name, "description": None, "extra_specs": extra_specs, "is_public": True}
    with worker.database.write() as connection:
        volume_types.insert(connection, row)


def test_an_empty_volume_is_planned_and_its_row_waits(worker: WorkerContext) -> None:
    row = create(worker, size=3, name="n", metadata={"a": "b"})
    assert (row["status"], row["size"], row["project_id"], row["name"]) == ("creating", 3, "demo", "n")
    assert (row["active_file"], row["format"], row["base_format"]) == (base_name(row["id"]), "qcow2", "qcow2")
    assert (row["backend"], row["share"], row["bootable"], row["needs_cleanup"]) == ("local", SHARE, False, False)
    (operation,) = planned(worker)
    args = {"name": row["active_file"], "size": 3 * GIB, "format": "qcow2"}
    assert operation["plan"] == [{"verb": "publish_base", "key": "publish_base", "args": args}]
    assert resources(worker, operation) == {f"volume:{row['id']}": 0}


def test_an_empty_volume_needs_a_size(worker: WorkerContext) -> None:
    with pytest.raises(BadRequest, match="size is missing"):
        create(worker, name="n")


def test_a_raw_backend_makes_raw_volumes(worker: WorkerContext, tmp_path: Path) -> None:
    row = create(fakes.worker(worker.database, tmp_path, local={"volume_format": "raw"}), size=1)
    assert (row["format"], row["base_format"]) == ("raw", "raw")


@pytest.mark.parametrize("wanted", ["raw", "qcow2"])
@pytest.mark.parametrize("backend", ["raw", "qcow2"])
def test_a_types_format_goes_before_the_backends(worker: WorkerContext, tmp_path: Path, wanted: str, backend: str) -> None:
    add_type(worker, "chosen", **{new_volumes.FORMAT: wanted})
    row = create(fakes.worker(worker.database, tmp_path, local={"volume_format": backend}), size=1, volume_type="chosen")
    assert (row["format"], row["base_format"]) == (wanted, wanted)


def test_a_type_with_a_format_nobody_knows_makes_nothing(worker: WorkerContext) -> None:
    add_type(worker, "odd", **{new_volumes.FORMAT: "vmdk"})
    with pytest.raises(BadRequest, match="type odd has stillframe:volume_format = 'vmdk'"):
        create(worker, size=1, volume_type="odd")
    assert planned(worker) == []


@pytest.mark.parametrize(("asked", "size"), [(None, 2), (2, 2), (5, 5)])
def test_a_copy_of_a_snapshot_has_its_size_or_more_and_reads_only(worker: WorkerContext, asked: int | None, size: int) -> None:
    row = create(worker, snapshot_id=SNAPSHOT, size=asked)
    assert (row["size"], row["snapshot_id"], row["source_volid"]) == (size, SNAPSHOT, None)
    assert (row["bootable"], row["image_metadata"]) == (True, {"os": "x"})
    (operation,) = planned(worker)
    assert operation["plan"][0]["args"]["source"]["name"] == BASE
    assert resources(worker, operation) == {f"volume:{row['id']}": 0, f"volume:{VOLUME}": 1}


def test_a_copy_of_a_volume_holds_it_as_long_as_it_lasts(worker: WorkerContext) -> None:
    row = create(worker, source_volid=VOLUME)
    assert (row["size"], row["snapshot_id"], row["source_volid"]) == (2, None, VOLUME)
    (operation,) = planned(worker)
    assert operation["plan"][1]["args"]["source"]["name"] == OVERLAY
    assert resources(worker, operation) == {f"volume:{row['id']}": 0, f"volume:{VOLUME}": 0}
    with pytest.raises(Conflict, match="busy"):
        create(worker, source_volid=VOLUME)


@pytest.mark.parametrize("source", [{"snapshot_id": SNAPSHOT}, {"source_volid": VOLUME}])
def test_a_copy_is_never_smaller_than_its_source(worker: WorkerContext, source: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match="1 GiB cannot hold"):
        create(worker, size=1, **source)
    assert planned(worker) == []


def test_two_copies_of_a_snapshot_go_on_side_by_side_and_a_deletion_waits(worker: WorkerContext) -> None:
    create(worker, snapshot_id=SNAPSHOT)
    create(worker, snapshot_id=SNAPSHOT)
    assert len(planned(worker)) == 2
    with worker.database.read() as connection, pytest.raises(Conflict):
        record.refuse_if_busy(connection, f"volume:{VOLUME}")


def test_a_linked_clone_is_an_overlay_on_the_snapshots_file(worker: WorkerContext) -> None:
    add_type(worker, "linked", **LINKED)
    row = create(worker, snapshot_id=SNAPSHOT, volume_type="linked", size=4)
    assert row["linked_to"] == {"volume_id": VOLUME, "file": BASE, "format": "qcow2"}
    assert (row["format"], row["base_format"], row["size"]) == ("qcow2", "qcow2", 4)
    (operation,) = planned(worker)
    (step,) = operation["plan"]
    assert (step["verb"], step["args"]["backing"], step["args"]["size"]) == ("CreateOverlay", BASE, 4 * GIB)
    assert resources(worker, operation) == {f"volume:{row['id']}": 0, f"volume:{VOLUME}": 1}


def test_only_a_snapshot_can_be_linked_to(worker: WorkerContext) -> None:
    add_type(worker, "linked", **LINKED)
    row = create(worker, source_volid=VOLUME, volume_type="linked")
    assert row["linked_to"] is None
    assert [step["verb"] for step in planned(worker)[0]["plan"]] == ["check_closed", "copy"]


@pytest.mark.parametrize("status", ["creating", "error", "deleting", "restoring"])
def test_a_snapshot_that_is_not_available_is_no_source(worker: WorkerContext, status: str) -> None:
    with worker.database.write() as connection:
        snapshots.change(connection, SNAPSHOT, status=status)
    with pytest.raises(BadRequest, match=status):
        create(worker, snapshot_id=SNAPSHOT)


@pytest.mark.parametrize("status", ["in-use", "error", "reverting"])
def test_a_volume_that_is_not_available_is_no_source(worker: WorkerContext, status: str) -> None:
    with worker.database.write() as connection:
        volumes.change(connection, VOLUME, status=status)
    with pytest.raises(BadRequest, match=status):
        create(worker, source_volid=VOLUME)


def test_a_snapshot_of_an_attached_volume_is_a_source(worker: WorkerContext) -> None:
    with worker.database.write() as connection:
        volumes.change(connection, VOLUME, status="in-use")
    assert create(worker, snapshot_id=SNAPSHOT)["snapshot_id"] == SNAPSHOT


@pytest.mark.parametrize("change", [{"backing": "volume-x"}, {"status": "deleting"}, None])
@pytest.mark.parametrize("type_", ["local", "linked"])
def test_a_snapshot_that_changed_while_it_was_looked_at_is_not_copied(
    worker: WorkerContext, change: SnapshotChanges | None, type_: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its volume's active file stays the same when an older snapshot is deleted, its own file does not."""
    add_type(worker, "linked", **LINKED)
    real = scheduler.check_room

    def meanwhile(*arguments: Any) -> None:
        real(*arguments)
        with worker.database.write() as connection:
            if change is None:
                snapshots.delete(connection, SNAPSHOT)
            else:
                snapshots.change(connection, SNAPSHOT, **change)

    monkeypatch.setattr(scheduler, "check_room", meanwhile)
    with pytest.raises(Conflict, match="changed meanwhile"):
        create(worker, snapshot_id=SNAPSHOT, volume_type=type_)
    assert planned(worker) == []


@pytest.mark.parametrize("change", [{"active_file": "volume-x"}, {"status": "reserved"}, {"size": 3}])
def test_a_volume_that_changed_while_it_was_looked_at_is_not_copied(
    worker: WorkerContext, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = scheduler.check_room

    def meanwhile(*arguments: Any) -> None:
        real(*arguments)
        with worker.database.write() as connection:
            volumes.change(connection, VOLUME, **change)

    monkeypatch.setattr(scheduler, "check_room", meanwhile)
    with pytest.raises(Busy, match="changed meanwhile"):
        create(worker, source_volid=VOLUME)
    assert planned(worker) == []


def test_a_source_whose_file_is_missing_is_told(worker: WorkerContext) -> None:
    del fakes.memory(worker).entries[BASE]
    with pytest.raises(BadImage, match=BASE):
        create(worker, snapshot_id=SNAPSHOT)


def test_a_copy_needs_room_for_what_it_reads(worker: WorkerContext) -> None:
    memory = fakes.memory(worker)
    for cluster in range(4):
        memory.write(BASE, cluster, 1)
    memory.space = 3 << 16
    with pytest.raises(ShareUnavailable, match="full") as told:
        create(worker, snapshot_id=SNAPSHOT)
    assert told.value.details["needed"] == 4 << 16
    memory.space = 4 << 16
    create(worker, snapshot_id=SNAPSHOT)


def test_a_copy_lies_where_its_type_asks(worker: WorkerContext) -> None:
    add_type(worker, "elsewhere", volume_backend_name="fast")
    with pytest.raises(BadRequest, match="no enabled backend fits volume type elsewhere"):
        create(worker, snapshot_id=SNAPSHOT, volume_type="elsewhere")


@pytest.mark.parametrize("what", ["snapshot_id", "source_volid"])
def test_a_foreign_source_is_not_found(worker: WorkerContext, what: str) -> None:
    wanted = {what: SNAPSHOT if what == "snapshot_id" else VOLUME}
    for who in (context(project="other"), context("reader", project="other")):
        with pytest.raises(NotFound):
            create(worker, who, **wanted)
    with pytest.raises(NotFound):
        create(worker, snapshot_id=OTHER_SNAPSHOT)


@pytest.mark.parametrize(
    ("options", "size", "told"),
    [
        ({"quota_volumes": 1}, 1, "volumes"),
        ({"quota_volumes": 0}, 1, "volumes"),
        ({"quota_gigabytes": 5}, 4, "gigabytes"),
        ({"quota_gigabytes": 0}, 1, "gigabytes"),
    ],
)
def test_a_full_quota_refuses_a_volume(
    worker: WorkerContext, tmp_path: Path, options: dict[str, Any], size: int, told: str
) -> None:
    with pytest.raises(QuotaExceeded, match=told):
        create(fakes.worker(worker.database, tmp_path, **options), size=size)
    with worker.database.read() as connection:
        assert len(volumes.list_all(connection)) == 1


def test_a_quota_is_the_projects_own_and_may_be_used_up_exactly(worker: WorkerContext, tmp_path: Path) -> None:
    bounded = fakes.worker(worker.database, tmp_path, quota_gigabytes=7, quota_volumes=2)
    create(bounded, size=3)
    create(bounded, context(project="other"), size=5)


def test_a_quota_of_minus_one_is_none(worker: WorkerContext, tmp_path: Path) -> None:
    create(fakes.worker(worker.database, tmp_path, quota_gigabytes=-1, quota_volumes=-1), size=999)


def test_a_limit_set_for_a_project_wins_over_the_configuration(worker: WorkerContext) -> None:
    with worker.database.write() as connection:
        quotas.set_limits(connection, "demo", {"volumes": 1})
    with pytest.raises(QuotaExceeded):
        create(worker, size=1)


def test_a_volume_above_the_largest_size_is_refused(worker: WorkerContext, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="larger than maximum allowed limit 2"):
        create(fakes.worker(worker.database, tmp_path, per_volume_gigabytes=2), size=3)


def test_a_type_nobody_knows_is_refused(worker: WorkerContext) -> None:
    with pytest.raises(NotFound, match="fast"):
        create(worker, size=1, volume_type="fast")
    assert create(worker, size=1, volume_type="local")["size"] == 1


def test_a_full_share_refuses_a_volume(worker: WorkerContext) -> None:
    fakes.memory(worker).kept = 1 << 62
    with pytest.raises(ShareUnavailable, match="full"):
        create(worker, size=1)
    assert planned(worker) == []
