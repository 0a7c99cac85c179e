"""A volume whose server vanished is released by an administrator, with proof that nobody uses it; nobody else's is."""

from pathlib import Path
from typing import Any

import pytest

from stillframe.db import attachments, volumes
from stillframe.db.engine import Database
from stillframe.errors import BadRequest, Busy, Conflict, NotFound, ServiceUnavailable, ShareUnavailable
from stillframe.journal import record
from stillframe.journal.typed import Intent
from stillframe.volumes.requests import attachments as attachment_requests
from stillframe.volumes.requests import force_detach
from stillframe.volumes.requests import volumes as volume_requests
from stillframe.volumes.worker import file_users
from stillframe.volumes.worker.context import WorkerContext
from tests.unit import builders
from tests.unit.builders import OTHER_VOLUME, SERVER, SET, VOLUME, context
from tests.unit.volumes import fakes

SERVICE, ADMIN, MEMBER = context("service", project="service"), context("admin"), context()
BASE = f"volume-{VOLUME}"


@pytest.fixture
def worker(database: Database, tmp_path: Path) -> WorkerContext:
    with database.write() as connection:
        builders.volume_row(connection)
    return fakes.worker(database, tmp_path)


@pytest.fixture
def attachment(worker: WorkerContext) -> str:
    wanted = {"volume_uuid": VOLUME, "instance_uuid": SERVER, "connector": {"host": "h"}}
    made = attachment_requests.create(worker, SERVICE, wanted)
    attachment_requests.complete(worker, SERVICE, made)
    return made


def state(worker: WorkerContext) -> tuple[str, int]:
    """The volume's status, and how many attachments it has."""
    with worker.database.read() as connection:
        row = volumes.get(connection, VOLUME, None)
        held = attachments.of_volumes(connection, [VOLUME])[VOLUME]
    assert row is not None
    return row["status"], len(held)


def release(worker: WorkerContext, way: str, attachment: str) -> Any:
    if way == "attachment":
        return attachment_requests.delete(worker, ADMIN, attachment)
    return force_detach.force_detach(worker, ADMIN, VOLUME, attachment if way == "named" else None)


WAYS = ("attachment", "named", "only one")


@pytest.mark.parametrize("way", WAYS)
def test_what_nobody_uses_is_released(worker: WorkerContext, attachment: str, way: str) -> None:
    release(worker, way, attachment)
    assert state(worker) == ("available", 0)


@pytest.mark.parametrize("way", WAYS)
def test_what_a_description_names_is_not(worker: WorkerContext, attachment: str, way: str) -> None:
    fakes.compute(worker).servers[VOLUME] = {"id": SERVER, "active": False, "file": BASE}
    with pytest.raises(Conflict, match=f"live description of server {SERVER} \\(web\\)"):
        release(worker, way, attachment)
    assert state(worker) == ("in-use", 1)


@pytest.mark.parametrize("complete", [False, True])
def test_what_was_connected_without_a_server_needs_the_proof_too(worker: WorkerContext, complete: bool) -> None:
    """A member who gave it up made a volume available which a program had open."""
    made = attachment_requests.create(worker, MEMBER, {"volume_uuid": VOLUME, "connector": {"host": "h"}})
    if complete:
        attachment_requests.complete(worker, SERVICE, made)
    before = state(worker)
    fakes.memory(worker).opened.add(BASE)
    with pytest.raises(Conflict, match="used by a server or a program"):
        attachment_requests.delete(worker, MEMBER, made)
    assert state(worker) == before
    fakes.memory(worker).opened.clear()
    attachment_requests.delete(worker, MEMBER, made)
    assert state(worker) == ("available", 0)


@pytest.mark.parametrize("way", WAYS)
def test_what_a_saved_state_names_is_not(worker: WorkerContext, attachment: str, way: str) -> None:
    fakes.compute(worker).saved[VOLUME] = SERVER
    with pytest.raises(Conflict, match=f"saved description of server {SERVER}"):
        release(worker, way, attachment)
    assert state(worker) == ("in-use", 1)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_locked_is_not(worker: WorkerContext, attachment: str, way: str) -> None:
    fakes.memory(worker).opened.add(BASE)
    with pytest.raises(Conflict, match=f"holds a lock on {BASE}"):
        release(worker, way, attachment)
    assert state(worker) == ("in-use", 1)


