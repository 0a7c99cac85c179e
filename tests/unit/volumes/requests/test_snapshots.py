"""Requests about snapshots: what is refused before anything is touched, and which way a status may go."""

from pathlib import Path
from typing import Any

import pytest

from stillframe.chain.names import base_name, overlay_name
from stillframe.context import Context
from stillframe.db import operations, snapshots, volumes
from stillframe.db.engine import Database
from stillframe.db.rows import OperationRow, SnapshotRow, VolumeRow
from stillframe.errors import (
    BadRequest,
    Busy,
    ChainConflict,
    Conflict,
    NotFound,
    QuotaExceeded,
    ServiceUnavailable,
    ShareUnavailable,
)
from stillframe.journal import record
from stillframe.journal.record import Request
from stillframe.journal.typed import Intent
from stillframe.volumes.requests import attachments as attachment_requests
from stillframe.volumes.requests import snapshots as snapshot_requests
from stillframe.volumes.requests import volumes as volume_requests
from stillframe.volumes.worker.context import WorkerContext
from tests.unit import builders
from tests.unit.builders import OTHER_SNAPSHOT, OTHER_VOLUME, SERVER, SET, SNAPSHOT, VOLUME, context
from tests.unit.volumes import fakes
from tests.unit.volumes.memory_share import MemoryShare

BASE, OVERLAY = base_name(VOLUME), overlay_name(VOLUME, SNAPSHOT)
SERVICE, MEMBER = context("service", project="service"), context()


@pytest.fixture
def worker(database: Database, tmp_path: Path) -> WorkerContext:
    with database.write() as connection:
        builders.volume_row(connection)
    return fakes.worker(database, tmp_path)


def put(worker: WorkerContext, **changes: Any) -> None:
    """A volume in use with one snapshot of it."""
    with worker.database.write() as connection:
        volumes.change(connection, VOLUME, status="in-use")
        builders.snapshot_row(connection, **changes)


def snapshot(worker: WorkerContext, snapshot_id: str = SNAPSHOT) -> SnapshotRow | None:
    with worker.database.read() as connection:
        return snapshots.get(connection, snapshot_id, None)


def volume(worker: WorkerContext) -> VolumeRow:
    with worker.database.read() as connection:
        found = volumes.get(connection, VOLUME, None)
    assert found is not None
    return found


def change_volume(worker: WorkerContext, **values: Any) -> None:
    with worker.database.write() as connection:
        volumes.change(connection, VOLUME, **values)


def test_a_volume_that_a_description_names_is_not_snapshotted_as_one_that_nobody_has(worker: WorkerContext) -> None:
    """Its rows say that nothing is attached; a saved server goes on with its file all the same."""
    fakes.compute(worker).named[BASE] = [SERVER]
    with pytest.raises(Conflict, match=f"live, inactive or saved, of server {SERVER}"):
        snapshot_requests.create(worker, MEMBER, VOLUME, {"name": "s"})
    fakes.compute(worker).silent = True
    with pytest.raises(ServiceUnavailable):
        snapshot_requests.create(worker, MEMBER, VOLUME, {"name": "s"})
    assert planned(worker) == []


def planned(worker: WorkerContext) -> list[OperationRow]:
    with worker.database.read() as connection:
        return operations.unfinished(connection, "volumes")


def share(worker: WorkerContext) -> MemoryShare:
    return fakes.memory(worker)


def test_a_snapshot_is_planned_and_its_row_waits(worker: WorkerContext) -> None:
    snapshot_id = snapshot_requests.create(worker, MEMBER, VOLUME, {"name": "n", "metadata": {"a": "b"}})
    row = snapshot(worker, snapshot_id)
    assert row is not None
    assert (row["status"], row["overlay"], row["backing"]) == ("creating", overlay_name(VOLUME, snapshot_id), BASE)
    (operation,) = planned(worker)
    assert [step["verb"] for step in operation["plan"]] == ["check_closed", "CreateOverlay", "Record"]
    assert operation["intent"]["active_before"] == BASE
    assert volume(worker)["active_file"] == BASE


@pytest.mark.parametrize("status", ["in-use", "reserved", "attaching", "error", "deleting", "creating"])
def test_a_volume_that_is_not_available_is_not_snapshotted_here(worker: WorkerContext, status: str) -> None:
    change_volume(worker, status=status)
    with pytest.raises(BadRequest, match=status):
        snapshot_requests.create(worker, MEMBER, VOLUME, {})
    assert planned(worker) == []


