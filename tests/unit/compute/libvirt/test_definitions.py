"""What a definition names, when the server is started while it is changed."""

from pathlib import Path
from typing import Any

import pytest

from stillframe.compute.libvirt import definitions, servers
from stillframe.db.engine import Database
from stillframe.errors import Conflict
from stillframe.host import hypervisor
from tests.unit.builders import SERVER, VOLUME
from tests.unit.compute import fakes
from tests.unit.compute.fakes import Storage

OLD, NEW = f"/srv/volume-{VOLUME}.old", f"/srv/volume-{VOLUME}"


@pytest.fixture
def named(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Names another file for a stopped server that has started with ``live`` when it is looked at afterwards; returns what the
    definition was told."""

    def name(live: str | None) -> list[str]:
        xml = fakes.domain_xml(fakes.disk_xml("vda", OLD, VOLUME))
        worker = fakes.worker(database, tmp_path, [fakes.view(xml, xml, 5, active=False)], monkeypatch, Storage([]))
        server = servers.look(worker, SERVER)
        told: list[str] = []

        def update(_domain: object, disk_xml: str) -> None:
            told.append(OLD if f'"{OLD}"' in disk_xml else NEW)
            running = fakes.domain_xml(fakes.disk_xml("vda", live, VOLUME)) if live else xml
            view = fakes.view(running, xml, 1 if live else 5, active=live is not None)
            monkeypatch.setattr(hypervisor, "find", lambda _hypervisor, _uuid: view)

        monkeypatch.setattr(hypervisor, "update_definition", update)
        if live == OLD:
            with pytest.raises(Conflict, match="was started meanwhile"):
                definitions.name_file(worker, server, "vda", NEW, "qcow2")
        else:
            definitions.name_file(worker, server, "vda", NEW, "qcow2")
        return told

    return name


@pytest.mark.parametrize(("live", "told"), [(None, [NEW]), (NEW, [NEW]), (OLD, [NEW, OLD])])
def test_the_definition_names_what_a_server_has_open_that_was_started_meanwhile(
    named: Any, live: str | None, told: list[str]
) -> None:
    assert named(live) == told
