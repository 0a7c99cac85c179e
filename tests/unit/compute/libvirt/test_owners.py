"""Which of several servers has a volume."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stillframe.compute.libvirt import owners
from stillframe.compute.worker.context import WorkerContext
from stillframe.db.engine import Database
from stillframe.errors import BadRequest, Conflict, NotFound
from stillframe.host.hypervisor import DomainView
from tests.unit.builders import OTHER_VOLUME, VOLUME, new_id
from tests.unit.compute import fakes

FILE = f"/srv/share/volume-{VOLUME}"
OWN, COPY, LAST = new_id(), new_id(), new_id()
Make = Callable[..., WorkerContext]


class Storage(fakes.Storage):
    """Knows one attachment."""

    asked = 0

    def __init__(self, attached_to: str | None) -> None:
        super().__init__()
        self.attached_to = attached_to

    def attachment(self, _volume_id: str, server_id: str) -> dict[str, Any] | None:
        self.asked += 1
        return {"status": "attached"} if server_id == self.attached_to else None


def domain(uuid: str, file: str, serial: str = VOLUME) -> DomainView:
    return DomainView(uuid, "n", 1, 0, True, fakes.domain_xml(fakes.disk_xml("vda", file, serial)), None)


@pytest.fixture
def make(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    def made(*views: DomainView, attached_to: str | None = None) -> WorkerContext:
        return fakes.worker(database, tmp_path, list(views), monkeypatch, Storage(attached_to))

    return made


def test_the_only_server_has_it_and_nobody_else_is_asked(make: Make) -> None:
    worker = make(domain(LAST, f"/srv/share/volume-{OTHER_VOLUME}", OTHER_VOLUME), domain(OWN, FILE))
    server, disk = owners.owner(worker, VOLUME)
    assert (server.id, disk.file) == (OWN, FILE)
    assert worker.storage.asked == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("order", [1, -1])
def test_who_has_the_file_goes_before_who_has_the_serial(make: Make, order: int) -> None:
    views = [domain(COPY, "/srv/copy.qcow2"), domain(OWN, FILE)][::order]
    assert owners.owner(make(*views, attached_to=COPY), VOLUME)[0].id == OWN


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_with_such_a_file_the_attachment_decides(make: Make, order: int) -> None:
    views = [domain(COPY, f"/backup/share/volume-{VOLUME}"), domain(OWN, FILE)][::order]
    assert owners.owner(make(*views, attached_to=OWN), VOLUME)[0].id == OWN


def test_where_nothing_decides_all_are_named(make: Make) -> None:
    with pytest.raises(Conflict) as caught:
        owners.owner(make(domain(OWN, FILE), domain(COPY, f"/backup/volume-{VOLUME}")), VOLUME)
    assert OWN in caught.value.message and COPY in caught.value.message


def test_nobody(make: Make) -> None:
    with pytest.raises(NotFound, match="no server has volume"):
        owners.owner(make(domain(OWN, FILE)), OTHER_VOLUME)
    with pytest.raises(BadRequest):
        owners.owner(make(), "x")