def test_a_volume_that_is_attached_meanwhile_is_not_snapshotted(worker: WorkerContext) -> None:
    share(worker).looked = lambda: change_volume(worker, status="reserved")
    with pytest.raises(Conflict, match="meanwhile"):
        snapshot_requests.create(worker, MEMBER, VOLUME, {})
    assert planned(worker) == []


def test_a_volume_an_operation_holds_is_not_snapshotted(worker: WorkerContext) -> None:
    snapshot_requests.create(worker, MEMBER, VOLUME, {})
    with pytest.raises(Conflict, match="busy"):
        snapshot_requests.create(worker, MEMBER, VOLUME, {})
    assert len(planned(worker)) == 1


def test_a_chain_as_deep_as_allowed_is_not_snapshotted(database: Database, tmp_path: Path) -> None:
    with database.write() as connection:
        builders.volume_row(connection, active_file=OVERLAY)
    with pytest.raises(Conflict, match="most allowed is 2"):
        snapshot_requests.create(fakes.worker(database, tmp_path, fakes.share(OVERLAY), max_chain_depth=2), MEMBER, VOLUME, {})


def test_a_full_quota_refuses_a_snapshot(database: Database, tmp_path: Path, worker: WorkerContext) -> None:
    bounded = fakes.worker(database, tmp_path, quota_snapshots=0)
    with pytest.raises(QuotaExceeded):
        snapshot_requests.create(bounded, MEMBER, VOLUME, {})
    change_volume(worker, status="in-use")
    with pytest.raises(QuotaExceeded):
        snapshot_requests.create_metadata(bounded, SERVICE, VOLUME, {})
    assert snapshot(worker) is None


def test_a_full_share_refuses_a_snapshot_before_anything_is_written(worker: WorkerContext) -> None:
    share(worker).space = 0
    share(worker).kept = 1
    with pytest.raises(ShareUnavailable):
        snapshot_requests.create(worker, MEMBER, VOLUME, {})
    assert planned(worker) == []


@pytest.mark.parametrize("who", [context(project="other"), context("reader", project="other")])
def test_a_foreign_volume_is_not_found(worker: WorkerContext, who: Context) -> None:
    put(worker)
    for attempt in (
        lambda: snapshot_requests.create(worker, who, VOLUME, {}),
        lambda: snapshot_requests.delete(worker, who, SNAPSHOT),
        lambda: snapshot_requests.update(worker, who, SNAPSHOT, {"name": "x"}),
        lambda: snapshot_requests.set_metadata(worker, who, SNAPSHOT, {}, True),
        lambda: snapshot_requests.delete_metadata_key(worker, who, SNAPSHOT, "k"),
    ):
        with pytest.raises(NotFound):
            attempt()


@pytest.fixture
def taken(database: Database, tmp_path: Path) -> WorkerContext:
    """An available volume with one snapshot."""
    with database.write() as connection:
        builders.volume_row(connection, active_file=OVERLAY)
        builders.snapshot_row(connection)
    return fakes.worker(database, tmp_path, fakes.share(OVERLAY))


def test_the_newest_snapshot_is_deleted_by_a_merge(taken: WorkerContext) -> None:
    snapshot_requests.delete(taken, MEMBER, SNAPSHOT)
    row = snapshot(taken)
    assert row is not None
    assert (row["status"], row["progress"]) == ("deleting", "0%")
    (operation,) = planned(taken)
    assert [step["verb"] for step in operation["plan"]] == ["check_unused", "Commit", "Record", "Trash"]


@pytest.mark.parametrize("status", ["creating", "deleting"])
def test_a_snapshot_in_between_is_not_deleted(taken: WorkerContext, status: str) -> None:
    with taken.database.write() as connection:
        snapshots.change(connection, SNAPSHOT, status=status)
    with pytest.raises(BadRequest, match=status):
        snapshot_requests.delete(taken, MEMBER, SNAPSHOT)


@pytest.mark.parametrize("status", ["in-use", "reserved", "attaching"])
def test_a_snapshot_of_a_volume_whose_server_nobody_knows_is_not_deleted(taken: WorkerContext, status: str) -> None:
    change_volume(taken, status=status)
    with pytest.raises(Conflict, match=status):
        snapshot_requests.delete(taken, MEMBER, SNAPSHOT)
    assert planned(taken) == []


