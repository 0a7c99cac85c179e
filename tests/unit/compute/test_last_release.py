"""Operations as the last release before typed intents stored them (``last_release.json``, made by its own functions): they
are read, nothing of them is lost, and they run to their end."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import update

from stillframe.chain.image import Chain, Image
from stillframe.compute.kinds import KINDS, places
from stillframe.compute.requests import repeats
from stillframe.db import assisted_snapshots, operations
from stillframe.db.engine import Database
from stillframe.db.tables import operations as table
from stillframe.host import files, hypervisor, publish, qcow2, qemu_img, soundness
from stillframe.host.hypervisor import DomainView
from stillframe.journal import record, runner
from stillframe.journal.operation import Document, Operation
from stillframe.journal.record import Journal, Request, this_process
from stillframe.journal.typed import Intent
from tests.unit.builders import GIB, OTHER_SNAPSHOT, SERVER, SNAPSHOT, VOLUME
from tests.unit.compute import fakes

STORED: list[Document] = json.loads(Path(__file__).with_name("last_release.json").read_text())
BASE = f"volume-{VOLUME}"
MIDDLE, ACTIVE = f"{BASE}.{SNAPSHOT}", f"{BASE}.{OTHER_SNAPSHOT}"
SHARE = "/srv/share"


def submit(database: Database, stored: Document) -> Operation[Any]:
    resources = [f"server:{SERVER}"] if stored["kind"] != "await_server" else [f"set:{stored['intent']['set_id']}"]
    request = Request("compute", stored["kind"], Intent(), [], resources, "req-1", stored["id"])
    with database.write() as connection:
        record.submit(connection, request.of("demo"))
        connection.execute(update(table).values(intent=stored["intent"], plan=stored["plan"]))
        row = operations.get(connection, stored["id"])
    assert row is not None
    assert (row["intent"], row["plan"], row["version"]) == (stored["intent"], stored["plan"], 1)
    return Operation.from_row(row, KINDS[stored["kind"]])


def holds(value: Any, stored: Any) -> bool:
    """Whether the value says everything that was stored."""
    if isinstance(value, msgspec.Struct):
        known = {"kind": value.__struct_config__.tag} | {key: getattr(value, key) for key in value.__struct_fields__}
        return all(holds(known[key], stored[key]) for key in stored)
    if isinstance(value, tuple):
        return len(value) == len(stored) and all(map(holds, value, stored))
    return bool(value == stored)


@pytest.mark.parametrize("stored", STORED, ids=lambda each: str(each["name"]))
def test_they_are_read_and_nothing_is_lost(database: Database, stored: Document) -> None:
    operation = submit(database, stored)
    assert operation.not_understood == ""
    assert isinstance(operation.intent, msgspec.Struct)
    assert holds(operation.intent, stored["intent"])
    assert [step.key for step in operation.plan] == [step["verb"] for step in stored["plan"]]
    assert all(holds(step.args, known["args"]) for step, known in zip(operation.plan, stored["plan"], strict=True))
    assert f"server {SERVER}" in places(operation)


@pytest.mark.parametrize("stored", STORED, ids=lambda each: str(each["name"]))
def test_a_field_that_is_not_known_is_not_passed_over(database: Database, stored: Document) -> None:
    for inside in (stored["intent"], *stored["intent"].get("disks", ())[:1], stored["intent"].get("wanted")):
        if inside is not None:
            inside["hurry"] = True
            try:
                other = {**stored, "id": f"{len(str(inside)):08d}-0000-4000-8000-000000000000"}
                assert "`hurry`" in submit(database, other).not_understood
            finally:
                del inside["hurry"]


class Storage(fakes.Storage):
    """Block storage that has what it is asked for and takes what it is told."""

    def __init__(self) -> None:
        volume = {"size": 1, "os-vol-tenant-attr:tenant_id": "demo", "status": "in-use", "name": "data"}
        info = {"driver_volume_type": "local", "export": SHARE, "name": BASE}
        super().__init__([{"volume_id": VOLUME, "connection_info": info}], {VOLUME: {"id": VOLUME, **volume}})
        self.told: list[str] = []
        self.attached: Document | None = None

    def attachment(self, volume_id: str, server_id: str) -> Document | None:
        return self.attached

    def reserve(self, volume_id: str, server_id: str) -> str:
        self.attached = {"id": "a", "status": "reserved", "connection_info": None}
        return "a"

    def connect(self, attachment_id: str, connector: Document) -> Document:
        info = {"driver_volume_type": "local", "export": "/srv", "name": BASE, "format": "qcow2"}
        self.attached = {"id": attachment_id, "status": "attaching", "connection_info": info}
        return info

    def complete(self, attachment_id: str) -> None:
        self.told.append(f"attached {attachment_id}")

    def create_snapshot_metadata(self, volume_id: str, document: Document) -> Document:
        return {"file": {"overlay": f"volume-{volume_id}.{document['snapshot_id']}", "backing": BASE}}

    def finalize_snapshot_metadata(self, snapshot_id: str, document: Document) -> None:
        self.told.append(f"snapshot {snapshot_id} {document['status']}")

    def report_snapshot(self, snapshot_id: str, status: str, _progress: str) -> None:
        self.told.append(f"snapshot {snapshot_id} {status}")

    def snapshot(self, snapshot_id: str) -> Document | None:
        return None


class Machine:
    """A stopped server with one disk, and image files by their headers alone; ``did`` is what qemu-img was asked for."""

    def __init__(self, active: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.images = {name: Image(name, "qcow2", GIB) for name in (BASE, MIDDLE, ACTIVE)}
        self.did: list[str] = []
        self.views: list[DomainView] = []
        self.show(fakes.disk_xml("vda", f"{SHARE}/{active}", VOLUME))
        chain = Chain(VOLUME, (self.images[BASE],))
        simple: list[tuple[Any, str, Any]] = [
            (files, "exists", lambda _share, name: name in self.images),
            (files, "free_bytes", lambda _share: 100 * GIB),
            (files, "is_locked", lambda _share, _name: False),
            (files, "listing", lambda _share: []),
            (qcow2, "read", lambda _share, name: self.images[name]),
            (qcow2, "read_as", lambda _share, name, _format: self.images[name]),
            (qemu_img, "read_chain", lambda *_arguments: chain),
            (soundness, "mend_open", lambda *_arguments: []),
            (soundness, "refuse_beyond_repair", lambda *_arguments: None),
            (soundness, "repair", lambda *_arguments: []),
            (qemu_img, "repair_all", lambda *_arguments: None),
            (hypervisor, "view", lambda _domain: self.views[0]),
        ]
        for place, name, function in simple:
            monkeypatch.setattr(place, name, function)
        for name in ("commit", "pull", "repoint"):
            monkeypatch.setattr(qemu_img, name, lambda *given, name=name: self.did.append(f"{name} {given[1:3]}"))
        monkeypatch.setattr(publish, "publish_overlay", self.publish)
        monkeypatch.setattr(hypervisor, "switch_disks", self.switch)
        monkeypatch.setattr(hypervisor, "attach_device", lambda _domain, xml, **_where: self.show(xml))
        monkeypatch.setattr(hypervisor, "update_definition", lambda _domain, xml: self.show(xml))

    def show(self, disk: str) -> None:
        xml = fakes.domain_xml(disk)
        self.views[:] = [fakes.view(xml, xml, active=False)]

    def publish(self, _share: Path, image: Image, _operation: str, _volume: str) -> None:
        self.images[image.name] = image

    def switch(self, _domain: Any, xml: str) -> None:
        path = xml.partition('file="')[2].partition('"')[0]
        self.show(fakes.disk_xml("vda", path, VOLUME))


def began_from(stored: Document) -> str:
    """The active file of the server's disk when the operation begins."""
    disks = stored["intent"].get("disks", [stored["intent"]])
    return str(disks[0].get("active", BASE))


