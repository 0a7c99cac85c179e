"""Servers as libvirt shows them: whose they are, and what either description says of their disks."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from xml.sax.saxutils import escape

import pytest

from stillframe.compute.libvirt import servers
from stillframe.compute.libvirt.domain_xml import NAMESPACE
from stillframe.compute.libvirt.servers import Server
from stillframe.db.engine import Database
from stillframe.errors import ChainConflict, NotFound
from stillframe.host import hypervisor
from tests.unit.builders import OTHER_VOLUME, SERVER, SNAPSHOT, VOLUME, context, new_id
from tests.unit.compute import fakes

BASE = f"/srv/volume-{VOLUME}"
OVERLAY = f"{BASE}.{SNAPSHOT}"
OTHER = f"/srv/volume-{OTHER_VOLUME}"


def owned(project: str) -> str:
    return f'<s:owner xmlns:s="{NAMESPACE}" project="{project}" user="u"/>'


def server(*live: str, inactive: list[str] | None = None) -> Server:
    stopped = fakes.domain_xml(*inactive) if inactive is not None else None
    return Server(fakes.view(fakes.domain_xml(*live), stopped), "demo", "u")


def test_a_transient_server_has_one_description() -> None:
    found = server(fakes.disk_xml("vda", BASE))
    assert found.inactive is None
    assert len(found.descriptions) == 1


def test_disk_names_are_taken_when_either_description_has_them() -> None:
    found = server(fakes.disk_xml("vda", BASE), inactive=[fakes.disk_xml("vdb", OTHER)])
    assert found.targets == {"vda", "vdb"}


def test_a_volumes_disk_is_the_one_the_guest_has_now_else_the_one_it_will_have() -> None:
    found = server(fakes.disk_xml("vda", OVERLAY), inactive=[fakes.disk_xml("vda", BASE), fakes.disk_xml("vdb", OTHER)])
    now, later = found.disk_of(VOLUME), found.disk_of(OTHER_VOLUME)
    assert now is not None
    assert later is not None
    assert (now.file, later.file) == (OVERLAY, OTHER)
    assert found.disk_of(new_id()) is None


def test_every_volume_is_listed_once_with_its_live_disk() -> None:
    found = server(
        fakes.disk_xml("vda", OVERLAY),
        fakes.disk_xml("vdc", "/srv/no-volume.qcow2"),
        inactive=[fakes.disk_xml("vda", BASE), fakes.disk_xml("vdb", OTHER)],
    )
    assert [(volume_id, disk.file) for volume_id, disk in found.volumes()] == [(VOLUME, OVERLAY), (OTHER_VOLUME, OTHER)]


@pytest.mark.parametrize("where", ["live", "inactive"])
def test_a_file_named_in_either_description_is_named(where: str) -> None:
    disks = {"live": [fakes.disk_xml("vda", BASE)], "inactive": [fakes.disk_xml("vda", BASE)]}
    disks[where] = [fakes.disk_xml("vda", OVERLAY)]
    found = server(*disks["live"], inactive=disks["inactive"])
    assert found.names_file(OVERLAY)
    assert not found.names_file(OTHER)


def test_a_file_deep_in_a_chain_is_named() -> None:
    chain = (
        f'<disk type="file"><source file="{OTHER}"/><backingStore type="file"><source file="{OVERLAY}"/>'
        "</backingStore><target dev='vda'/></disk>"
    )
    assert server(chain).names_file(OVERLAY)


@pytest.mark.parametrize("directory", ["/srv/a & b", "/srv/it's", '/srv/"x"', "/srv/<x>", "/srv/ä"])
def test_a_file_is_named_however_xml_writes_its_path(directory: str) -> None:
    path = f"{directory}/volume-{VOLUME}.{SNAPSHOT}"
    written = escape(path, {"'": "&apos;", '"': "&quot;"})
    assert server(fakes.disk_xml("vda", written)).names_file(path)


def test_descriptions_that_agree_may_be_worked_on() -> None:
    agreed = server(fakes.disk_xml("vda", BASE), inactive=[fakes.disk_xml("vda", BASE)])
    servers.check_same(agreed, agreed.live.disks[0])
    transient = server(fakes.disk_xml("vda", BASE))
    servers.check_same(transient, transient.live.disks[0])


@pytest.mark.parametrize("inactive", [[fakes.disk_xml("vda", OVERLAY)], [fakes.disk_xml("vdb", BASE)], []])
def test_descriptions_that_differ_are_not_worked_on(inactive: list[str]) -> None:
    found = server(fakes.disk_xml("vda", BASE), inactive=inactive)
    with pytest.raises(ChainConflict, match="vda"):
        servers.check_same(found, found.live.disks[0])


def test_descriptions_that_differ_in_the_format_alone_are_not_worked_on() -> None:
    found = server(fakes.disk_xml("vda", BASE, format_="raw"), inactive=[fakes.disk_xml("vda", BASE)])
    with pytest.raises(ChainConflict, match="as qcow2, not raw, after a restart"):
        servers.check_same(found, found.live.disks[0])


def worker(database: Database, path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    mine = fakes.view(fakes.domain_xml(metadata=owned("demo")))
    theirs = replace(fakes.view(fakes.domain_xml(metadata=owned("other"))), uuid=OTHER_VOLUME)
    nobodys = replace(fakes.view(fakes.domain_xml()), uuid=VOLUME)
    return fakes.worker(database, path, [mine, theirs, nobodys], monkeypatch)


def test_a_project_sees_its_own_servers_and_the_default_project_those_nobody_owns(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = worker(database, tmp_path, monkeypatch)

    def ids(*roles: str, project: str = "demo", all_projects: bool = False) -> set[str]:
        found = servers.list_all(seen, context(*roles, project=project), all_projects)
        return {each.id for each in found}

    assert ids("member") == ids("member", all_projects=True) == {SERVER, VOLUME}
    assert ids("member", project="other") == {OTHER_VOLUME}
    assert ids("admin", project="other") == {OTHER_VOLUME}
    assert ids("admin", all_projects=True) == ids("service") == {SERVER, VOLUME, OTHER_VOLUME}


def test_a_foreign_server_is_answered_as_a_missing_one(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = worker(database, tmp_path, monkeypatch)
    messages = []
    for wanted in (OTHER_VOLUME, SNAPSHOT, "nonsense", ""):
        with pytest.raises(NotFound) as told:
            servers.find(seen, context("member"), wanted)
        messages.append(told.value.message.replace(wanted, "ID") if wanted else "Instance ID could not be found.")
    assert set(messages) == {"Instance ID could not be found."}
    assert servers.find(seen, context("member"), SERVER.upper()).id == SERVER
    assert servers.find(seen, context("service"), OTHER_VOLUME).project_id == "other"


class Connection:
    """libvirt with stopped domains by id and project, and what was asked of it."""

    def __init__(self, **projects: str) -> None:
        self.projects = {name.replace("_", "-"): project for name, project in projects.items()}
        self.asked: list[str] = []

    def domain(self, uuid: str) -> Any:
        self.asked.append("look up")
        if uuid not in self.projects:
            raise NotFound("no such domain")
        return uuid

    def connection(self) -> Any:
        return self

    def listAllDomains(self) -> list[Any]:
        self.asked.append("list")
        return [SimpleNamespace(UUIDString=partial(str, each)) for each in self.projects]

    def view(self, domain: Any) -> Any:
        self.asked.append("read")
        uuid = domain if isinstance(domain, str) else domain.UUIDString()
        xml = fakes.domain_xml(metadata=owned(self.projects[uuid]))
        return replace(fakes.view(xml, xml, active=False), uuid=uuid)


def test_a_server_of_another_project_costs_what_a_missing_one_does(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = fakes.worker(database, tmp_path, [], monkeypatch)
    monkeypatch.undo()
    own, foreign, missing = new_id(), new_id(), new_id()
    libvirt = Connection(**{own.replace("-", "_"): "demo", foreign.replace("-", "_"): "other"})
    worker = replace(worker, hypervisor=cast("Any", libvirt))
    monkeypatch.setattr(hypervisor, "view", libvirt.view)
    found: dict[str, list[str]] = {}
    for wanted in (foreign, missing):
        libvirt.asked.clear()
        with pytest.raises(NotFound, match=f"^Instance {wanted} could not be found"):
            servers.find(worker, context(), wanted)
        found[wanted] = sorted(libvirt.asked)
    assert found[foreign] == found[missing] == ["list", "look up", "read"]
    assert servers.find(worker, context(), own).id == own
    assert servers.find(worker, context("service"), foreign).id == foreign
    libvirt.projects.clear()
    with pytest.raises(NotFound):
        servers.find(worker, context(), missing)