def test_a_snapshot_whose_volume_is_reserved_meanwhile_is_not_deleted(taken: WorkerContext) -> None:
    def reserve() -> None:
        attachment_requests.create(taken, SERVICE, {"volume_uuid": VOLUME, "instance_uuid": SERVER})

    share(taken).looked = reserve
    with pytest.raises(Conflict):
        snapshot_requests.delete(taken, MEMBER, SNAPSHOT)
    assert planned(taken) == []


def test_a_snapshot_of_a_full_share_is_not_merged(taken: WorkerContext) -> None:
    share(taken).space = 0
    for name in (BASE, OVERLAY):
        share(taken).write(name, 1, 1)
        share(taken).write(name, 2, 2)
    share(taken).write(OVERLAY, 3, 3)
    share(taken).write(BASE, 4, 4)
    with pytest.raises(ShareUnavailable, match="65536 bytes; 0 are free"):
        snapshot_requests.delete(taken, MEMBER, SNAPSHOT)
    assert planned(taken) == []


def test_a_merge_that_copies_nothing_needs_no_space(taken: WorkerContext) -> None:
    share(taken).space = 0
    snapshot_requests.delete(taken, MEMBER, SNAPSHOT)
    assert len(planned(taken)) == 1


def test_a_failed_snapshot_without_a_file_loses_its_row_and_another_does_not(worker: WorkerContext) -> None:
    put(worker, status="available")
    with pytest.raises(ChainConflict, match=f"said to hold snapshot {SNAPSHOT}"):
        snapshot_requests.delete(worker, MEMBER, SNAPSHOT)
    with worker.database.write() as connection:
        snapshots.change(connection, SNAPSHOT, status="error")
    snapshot_requests.delete(worker, MEMBER, SNAPSHOT)
    assert snapshot(worker) is None


@pytest.fixture
def three(database: Database, tmp_path: Path) -> WorkerContext:
    """An available volume with two snapshots, the newer one of the file between base and active file."""
    newest = overlay_name(VOLUME, OTHER_SNAPSHOT)
    with database.write() as connection:
        builders.volume_row(connection, active_file=newest)
        builders.snapshot_row(connection)
        builders.snapshot_row(connection, id=OTHER_SNAPSHOT, backing=OVERLAY)
    return fakes.worker(database, tmp_path, fakes.share(OVERLAY, newest))


def test_several_snapshots_are_deleted_by_one_operation(three: WorkerContext) -> None:
    snapshot_requests.delete_several(three, MEMBER, [SNAPSHOT, OTHER_SNAPSHOT])
    (operation,) = planned(three)
    assert operation["intent"]["snapshot_ids"] == [SNAPSHOT, OTHER_SNAPSHOT]
    assert operation["intent"]["after"]["removed"] == [SNAPSHOT, OTHER_SNAPSHOT]
    assert [row and row["status"] for row in (snapshot(three), snapshot(three, OTHER_SNAPSHOT))] == ["deleting"] * 2


def test_snapshots_of_two_volumes_are_not_deleted_together(three: WorkerContext) -> None:
    with three.database.write() as connection:
        builders.volume_row(connection, id=OTHER_VOLUME)
        other = builders.snapshot_row(connection, id=builders.new_id(), volume_id=OTHER_VOLUME)["id"]
    with pytest.raises(BadRequest, match="is not one of volume"):
        snapshot_requests.delete_several(three, MEMBER, [SNAPSHOT, other])
    assert planned(three) == []


def test_a_snapshot_a_linked_volume_reads_is_refused_by_its_name(three: WorkerContext) -> None:
    link(three, OVERLAY)
    with pytest.raises(Conflict, match=OTHER_VOLUME) as told:
        snapshot_requests.delete(three, MEMBER, OTHER_SNAPSHOT)
    assert told.value.details["dependants"] == [OTHER_VOLUME]


def link(worker: WorkerContext, file: str) -> None:
    linked = {"volume_id": VOLUME, "file": file, "format": "qcow2"}
    with worker.database.write() as connection:
        builders.volume_row(connection, id=OTHER_VOLUME, linked_to=linked)


def test_a_linked_clone_that_came_meanwhile_is_not_merged_under(three: WorkerContext) -> None:
    share(three).looked = lambda: link(three, BASE)
    with pytest.raises(Conflict, match="meanwhile"):
        snapshot_requests.delete(three, MEMBER, SNAPSHOT)
    assert planned(three) == []


