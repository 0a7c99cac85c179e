"""Requests about volumes that exist: what is refused, and that nothing is begun then."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from stillframe.chain.names import base_name, overlay_name
from stillframe.context import Context
from stillframe.db import attachments, operations, snapshots, volumes
from stillframe.db.engine import Database
from stillframe.db.rows import OperationRow, VolumeRow
from stillframe.db.tables import operations as table
from stillframe.db.values import NewAttachment
from stillframe.errors import BadRequest, Conflict, NotFound, QuotaExceeded, ShareUnavailable
from stillframe.volumes.requests import snapshots as snapshot_requests
from stillframe.volumes.requests import volumes as volume_requests
from stillframe.volumes.worker import lookup
from stillframe.volumes.worker.context import WorkerContext
from tests.unit import builders
from tests.unit.builders import GIB, OTHER_SNAPSHOT, OTHER_VOLUME, SERVER, SET, SNAPSHOT, VOLUME, context
from tests.unit.volumes import fakes

MEMBER, ADMIN = context(), context("admin")
BASE, FIRST, SECOND = base_name(VOLUME), overlay_name(VOLUME, SNAPSHOT), overlay_name(VOLUME, OTHER_SNAPSHOT)


@pytest.fixture
def worker(database: Database, tmp_path: Path) -> WorkerContext:
    """One file, no snapshot."""
    with database.write() as connection:
        builders.volume_row(connection)
    return fakes.worker(database, tmp_path)


@pytest.fixture
def three(database: Database, tmp_path: Path) -> WorkerContext:
    """Two snapshots, the second one newer."""
    with database.write() as connection:
        builders.volume_row(connection, active_file=SECOND)
        builders.snapshot_row(connection)
        builders.snapshot_row(connection, id=OTHER_SNAPSHOT, backing=FIRST)
    return fakes.worker(database, tmp_path, fakes.share(FIRST, SECOND))


def row(worker: WorkerContext) -> VolumeRow:
    with worker.database.read() as connection:
        found = volumes.get(connection, VOLUME, None)
    assert found is not None
    return found


def put(worker: WorkerContext, **values: Any) -> None:
    with worker.database.write() as connection:
        volumes.change(connection, VOLUME, **values)


def statuses(worker: WorkerContext) -> list[str]:
    with worker.database.read() as connection:
        return [found["status"] for found in snapshots.of_volume(connection, VOLUME)]


def planned(worker: WorkerContext) -> list[OperationRow]:
    with worker.database.read() as connection:
        return operations.unfinished(connection, "volumes")


def verbs(worker: WorkerContext) -> list[str]:
    (operation,) = planned(worker)
    return [step["verb"] for step in operation["plan"]]


def attach(worker: WorkerContext, active: bool) -> None:
    server = {"id": SERVER, "active": active, "file": row(worker)["active_file"]}
    fakes.compute(worker).servers[VOLUME] = server
    put(worker, status="in-use")
    entry: NewAttachment = {"id": SET, "project_id": "demo", "volume_id": VOLUME, "status": "attached", "mode": "rw"}
    entry["instance_id"] = SERVER
    with worker.database.write() as connection:
        attachments.insert(connection, entry)


def link(worker: WorkerContext, file: str = BASE) -> None:
    with worker.database.write() as connection:
        builders.volume_row(connection, id=OTHER_VOLUME, linked_to={"volume_id": VOLUME, "file": file, "format": "qcow2"})


@pytest.mark.parametrize("status", ["available", "error", "error_deleting", "error_restoring", "error_extending"])
def test_a_volume_that_nothing_uses_is_deleted(worker: WorkerContext, status: str) -> None:
    put(worker, status=status)
    volume_requests.delete(worker, MEMBER, VOLUME)
    assert row(worker)["status"] == "deleting"
    assert verbs(worker) == ["check_unused", "remove_files"]
    assert planned(worker)[0]["intent"]["status_before"] == status


@pytest.mark.parametrize("status", ["in-use", "reserved", "attaching", "creating", "deleting", "reverting", "backing-up"])
def test_a_volume_in_use_is_not_deleted(worker: WorkerContext, status: str) -> None:
    put(worker, status=status)
    with pytest.raises(BadRequest, match=status):
        volume_requests.delete(worker, MEMBER, VOLUME)
    assert planned(worker) == []


def test_force_deletes_in_any_status_but_never_what_is_attached(worker: WorkerContext) -> None:
    put(worker, status="creating")
    volume_requests.delete(worker, ADMIN, VOLUME, force=True)
    assert row(worker)["status"] == "deleting"


def test_force_does_not_delete_what_is_attached(worker: WorkerContext) -> None:
    attach(worker, active=True)
    with pytest.raises(BadRequest, match="in-use"):
        volume_requests.delete(worker, ADMIN, VOLUME, force=True)
    assert planned(worker) == []


def test_a_volume_with_snapshots_goes_only_with_them(three: WorkerContext) -> None:
    with pytest.raises(Conflict, match="still has 2 snapshots") as told:
        volume_requests.delete(three, MEMBER, VOLUME)
    assert told.value.details == {"snapshots": [SNAPSHOT, OTHER_SNAPSHOT]}
    volume_requests.delete(three, MEMBER, VOLUME, cascade=True)
    assert (row(three)["status"], statuses(three)) == ("deleting", ["deleting"] * 2)


@pytest.mark.parametrize("cascade", [False, True])
def test_a_volume_a_linked_clone_reads_is_not_deleted(three: WorkerContext, cascade: bool) -> None:
    link(three)
    with pytest.raises((Conflict, BadRequest)) as told:
        volume_requests.delete(three, MEMBER, VOLUME, cascade=cascade)
    if cascade:
        assert told.value.details["dependants"] == [OTHER_VOLUME]
    assert (planned(three), row(three)["status"], statuses(three)) == ([], "available", ["available"] * 2)


def test_a_volume_an_operation_holds_is_not_deleted(worker: WorkerContext) -> None:
    volume_requests.delete(worker, MEMBER, VOLUME)
    with pytest.raises((Conflict, BadRequest)):
        volume_requests.delete(worker, MEMBER, VOLUME)
    assert len(planned(worker)) == 1


@pytest.mark.parametrize("wanted", [VOLUME, OTHER_VOLUME])
@pytest.mark.parametrize("who", [context(project="other"), context("reader", project="other")])
def test_a_foreign_volume_is_answered_as_a_missing_one(three: WorkerContext, who: Context, wanted: str) -> None:
    for attempt in (
        lambda: volume_requests.delete(three, who, wanted),
        lambda: volume_requests.update(three, who, wanted, {"name": "x"}),
        lambda: volume_requests.set_metadata(three, who, wanted, {}, True),
        lambda: volume_requests.delete_metadata_key(three, who, wanted, "k"),
        lambda: volume_requests.set_bootable(three, who, wanted, True),
        lambda: volume_requests.set_image_metadata(three, who, wanted, {}),
        lambda: volume_requests.unset_image_metadata(three, who, wanted, "k"),
        lambda: volume_requests.extend(three, who, wanted, 9),
        lambda: volume_requests.revert(three, who, wanted, OTHER_SNAPSHOT, None),
        lambda: volume_requests.undo_revert(three, who, wanted),
        lambda: volume_requests.unmanage(three, who, wanted),
        lambda: volume_requests.reset_status(three, who, wanted, "error"),
    ):
        with pytest.raises(NotFound, match=f"Volume {wanted} could not be found"):
            attempt()
    assert planned(three) == []


def test_metadata_is_merged_replaced_and_taken_away(worker: WorkerContext) -> None:
    volume_requests.set_metadata(worker, MEMBER, VOLUME, {"a": "1"}, replace=True)
    assert volume_requests.set_metadata(worker, MEMBER, VOLUME, {"b": "2"}, replace=False) == {"a": "1", "b": "2"}
    volume_requests.delete_metadata_key(worker, MEMBER, VOLUME, "a")
    with pytest.raises(NotFound, match="'a'"):
        volume_requests.delete_metadata_key(worker, MEMBER, VOLUME, "a")
    assert row(worker)["metadata"] == {"b": "2"}
    assert [operation["kind"] for operation in planned(worker)] == ["record_chain"]


def test_metadata_does_not_grow_request_by_request(worker: WorkerContext) -> None:
    """Each added as much as one request may hold, without end."""
    with worker.database.write() as connection:
        builders.snapshot_row(connection)
    full = {str(number): "v" for number in range(lookup.MOST_METADATA)}
    ways: list[Callable[[dict[str, str]], dict[str, str]]] = [
        lambda more: volume_requests.set_metadata(worker, MEMBER, VOLUME, more, replace=False),
        lambda more: volume_requests.set_image_metadata(worker, MEMBER, VOLUME, more),
        lambda more: snapshot_requests.set_metadata(worker, MEMBER, SNAPSHOT, more, replace=False),
    ]
    for add in ways:
        add(full)
        with pytest.raises(QuotaExceeded, match="metadata pairs"):
            add({"one more": "v"})
        assert add({"7": "changed"}) == {**full, "7": "changed"}
        with pytest.raises(QuotaExceeded, match=r"bytes of metadata, at most 73728"):
            add({str(number): "\N{GRINNING FACE}" * 255 for number in range(80)})


def test_image_metadata_is_merged_and_taken_away_to_nothing(worker: WorkerContext) -> None:
    volume_requests.set_image_metadata(worker, MEMBER, VOLUME, {"a": "1"})
    assert volume_requests.set_image_metadata(worker, MEMBER, VOLUME, {"b": "2"}) == {"a": "1", "b": "2"}
    for key in "ab":
        volume_requests.unset_image_metadata(worker, MEMBER, VOLUME, key)
    assert row(worker)["image_metadata"] is None
    with pytest.raises(NotFound, match="'a'"):
        volume_requests.unset_image_metadata(worker, MEMBER, VOLUME, "a")


def test_whether_a_volume_boots_is_said_and_unsaid(worker: WorkerContext) -> None:
    for value in (True, False):
        volume_requests.set_bootable(worker, MEMBER, VOLUME, value)
        assert row(worker)["bootable"] is value


def test_every_change_of_a_row_is_written_beside_the_files(worker: WorkerContext) -> None:
    """What is not would be lost when the rows are made again from the share."""
    changes: list[Any] = [
        lambda: volume_requests.update(worker, MEMBER, VOLUME, {"name": "x"}),
        lambda: volume_requests.set_metadata(worker, MEMBER, VOLUME, {"k": "v"}, True),
        lambda: volume_requests.delete_metadata_key(worker, MEMBER, VOLUME, "k"),
        lambda: volume_requests.set_bootable(worker, MEMBER, VOLUME, True),
        lambda: volume_requests.set_image_metadata(worker, MEMBER, VOLUME, {"k": "v"}),
        lambda: volume_requests.unset_image_metadata(worker, MEMBER, VOLUME, "k"),
    ]
    for change in changes:
        change()
        (operation,) = planned(worker)
        assert operation["kind"] == "record_chain"
        with worker.database.write() as connection:
            connection.execute(update(table).values(state="done"))


def test_a_volume_grows(worker: WorkerContext) -> None:
    volume_requests.extend(worker, MEMBER, VOLUME, 3)
    assert (row(worker)["status"], row(worker)["size"]) == ("extending", 1)
    (operation,) = planned(worker)
    assert verbs(worker) == ["check_unused", "Resize"]
    assert operation["plan"][1]["args"]["size"] == 3 * GIB


@pytest.mark.parametrize("size", [1, 0, -1])
def test_a_volume_never_shrinks(worker: WorkerContext, size: int) -> None:
    with pytest.raises(BadRequest, match="must be more than the 1 GiB"):
        volume_requests.extend(worker, MEMBER, VOLUME, size)


def test_a_volume_grows_within_the_quota_the_size_and_the_share(worker: WorkerContext, tmp_path: Path) -> None:
    refusing: list[tuple[dict[str, Any], str]] = [
        ({"quota_gigabytes": 2}, "gigabytes"),
        ({"per_volume_gigabytes": 2}, "larger"),
    ]
    for options, told in refusing:
        with pytest.raises((QuotaExceeded, BadRequest), match=told):
            volume_requests.extend(fakes.worker(worker.database, tmp_path, **options), MEMBER, VOLUME, 3)
    endless = fakes.worker(worker.database, tmp_path, quota_gigabytes=-1, per_volume_gigabytes=1 << 21)
    with pytest.raises(ShareUnavailable, match="promised"):
        volume_requests.extend(endless, MEMBER, VOLUME, 1 << 20)
    volume_requests.extend(fakes.worker(worker.database, tmp_path, quota_gigabytes=3), MEMBER, VOLUME, 3)


def test_an_attached_volume_grows_under_its_server(worker: WorkerContext) -> None:
    attach(worker, active=True)
    volume_requests.extend(worker, MEMBER, VOLUME, 3)
    assert verbs(worker) == ["ResizeLive"]
    assert planned(worker)[0]["intent"]["status_before"] == "in-use"


@pytest.mark.parametrize("status", ["error", "reserved", "reverting", "extending"])
def test_a_volume_in_between_does_not_grow(worker: WorkerContext, status: str) -> None:
    put(worker, status=status)
    with pytest.raises(BadRequest, match=status):
        volume_requests.extend(worker, MEMBER, VOLUME, 3)


def test_only_the_newest_snapshot_is_reverted_to_unless_it_is_said_what_becomes_of_newer_ones(three: WorkerContext) -> None:
    with pytest.raises(BadRequest, match="not the newest") as told:
        volume_requests.revert(three, MEMBER, VOLUME, SNAPSHOT, None)
    assert told.value.details["newer"] == [OTHER_SNAPSHOT]
    volume_requests.revert(three, MEMBER, VOLUME, OTHER_SNAPSHOT, None)
    assert verbs(three) == ["check_unused", "CreateOverlay", "Record"]
    assert (row(three)["status"], statuses(three)) == ("reverting", ["available", "restoring"])


@pytest.mark.parametrize(("newer", "wanted"), [("keep", ["restoring", "available"]), ("remove", ["restoring", "deleting"])])
def test_newer_snapshots_are_kept_or_removed(three: WorkerContext, newer: str, wanted: list[str]) -> None:
    volume_requests.revert(three, MEMBER, VOLUME, SNAPSHOT, newer)
    assert statuses(three) == wanted
    (operation,) = planned(three)
    assert operation["intent"]["after"]["removed"] == ([OTHER_SNAPSHOT] if newer == "remove" else [])
    assert operation["intent"]["after"]["holds"] == {"the undo of a revert": SECOND}


def test_a_snapshot_of_another_size_is_reverted_to_only_when_that_is_wanted(three: WorkerContext) -> None:
    put(three, size=2)
    with pytest.raises(BadRequest, match="2 GiB"):
        volume_requests.revert(three, MEMBER, VOLUME, OTHER_SNAPSHOT, None)
    volume_requests.revert(three, MEMBER, VOLUME, OTHER_SNAPSHOT, "keep")


def test_a_failed_newer_snapshot_is_left_alone(three: WorkerContext) -> None:
    with three.database.write() as connection:
        builders.snapshot_row(connection, id=SET, status="error")
    volume_requests.revert(three, MEMBER, VOLUME, SNAPSHOT, "remove")
    assert statuses(three) == ["restoring", "deleting", "error"]
    assert planned(three)[0]["intent"]["snapshot_ids"] == [SNAPSHOT, OTHER_SNAPSHOT]


def test_a_snapshot_of_another_volume_is_not_reverted_to(three: WorkerContext) -> None:
    with three.database.write() as connection:
        builders.volume_row(connection, id=OTHER_VOLUME)
        other = builders.snapshot_row(connection, id=SET, volume_id=OTHER_VOLUME)["id"]
    with pytest.raises(BadRequest, match="not one of volume"):
        volume_requests.revert(three, MEMBER, VOLUME, other, None)


@pytest.mark.parametrize("call", ["revert", "undo_revert"])
def test_a_volume_of_a_running_server_is_not_reverted_and_of_a_stopped_one_it_is(three: WorkerContext, call: str) -> None:
    attach(three, active=True)

    def ask() -> None:
        if call == "revert":
            volume_requests.revert(three, MEMBER, VOLUME, OTHER_SNAPSHOT, None)
        else:
            put(three, undo_file=FIRST)
            volume_requests.undo_revert(three, MEMBER, VOLUME)

    with pytest.raises(Conflict, match="stop"):
        ask()
    fakes.compute(three).servers[VOLUME]["active"] = False
    ask()
    assert verbs(three)[0] == "check_stopped"
    assert "SwitchFile" in verbs(three)


def test_a_server_that_has_another_file_stops_everything(three: WorkerContext) -> None:
    attach(three, active=False)
    fakes.compute(three).servers[VOLUME]["file"] = BASE
    with pytest.raises(Conflict, match="somebody else changed its chain"):
        volume_requests.revert(three, MEMBER, VOLUME, OTHER_SNAPSHOT, None)


def test_what_came_while_the_files_were_looked_at_stops_a_revert(three: WorkerContext) -> None:
    fakes.memory(three).looked = lambda: link(three)
    with pytest.raises(Conflict, match="meanwhile"):
        volume_requests.revert(three, MEMBER, VOLUME, OTHER_SNAPSHOT, None)
    assert (planned(three), row(three)["status"]) == ([], "available")


def test_a_full_share_takes_no_revert(three: WorkerContext) -> None:
    fakes.memory(three).kept = 1 << 62
    with pytest.raises(ShareUnavailable, match="full"):
        volume_requests.revert(three, MEMBER, VOLUME, OTHER_SNAPSHOT, None)
    assert (planned(three), row(three)["status"]) == ([], "available")


def test_there_must_be_a_revert_to_undo(three: WorkerContext) -> None:
    with pytest.raises(Conflict, match="no revert that can be undone"):
        volume_requests.undo_revert(three, MEMBER, VOLUME)


def test_a_revert_that_was_written_upon_is_not_undone(database: Database, tmp_path: Path) -> None:
    memory = fakes.share(FIRST)
    memory.entries[SECOND] = type(memory.entries[FIRST])(memory.entries[FIRST].image)
    with database.write() as connection:
        builders.volume_row(connection, active_file=SECOND, undo_file=FIRST)
        builders.snapshot_row(connection)
    worker = fakes.worker(database, tmp_path, memory)
    memory.write(SECOND, 1, 1)
    with pytest.raises(Conflict, match="written to"):
        volume_requests.undo_revert(worker, MEMBER, VOLUME)
    memory.entries[SECOND].clusters.clear()
    volume_requests.undo_revert(worker, MEMBER, VOLUME)
    assert verbs(worker) == ["check_unused", "check_empty", "Record", "Trash"]


def test_a_status_is_set_by_hand(worker: WorkerContext) -> None:
    put(worker, status="error", fault="why")
    volume_requests.reset_status(worker, ADMIN, VOLUME, "available")
    assert (row(worker)["status"], row(worker)["fault"]) == ("available", None)
    with pytest.raises(BadRequest, match="is not attached, so its status cannot be in-use"):
        volume_requests.reset_status(worker, ADMIN, VOLUME, "in-use")
    attach(worker, active=True)
    with pytest.raises(BadRequest, match="is attached to server"):
        volume_requests.reset_status(worker, ADMIN, VOLUME, "available")
    volume_requests.reset_status(worker, ADMIN, VOLUME, "error")
    assert row(worker)["status"] == "error"


def test_a_status_is_not_set_while_an_operation_holds_the_volume(worker: WorkerContext) -> None:
    volume_requests.delete(worker, MEMBER, VOLUME)
    with pytest.raises(Conflict, match="busy"):
        volume_requests.reset_status(worker, ADMIN, VOLUME, "available")


def test_a_volume_of_one_file_is_given_up(worker: WorkerContext) -> None:
    volume_requests.unmanage(worker, ADMIN, VOLUME)
    assert row(worker)["status"] == "unmanaging"
    (operation,) = planned(worker)
    assert operation["plan"][1]["args"]["to"] == f"unmanaged-{VOLUME}"
    assert operation["intent"]["status_before"] == "available"


def test_a_volume_of_several_files_is_not_given_up(three: WorkerContext) -> None:
    with pytest.raises(BadRequest, match="several files: it has 2 snapshots"):
        volume_requests.unmanage(three, ADMIN, VOLUME)


@pytest.mark.parametrize(
    "values", [{"active_file": FIRST}, {"linked_to": {"volume_id": OTHER_VOLUME, "file": "x", "format": "qcow2"}}]
)
def test_a_volume_that_is_no_file_of_its_own_is_not_given_up(worker: WorkerContext, values: dict[str, Any]) -> None:
    put(worker, **values)
    with pytest.raises(BadRequest, match="several files"):
        volume_requests.unmanage(worker, ADMIN, VOLUME)
    assert planned(worker) == []


def test_a_volume_somebody_reads_or_uses_is_not_given_up(worker: WorkerContext) -> None:
    put(worker, status="in-use")
    with pytest.raises(BadRequest, match="in-use"):
        volume_requests.unmanage(worker, ADMIN, VOLUME)
    put(worker, status="available")
    link(worker)
    with pytest.raises(Conflict, match=OTHER_VOLUME):
        volume_requests.unmanage(worker, ADMIN, VOLUME)
