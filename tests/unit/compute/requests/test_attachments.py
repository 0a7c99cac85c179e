"""Volumes attached and detached at one server, one request upon the other."""

import time
from pathlib import Path
from typing import Any

import pytest

from stillframe.compute.operations import attachments
from stillframe.compute.requests import attachments as attachment_requests
from stillframe.compute.worker.context import WorkerContext
from stillframe.db import finished, operations, tables
from stillframe.db.engine import Database
from stillframe.db.rows import Row
from stillframe.errors import BadRequest, Busy, Conflict, NotFound
from stillframe.host import hypervisor
from stillframe.journal import record
from stillframe.journal.operation import Operation
from stillframe.journal.record import Request
from tests.unit.builders import OTHER_VOLUME, SERVER, VOLUME, context, new_id
from tests.unit.compute import fakes

THIRD = new_id()


@pytest.fixture
def world(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WorkerContext:
    """A server with one foreign disk, vda, and three volumes that are free."""
    fresh = {"size": 1, "os-vol-tenant-attr:tenant_id": "demo", "status": "available", "attachments": []}
    storage = fakes.Storage([], {each: {"id": each, **fresh} for each in (VOLUME, OTHER_VOLUME, THIRD)})
    xml = fakes.domain_xml(fakes.disk_xml("vda", "/srv/foreign"))
    return fakes.world(database, tmp_path, [fakes.view(xml, xml)], monkeypatch, storage)


def attach(world: WorkerContext, volume_id: str, device: str | None = None) -> str:
    return str(attachment_requests.attach(world, context(), SERVER, volume_id, device)["device"])


def line(world: WorkerContext) -> list[Row]:
    with world.database.read() as connection:
        return operations.line(connection, f"server:{SERVER}")


def end(world: WorkerContext, row: Row) -> None:
    with world.database.write() as connection:
        finished.ended(connection, row["id"])
        connection.execute(tables.operations.update().where(tables.operations.c.id == row["id"]).values(state="done"))


def turn(world: WorkerContext, row: Row) -> Any:
    kind = {"attach_volume": attachments.ATTACH, "detach_volume": attachments.DETACH}[row["kind"]]
    return kind.verbs["turn"].do(world, Operation.from_row(row), {})


def test_volumes_are_attached_one_after_the_other_at_places_of_their_own(world: WorkerContext) -> None:
    assert [attach(world, each) for each in (VOLUME, OTHER_VOLUME, THIRD)] == ["/dev/vdb", "/dev/vdc", "/dev/vdd"]
    found = line(world)
    assert [row["intent"]["volume_id"] for row in found] == [VOLUME, OTHER_VOLUME, THIRD]
    first, second, third = ([step["verb"] for step in row["plan"]] for row in found)
    assert first == ["reserve", "connect", "plug", "complete"]
    assert second == third == ["turn", *first]
    with world.database.read() as connection:  # the second begins when the first is through, and not before
        assert [row["id"] for row in operations.claimable(connection, "compute")] == [found[0]["id"]]
    end(world, found[0])
    with world.database.read() as connection:
        assert [row["id"] for row in operations.claimable(connection, "compute")] == [found[1]["id"]]


def test_a_reservation_that_somebody_else_made_is_taken_over_before_the_disk_is_there(
    world: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise nothing of it changes, and who has just seen that nobody uses the volume would let go of it."""
    attach(world, VOLUME)
    (row,) = line(world)
    found = {"id": "a", "volume_id": VOLUME, "status": "attaching"}
    info = {"driver_volume_type": "local", "export": "/srv", "name": f"volume-{VOLUME}", "format": "qcow2"}
    monkeypatch.setattr(world.storage, "attachment", lambda *_: {**found, "connection_info": info}, raising=False)
    told: list[str] = []

    def take(attachment_id: str, _connector: Any) -> Any:
        told.append(attachment_id)
        return info

    monkeypatch.setattr(world.storage, "connect", take, raising=False)
    operation = Operation.from_row({**row, "evidence": {"reserve": {"attachment_id": "a"}}})
    connect = attachments.ATTACH.verbs["connect"]
    assert connect.done(world, operation, {}) is None
    evidence = connect.do(world, operation, {})
    assert told == ["a"]
    again = Operation.from_row({**row, "evidence": {"reserve": {"attachment_id": "a"}, "connect": evidence}})
    assert connect.done(world, again, {}) == evidence


@pytest.mark.parametrize(
    ("live", "inactive", "expected"),
    [
        (True, True, ("/dev/vdb", True)),
        (False, True, ("/dev/vdb", False)),  # unplugged from the guest alone
        (False, False, (None, False)),  # and from the definition
    ],
)
def test_the_list_says_whether_the_guest_has_the_disk(
    world: WorkerContext, monkeypatch: pytest.MonkeyPatch, live: bool, inactive: bool, expected: tuple[str | None, bool]
) -> None:
    disk = fakes.disk_xml("vdb", f"/share/volume-{VOLUME}", VOLUME)
    texts = [fakes.domain_xml(*([disk] if has else [])) for has in (live, inactive)]
    running, stopped = fakes.view(texts[0], texts[1]), fakes.view(texts[1], active=False)
    attached = [{"id": "a", "volume_id": VOLUME, "status": "attached"}, {"id": "b", "volume_id": THIRD, "status": "attaching"}]
    for view, told in ((running, expected), (stopped, (expected[0], None if inactive else False))):
        monkeypatch.setattr(hypervisor, "find", lambda _connection, _id, view=view: view)
        world.storage.attachments = attached  # type: ignore[attr-defined]
        (entry,) = attachment_requests.list_attached(world, context(), SERVER)
        assert (entry["volume_id"], entry["device"], entry["guest_has_disk"]) == (VOLUME, *told)
        assert entry["attachment_id"] == "a"


def test_a_place_that_is_promised_is_in_use(world: WorkerContext) -> None:
    attach(world, VOLUME, "/dev/vdx")
    with pytest.raises(BadRequest, match="in use"):
        attach(world, OTHER_VOLUME, "/dev/vdx")
    with pytest.raises(BadRequest, match="is being attached"):
        attach(world, VOLUME)


def test_what_ended_while_libvirt_was_asked_has_its_place_all_the_same(
    world: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach(world, VOLUME)
    real = attachment_requests.volume_of

    def meanwhile(*arguments: Any) -> Any:
        end(world, line(world)[0])  # the view of the server was read before
        return real(*arguments)

    monkeypatch.setattr(attachment_requests, "volume_of", meanwhile)
    assert attach(world, OTHER_VOLUME) == "/dev/vdc"


def test_a_volume_that_is_being_attached_can_be_detached_after_that(world: WorkerContext) -> None:
    with pytest.raises(NotFound):
        attachment_requests.detach(world, context(), SERVER, VOLUME)
    assert line(world) == []
    attach(world, VOLUME)
    attachment_requests.detach(world, context(), SERVER, VOLUME)
    assert [row["kind"] for row in line(world)] == ["attach_volume", "detach_volume"]


def test_a_volume_without_a_disk_can_be_detached(world: WorkerContext) -> None:
    """What the doctor advises where a volume counts as attached, and no description of the server has it any more."""
    reserved = {"volume_id": OTHER_VOLUME, "status": "reserved"}
    world.storage.attachments += [{"volume_id": VOLUME, "status": "attached"}, reserved]  # type: ignore[attr-defined]
    attachment_requests.detach(world, context(), SERVER, VOLUME)
    assert [(row["kind"], row["intent"]["volume_id"]) for row in line(world)] == [("detach_volume", VOLUME)]
    with pytest.raises(NotFound):  # somebody attaches it now
        attachment_requests.detach(world, context(), SERVER, OTHER_VOLUME)


def test_anything_else_on_the_server_refuses(world: WorkerContext) -> None:
    for kind, state in (("assisted_snapshot", "running"), ("attach_volume", "parked")):
        with world.database.write() as connection:
            name = record.submit(connection, Request("compute", kind, {}, [], [f"server:{SERVER}"], "r"))
            connection.execute(tables.operations.update().where(tables.operations.c.id == name).values(state=state))
        with pytest.raises(Busy, match=kind):
            attach(world, VOLUME)
        with pytest.raises(Busy, match=kind):
            attachment_requests.detach(world, context(), SERVER, VOLUME)
        end(world, {"id": name})
    assert line(world) == []


def test_the_wait_in_line_is_bounded_and_the_place_looked_at_again(
    world: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach(world, VOLUME)
    attach(world, OTHER_VOLUME)
    attachment_requests.detach(world, context(), SERVER, VOLUME)
    _, attached, detached = line(world)
    assert turn(world, attached) == turn(world, detached) == {}
    with pytest.raises(Conflict, match=r"vda .* was taken meanwhile"):
        turn(world, {**attached, "intent": {**attached["intent"], "target": "vda"}})
    later = time.time() + 61
    monkeypatch.setattr("stillframe.compute.operations.attachments.time.time", lambda: later)
    for row in (attached, detached):
        with pytest.raises(Conflict, match=r"waited 60 s .* nothing was changed"):
            turn(world, row)