def test_what_a_program_has_open_is_not(worker: WorkerContext, attachment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_users, "opened", lambda *_: {BASE: ["qemu-nbd (pid 4711)"]})
    with pytest.raises(Conflict, match=rf"qemu-nbd \(pid 4711\), which has {BASE} open"):
        attachment_requests.delete(worker, ADMIN, attachment)
    assert state(worker) == ("in-use", 1)


def test_not_known_is_not_gone(worker: WorkerContext, attachment: str) -> None:
    fakes.compute(worker).silent = True
    with pytest.raises(ServiceUnavailable):
        attachment_requests.delete(worker, ADMIN, attachment)
    fakes.compute(worker).silent = False
    fakes.memory(worker).silent = True
    with pytest.raises(ShareUnavailable):
        attachment_requests.delete(worker, ADMIN, attachment)
    assert state(worker) == ("in-use", 1)


def test_what_compute_attaches_now_is_not(worker: WorkerContext, attachment: str) -> None:
    fakes.compute(worker).attaching[VOLUME] = SERVER
    with pytest.raises(Conflict, match=f"used by server {SERVER}, which it is being attached to"):
        attachment_requests.delete(worker, ADMIN, attachment)
    assert state(worker) == ("in-use", 1)


def test_an_operation_is_waited_for(worker: WorkerContext, attachment: str) -> None:
    with worker.database.write() as connection:
        record.submit(connection, record.Request("volumes", "k", Intent(), [], [f"volume:{VOLUME}"], "req-1"))
    with pytest.raises(Busy):
        attachment_requests.delete(worker, ADMIN, attachment)


def test_a_snapshot_that_is_being_taken_is_waited_for(worker: WorkerContext, attachment: str) -> None:
    with worker.database.write() as connection:
        builders.snapshot_row(connection, status="creating")
    with pytest.raises(Busy, match="being taken"):
        attachment_requests.delete(worker, ADMIN, attachment)


def test_what_changes_between_the_look_and_the_release_is_looked_at_again(worker: WorkerContext, attachment: str) -> None:
    with worker.database.read() as connection:
        held = attachments.get(connection, attachment, None)
    assert held is not None
    with worker.database.write() as connection:
        attachments.change(connection, attachment, mode="ro")
    with pytest.raises(Busy):
        force_detach.release(worker, held)
    assert state(worker) == ("in-use", 1)


def test_a_status_that_was_set_by_hand_stays(worker: WorkerContext, attachment: str) -> None:
    volume_requests.reset_status(worker, ADMIN, VOLUME, "error")
    attachment_requests.delete(worker, ADMIN, attachment)
    assert state(worker) == ("error", 0)
    volume_requests.reset_status(worker, ADMIN, VOLUME, "available")
    assert state(worker) == ("available", 0)


def test_what_is_asked_for_must_be_there(worker: WorkerContext) -> None:
    with pytest.raises(BadRequest, match="no attachment"):
        force_detach.force_detach(worker, ADMIN, VOLUME)
    with pytest.raises(NotFound):
        force_detach.force_detach(worker, ADMIN, OTHER_VOLUME)


def test_another_volumes_attachment_is_not_found(worker: WorkerContext, attachment: str) -> None:
    with pytest.raises(NotFound):
        force_detach.force_detach(worker, ADMIN, VOLUME, SET)
    assert state(worker) == ("in-use", 1)


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("status", ["in-use", "error", "error_deleting", "maintenance", "deleting", "available"])
def test_no_status_makes_an_attached_volume_deletable(worker: WorkerContext, attachment: str, status: str, force: bool) -> None:
    with worker.database.write() as connection:
        volumes.change(connection, VOLUME, status=status)
    with pytest.raises(BadRequest, match=f"attached to server {SERVER}"):
        volume_requests.delete(worker, ADMIN, VOLUME, cascade=force, force=force)
    with pytest.raises(BadRequest, match=f"attached to server {SERVER}"):
        volume_requests.unmanage(worker, ADMIN, VOLUME)
    assert state(worker) == (status, 1)


def test_the_refused_status_names_the_way_that_works(worker: WorkerContext, attachment: str) -> None:
    with pytest.raises(BadRequest, match=f"delete attachment {attachment} as an administrator"):
        volume_requests.reset_status(worker, ADMIN, VOLUME, "available")
