"""Attachments: reserve, connect, complete, release; each may be repeated."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stillframe.context import Context
from stillframe.db import attachments, volumes
from stillframe.db.engine import Database
from stillframe.db.queries import Page
from stillframe.db.rows import AttachmentRow
from stillframe.errors import BadRequest, Conflict, NotFound
from stillframe.journal import record
from stillframe.journal.typed import Intent
from stillframe.volumes.requests import attachments as attachment_requests
from stillframe.volumes.worker.context import WorkerContext
from tests.unit import builders
from tests.unit.builders import OTHER_VOLUME, SERVER, SET, VOLUME, context
from tests.unit.volumes import fakes

SERVICE, MEMBER = context("service", project="service"), context()
CONNECTOR = {"host": "h"}


@pytest.fixture
def worker(database: Database, tmp_path: Path) -> WorkerContext:
    with database.write() as connection:
        builders.volume_row(connection)
    return fakes.worker(database, tmp_path)


def reserve(worker: WorkerContext, **more: Any) -> str:
    return attachment_requests.create(worker, SERVICE, {"volume_uuid": VOLUME, "instance_uuid": SERVER, **more})


def state(worker: WorkerContext) -> tuple[str, list[str]]:
    """The volume's status, and its attachments'."""
    with worker.database.read() as connection:
        volume = volumes.get(connection, VOLUME, None)
        found: list[AttachmentRow] = attachments.list_page(connection, None, Page())
    assert volume is not None
    return volume["status"], [row["status"] for row in found]


def test_a_volume_goes_from_available_to_in_use_and_back(worker: WorkerContext) -> None:
    attachment_id = reserve(worker)
    assert state(worker) == ("reserved", ["reserved"])
    attachment_requests.update(worker, SERVICE, attachment_id, CONNECTOR)
    assert state(worker) == ("attaching", ["attaching"])
    attachment_requests.complete(worker, SERVICE, attachment_id)
    assert state(worker) == ("in-use", ["attached"])
    assert attachment_requests.delete(worker, SERVICE, attachment_id) == []
    assert state(worker) == ("available", [])


def fault(worker: WorkerContext) -> str | None:
    with worker.database.read() as connection:
        volume = volumes.get(connection, VOLUME, None)
    assert volume is not None
    told: str | None = volume["fault"]
    return told


def test_why_a_volume_was_not_attached_is_shown_until_it_is(worker: WorkerContext) -> None:
    attachment_id = reserve(worker)
    attachment_requests.update(worker, SERVICE, attachment_id, CONNECTOR)
    for _ in range(2):
        attachment_requests.note_fault(worker, SERVICE, VOLUME, "libvirt says no")
    attachment_requests.delete(worker, SERVICE, attachment_id)
    assert (state(worker), fault(worker)) == (("available", []), "libvirt says no")
    attachment_id = reserve(worker)
    attachment_requests.update(worker, SERVICE, attachment_id, CONNECTOR)
    attachment_requests.complete(worker, SERVICE, attachment_id)
    assert (state(worker), fault(worker)) == (("in-use", ["attached"]), None)


def test_why_a_volume_was_not_detached_is_shown_until_it_is(worker: WorkerContext) -> None:
    attachment_id = reserve(worker)
    attachment_requests.update(worker, SERVICE, attachment_id, CONNECTOR)
    attachment_requests.complete(worker, SERVICE, attachment_id)
    attachment_requests.note_fault(worker, SERVICE, VOLUME, "the guest did not let go")
    assert (state(worker), fault(worker)) == (("in-use", ["attached"]), "the guest did not let go")
    attachment_requests.delete(worker, SERVICE, attachment_id)
    assert (state(worker), fault(worker)) == (("available", []), None)


def test_every_call_may_be_repeated(worker: WorkerContext) -> None:
    attachment_id = reserve(worker)
    assert reserve(worker) == reserve(worker, instance_uuid=SERVER.upper()) == attachment_id
    for _ in range(2):
        attachment_requests.update(worker, SERVICE, attachment_id, CONNECTOR)
    for _ in range(2):
        attachment_requests.complete(worker, SERVICE, attachment_id)
        attachment_requests.update(worker, SERVICE, attachment_id, {"host": "other"})
    assert state(worker) == ("in-use", ["attached"])
    with worker.database.read() as connection:
        row = attachments.get(connection, attachment_id, None)
    assert row is not None
    assert row["connector"] == CONNECTOR


def test_a_disk_that_left_its_guest_is_told_since_when_and_changes_no_status(worker: WorkerContext) -> None:
    attachment_id = reserve(worker)
    acts: list[Callable[[], object]] = [
        lambda: attachment_requests.report_guest_disk(worker, SERVICE, attachment_id, False),  # not attached yet
        lambda: attachment_requests.update(worker, SERVICE, attachment_id, CONNECTOR),
        lambda: attachment_requests.complete(worker, SERVICE, attachment_id),
        lambda: attachment_requests.report_guest_disk(worker, SERVICE, attachment_id, False),
        lambda: attachment_requests.report_guest_disk(worker, SERVICE, attachment_id, False),
        lambda: attachment_requests.report_guest_disk(worker, SERVICE, attachment_id, True),
    ]
    since = []
    for act in acts:
        act()
        with worker.database.read() as connection:
            row = attachments.get(connection, attachment_id, None)
        assert row is not None
        since.append(row["missing_since"])
    assert since[:3] == [None] * 3 and since[3] is not None and since[3:] == [since[3], since[3], None]
    assert state(worker) == ("in-use", ["attached"])


def test_a_reserved_volume_is_nobody_elses(worker: WorkerContext) -> None:
    reserve(worker)
    with pytest.raises(BadRequest, match=SERVER):
        attachment_requests.create(worker, SERVICE, {"volume_uuid": VOLUME, "instance_uuid": OTHER_VOLUME})


def test_a_reservation_with_a_connector_is_attaching_at_once(worker: WorkerContext) -> None:
    reserve(worker, connector=CONNECTOR)
    assert state(worker) == ("attaching", ["attaching"])


@pytest.mark.parametrize("status", ["creating", "deleting", "error", "error_deleting"])
def test_a_volume_that_is_not_available_is_not_reserved(worker: WorkerContext, status: str) -> None:
    with worker.database.write() as connection:
        volumes.change(connection, VOLUME, status=status)
    with pytest.raises(BadRequest, match=status):
        reserve(worker)


def test_a_volume_an_operation_holds_is_not_reserved(worker: WorkerContext) -> None:
    with worker.database.write() as connection:
        record.submit(connection, record.Request("volumes", "k", Intent(), [], [f"volume:{VOLUME}"], "req-1"))
    with pytest.raises(Conflict, match="busy"):
        reserve(worker)
    assert state(worker) == ("available", [])


def test_an_attachment_without_a_connector_is_not_complete(worker: WorkerContext) -> None:
    with pytest.raises(BadRequest, match="no connector"):
        attachment_requests.complete(worker, SERVICE, reserve(worker))


def test_only_the_service_releases_what_a_server_still_has(worker: WorkerContext) -> None:
    attachment_id = reserve(worker, connector=CONNECTOR)
    attachment_requests.complete(worker, SERVICE, attachment_id)
    with pytest.raises(Conflict, match="detach the volume through compute"):
        attachment_requests.delete(worker, MEMBER, attachment_id)
    assert state(worker) == ("in-use", ["attached"])


def test_a_service_that_acts_for_a_user_releases_too(worker: WorkerContext) -> None:
    attachment_id = reserve(worker, connector=CONNECTOR)
    attachment_requests.complete(worker, SERVICE, attachment_id)
    attachment_requests.delete(
        worker, Context("somebody", "demo", ("member",), "req-1", with_service_token=True), attachment_id
    )
    assert state(worker) == ("available", [])


def test_a_reservation_may_be_given_back_by_its_project(worker: WorkerContext) -> None:
    attachment_requests.delete(worker, MEMBER, reserve(worker))
    assert state(worker) == ("available", [])


def test_an_attachment_of_another_project_is_not_found(worker: WorkerContext) -> None:
    attachment_id = reserve(worker)
    for wanted in (attachment_id, SET):
        with pytest.raises(NotFound):
            attachment_requests.delete(worker, context(project="other"), wanted)


def test_the_hypervisor_is_always_told_the_file_that_is_active_now(worker: WorkerContext) -> None:
    attachment_id = reserve(worker)
    assert attachment_requests.connection_infos(worker, SERVICE, [attachment_id])[attachment_id]["name"] == f"volume-{VOLUME}"
    with worker.database.write() as connection:
        volumes.change(connection, VOLUME, active_file="newer")
    assert attachment_requests.connection_infos(worker, SERVICE, [attachment_id])[attachment_id]["name"] == "newer"


def test_compute_is_told_the_limits_of_chains(database: Database, tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_chain_depth": 9, "chain_depth_warning": 5, "minimum_free_mib": 7}
    with database.write() as connection:
        builders.volume_row(connection)
    worker = fakes.worker(database, tmp_path, **options)
    attachment_id = reserve(worker)
    assert attachment_requests.connection_infos(worker, SERVICE, [attachment_id])[attachment_id]["chain_limits"] == options


def test_the_files_of_many_are_told_at_once_and_only_of_those_the_caller_may_see(worker: WorkerContext) -> None:
    attachment_id = reserve(worker)
    assert set(attachment_requests.connection_infos(worker, SERVICE, [attachment_id, SET])) == {attachment_id}
    assert attachment_requests.connection_infos(worker, context(project="other"), [attachment_id]) == {}