def test_another_deletion_that_came_and_went_meanwhile_is_noticed(three: WorkerContext) -> None:
    """Its operation has ended, the active file is the same, only a snapshot's file is another."""

    def delete_the_older() -> None:
        with three.database.write() as connection:
            snapshots.delete(connection, SNAPSHOT)
            snapshots.change(connection, OTHER_SNAPSHOT, backing=BASE)

    share(three).looked = delete_the_older
    for attempt in (
        lambda: snapshot_requests.delete(three, MEMBER, OTHER_SNAPSHOT),
        lambda: snapshot_requests.create(three, MEMBER, VOLUME, {}),
    ):
        with pytest.raises(Conflict, match="meanwhile"):
            attempt()
        with three.database.write() as connection:
            if snapshots.get(connection, SNAPSHOT, None) is None:
                builders.snapshot_row(connection)
            snapshots.change(connection, OTHER_SNAPSHOT, backing=OVERLAY)
    assert planned(three) == []


def test_a_volumes_own_limit_of_snapshots(database: Database, tmp_path: Path, three: WorkerContext) -> None:
    bounded = fakes.worker(database, tmp_path, fakes.memory(three), quota_snapshots_per_volume=2)
    with pytest.raises(QuotaExceeded, match="has 2, 2 are allowed"):
        snapshot_requests.create(bounded, MEMBER, VOLUME, {})
    assert snapshot_requests.create(
        fakes.worker(database, tmp_path, fakes.memory(three), quota_snapshots_per_volume=3), MEMBER, VOLUME, {}
    )


def test_a_deletion_is_explained_without_being_done(three: WorkerContext) -> None:
    share(three).write(OVERLAY, 1, 1)
    share(three).write(BASE, 2, 2)
    share(three).write(BASE, 3, 3)
    found = snapshot_requests.explain(three, MEMBER, SNAPSHOT)
    assert (found["possible"], found["bytes"]) == (True, 65536)
    link(three, BASE)
    refused = snapshot_requests.explain(three, MEMBER, SNAPSHOT)
    assert (refused["possible"], refused["dependants"], refused["busy"]) == (False, [OTHER_VOLUME], None)
    assert planned(three) == []


def test_a_deletion_that_has_to_wait_is_told_from_one_that_is_not_possible(three: WorkerContext) -> None:
    with three.database.write() as connection:
        volumes.change(connection, VOLUME, status="extending")
        operation_id = record.submit(connection, record.Request("volumes", "k", Intent(), [], [f"volume:{VOLUME}"], "req-1"))
    found = snapshot_requests.explain(three, MEMBER, SNAPSHOT)
    assert (found["possible"], found["busy"]) == (False, operation_id)


def test_the_row_of_a_failed_snapshot_can_always_go(three: WorkerContext) -> None:
    with three.database.write() as connection:
        snapshots.change(connection, OTHER_SNAPSHOT, status="error", overlay=f"{BASE}.{SET}")
    found = snapshot_requests.explain(three, MEMBER, OTHER_SNAPSHOT)
    assert (found["possible"], found["method"], found["bytes"]) == (True, "record only", 0)


def test_nothing_is_given_up_when_nothing_is_under_way(three: WorkerContext) -> None:
    with pytest.raises(Conflict, match="no deletion of it is under way"):
        snapshot_requests.cancel_deletion(three, MEMBER, SNAPSHOT)
    snapshot_requests.delete(three, MEMBER, SNAPSHOT)
    with pytest.raises(Conflict, match="ends by itself"):
        snapshot_requests.cancel_deletion(three, MEMBER, SNAPSHOT)
    with pytest.raises(Conflict, match="no deletion of it"):
        snapshot_requests.cancel_deletion(three, MEMBER, OTHER_SNAPSHOT)


def test_a_status_is_set_by_hand_only_while_nothing_holds_the_volume(three: WorkerContext) -> None:
    snapshot_requests.reset_status(three, MEMBER, SNAPSHOT, "error")
    row = snapshot(three)
    assert row is not None
    assert row["status"] == "error"
    snapshot_requests.delete(three, MEMBER, SNAPSHOT)
    with pytest.raises(Conflict, match="busy"):
        snapshot_requests.reset_status(three, MEMBER, SNAPSHOT, "available")


