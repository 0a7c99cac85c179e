"""iSCSI volumes: what of a connection_info is taken, proven and kept, and where the password is and is not."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stillframe.compute.libvirt import connector, domain_xml, servers
from stillframe.compute.libvirt.connections import iscsi, kinds
from stillframe.compute.libvirt.connections.contract import Attachment
from stillframe.compute.libvirt.network_source import NetworkSource
from stillframe.compute.worker.context import WorkerContext
from stillframe.db.engine import Database
from stillframe.errors import ChainConflict, StepFailed, TargetUnreachable
from stillframe.host import hypervisor, libvirt_secrets
from stillframe.host import iscsi as host_iscsi
from stillframe.host.iscsi import Unit
from stillframe.host.libvirt_secrets import Secret
from stillframe.units import GIB
from tests.unit.builders import OTHER_VOLUME, SERVER, VOLUME
from tests.unit.compute import fakes

PASSWORD = "canary-of-a-password"
INITIATOR = "iqn.2008-11.org.linux-kvm:a"
TARGET = f"iqn.2010-10.org.openstack:volume-{VOLUME}"
ID = "9a9a9a9a-9999-4999-8999-999999999999"
INFO = {
    "driver_volume_type": "iscsi",
    "target_portal": "192.0.2.7:3260",
    "target_iqn": TARGET,
    "target_lun": 1,
    "auth_method": "CHAP",
    "auth_username": "somebody",
    "auth_password": PASSWORD,
    "discard": True,
}
SOURCE = NetworkSource("iscsi", f"{TARGET}/1", "192.0.2.7", 3260, "somebody", ID, INITIATOR)


class Machine:
    """What logs in, and libvirt's secrets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.size: int | Exception = GIB
        self.logins: list[tuple[Unit, str | None]] = []
        self.secrets: dict[str, Secret] = {}
        self.changed: list[str] = []
        monkeypatch.setattr(host_iscsi, "size_of", self._size_of)
        monkeypatch.setattr(libvirt_secrets, "define", lambda _, secret: self.secrets.update({secret.id: secret}))
        monkeypatch.setattr(libvirt_secrets, "remove", lambda _, id_: self.secrets.pop(id_, None))
        monkeypatch.setattr(hypervisor, "update_definition", lambda _, xml: self.changed.append(xml))
        monkeypatch.setattr(connector, "initiator", lambda _: INITIATOR)

    def _size_of(self, unit: Unit, password: str | None) -> int:
        self.logins.append((unit, password))
        if isinstance(self.size, Exception):
            raise self.size
        return self.size


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    return Machine(monkeypatch)  # type: ignore[return-value]


@pytest.fixture
def worker(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: Machine) -> WorkerContext:
    return with_servers(database, tmp_path, monkeypatch)


def with_servers(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *views: Any) -> WorkerContext:
    volume = {"id": VOLUME, "size": 1, "os-vol-tenant-attr:tenant_id": "demo", "status": "available", "attachments": []}
    return fakes.worker(database, tmp_path, list(views), monkeypatch, fakes.Storage([], {VOLUME: volume}))


def attachment(**changes: Any) -> Attachment:
    return Attachment(ID, VOLUME, {**INFO, **changes})


def test_the_way_is_chosen_by_what_block_storage_says() -> None:
    assert kinds.of(INFO) is iscsi
    assert kinds.of({}) is kinds.of({"driver_volume_type": "nfs"})
    with pytest.raises(StepFailed, match="on a rbd backend, which this host cannot attach"):
        kinds.of({"driver_volume_type": "rbd"})


def test_the_journal_keeps_everything_but_the_password(worker: WorkerContext) -> None:
    source = iscsi.source(worker, attachment())
    assert PASSWORD not in json.dumps(source)
    xml = iscsi.disk(VOLUME, source, "vdb")
    assert PASSWORD not in xml
    (disk,) = domain_xml.read(fakes.domain_xml(xml)).disks
    assert (disk.network, disk.volume_id, disk.format, disk.file) == (SOURCE, VOLUME, "raw", None)
    assert 'discard="unmap"' in xml and 'error_policy="stop"' in xml and "<readonly/>" not in xml
    frugal = iscsi.disk(VOLUME, iscsi.source(worker, attachment(discard=None, access_mode="ro")), "vdb")
    assert 'discard="ignore"' in frugal and "<readonly/>" in frugal


def test_a_volume_is_looked_at_before_libvirt_knows_its_password(worker: WorkerContext, machine: Machine) -> None:
    source = iscsi.source(worker, attachment())
    machine.size = TargetUnreachable("away")
    with pytest.raises(TargetUnreachable):
        iscsi.prepare(worker, attachment(), source)
    machine.size = GIB - 512
    with pytest.raises(ChainConflict, match=f"has {GIB - 512} bytes, but volume {VOLUME} has {GIB}"):
        iscsi.prepare(worker, attachment(), source)
    assert machine.secrets == {}
    machine.size = GIB + 512  # arrays round up
    assert iscsi.prepare(worker, attachment(), source) == []
    assert machine.logins[-1] == (Unit("192.0.2.7:3260", TARGET, 1, INITIATOR, "somebody"), PASSWORD)
    (secret,) = machine.secrets.values()
    assert (secret.id, secret.value) == (ID, PASSWORD)
    assert iscsi.is_own(secret.usage, INITIATOR) and not iscsi.is_own(secret.usage, INITIATOR + "b")
    iscsi.release(worker, ID)
    assert machine.secrets == {}


