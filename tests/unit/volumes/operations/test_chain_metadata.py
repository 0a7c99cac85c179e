"""The documents beside a volume: what they say, when they are written, and who waits for whom."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillframe.chain.names import base_name, info_name, overlay_name, record_name
from stillframe.db import operations, snapshots, volumes
from stillframe.db.engine import Database
from stillframe.errors import ChainConflict, ShareUnavailable
from stillframe.journal import record
from stillframe.journal.operation import Operation
from stillframe.volumes.kinds import KINDS
from stillframe.volumes.operations import chain_metadata
from stillframe.volumes.operations.executors.offline import info_document
from stillframe.volumes.worker.context import WorkerContext
from tests.unit import builders
from tests.unit.builders import OTHER_SNAPSHOT, SNAPSHOT, VOLUME
from tests.unit.volumes import fakes

BASE, OVERLAY = base_name(VOLUME), overlay_name(VOLUME, SNAPSHOT)
ASKED, ARGS = chain_metadata.RecordChain(volume_id=VOLUME), chain_metadata.WriteInfo(volume_id=VOLUME)
VERB = chain_metadata.KIND.verbs["write_info"]


@pytest.fixture
def worker(database: Database, tmp_path: Path) -> WorkerContext:
    """One snapshot that was taken, one that is being taken, one that failed."""
    with database.write() as connection:
        builders.volume_row(connection, active_file=OVERLAY)
        builders.snapshot_row(connection)
        for number, status in enumerate(("creating", "error")):
            builders.snapshot_row(connection, id=f"{number:08d}-0000-4000-8000-000000000000", status=status)
    return fakes.worker(database, tmp_path, fakes.share(OVERLAY))


def operation() -> Operation:
    return Operation("op", "record_chain", "running", ASKED, [], 0, {}, 1, 0, "req-1")


def done(worker: WorkerContext) -> bool:
    return VERB.done(worker, operation(), ARGS) is not None


def write(worker: WorkerContext) -> dict[str, Any]:
    assert VERB.do(worker, operation(), ARGS) == {}
    return fakes.memory(worker).documents


def test_a_volume_without_snapshots_has_no_info() -> None:
    assert info_document(BASE, {}) == {}
    assert info_document(OVERLAY, {}) == {"active": OVERLAY}


@given(st.dictionaries(st.uuids().map(str), st.booleans(), min_size=1))
def test_every_snapshot_with_an_overlay_can_be_found_again_from_the_info_alone(found: dict[str, bool]) -> None:
    overlays = {each: overlay_name(VOLUME, each) if has else None for each, has in found.items()}
    document = info_document("a", overlays)
    assert document.pop("active") == "a"
    assert document == {each: overlays[each] for each, has in found.items() if has}


def test_only_snapshots_that_were_taken_are_written(worker: WorkerContext) -> None:
    assert not done(worker)
    documents = write(worker)
    assert documents[info_name(VOLUME)] == {"active": OVERLAY, SNAPSHOT: OVERLAY}
    assert [each["id"] for each in documents[record_name(VOLUME)]["snapshots"]] == [SNAPSHOT]
    assert done(worker)


def test_a_volume_that_lost_its_last_snapshot_has_no_info_but_its_record(worker: WorkerContext) -> None:
    write(worker)
    del fakes.memory(worker).entries[OVERLAY]
    with worker.database.write() as connection:
        snapshots.delete(connection, SNAPSHOT)
        volumes.change(connection, VOLUME, active_file=BASE)
    assert not done(worker)
    assert list(write(worker)) == [record_name(VOLUME)]
    assert done(worker)


@pytest.mark.parametrize(
    "change",
    [
        lambda connection: volumes.change(connection, VOLUME, name="new"),
        lambda connection: volumes.change(connection, VOLUME, bootable=True),
        lambda connection: snapshots.change(connection, SNAPSHOT, metadata={"a": "b"}),
        lambda connection: snapshots.change(connection, SNAPSHOT, backing_format="raw"),
    ],
)
def test_a_record_that_is_older_than_the_rows_is_not_done(worker: WorkerContext, change: Any) -> None:
    write(worker)
    with worker.database.write() as connection:
        change(connection)
    assert not done(worker)


def test_what_belongs_to_the_moment_is_not_in_it(worker: WorkerContext) -> None:
    write(worker)
    with worker.database.write() as connection:
        volumes.change(connection, VOLUME, status="in-use", needs_cleanup=True, fault="x")
        snapshots.change(connection, SNAPSHOT, status="deleting", progress="10%")
    assert done(worker)


def test_a_chain_that_lacks_a_snapshots_overlay_is_not_written_down(worker: WorkerContext) -> None:
    with worker.database.write() as connection:
        snapshots.change(connection, SNAPSHOT, overlay=overlay_name(VOLUME, OTHER_SNAPSHOT))
    with pytest.raises(ChainConflict, match=OTHER_SNAPSHOT):
        write(worker)
    assert fakes.memory(worker).documents == {}


def test_a_share_that_does_not_answer_is_not_taken_for_done(worker: WorkerContext) -> None:
    fakes.memory(worker).silent = True
    for verb in (VERB.done, VERB.do):
        with pytest.raises(ShareUnavailable):
            verb(worker, operation(), ARGS)


def test_a_volume_that_is_gone_has_nothing_to_be_written(worker: WorkerContext) -> None:
    with worker.database.write() as connection:
        volumes.delete(connection, VOLUME)
    assert done(worker)
    with worker.database.write() as connection:
        chain_metadata.KIND.settle(connection, operation(), "done", None)


@pytest.mark.parametrize(("status", "forgotten"), [("available", True), ("in-use", True), ("error", False)])
def test_what_went_wrong_is_told_on_the_volume_and_forgotten_when_it_is_right(
    worker: WorkerContext, status: str, forgotten: bool
) -> None:
    def settled(outcome: str, fault: dict[str, str] | None) -> tuple[Any, Any]:
        with worker.database.write() as connection:
            chain_metadata.KIND.settle(connection, operation(), outcome, fault)
            row = volumes.get(connection, VOLUME, None)
        assert row is not None
        return row["fault"], row["needs_cleanup"]

    with worker.database.write() as connection:
        volumes.change(connection, VOLUME, status=status)
    assert settled("undone", {"message": "why"}) == ("why", True)
    assert settled("done", None)[0] == (None if forgotten else "why")


def test_it_waits_for_changes_of_the_volume_and_they_for_it_but_nobody_is_refused(worker: WorkerContext) -> None:
    request = chain_metadata.request(VOLUME, "req-1")
    assert (request.resources, request.shared) == ([f"record:{VOLUME}"], (f"volume:{VOLUME}",))
    assert KINDS[request.kind] is chain_metadata.KIND
    with worker.database.write() as connection:
        record.submit(connection, request)
        record.refuse_if_busy(connection, f"volume:{VOLUME}")
        assert operations.on_resource(connection, f"volume:{VOLUME}") is None


def test_as_many_changes_as_you_like_before_it_begins_are_one_record(worker: WorkerContext) -> None:
    with worker.database.write() as connection:
        for _ in range(3):
            chain_metadata.submit_once(connection, VOLUME, "req-1")
        (row,) = operations.unfinished(connection, "volumes")
        assert row["lease_until"] > 0
        operations.claim(connection, row, "me", 1e12)
        chain_metadata.submit_once(connection, VOLUME, "req-1")
        assert len(operations.unfinished(connection, "volumes")) == 2, "one that has begun may have read the rows already"
