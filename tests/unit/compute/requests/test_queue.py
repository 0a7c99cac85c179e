"""A set that waits for its turn at the server: seen by everybody, taken when it comes, given up by a deletion, bounded."""

import uuid
from pathlib import Path
from typing import Any

import pytest

from stillframe.compute import kinds
from stillframe.compute.operations.snapshot_intents import Wait
from stillframe.compute.requests import assisted_snapshot_deletions, queue
from stillframe.compute.requests import assisted_snapshots as assisted_snapshot_requests
from stillframe.compute.worker.context import WorkerContext
from stillframe.db import assisted_snapshots, finished, operations
from stillframe.db.engine import Database
from stillframe.errors import BadRequest, Busy, Cancelled, Conflict, QuotaExceeded
from stillframe.journal import record
from stillframe.journal.operation import NotYet, Operation
from stillframe.journal.record import Request
from stillframe.journal.typed import Intent
from tests.unit.builders import OTHER_VOLUME, SERVER, SET, VOLUME, context
from tests.unit.clocks import pass_time, set_clock
from tests.unit.compute.requests.test_assisted_snapshots import worker_of

WANTED: dict[str, Any] = {"volumes": "all", "quiesce": "preferred", "set_id": SET, "name": "n"}


@pytest.fixture
def worker(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WorkerContext:
    """One stopped server with one volume; a merge of it runs."""
    made = worker_of(database, tmp_path, monkeypatch)
    merge(made)
    return made


def merge(worker: WorkerContext) -> None:
    request = Request("compute", "merge_volume", Intent(), [], ["merge:x"], "r", SHARED, (f"server:{SERVER}",))
    with worker.database.write() as connection:
        record.submit(connection, request)


SHARED = "9c9c9c9c-9999-4999-8999-999999999999"


def end_merge(worker: WorkerContext) -> None:
    with worker.database.write() as connection:
        finished.ended(connection, SHARED)


def ask(worker: WorkerContext, **more: Any) -> str:
    return assisted_snapshot_requests.create(worker, context(), SERVER, {**WANTED, **more})


def row(worker: WorkerContext, set_id: str = SET) -> Any:
    with worker.database.read() as connection:
        found = assisted_snapshots.get(connection, set_id, None)
    assert found is not None
    return found


def operation(worker: WorkerContext, operation_id: str = SET) -> Operation:
    with worker.database.read() as connection:
        found = operations.get(connection, operation_id)
    assert found is not None
    return Operation.from_row(found, kinds.KINDS[found["kind"]])


def wait(worker: WorkerContext, operation_id: str = SET) -> Any:
    return queue.KIND.verbs["wait"].do(worker, operation(worker, operation_id), Wait())


def settle(
    worker: WorkerContext, outcome: str, fault: dict[str, Any] | None, operation_id: str = SET, kind: str = "await_server"
) -> None:
    with worker.database.write() as connection:
        finished.ended(connection, operation_id)
    found = operation(worker, operation_id)
    with worker.database.write() as connection:
        kinds.KINDS[kind].settle(connection, found, outcome, fault)


def test_without_a_wait_a_busy_server_refuses(worker: WorkerContext) -> None:
    for more in ({}, {"wait": 0}):
        with pytest.raises(Busy, match=r"merge_volume\) is pending"):
            ask(worker, **more)
    with worker.database.read() as connection:
        assert assisted_snapshots.get(connection, SET, None) is None


def test_a_set_that_waits_is_there_and_says_what_for(worker: WorkerContext) -> None:
    assert ask(worker, wait=600) == SET
    found = row(worker)
    assert (found["status"], found["progress"], found["volumes"], found["name"]) == ("creating", 0, [], "n")
    assert "it waits, for 600 s at most: server" in found["fault"]
    assert "merge_volume" in found["fault"]
    with worker.database.read() as connection:
        assert operations.on_resource(connection, f"server:{SERVER}", shared=True) is None  # it is in nobody's way


def test_the_sets_that_wait_for_one_server_are_bounded(worker: WorkerContext) -> None:
    """Each is looked at every two seconds for as long as a day: thousands of one member slowed down every other project."""
    asked = [ask(worker, wait=600, set_id=str(uuid.uuid4())) for _ in range(assisted_snapshot_requests.MOST_WAITING)]
    with pytest.raises(QuotaExceeded, match="are waiting already"):
        ask(worker, wait=600)
    assert ask(worker, wait=600, set_id=asked[0]) == asked[0]  # a repeat is no further one
    with worker.database.write() as connection:
        assisted_snapshots.change(connection, asked[1], status="error")
    assert ask(worker, wait=600) == SET


def test_sets_that_failed_count_too(worker: WorkerContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each keeps what its request said until somebody deletes it, and no other quota counts it."""
    monkeypatch.setattr(assisted_snapshot_requests, "MOST_SETS", 2)
    for _ in range(2):
        failed = ask(worker, wait=600, set_id=str(uuid.uuid4()))
        with worker.database.write() as connection:
            assisted_snapshots.change(connection, failed, status="error")
    for busy in (True, False):
        with pytest.raises(QuotaExceeded, match="has 2 assisted snapshots already, those that failed too"):
            ask(worker, wait=600 if busy else 0, set_id=str(uuid.uuid4()))
        end_merge(worker)


def test_its_turn_is_waited_for_without_a_thread_and_taken_once(worker: WorkerContext) -> None:
    ask(worker, wait=600)
    with pytest.raises(NotYet) as waiting:
        wait(worker)
    assert 0 < waiting.value.seconds <= queue.LOOK_SECONDS
    end_merge(worker)
    assert queue.KIND.verbs["wait"].done(worker, operation(worker), Wait()) is None
    assert wait(worker) == {}
    found = row(worker)
    assert (found["status"], found["fault"], [each["volume_id"] for each in found["volumes"]]) == ("creating", None, [VOLUME])
    # A worker that died now is followed by one that asks whether it is done, and does it again where nobody asks.
    assert queue.KIND.verbs["wait"].done(worker, operation(worker), Wait()) == {}
    taken = operation(worker).intent.wanted.operation_id
    assert operation(worker, taken).kind == "assisted_snapshot"
    with worker.database.write() as connection:
        finished.ended(connection, taken)
    wait(worker)
    assert row(worker) == found


def test_a_deletion_at_block_storage_is_waited_for_too(worker: WorkerContext) -> None:
    end_merge(worker)
    storage: Any = worker.storage
    storage.deleting = {VOLUME}
    ask(worker, wait=600)
    assert f"a snapshot of volume {VOLUME} is being deleted" in row(worker)["fault"]
    storage.deleting = {OTHER_VOLUME}
    assert wait(worker) == {}


def test_the_wait_is_bounded(worker: WorkerContext, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(worker, wait=600)
    set_clock(monkeypatch, 601.0)
    with pytest.raises(NotYet):  # it was set, and nobody waited
        wait(worker)
    set_clock(monkeypatch, -1202.0)
    pass_time(monkeypatch, 601.0)
    with pytest.raises(Conflict, match=r"the set waited 600 s and was not taken: server .* is busy") as refused:
        wait(worker)
    settle(worker, "undone", refused.value.to_document())
    assert (row(worker)["status"], row(worker)["fault"]) == ("error", refused.value.message)


def test_a_set_that_waits_is_given_up_by_its_deletion(worker: WorkerContext) -> None:
    ask(worker, wait=600)
    assisted_snapshot_deletions.delete(worker, context(), SERVER, SET)
    assert row(worker)["status"] == "deleting"
    with pytest.raises(Cancelled):
        wait(worker)
    settle(worker, "undone", Cancelled("c").to_document())
    with worker.database.read() as connection:
        assert assisted_snapshots.get(connection, SET, None) is None


def test_a_deletion_in_the_moment_its_turn_comes_wins_or_is_refused(worker: WorkerContext) -> None:
    ask(worker, wait=600)
    end_merge(worker)
    found = operation(worker)
    assisted_snapshot_deletions.delete(worker, context(), SERVER, SET)
    with pytest.raises(Cancelled):  # the look was before, the transaction after
        assisted_snapshot_requests.take(worker, context(), SERVER, found.intent.wanted)
    with worker.database.read() as connection:
        assert operations.get(connection, found.intent.wanted.operation_id) is None


def test_a_set_that_has_begun_is_not_given_up(worker: WorkerContext) -> None:
    ask(worker, wait=600)
    end_merge(worker)
    wait(worker)
    settle(worker, "done", None)
    with pytest.raises(Conflict, match="is creating"):
        assisted_snapshot_deletions.delete(worker, context(), SERVER, SET)


def test_what_can_be_refused_at_once_does_not_wait(worker: WorkerContext) -> None:
    with pytest.raises(BadRequest, match="not attached"):
        ask(worker, wait=600, volumes=[OTHER_VOLUME])


def test_a_volume_that_became_busy_between_look_and_begin_makes_the_set_wait_again(worker: WorkerContext) -> None:
    ask(worker, wait=600)
    end_merge(worker)
    wait(worker)
    settle(worker, "done", None)
    begun = operation(worker).intent.wanted.operation_id
    settle(worker, "undone", Busy("volume v is busy").to_document(), begun, "assisted_snapshot")
    found = row(worker)
    assert (found["status"], found["fault"]) == ("creating", "it waits: volume v is busy")
    with worker.database.read() as connection:
        again = operations.on_resource(connection, f"set:{SET}")
    assert again is not None
    assert again["kind"] == "await_server"
    assert wait(worker, again["id"]) == {}
    third = again["intent"]["wanted"]["operation_id"]
    assert len({SET, begun, again["id"], third}) == 4
    settle(worker, "undone", {"code": "share_unavailable", "message": "full", "details": {}}, third, "assisted_snapshot")
    assert (row(worker)["status"], row(worker)["fault"]) == ("error", "full")


# A set's id that its client chose


def test_the_same_request_again_is_the_same_set(worker: WorkerContext) -> None:
    assert ask(worker, wait=600) == ask(worker, wait=600) == SET
    end_merge(worker)
    wait(worker)
    assert ask(worker, wait=600) == SET
    with worker.database.read() as connection:
        assert len(operations.unfinished(connection, "compute")) == 3  # the merge, the wait, the set


@pytest.mark.parametrize("other", [{"name": "m"}, {"wait": 601}, {"volumes": [VOLUME]}, {"quiesce": "required"}])
def test_another_request_under_the_id_is_refused(worker: WorkerContext, other: dict[str, Any]) -> None:
    ask(worker, wait=600)
    with pytest.raises(Conflict, match="used before, by a request that was not the same") as refused:
        ask(worker, **{"wait": 600, **other})
    assert refused.value.code == "id_in_use"


def test_of_another_projects_set_nothing_is_told(worker: WorkerContext) -> None:
    ask(worker, wait=600)
    with pytest.raises(Conflict) as refused:
        assisted_snapshot_requests.create(worker, context(project="other"), SERVER, {**WANTED, "wait": 600})
    assert refused.value.message == f"the id {SET} is in use"


def test_an_id_is_known_after_its_set_was_deleted(worker: WorkerContext) -> None:
    ask(worker, wait=600)
    with worker.database.write() as connection:
        assisted_snapshots.delete(connection, SET)
    with pytest.raises(Conflict, match="has been deleted since"):
        ask(worker, wait=600)


def test_the_id_of_another_operation_is_in_use(worker: WorkerContext) -> None:
    with pytest.raises(Conflict, match=f"the id {SHARED} is in use"):
        ask(worker, set_id=SHARED)


def test_without_an_id_every_request_is_a_new_set(worker: WorkerContext) -> None:
    wanted = {key: value for key, value in WANTED.items() if key != "set_id"}
    assert len({assisted_snapshot_requests.create(worker, context(), SERVER, {**wanted, "wait": 600}) for _ in range(3)}) == 3


def test_two_other_requests_under_one_id_at_once_are_one_and_a_refusal(
    worker: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    end_merge(worker)
    real = assisted_snapshot_requests._choose

    def meanwhile(*arguments: Any) -> Any:
        monkeypatch.setattr(assisted_snapshot_requests, "_choose", real)
        ask(worker, name="first")
        return real(*arguments)

    monkeypatch.setattr(assisted_snapshot_requests, "_choose", meanwhile)
    with pytest.raises(Conflict, match=r"is in use|is busy"):
        ask(worker, name="second")
    assert row(worker)["name"] == "first"


def test_volumes_of_a_set_have_their_name_and_their_device(worker: WorkerContext) -> None:
    end_merge(worker)
    ask(worker)
    (entry,) = row(worker)["volumes"]
    assert (entry["name"], entry["device"]) == ("data", "/dev/vda")