@pytest.mark.parametrize("stored", STORED, ids=lambda each: str(each["name"]))
def test_they_run_to_their_end(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: Document) -> None:
    machine, storage = Machine(began_from(stored), monkeypatch), Storage()
    if stored["kind"] in ("attach_volume", "detach_volume"):  # the server has no such disk
        machine.show("")
    if stored["kind"] == "assisted_volume_snapshot":  # block storage has made the overlay
        disk = stored["intent"]["disks"][0]
        machine.publish(Path(SHARE), Image(disk["overlay"], "qcow2", GIB, disk["active"], "qcow2"), "", "")
    worker = fakes.worker(database, tmp_path, machine.views, monkeypatch, storage)
    insert_set(database, stored["intent"].get("set_id"))
    submit(database, stored)
    journal = Journal(database, "compute", this_process("here"), 30, KINDS)
    (operation,) = journal.claim_all()
    runner.run(journal, KINDS[operation.kind], worker, operation)
    with database.read() as connection:
        row = operations.get(connection, stored["id"])
    assert row is not None
    assert (row["state"], row["fault"]) == ("done", None)
    assert done(database, stored, machine, storage)


def insert_set(database: Database, set_id: str | None) -> None:
    if set_id is None:
        return
    with database.write() as connection:
        assisted_snapshots.insert(
            connection,
            {
                "id": set_id,
                "project_id": "demo",
                "user_id": "u",
                "server_id": SERVER,
                "name": None,
                "description": None,
                "metadata": {},
                "policy_id": None,
                "warnings": None,
                "fault": None,
                "status": "creating",
                "progress": 0,
                "quiesce": "preferred",
                "volumes": [],
                "excluded_disks": [],
            },
        )


def done(database: Database, stored: Document, machine: Machine, storage: Storage) -> bool:
    """Whether what was asked has happened."""
    asked = stored["intent"]
    with database.read() as connection:
        shown = assisted_snapshots.get(connection, asked.get("set_id", ""), None)
        takes = operations.get(connection, (asked.get("wanted") or {}).get("operation_id", ""))
    match stored["kind"]:
        case "attach_volume":
            return storage.told == ["attached a"] and asked["volume_id"] in machine.views[0].xml
        case "detach_volume":
            return storage.attached is None
        case "await_server":
            return takes is not None and repeats.recorded(takes) is not None
        case "assisted_snapshot":
            return shown is not None and shown["status"] == "available" and asked["disks"][0]["overlay"] in machine.views[0].xml
        case "assisted_volume_snapshot":
            return storage.told == [f"snapshot {asked['disks'][0]['snapshot_id']} creating"]
        case "merge_volume":
            return machine.did[-1].partition(" ")[0] in ("pull", "repoint", "commit")
    return shown is None