def test_a_change_of_a_name_is_written_beside_the_volume_once(taken: WorkerContext) -> None:
    for name in "abc":
        snapshot_requests.update(taken, MEMBER, SNAPSHOT, {"name": name})
    assert [operation["kind"] for operation in planned(taken)] == ["record_chain"]


def recorded(worker: WorkerContext, **wanted: Any) -> str:
    change_volume(worker, status="in-use")
    return snapshot_requests.create_metadata(worker, SERVICE, VOLUME, {"snapshot_id": SNAPSHOT, **wanted})


def test_recording_touches_no_storage_and_may_be_repeated(worker: WorkerContext) -> None:
    assert recorded(worker, name="n", server_id=SERVER) == SNAPSHOT
    first = snapshot(worker)
    assert recorded(worker, name="other") == SNAPSHOT
    assert recorded(worker, snapshot_id=SNAPSHOT.upper()) == SNAPSHOT
    assert snapshot(worker) == first
    assert first is not None
    assert (first["status"], first["project_id"], first["server_id"]) == ("creating", "demo", SERVER)
    assert (first["overlay"], first["backing"]) == (OVERLAY, BASE)
    assert planned(worker) == []


def test_a_snapshot_id_of_another_volume_is_refused(worker: WorkerContext) -> None:
    recorded(worker)
    with worker.database.write() as connection:
        builders.volume_row(connection, id=OTHER_VOLUME, status="in-use")
    with pytest.raises(Conflict, match="another volume"):
        snapshot_requests.create_metadata(worker, SERVICE, OTHER_VOLUME, {"snapshot_id": SNAPSHOT})


def two_in_use(worker: WorkerContext) -> list[dict[str, Any]]:
    """What is asked for of two volumes, one snapshot each."""
    change_volume(worker, status="in-use")
    with worker.database.write() as connection:
        builders.volume_row(connection, id=OTHER_VOLUME, status="in-use", active_file=f"volume-{OTHER_VOLUME}")
    return [{"volume_id": VOLUME, "snapshot_id": SNAPSHOT}, {"volume_id": OTHER_VOLUME, "snapshot_id": OTHER_SNAPSHOT}]


def test_the_snapshots_of_a_set_are_recorded_and_finalized_together(worker: WorkerContext) -> None:
    wanted = two_in_use(worker)
    for _ in range(2):
        assert snapshot_requests.create_set_metadata(worker, SERVICE, wanted) == [SNAPSHOT, OTHER_SNAPSHOT]
    assert [row and row["status"] for row in (snapshot(worker), snapshot(worker, OTHER_SNAPSHOT))] == ["creating"] * 2
    ended = [{"snapshot_id": each["snapshot_id"], "status": "available", "consistency": OUTCOME} for each in wanted]
    for _ in range(2):
        snapshot_requests.finalize_set_metadata(worker, SERVICE, ended)
    assert [row and row["status"] for row in (snapshot(worker), snapshot(worker, OTHER_SNAPSHOT))] == ["available"] * 2
    assert [operation["kind"] for operation in planned(worker)] == ["record_chain"] * 2


def test_of_a_set_that_cannot_be_recorded_or_finalized_nothing_is(worker: WorkerContext) -> None:
    wanted = two_in_use(worker)
    with pytest.raises(BadRequest, match="size 9"):
        snapshot_requests.create_set_metadata(worker, SERVICE, [wanted[0], {**wanted[1], "size": 9}])
    assert snapshot(worker) is None
    snapshot_requests.create_set_metadata(worker, SERVICE, wanted)
    ended = [{"snapshot_id": each["snapshot_id"], "status": "available"} for each in wanted]
    with pytest.raises(BadRequest, match="active_file"):
        snapshot_requests.finalize_set_metadata(worker, SERVICE, [ended[0], {**ended[1], "active_file": "volume-x"}])
    assert [row and row["status"] for row in (snapshot(worker), snapshot(worker, OTHER_SNAPSHOT))] == ["creating"] * 2
    assert volume(worker)["active_file"] == BASE and planned(worker) == []


