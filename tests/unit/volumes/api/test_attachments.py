"""Attachments as clients ask for them: who may name which server, who lets go of what, and what is nobody's business."""

from pathlib import Path
from typing import Any

import pytest
from falcon import testing

from stillframe.compute.clients.block_storage import StorageClient
from stillframe.db import attachments, volumes
from stillframe.db.engine import Database
from stillframe.db.values import NewAttachment
from stillframe.volumes.api.routes import SERVICE
from stillframe.volumes.manager import Manager
from stillframe.volumes.worker.context import WorkerContext
from tests.unit import builders
from tests.unit.builders import OTHER_VOLUME, SERVER, SHARE, VOLUME, new_id
from tests.unit.volumes import fakes
from tests.unit.web.shell import Site

FOREIGN, MISSING = new_id(), new_id()
MEMBER, ADMIN, COMPUTE = "member reader", "admin member reader", "service:service"
CONNECTOR = {"host": "kvm-7", "ip": "192.0.2.7"}


@pytest.fixture
def worker(database: Database, tmp_path: Path) -> WorkerContext:
    with database.write() as connection:
        builders.volume_row(connection)
    made = fakes.worker(database, tmp_path)
    fakes.compute(made).projects[FOREIGN] = "other"
    return made


@pytest.fixture
def site(worker: WorkerContext, tmp_path: Path) -> Site:
    return Site(worker.database, tmp_path, SERVICE, Manager(worker, lambda: None).methods())


def ask(site: Site, who: str, method: str, path: str, body: Any = None) -> testing.Result:
    headers = {"OpenStack-API-Version": "volume 3.71"}
    return site.ask(method, f"/v3/attachments{path}", who=who, json=body, headers=headers)


def reserve(site: Site, who: str, server: str | None, connector: Any = None) -> testing.Result:
    wanted = {"volume_uuid": VOLUME, "instance_uuid": server, "connector": connector}
    return ask(site, who, "POST", "", {"attachment": wanted})


def status(worker: WorkerContext) -> str:
    with worker.database.read() as connection:
        row = volumes.get(connection, VOLUME, None)
    assert row is not None
    return str(row["status"])


@pytest.mark.parametrize("who", [MEMBER, ADMIN])
@pytest.mark.parametrize("connector", [None, CONNECTOR])
def test_a_server_of_another_project_is_as_little_there_as_none(
    site: Site, worker: WorkerContext, who: str, connector: Any
) -> None:
    told = [reserve(site, who, server, connector) for server in (FOREIGN, MISSING)]
    assert [answer.status_code for answer in told] == [404, 404]
    assert told[0].text.replace(FOREIGN, "") == told[1].text.replace(MISSING, "")
    assert status(worker) == "available"


def test_a_server_that_nobody_can_tell_of_is_refused(site: Site, worker: WorkerContext) -> None:
    fakes.compute(worker).silent = True
    assert reserve(site, MEMBER, SERVER).status_code == 503
    assert status(worker) == "available"


def test_a_service_is_believed_without_a_question(site: Site, worker: WorkerContext) -> None:
    fakes.compute(worker).silent = True
    assert reserve(site, COMPUTE, FOREIGN).status_code == 200


def test_a_member_reserves_for_a_server_of_the_project_and_gives_it_back(site: Site, worker: WorkerContext) -> None:
    made = reserve(site, MEMBER, SERVER.upper())
    assert made.status_code == 200 and made.json["attachment"]["instance"] == SERVER
    attachment = made.json["attachment"]["id"]
    assert ask(site, MEMBER, "PUT", f"/{attachment}", {"attachment": {"connector": CONNECTOR}}).status_code == 200
    assert status(worker) == "attaching"
    assert ask(site, MEMBER, "DELETE", f"/{attachment}").status_code == 200
    assert status(worker) == "available"


def test_a_reservation_for_no_server_is_given_back_without_a_question(site: Site, worker: WorkerContext) -> None:
    attachment = reserve(site, MEMBER, None).json["attachment"]["id"]
    fakes.compute(worker).silent = True
    assert ask(site, MEMBER, "DELETE", f"/{attachment}").status_code == 200
    assert status(worker) == "available"


