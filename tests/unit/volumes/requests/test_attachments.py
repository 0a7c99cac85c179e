"""Attachments: reserve, connect, complete, release; each may be repeated."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stillframe.context import Context
from stillframe.db import attachments, volumes
from stillframe.db.engine import Database
from stillframe.db.rows import Page, Row
from stillframe.errors import BadRequest, Conflict, NotFound
from stillframe.journal import record
from stillframe.volumes.requests import attachments as attachment_requests
from stillframe.volumes.worker.context import WorkerContext
from tests.unit import builders
from tests.unit.builders import OTHER_VOLUME, SERVER, SET, VOLUME, context
from tests.unit.volumes import fakes

SERVICE, MEMBER = context("service", project="service"), context()
CONNECTOR = {"host": "h"}


@pytest.fixture
def world(database: Database, tmp_path: Path) -> WorkerContext:
    with database.write() as connection:
        builders.volume_row(connection)
    return fakes.world(database, tmp_path)


def reserve(world: WorkerContext, **more: Any) -> str:
    return attachment_requests.create(world, SERVICE, {"volume_uuid": VOLUME, "instance_uuid": SERVER, **more})


def state(world: WorkerContext) -> tuple[str, list[str]]:
    """The volume's status, and its attachments'."""
    with world.database.read() as connection:
        volume = volumes.get(connection, VOLUME, None)
        found: list[Row] = attachments.list_page(connection, None, Page())
    assert volume is not None
    return volume["status"], [row["status"] for row in found]


def test_a_volume_goes_from_available_to_in_use_and_back(world: WorkerContext) -> None:
    attachment_id = reserve(world)
    assert state(world) == ("reserved", ["reserved"])
    attachment_requests.update(world, SERVICE, attachment_id, CONNECTOR)
    assert state(world) == ("attaching", ["attaching"])
    attachment_requests.complete(world, SERVICE, attachment_id)
    assert state(world) == ("in-use", ["attached"])
    assert attachment_requests.delete(world, SERVICE, attachment_id) == []
    assert state(world) == ("available", [])


def fault(world: WorkerContext) -> str | None:
    with world.database.read() as connection:
        volume = volumes.get(connection, VOLUME, None)
    assert volume is not None
    told: str | None = volume["fault"]
    return told


def test_why_a_volume_was_not_attached_is_shown_until_it_is(world: WorkerContext) -> None:
    attachment_id = reserve(world)
    attachment_requests.update(world, SERVICE, attachment_id, CONNECTOR)
    for _ in range(2):
        attachment_requests.note_fault(world, SERVICE, VOLUME, "libvirt says no")
    attachment_requests.delete(world, SERVICE, attachment_id)
    assert (state(world), fault(world)) == (("available", []), "libvirt says no")
    attachment_id = reserve(world)
    attachment_requests.update(world, SERVICE, attachment_id, CONNECTOR)
    attachment_requests.complete(world, SERVICE, attachment_id)
    assert (state(world), fault(world)) == (("in-use", ["attached"]), None)


def test_why_a_volume_was_not_detached_is_shown_until_it_is(world: WorkerContext) -> None:
    attachment_id = reserve(world)
    attachment_requests.update(world, SERVICE, attachment_id, CONNECTOR)
    attachment_requests.complete(world, SERVICE, attachment_id)
    attachment_requests.note_fault(world, SERVICE, VOLUME, "the guest did not let go")
    assert (state(world), fault(world)) == (("in-use", ["attached"]), "the guest did not let go")
    attachment_requests.delete(world, SERVICE, attachment_id)
    assert (state(world), fault(world)) == (("available", []), None)


def test_every_call_may_be_repeated(world: WorkerContext) -> None:
    attachment_id = reserve(world)
    assert reserve(world) == reserve(world, instance_uuid=SERVER.upper()) == attachment_id
    for _ in range(2):
        attachment_requests.update(world, SERVICE, attachment_id, CONNECTOR)
    for _ in range(2):
        attachment_requests.complete(world, SERVICE, attachment_id)
        attachment_requests.update(world, SERVICE, attachment_id, {"host": "other"})
    assert state(world) == ("in-use", ["attached"])
    with world.database.read() as connection:
        row = attachments.get(connection, attachment_id, None)
    assert row is not None
    assert row["connector"] == CONNECTOR


def test_a_disk_that_left_its_guest_is_told_since_when_and_changes_no_status(world: WorkerContext) -> None:
    attachment_id = reserve(world)
    acts: list[Callable[[], object]] = [
        lambda: attachment_requests.report_guest_disk(world, SERVICE, attachment_id, False),  # not attached yet
        lambda: attachment_requests.update(world, SERVICE, attachment_id, CONNECTOR),
        lambda: attachment_requests.complete(world, SERVICE, attachment_id),
        lambda: attachment_requests.report_guest_disk(world, SERVICE, attachment_id, False),
        lambda: attachment_requests.report_guest_disk(world, SERVICE, attachment_id, False),
        lambda: attachment_requests.report_guest_disk(world, SERVICE, attachment_id, True),
    ]
    since = []
    for act in acts:
        act()
        with world.database.read() as connection:
            row = attachments.get(connection, attachment_id, None)
        assert row is not None
        since.append(row["missing_since"])
    assert since[:3] == [None] * 3 and since[3] is not None and since[3:] == [since[3], since[3], None]
    assert state(world) == ("in-use", ["attached"])


def test_a_reserved_volume_is_nobody_elses(world: WorkerContext) -> None:
    reserve(world)
    with pytest.raises(BadRequest, match=SERVER):
        attachment_requests.create(world, SERVICE, {"volume_uuid": VOLUME, "instance_uuid": OTHER_VOLUME})


def test_a_reservation_with_a_connector_is_attaching_at_once(world: WorkerContext) -> None:
    reserve(world, connector=CONNECTOR)
    assert state(world) == ("attaching", ["attaching"])


@pytest.mark.parametrize("status", ["creating", "deleting", "error", "error_deleting"])
def test_a_volume_that_is_not_available_is_not_reserved(world: WorkerContext, status: str) -> None:
    with world.database.write() as connection:
        volumes.change(connection, VOLUME, status=status)
    with pytest.raises(BadRequest, match=status):
        reserve(world)


def test_a_volume_an_operation_holds_is_not_reserved(world: WorkerContext) -> None:
    with world.database.write() as connection:
        record.submit(connection, record.Request("volumes", "k", {}, [], [f"volume:{VOLUME}"], "req-1"))
    with pytest.raises(Conflict, match="busy"):
        reserve(world)
    assert state(world) == ("available", [])


def test_an_attachment_without_a_connector_is_not_complete(world: WorkerContext) -> None:
    with pytest.raises(BadRequest, match="no connector"):
        attachment_requests.complete(world, SERVICE, reserve(world))


def test_only_the_service_releases_what_a_server_still_has(world: WorkerContext) -> None:
    attachment_id = reserve(world, connector=CONNECTOR)
    attachment_requests.complete(world, SERVICE, attachment_id)
    with pytest.raises(Conflict, match="detach the volume through compute"):
        attachment_requests.delete(world, MEMBER, attachment_id)
    assert state(world) == ("in-use", ["attached"])


def test_a_service_that_acts_for_a_user_releases_too(world: WorkerContext) -> None:
    attachment_id = reserve(world, connector=CONNECTOR)
    attachment_requests.complete(world, SERVICE, attachment_id)
    attachment_requests.delete(world, Context("somebody", "demo", ("member",), "req-1", with_service_token=True), attachment_id)
    assert state(world) == ("available", [])


def test_a_reservation_may_be_given_back_by_its_project(world: WorkerContext) -> None:
    attachment_requests.delete(world, MEMBER, reserve(world))
    assert state(world) == ("available", [])


def test_an_attachment_of_another_project_is_not_found(world: WorkerContext) -> None:
    attachment_id = reserve(world)
    for wanted in (attachment_id, SET):
        with pytest.raises(NotFound):
            attachment_requests.delete(world, context(project="other"), wanted)


def test_the_hypervisor_is_always_told_the_file_that_is_active_now(world: WorkerContext) -> None:
    attachment_id = reserve(world)
    assert attachment_requests.connection_infos(world, SERVICE, [attachment_id])[attachment_id]["name"] == f"volume-{VOLUME}"
    with world.database.write() as connection:
        volumes.change(connection, VOLUME, active_file="newer")
    assert attachment_requests.connection_infos(world, SERVICE, [attachment_id])[attachment_id]["name"] == "newer"


def test_compute_is_told_the_limits_of_chains(database: Database, tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_chain_depth": 9, "chain_depth_warning": 5, "minimum_free_mib": 7}
    with database.write() as connection:
        builders.volume_row(connection)
    world = fakes.world(database, tmp_path, **options)
    attachment_id = reserve(world)
    assert attachment_requests.connection_infos(world, SERVICE, [attachment_id])[attachment_id]["chain_limits"] == options


def test_the_files_of_many_are_told_at_once_and_only_of_those_the_caller_may_see(world: WorkerContext) -> None:
    attachment_id = reserve(world)
    assert set(attachment_requests.connection_infos(world, SERVICE, [attachment_id, SET])) == {attachment_id}
    assert attachment_requests.connection_infos(world, context(project="other"), [attachment_id]) == {}