@pytest.mark.parametrize(
    "wanted", [{"snapshot_id": "../x"}, {"size": 2}, {"created_at": "yesterday"}, {"created_at": "0001-01-01T00:00:00+14:00"}]
)
def test_a_recording_that_makes_no_sense_is_refused(worker: WorkerContext, wanted: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        recorded(worker, **wanted)
    assert snapshot(worker) is None


def test_only_a_volume_in_use_is_recorded_and_one_snapshot_at_a_time(worker: WorkerContext) -> None:
    with pytest.raises(BadRequest, match="in-use"):
        snapshot_requests.create_metadata(worker, SERVICE, VOLUME, {"snapshot_id": SNAPSHOT})
    recorded(worker)
    with pytest.raises(Conflict, match="still being taken"):
        recorded(worker, snapshot_id=OTHER_SNAPSHOT)


def test_the_chain_is_not_planned_while_a_snapshot_is_taken_nor_taken_while_it_changes(worker: WorkerContext) -> None:
    """The switch makes another file active than the one the plan ends with."""
    recorded(worker)
    with worker.database.write() as connection:
        row = volumes.get(connection, VOLUME, None)
        assert row is not None
        with pytest.raises(Conflict, match="still being taken"):
            volume_requests.unchanged(connection, row)
        snapshots.change(connection, SNAPSHOT, status="available")
        volume_requests.unchanged(connection, row)
        record.submit(connection, Request("volumes", "delete_snapshot", Intent(), [], [f"volume:{VOLUME}"], "r"))
    with pytest.raises(Conflict, match="delete_snapshot"):
        recorded(worker, snapshot_id=OTHER_SNAPSHOT)


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("2024-01-02T03:04:05", "2024-01-02T03:04:05"),
        ("2024-01-02T03:04:05Z", "2024-01-02T03:04:05"),
        ("2024-01-02T03:04:05+02:00", "2024-01-02T01:04:05"),
    ],
)
def test_a_time_is_stored_in_utc_whatever_its_zone(worker: WorkerContext, text: str, stored: str) -> None:
    recorded(worker, created_at=text)
    row = snapshot(worker)
    assert row is not None
    assert row["created_at"].isoformat() == stored


OUTCOME = {"level": "crash"}


def test_a_finalized_snapshot_is_available_and_its_overlay_is_the_active_file(worker: WorkerContext) -> None:
    recorded(worker)
    snapshot_requests.finalize_metadata(worker, SERVICE, SNAPSHOT, {"status": "available", "consistency": OUTCOME})
    row = snapshot(worker)
    assert row is not None
    assert (row["status"], row["progress"], row["consistency"]) == ("available", "100%", OUTCOME)
    assert volume(worker)["active_file"] == OVERLAY
    assert [operation["kind"] for operation in planned(worker)] == ["record_chain"]


def test_a_failed_snapshot_leaves_the_active_file(worker: WorkerContext) -> None:
    recorded(worker)
    snapshot_requests.finalize_metadata(worker, SERVICE, SNAPSHOT, {"status": "error"})
    row = snapshot(worker)
    assert row is not None
    assert row["status"] == "error"
    assert volume(worker)["active_file"] == BASE
    assert planned(worker) == []


@pytest.mark.parametrize("status", ["available", "error"])
def test_finalizing_may_be_repeated_and_not_reversed(worker: WorkerContext, status: str) -> None:
    recorded(worker)
    wanted = {"status": status, "consistency": OUTCOME} if status == "available" else {"status": status}
    for _ in range(3):
        snapshot_requests.finalize_metadata(worker, SERVICE, SNAPSHOT, wanted)
    assert len(planned(worker)) == (status == "available")
    other = "error" if status == "available" else "available"
    with pytest.raises(Conflict, match=f"is {status}"):
        snapshot_requests.finalize_metadata(worker, SERVICE, SNAPSHOT, {"status": other})
    assert volume(worker)["active_file"] == (OVERLAY if status == "available" else BASE)


def test_finalizing_with_another_outcome_is_not_a_repeat(worker: WorkerContext) -> None:
    recorded(worker)
    snapshot_requests.finalize_metadata(worker, SERVICE, SNAPSHOT, {"status": "available", "consistency": OUTCOME})
    with pytest.raises(Conflict):
        better = {"status": "available", "consistency": {"level": "filesystem"}}
        snapshot_requests.finalize_metadata(worker, SERVICE, SNAPSHOT, better)


