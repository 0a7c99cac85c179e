"""The look around: a detachment that was given up and carried out later is finished, and nothing else is changed."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from stillframe.compute.operations import attachments
from stillframe.compute.operations.attachments import AttachVolume, DetachVolume
from stillframe.compute.periodic.reconcile import Reconciler
from stillframe.compute.worker.context import WorkerContext
from stillframe.db import finished, operations
from stillframe.db.engine import Database
from stillframe.db.tables import now
from stillframe.db.tables import operations as table
from stillframe.errors import Forbidden
from stillframe.journal import record
from tests.unit.builders import SERVER, SHARE, VOLUME, new_id
from tests.unit.compute import fakes

NAME = f"volume-{VOLUME}"
ATTACHED = {"id": "a", "volume_id": VOLUME, "status": "attached", "connection_info": {"name": NAME}}


def look(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *disks: str, since: str | None = None
) -> WorkerContext:
    """One look at a running server with these disks, to which block storage has the volume attached."""
    monkeypatch.setattr("stillframe.compute.libvirt.saved_notes.look", lambda *_: None)
    views = [fakes.view(fakes.domain_xml(*disks), fakes.domain_xml(*disks))]
    worker = fakes.worker(
        database, tmp_path, views, monkeypatch, fakes.Storage([{**ATTACHED, "missing_in_guest_since": since}])
    )
    Reconciler(worker).look()
    return worker


def ended(database: Database, kind: str, state: str) -> None:
    with database.write() as connection:
        detach: AttachVolume | DetachVolume = DetachVolume(server_id=SERVER, volume_id=VOLUME)
        attach = AttachVolume(server_id=SERVER, volume_id=VOLUME, target="vda")
        asked = {"attach_volume": attach, "detach_volume": detach}[kind]
        operation_id = record.submit(connection, attachments.request(asked, "r"))
        connection.exec_driver_sql("UPDATE operations SET state = ? WHERE id = ?", (state, operation_id))
        finished.ended(connection, operation_id)


def asked(database: Database) -> list[str]:
    with database.read() as connection:
        return [row["kind"] for row in operations.unfinished(connection, "compute")]


def test_a_detachment_that_the_guest_carried_out_late_is_finished(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended(database, "attach_volume", "done")
    ended(database, "detach_volume", "undone")
    look(database, tmp_path, monkeypatch)
    assert asked(database) == ["detach_volume"]
    look(database, tmp_path, monkeypatch)
    assert asked(database) == ["detach_volume"], "once"


@pytest.mark.parametrize(
    "before",
    [
        [],
        [("attach_volume", "done")],
        [("detach_volume", "undone"), ("attach_volume", "done")],
        [("detach_volume", "parked")],
    ],
)
def test_a_disk_that_went_for_another_reason_is_only_told_of(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: list[tuple[str, str]]
) -> None:
    for kind, state in before:
        ended(database, kind, state)
    kept = asked(database)
    look(database, tmp_path, monkeypatch)
    assert asked(database) == kept


def test_a_disk_that_is_still_there_is_left_there(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended(database, "detach_volume", "undone")
    look(database, tmp_path, monkeypatch, fakes.disk_xml("vda", f"{SHARE}/{NAME}", VOLUME))
    assert asked(database) == []


def test_another_volumes_detachment_says_nothing(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with database.write() as connection:
        other = DetachVolume(server_id=SERVER, volume_id=new_id())
        operation_id = record.submit(connection, attachments.request(other, "r"))
        connection.exec_driver_sql("UPDATE operations SET state = 'undone' WHERE id = ?", (operation_id,))
        finished.ended(connection, operation_id)
    look(database, tmp_path, monkeypatch)
    assert asked(database) == []


@pytest.mark.parametrize(
    ("has", "since", "told"),
    [
        (False, None, [("a", False)]),
        (False, "2026-01-01T00:00:00.000000", []),
        (True, "2026-01-01T00:00:00.000000", [("a", True)]),
        (True, None, []),
    ],
)
def test_block_storage_is_told_once_of_a_disk_that_left_its_guest_or_came_back(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has: bool, since: str | None, told: list[Any]
) -> None:
    disks = [fakes.disk_xml("vda", f"{SHARE}/{NAME}", VOLUME)] if has else []
    worker = look(database, tmp_path, monkeypatch, *disks, since=since)
    assert worker.storage.reports == told  # type: ignore[attr-defined]


def test_nothing_is_told_while_an_operation_changes_the_server(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended(database, "detach_volume", "undone")  # the look asks for the rest of it
    assert look(database, tmp_path, monkeypatch).storage.reports == []  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("times", "minutes", "again"), [(1, 0, True), (3, 5, False), (3, 9, True), (40, 1000, False), (40, 1441, True)]
)
def test_a_detachment_that_fails_again_and_again_is_asked_for_ever_less_often(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int, minutes: int, again: bool
) -> None:
    for _ in range(times):
        ended(database, "detach_volume", "undone")
    with database.write() as connection:
        connection.execute(update(table).values(created_at=now() - timedelta(minutes=minutes)))
    look(database, tmp_path, monkeypatch)
    assert bool(asked(database)) is again


def test_what_is_wrong_with_one_server_keeps_no_other_from_being_looked_at(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ended(database, "detach_volume", "undone")
    good, seen = Reconciler._differences, list[int]()

    def differences(self: Reconciler, server: Any) -> list[str]:
        seen.append(1)
        if len(seen) == 1:
            raise Forbidden("no word on this server")
        return good(self, server)

    monkeypatch.setattr(Reconciler, "_differences", differences)
    twice = [fakes.view(fakes.domain_xml(), fakes.domain_xml())] * 2
    monkeypatch.setattr("stillframe.compute.libvirt.saved_notes.look", lambda *_: None)
    worker = fakes.worker(database, tmp_path, twice, monkeypatch, fakes.Storage([{**ATTACHED, "missing_in_guest_since": None}]))
    Reconciler(worker).look()
    assert asked(database) == ["detach_volume"]
    assert "no word on this server" in caplog.text


TARGET = f"iqn.2010-10.org.openstack:volume-{VOLUME}"
INFO = {"driver_volume_type": "iscsi", "target_portal": "192.0.2.7:3260", "target_iqn": TARGET, "target_lun": 1}
IN_NETWORK = (
    f'<disk type="network"><source protocol="iscsi" name="{TARGET}/1"><host name="192.0.2.1" port="3260"/></source>'
    f'<target dev="vda"/><serial>{VOLUME}</serial></disk>'
)


@pytest.mark.parametrize(
    ("info", "told"),
    [
        (INFO, None),
        ({**INFO, "target_lun": 2}, f"has iscsi {TARGET}/1 at 192.0.2.1:3260 for volume {VOLUME}, block storage records iscsi"),
        ({"driver_volume_type": "rbd"}, None),  # nobody here knows how to compare that
    ],
)
def test_a_volume_in_the_network_is_compared_by_what_it_is_there(
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    info: dict[str, Any],
    told: str | None,
) -> None:
    monkeypatch.setitem(ATTACHED, "connection_info", info)
    look(database, tmp_path, monkeypatch, IN_NETWORK)
    errors = [entry.message for entry in caplog.records if entry.levelname == "ERROR"]
    assert len(errors) == (told is not None)
    assert told is None or told in errors[0]