def test_a_target_without_an_account_needs_no_secret(worker: WorkerContext, machine: Machine) -> None:
    open_ = attachment(auth_method=None, auth_username=None, auth_password=None)
    source = iscsi.source(worker, open_)
    iscsi.prepare(worker, open_, source)
    assert machine.secrets == {}
    assert machine.logins == [(Unit("192.0.2.7:3260", TARGET, 1, INITIATOR, None), None)]
    assert "<auth" not in iscsi.disk(VOLUME, source, "vdb")


@pytest.mark.parametrize("portal", ["[2001:db8::7]:3260", "storage.example.org:3260", "192.0.2.7:3260,1"])
def test_a_portal_is_an_address_or_a_name_with_a_port(worker: WorkerContext, machine: Machine, portal: str) -> None:
    source = iscsi.source(worker, attachment(target_portal=portal))
    iscsi.prepare(worker, attachment(target_portal=portal), source)
    assert machine.logins[0][0].portal == portal.partition(",")[0]
    assert not source["host"].startswith("[")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"target_portal": None}, "target_portal"),
        ({"target_portal": "192.0.2.7"}, "target_portal"),
        ({"target_portal": "192.0.2.7:99999"}, "target_portal"),
        ({"target_portal": "a'/>:3260"}, "target_portal"),
        ({"target_iqn": None}, "target_iqn"),
        ({"target_iqn": "volume-1"}, "target_iqn"),
        ({"target_iqn": "iqn.2010-10.org:a/2"}, "target_iqn"),
        ({"target_lun": None}, "target_lun"),
        ({"target_lun": "1"}, "target_lun"),
        ({"target_lun": -1}, "target_lun"),
        ({"target_lun": True}, "target_lun"),
        ({"auth_method": "SRP"}, "'SRP'"),
        ({"auth_password": None}, "'CHAP'"),
        ({"auth_username": ""}, "'CHAP'"),
        ({"encrypted": True}, "is encrypted"),
    ],
)
def test_what_qemus_initiator_cannot_serve_is_refused(worker: WorkerContext, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(StepFailed, match=told) as caught:
        iscsi.source(worker, attachment(**changes))
    assert PASSWORD not in caught.value.message


def test_a_disk_is_the_volume_whichever_way_it_is_reached(worker: WorkerContext) -> None:
    xml = iscsi.disk(VOLUME, iscsi.source(worker, attachment()), "vdb")
    (disk,) = domain_xml.read(fakes.domain_xml(xml)).disks
    assert iscsi.is_same(disk, INFO)
    assert iscsi.is_same(disk, {**INFO, "target_portal": "192.0.2.8:3260", "auth_username": "else"})
    assert not iscsi.is_same(disk, {**INFO, "target_lun": 2})
    assert not iscsi.is_same(disk, {**INFO, "target_iqn": TARGET.replace(VOLUME, OTHER_VOLUME)})
    assert not iscsi.is_same(replace(disk, network=None, file="/srv/a"), INFO)
    assert iscsi.recorded(INFO) == f"iscsi {TARGET}/1 at 192.0.2.7:3260" == disk.words


def stopped(worker: WorkerContext, **changes: Any) -> str:
    return fakes.domain_xml(iscsi.disk(VOLUME, iscsi.source(worker, attachment(**changes)), "vdb"))


def test_a_start_gives_libvirt_todays_password_and_the_definition_todays_account(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, worker: WorkerContext, machine: Machine
) -> None:
    xml = stopped(worker, auth_username="of yesterday", target_portal="192.0.2.1:3260")
    worker = with_servers(database, tmp_path, monkeypatch, fakes.view(xml, xml, active=False))
    server = servers.look(worker, SERVER)
    (disk,) = server.live.disks
    iscsi.check_start(worker, server, disk, attachment())
    assert machine.logins[0] == (Unit("192.0.2.7:3260", TARGET, 1, INITIATOR, "somebody"), PASSWORD)
    assert (machine.secrets, machine.changed) == ({}, [])  # nothing yet: another disk may fail
    iscsi.before_start(worker, server, disk, attachment())
    assert machine.secrets[ID].value == PASSWORD
    (changed,) = machine.changed
    (now,) = domain_xml.read(fakes.domain_xml(changed)).disks
    assert now == replace(disk, network=SOURCE)
    xml = fakes.domain_xml(changed)
    worker = with_servers(database, tmp_path, monkeypatch, fakes.view(xml, xml, active=False))
    iscsi.before_start(worker, servers.look(worker, SERVER), now, attachment())
    assert len(machine.changed) == 1


def test_a_saved_server_is_restored_only_with_the_account_that_its_memory_names(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, worker: WorkerContext, machine: Machine
) -> None:
    for changes in ({}, {"auth_username": "of yesterday"}):
        xml = stopped(worker, **changes)
        other = with_servers(database, tmp_path, monkeypatch, fakes.saved_view(xml, xml))
        server = servers.look(other, SERVER)
        assert server.saved is not None
        (disk,) = server.saved.disks
        if changes:
            with pytest.raises(ChainConflict, match="another initiator or account"):
                iscsi.check_start(other, server, disk, attachment())
        else:
            iscsi.check_start(other, server, disk, attachment())
            iscsi.before_start(other, server, disk, attachment())
    assert machine.changed == []
    assert set(machine.secrets) == {ID}