@pytest.mark.parametrize("active", [BASE, "../etc/passwd", overlay_name(OTHER_VOLUME, SNAPSHOT)])
def test_finalizing_with_another_file_is_refused(worker: WorkerContext, active: str) -> None:
    recorded(worker)
    with pytest.raises(BadRequest):
        snapshot_requests.finalize_metadata(worker, SERVICE, SNAPSHOT, {"status": "available", "active_file": active})
    assert volume(worker)["active_file"] == BASE
    # Nor is it done already, once it is.
    snapshot_requests.finalize_metadata(worker, SERVICE, SNAPSHOT, {"status": "available", "active_file": OVERLAY})
    with pytest.raises(BadRequest, match="is not the snapshot's overlay"):
        snapshot_requests.finalize_metadata(worker, SERVICE, SNAPSHOT, {"status": "available", "active_file": active})
    snapshot_requests.finalize_metadata(worker, SERVICE, SNAPSHOT, {"status": "available", "active_file": OVERLAY})
    assert volume(worker)["active_file"] == OVERLAY


def test_a_record_is_not_dropped_while_a_file_carries_it(taken: WorkerContext) -> None:
    with pytest.raises(Conflict, match="still on the share"):
        snapshot_requests.drop_metadata(taken, SERVICE, SNAPSHOT)
    assert snapshot(taken) is not None


def test_a_record_without_a_file_is_dropped_and_storage_is_untouched(worker: WorkerContext) -> None:
    recorded(worker)
    snapshot_requests.drop_metadata(worker, SERVICE, SNAPSHOT)
    assert snapshot(worker) is None
    with pytest.raises(NotFound):
        snapshot_requests.drop_metadata(worker, SERVICE, SNAPSHOT)
    assert planned(worker) == []


@pytest.mark.parametrize(
    ("before", "after", "fits"),
    [
        ("creating", "creating", True),
        ("creating", "error", True),
        ("creating", "deleting", False),
        ("deleting", "error_deleting", True),
        ("deleting", "available", False),
        ("available", "error", False),
        ("available", "deleting", False),
        ("error", "available", False),
    ],
)
def test_a_report_moves_a_snapshot_only_where_cinder_lets_it(
    worker: WorkerContext, before: str, after: str, fits: bool
) -> None:
    put(worker, status=before, progress="0%")
    if not fits:
        with pytest.raises(BadRequest, match="not allowed"):
            snapshot_requests.update_status(worker, SERVICE, SNAPSHOT, after, "90%")
        return
    snapshot_requests.update_status(worker, SERVICE, SNAPSHOT, after, "90%")
    row = snapshot(worker)
    assert row is not None
    assert (row["status"], row["progress"]) == (after, "90%")


@pytest.mark.parametrize(("seen", "shown"), [("40%", "90%"), ("97%", "97%")])
def test_a_report_takes_no_progress_back(worker: WorkerContext, seen: str, shown: str) -> None:
    put(worker, status="deleting", progress=seen)
    snapshot_requests.update_status(worker, SERVICE, SNAPSHOT, "deleting", "90%")
    row = snapshot(worker)
    assert row is not None
    assert row["progress"] == shown


def test_metadata_is_merged_replaced_and_taken_away(worker: WorkerContext) -> None:
    put(worker, metadata={"a": "1"})
    assert snapshot_requests.set_metadata(worker, MEMBER, SNAPSHOT, {"b": "2"}, replace=False) == {"a": "1", "b": "2"}
    assert snapshot_requests.set_metadata(worker, MEMBER, SNAPSHOT, {"c": "3"}, replace=True) == {"c": "3"}
    snapshot_requests.delete_metadata_key(worker, MEMBER, SNAPSHOT, "c")
    with pytest.raises(NotFound):
        snapshot_requests.delete_metadata_key(worker, MEMBER, SNAPSHOT, "c")


def test_one_whose_taker_died_holds_the_chain_until_somebody_says_how_it_ended(worker: WorkerContext) -> None:
    change_volume(worker, status="in-use")
    wanted = {"snapshot_id": OTHER_SNAPSHOT, "name": "n"}
    snapshot_requests.create_metadata(worker, SERVICE, VOLUME, wanted)
    change_volume(worker, status="available")
    with pytest.raises(Busy, match="is still being taken"):
        snapshot_requests.create(worker, MEMBER, VOLUME, {})
    snapshot_requests.reset_status(worker, context("admin"), OTHER_SNAPSHOT, "error")
    snapshot_requests.delete(worker, MEMBER, OTHER_SNAPSHOT)
    assert snapshot(worker, OTHER_SNAPSHOT) is None
    snapshot_requests.create(worker, MEMBER, VOLUME, {})