@pytest.mark.parametrize("connector", [None, CONNECTOR])
@pytest.mark.parametrize("who", [MEMBER, ADMIN])
@pytest.mark.parametrize("used", ["described", "saved", "attaching", "locked", "compute silent", "share silent"])
def test_a_server_is_left_what_it_may_have_before_its_attachment_is_complete(
    site: Site, worker: WorkerContext, used: str, who: str, connector: Any
) -> None:
    """The guest has the disk a moment before compute says so. An available volume that a guest writes to would be
    snapshotted offline."""
    attachment = reserve(site, COMPUTE, SERVER, connector).json["attachment"]["id"]
    base, compute, share, before = f"volume-{VOLUME}", fakes.compute(worker), fakes.memory(worker), status(worker)
    match used:
        case "described":
            compute.servers[VOLUME] = {"id": SERVER, "active": True, "file": base}
        case "saved" | "attaching":
            getattr(compute, used)[VOLUME] = SERVER
        case "locked":
            share.opened.add(base)
        case "compute silent":
            compute.silent = True
        case "share silent":
            share.silent = True
    answer = ask(site, who, "DELETE", f"/{attachment}")
    assert answer.status_code == (503 if "silent" in used else 409), answer.text
    assert (who == ADMIN) == ("users" in answer.text) or answer.status_code == 503
    assert status(worker) == before
    compute.silent = share.silent = False
    assert ask(site, COMPUTE, "DELETE", f"/{attachment}").status_code == 200


def test_a_member_does_not_say_that_a_server_has_the_volume(site: Site, worker: WorkerContext) -> None:
    attachment = reserve(site, MEMBER, SERVER, CONNECTOR).json["attachment"]["id"]
    path = f"/{attachment}/action"
    assert ask(site, MEMBER, "POST", path, {"os-complete": None}).status_code == 403
    assert status(worker) == "attaching"
    assert ask(site, COMPUTE, "POST", path, {"os-complete": None}).status_code == 204
    assert ask(site, MEMBER, "DELETE", f"/{attachment}").status_code == 409
    assert status(worker) == "in-use"
    assert ask(site, ADMIN, "DELETE", f"/{attachment}").status_code == 200  # nobody has it: no dead end
    assert status(worker) == "available"


def test_hosts_exports_and_mount_points_are_for_services_and_administrators(site: Site) -> None:
    created = reserve(site, MEMBER, SERVER, CONNECTOR)
    path = f"/{created.json['attachment']['id']}"
    updated = ask(site, MEMBER, "PUT", path, {"attachment": {"connector": CONNECTOR}})
    answers = [
        created,
        updated,
        ask(site, MEMBER, "GET", path),
        ask(site, MEMBER, "GET", "/detail"),
        ask(site, MEMBER, "GET", ""),
    ]
    for answer in answers:
        assert answer.status_code == 200
        assert not [word for word in (SHARE, "export", "mount_point_base", "kvm-7", "192.0.2.7") if word in answer.text]
    assert created.json["attachment"]["connection_info"]["name"] == f"volume-{VOLUME}"
    for who in (ADMIN, COMPUTE):
        assert ask(site, who, "GET", path).json["attachment"]["connection_info"]["export"] == SHARE


def test_what_others_say_of_a_server_is_not_what_compute_reads(
    site: Site, worker: WorkerContext, monkeypatch: Any, tmp_path: Path
) -> None:
    """More of it than a page holds, and newer than the server's own."""
    own = reserve(site, COMPUTE, SERVER, CONNECTOR).json["attachment"]["id"]
    with worker.database.write() as connection:
        theirs = builders.volume_row(connection, id=OTHER_VOLUME, project_id="other")
        for _ in range(1200):
            row: NewAttachment = {
                "id": new_id(),
                "project_id": "other",
                "volume_id": theirs["id"],
                "instance_id": SERVER,
                "status": "attaching",
                "mode": "rw",
                "connector": CONNECTOR,
            }
            attachments.insert(connection, row)
    door = StorageClient(builders.settings(tmp_path))

    def call(method: str, path: str, _body: Any = None) -> Any:
        answer = ask(site, COMPUTE, method, path.removeprefix("/attachments"))
        assert answer.status_code == 200, answer.text
        return answer.json

    monkeypatch.setattr(door, "_call", call)
    assert [each["id"] for each in door.attachments_of(SERVER, "demo")] == [own]
    found = door.attachment(VOLUME, SERVER)
    assert found is not None and found["id"] == own
    assert len(door.attachments_of(SERVER, "other")) == 1200
    # What a member may ask for is the project's own all the same.
    for query in ("?project_id=other", "?all_tenants=1&project_id=other"):
        assert ask(site, MEMBER, "GET", query).json["attachments"] == []
