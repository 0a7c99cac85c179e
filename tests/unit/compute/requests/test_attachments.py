"""Volumes attached and detached at one server, one request upon the other."""

from pathlib import Path
from typing import Any

import pytest

from stillframe.compute.operations import attachments
from stillframe.compute.requests import attachments as attachment_requests
from stillframe.compute.worker.context import WorkerContext
from stillframe.db import finished, operations, tables
from stillframe.db.engine import Database
from stillframe.errors import BadRequest, Busy, Conflict, NotFound
from stillframe.host import hypervisor
from stillframe.journal import record
from stillframe.journal.operation import Operation
from stillframe.journal.record import Request
from stillframe.journal.typed import Intent
from tests.unit.builders import OTHER_VOLUME, SERVER, VOLUME, context, new_id
from tests.unit.clocks import pass_time, set_clock
from tests.unit.compute import fakes

THIRD = new_id()


@pytest.fixture
def worker(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WorkerContext:
    """A server with one foreign disk, vda, and three volumes that are free."""
    fresh = {"size": 1, "os-vol-tenant-attr:tenant_id": "demo", "status": "available", "attachments": []}
    storage = fakes.Storage([], {each: {"id": each, **fresh} for each in (VOLUME, OTHER_VOLUME, THIRD)})
    xml = fakes.domain_xml(fakes.disk_xml("vda", "/srv/foreign"))
    return fakes.worker(database, tmp_path, [fakes.view(xml, xml)], monkeypatch, storage)


def attach(worker: WorkerContext, volume_id: str, device: str | None = None) -> str:
    return str(attachment_requests.attach(worker, context(), SERVER, volume_id, device)["device"])


def line(worker: WorkerContext) -> list[Any]:
    with worker.database.read() as connection:
        return operations.line(connection, f"server:{SERVER}")


def end(worker: WorkerContext, row: Any) -> None:
    with worker.database.write() as connection:
        finished.ended(connection, row["id"])
        connection.execute(tables.operations.update().where(tables.operations.c.id == row["id"]).values(state="done"))


def turn(worker: WorkerContext, row: Any) -> Any:
    kind = attachments.KINDS[row["kind"]]
    return kind.verbs["turn"].do(worker, Operation.from_row(row, kind), attachments.Turn())


def test_volumes_are_attached_one_after_the_other_at_places_of_their_own(worker: WorkerContext) -> None:
    assert [attach(worker, each) for each in (VOLUME, OTHER_VOLUME, THIRD)] == ["/dev/vdb", "/dev/vdc", "/dev/vdd"]
    found = line(worker)
    assert [row["intent"]["volume_id"] for row in found] == [VOLUME, OTHER_VOLUME, THIRD]
    first, second, third = ([step["verb"] for step in row["plan"]] for row in found)
    assert first == ["reserve", "connect", "plug", "complete"]
    assert second == third == ["turn", *first]
    with worker.database.read() as connection:  # the second begins when the first is through, and not before
        assert [row["id"] for row in operations.claimable(connection, "compute")] == [found[0]["id"]]
    end(worker, found[0])
    with worker.database.read() as connection:
        assert [row["id"] for row in operations.claimable(connection, "compute")] == [found[1]["id"]]


def test_a_reservation_that_somebody_else_made_is_taken_over_before_the_disk_is_there(
    worker: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise nothing of it changes, and who has just seen that nobody uses the volume would let go of it."""
    attach(worker, VOLUME)
    (row,) = line(worker)
    found = {"id": "a", "volume_id": VOLUME, "status": "attaching"}
    info = {"driver_volume_type": "local", "export": "/srv", "name": f"volume-{VOLUME}", "format": "qcow2"}
    monkeypatch.setattr(worker.storage, "attachment", lambda *_: {**found, "connection_info": info}, raising=False)
    told: list[str] = []

    def take(attachment_id: str, _connector: Any) -> Any:
        told.append(attachment_id)
        return info

    monkeypatch.setattr(worker.storage, "connect", take, raising=False)
    known: Any = row
    kind, args = attachments.ATTACH, attachments.Connect()
    operation = Operation.from_row(known | {"evidence": {"reserve": {"attachment_id": "a"}}}, kind)
    connect = kind.verbs["connect"]
    assert connect.done(worker, operation, args) is None
    evidence = connect.do(worker, operation, args)
    assert told == ["a"]
    again = Operation.from_row(known | {"evidence": {"reserve": {"attachment_id": "a"}, "connect": evidence}}, kind)
    assert connect.done(worker, again, args) == evidence


@pytest.mark.parametrize(
    ("live", "inactive", "expected"),
    [
        (True, True, ("/dev/vdb", True)),
        (False, True, ("/dev/vdb", False)),  # unplugged from the guest alone
        (False, False, (None, False)),  # and from the definition
    ],
)
def test_the_list_says_whether_the_guest_has_the_disk(
    worker: WorkerContext, monkeypatch: pytest.MonkeyPatch, live: bool, inactive: bool, expected: tuple[str | None, bool]
) -> None:
    disk = fakes.disk_xml("vdb", f"/share/volume-{VOLUME}", VOLUME)
    texts = [fakes.domain_xml(*([disk] if has else [])) for has in (live, inactive)]
    running, stopped = fakes.view(texts[0], texts[1]), fakes.view(texts[1], active=False)
    attached = [{"id": "a", "volume_id": VOLUME, "status": "attached"}, {"id": "b", "volume_id": THIRD, "status": "attaching"}]
    for view, told in ((running, expected), (stopped, (expected[0], None if inactive else False))):
        monkeypatch.setattr(hypervisor, "find", lambda _connection, _id, view=view: view)
        worker.storage.attachments = attached  # type: ignore[attr-defined]
        (entry,) = attachment_requests.list_attached(worker, context(), SERVER)
        assert (entry["volume_id"], entry["device"], entry["guest_has_disk"]) == (VOLUME, *told)
        assert entry["attachment_id"] == "a"


def test_a_place_that_is_promised_is_in_use(worker: WorkerContext) -> None:
    attach(worker, VOLUME, "/dev/vdx")
    with pytest.raises(BadRequest, match="in use"):
        attach(worker, OTHER_VOLUME, "/dev/vdx")
    with pytest.raises(BadRequest, match="is being attached"):
        attach(worker, VOLUME)


def test_what_ended_while_libvirt_was_asked_has_its_place_all_the_same(
    worker: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach(worker, VOLUME)
    real = attachment_requests.volume_of

    def meanwhile(*arguments: Any) -> Any:
        end(worker, line(worker)[0])  # the view of the server was read before
        return real(*arguments)

    monkeypatch.setattr(attachment_requests, "volume_of", meanwhile)
    assert attach(worker, OTHER_VOLUME) == "/dev/vdc"


def test_a_volume_that_is_being_attached_can_be_detached_after_that(worker: WorkerContext) -> None:
    with pytest.raises(NotFound):
        attachment_requests.detach(worker, context(), SERVER, VOLUME)
    assert line(worker) == []
    attach(worker, VOLUME)
    attachment_requests.detach(worker, context(), SERVER, VOLUME)
    assert [row["kind"] for row in line(worker)] == ["attach_volume", "detach_volume"]


def test_a_detachment_that_is_asked_for_again_is_the_same(worker: WorkerContext) -> None:
    """Else who has a guest that never answers fills the journal, one row for each request."""
    attach(worker, VOLUME)
    for _ in range(3):
        attachment_requests.detach(worker, context(), SERVER, VOLUME)
    assert [row["kind"] for row in line(worker)] == ["attach_volume", "detach_volume"]
    for row in line(worker):
        end(worker, row)
    with pytest.raises(NotFound):  # none is under way any more
        attachment_requests.detach(worker, context(), SERVER, VOLUME)


def test_a_volume_without_a_disk_can_be_detached(worker: WorkerContext) -> None:
    """What the doctor advises where a volume counts as attached, and no description of the server has it any more."""
    reserved = {"volume_id": OTHER_VOLUME, "status": "reserved"}
    worker.storage.attachments += [{"volume_id": VOLUME, "status": "attached"}, reserved]  # type: ignore[attr-defined]
    attachment_requests.detach(worker, context(), SERVER, VOLUME)
    assert [(row["kind"], row["intent"]["volume_id"]) for row in line(worker)] == [("detach_volume", VOLUME)]
    with pytest.raises(NotFound):  # somebody attaches it now
        attachment_requests.detach(worker, context(), SERVER, OTHER_VOLUME)


def test_anything_else_on_the_server_refuses(worker: WorkerContext) -> None:
    for kind, state in (("assisted_snapshot", "running"), ("attach_volume", "parked")):
        with worker.database.write() as connection:
            name = record.submit(connection, Request("compute", kind, Intent(), [], [f"server:{SERVER}"], "r"))
            connection.execute(tables.operations.update().where(tables.operations.c.id == name).values(state=state))
        with pytest.raises(Busy, match=kind):
            attach(worker, VOLUME)
        with pytest.raises(Busy, match=kind):
            attachment_requests.detach(worker, context(), SERVER, VOLUME)
        end(worker, {"id": name})
    assert line(worker) == []


def test_the_wait_in_line_is_bounded_and_the_place_looked_at_again(
    worker: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach(worker, VOLUME)
    attach(worker, OTHER_VOLUME)
    attachment_requests.detach(worker, context(), SERVER, VOLUME)
    _, attached, detached = line(worker)
    assert turn(worker, attached) == turn(worker, detached) == {}
    with pytest.raises(Conflict, match=r"vda .* was taken meanwhile"):
        turn(worker, {**attached, "intent": {**attached["intent"], "target": "vda"}})
    set_clock(monkeypatch, 61.0)
    assert turn(worker, attached) == turn(worker, detached) == {}  # it was set, and nobody waited
    set_clock(monkeypatch, -122.0)
    pass_time(monkeypatch, 61.0)
    for row in (attached, detached):
        with pytest.raises(Conflict, match=r"waited 60 s .* nothing was changed"):
            turn(worker, row)


def test_nothing_is_guessed_of_an_attachment_that_another_release_began(worker: WorkerContext) -> None:
    attach(worker, VOLUME)
    with worker.database.write() as connection:
        connection.execute(tables.operations.update().values(version=99))
    with pytest.raises(Conflict, match=r"\(attach_volume\) was begun by another release .* version 99"):
        attach(worker, OTHER_VOLUME)
    assert len(line(worker)) == 1
