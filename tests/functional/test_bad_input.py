"""Bad input is refused with a sentence that names the thing, and nothing changes on disk, in libvirt or in the database."""

import json
import os
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from stillframe.web.auth import write_users
from tests.support.guest.domain import GuestOptions
from tests.support.lab import Lab
from tests.support.stack import Api, wait_for

NOBODY = "11111111-2222-4333-8444-555555555555"


def everything(lab: Lab) -> dict[str, Any]:
    """Every row, every file name with its size in blocks, both descriptions of the guest."""
    database: Any = sqlite3.connect(f"file:{lab.stack.state_dir}/stillframe.sqlite?mode=ro", uri=True)
    tables = ("volumes", "snapshots", "attachments", "assisted_snapshots", "operations", "quotas", "operation_resources")
    rows = {table: database.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall() for table in tables}
    database.close()
    return {
        **rows,
        "files": sorted(os.listdir(lab.stack.share)),
        "descriptions": [lab.guest.domain.XMLDesc(0), lab.guest.domain.XMLDesc(2)],
    }


def unfinished(lab: Lab) -> int:
    """How many operations have not ended yet, the ``.info`` files of earlier snapshots among them."""
    database: Any = sqlite3.connect(f"file:{lab.stack.state_dir}/stillframe.sqlite?mode=ro", uri=True)
    count = database.execute("SELECT COUNT(*) FROM operations WHERE state IN ('pending', 'running', 'undoing')").fetchone()[0]
    database.close()
    return int(count)


def needs_cleanup(lab: Lab) -> int:
    """How many volumes the services look at again by themselves, as they do at their start."""
    database: Any = sqlite3.connect(f"file:{lab.stack.state_dir}/stillframe.sqlite?mode=ro", uri=True)
    count = database.execute("SELECT COUNT(*) FROM volumes WHERE needs_cleanup").fetchone()[0]
    database.close()
    return int(count)


@contextmanager
def nothing_changes(lab: Lab) -> Iterator[None]:
    wait_for(lambda: not unfinished(lab), "the end of what was begun before")
    before = everything(lab)
    yield
    assert everything(lab) == before


def take(lab: Lab, body: Any, server: str | None = None) -> tuple[int, str]:
    answer = lab.api.send("compute", "POST", f"/servers/{server or lab.guest.id}/os-assisted-snapshots", body)
    return answer.status_code, answer.text


@pytest.mark.parametrize(
    ("wanted", "status", "names"),
    [
        ({"volumes": [NOBODY]}, 400, NOBODY),
        ({"volumes": []}, 400, "volumes"),
        ({"volumes": "some"}, 400, "volumes"),
        ({"volumes": ["x"]}, 400, "'x'"),
        ({"volumes": ["../../etc/passwd"]}, 400, "passwd"),
        ({"volumes": [NOBODY, NOBODY]}, 400, "volumes"),
        ({"volumes": 7}, 400, "volumes"),
        ({"quiesce": "maybe"}, 400, "quiesce"),
        ({"quiesce": True}, 400, "quiesce"),
        ({"status": "available"}, 400, "status"),
        ({"name": "a\nb"}, 400, "name"),
        ({"name": "a\u0000b"}, 400, "name"),
        ({"name": "a\u001b[31m"}, 400, "name"),
        ({"name": "n" * 256}, 400, "name"),
        ({"name": 5}, 400, "name"),
        ({"metadata": {"k": 1}}, 400, "metadata"),
        ({"metadata": {"": "v"}}, 400, "metadata"),
        ({"metadata": {"k": "v" * 256}}, 400, "metadata"),
        ({"volumes": [str(uuid.UUID(int=number)) for number in range(10_000)]}, 413, "longer"),
        ({"volumes": [str(uuid.UUID(int=number)) for number in range(500)]}, 400, "volumes"),
    ],
    ids=lambda value: str(value)[:40].replace("\n", " ") if not isinstance(value, int) else str(value),
)
def test_wrong_bodies_of_an_assisted_snapshot(lab: Lab, wanted: dict[str, Any], status: int, names: str) -> None:
    with nothing_changes(lab):
        found, text = take(lab, {"assisted_snapshot": wanted})
    assert found == status, text
    assert names in text


@pytest.mark.parametrize("body", [{}, [], {"snapshot": {}}, {"assisted_snapshot": None}, {"assisted_snapshot": {}, "x": 1}])
def test_bodies_of_another_shape(lab: Lab, body: Any) -> None:
    with nothing_changes(lab):
        assert take(lab, body)[0] == 400


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"[" * 60_000, 400),
        (b'{"a":' * 10_000, 400),
        (b"{" + b'"x": 1,' * 20_000, 413),
        (b'{"assisted_snapshot": {"name": NaN}}', 400),
        (b'{"assisted_snapshot": {}, "assisted_snapshot": {}}', 400),
        (b"\xff\xfe", 400),
        (b"not json", 400),
        (b"", 400),
    ],
)
def test_bodies_that_are_not_json_objects(lab: Lab, raw: bytes, status: int) -> None:
    headers = {"Content-Type": "application/json"}
    with nothing_changes(lab):
        for service, path in (("compute", f"/servers/{lab.guest.id}/os-assisted-snapshots"), ("volume", "/volumes")):
            answer = lab.api.send(service, "POST", path, data=raw, headers=headers)
            assert answer.status_code == status, answer.text


def test_unknown_servers_volumes_snapshots_and_sets(lab: Lab) -> None:
    with nothing_changes(lab):
        for unknown in (NOBODY, "x", "0" * 300):
            assert take(lab, {"assisted_snapshot": {}}, unknown)[0] == 404
            for service, path in (
                ("compute", f"/servers/{unknown}"),
                ("compute", f"/os-assisted-snapshots/{unknown}"),
                ("volume", f"/volumes/{unknown}"),
                ("volume", f"/snapshots/{unknown}"),
                ("volume", f"/attachments/{unknown}"),
            ):
                assert lab.api.send(service, "GET", path).status_code == 404, path
            body = {"volumeAttachment": {"volumeId": unknown[:36]}}
            assert lab.api.send("compute", "POST", f"/servers/{lab.guest.id}/os-volume_attachments", body).status_code == 404
            assert lab.api.send("volume", "DELETE", f"/volumes/{unknown}").status_code == 404


@pytest.fixture
def stranger(lab: Lab) -> Api:
    """A member of another project."""
    path = lab.stack.state_dir / "users.yaml"
    users = yaml.safe_load(path.read_text())
    if not any(user["name"] == "stranger" for user in users):
        made = lab.directory / "stranger.yaml"
        user = {"name": "stranger", "password": "pw", "user_id": "s", "project_id": "other", "roles": ["member", "reader"]}
        write_users(made, [user])
        path.write_text(yaml.safe_dump(users + yaml.safe_load(made.read_text())))
    cloud = yaml.safe_load((lab.stack.state_dir / "clouds.yaml").read_text())["clouds"]["stillframe"]
    return Api({**cloud, "auth": {"username": "stranger", "password": "pw"}})


def test_another_projects_resources_seem_not_to_exist(lab: Lab, stranger: Api) -> None:
    volume_id, server_id = lab.volumes[0], lab.guest.id
    for service, path in (("volume", f"/volumes/{volume_id}"), ("compute", f"/servers/{server_id}")):
        missing = path.replace(volume_id, NOBODY).replace(server_id, NOBODY)
        theirs, none = stranger.send(service, "GET", path), stranger.send(service, "GET", missing)
        assert theirs.status_code == none.status_code == 404
        assert theirs.text.replace(volume_id, "").replace(server_id, "") == none.text.replace(NOBODY, "")
    with nothing_changes(lab):
        path = f"/servers/{server_id}/os-assisted-snapshots"
        assert stranger.send("compute", "POST", path, {"assisted_snapshot": {}}).status_code == 404
        assert stranger.send("compute", "GET", path).json() == {"assisted_snapshots": []}
        assert stranger.send("volume", "DELETE", f"/volumes/{volume_id}").status_code == 404
        assert stranger.ok("volume", "GET", "/volumes/detail?all_tenants=1")["volumes"] == []
        assert stranger.ok("compute", "GET", "/servers/detail?all_tenants=1")["servers"] == []
        base = stranger.send("volume", "GET", "/demo/volumes")
        assert base.status_code == 400


def test_a_volume_of_another_project_or_server_is_not_attached(lab: Lab, stranger: Api) -> None:
    theirs = stranger.create_volume("theirs")
    path = f"/servers/{lab.guest.id}/os-volume_attachments"
    admin = lab.stack.api("stillframe-admin")
    with nothing_changes(lab):
        assert lab.api.send("compute", "POST", path, {"volumeAttachment": {"volumeId": theirs}}).status_code == 404
        crossing = admin.send("compute", "POST", path, {"volumeAttachment": {"volumeId": theirs}})
        assert (crossing.status_code, "another project" in crossing.text) == (400, True)
        twice = lab.api.send("compute", "POST", path, {"volumeAttachment": {"volumeId": lab.volumes[0]}})
        assert (twice.status_code, "already attached" in twice.text) == (400, True)
        for device in ("/dev/vda", "/dev/sda1", "/dev/vd", "../vdz", "vd\n"):
            body = {"volumeAttachment": {"volumeId": lab.volumes[0], "device": device}}
            assert lab.api.send("compute", "POST", path, body).status_code == 400
        assert lab.api.send("compute", "DELETE", f"{path}/{theirs}").status_code == 404
        in_use = lab.api.send("volume", "DELETE", f"/volumes/{lab.volumes[0]}")
        assert in_use.status_code == 400


def test_a_volume_attached_elsewhere_is_refused_by_the_servers_name(lab: Lab) -> None:
    other = lab.add_guest(0, GuestOptions(name="other"), boot=False)
    path = f"/servers/{other.id}/os-volume_attachments"
    with nothing_changes(lab):
        answer = lab.api.send("compute", "POST", path, {"volumeAttachment": {"volumeId": lab.volumes[0]}})
        assert (answer.status_code, lab.guest.id in answer.text) == (400, True), answer.text
        status, text = take(lab, {"assisted_snapshot": {"volumes": [lab.volumes[0]]}}, other.id)
        assert (status, lab.volumes[0] in text) == (400, True)
        assert take(lab, {"assisted_snapshot": {}}, other.id)[0] == 400


def test_a_tenant_cannot_take_a_volume_away_from_a_server(lab: Lab) -> None:
    admin = lab.stack.api("stillframe-admin")
    found = admin.ok("volume", "GET", f"/attachments?volume_id={lab.volumes[0]}&all_tenants=1")["attachments"][0]
    with nothing_changes(lab):
        for api in (lab.api, admin):
            answer = api.send("volume", "DELETE", f"/attachments/{found['id']}")
            assert (answer.status_code, lab.guest.id in answer.text) == (409, True)


@pytest.mark.parametrize(
    "volume",
    [
        {"size": 0},
        {"size": -1},
        {"size": "1; rm"},
        {"size": 1.5},
        {"size": None},
        {},
        {"size": 1, "status": "available"},
        {"size": 1, "name": "a\tb"},
        {"size": 1, "volume_type": "nosuch"},
        {"size": 1, "snapshot_id": NOBODY},
        {"size": 1, "imageRef": NOBODY},
        {"size": 1, "metadata": {"a": None}},
        {"size": 1, "multiattach": True},
        {"size": 1, "availability_zone": 5},
    ],
    ids=str,
)
def test_wrong_volumes(lab: Lab, volume: dict[str, Any]) -> None:
    with nothing_changes(lab):
        answer = lab.api.send("volume", "POST", "/volumes", {"volume": volume})
        assert answer.status_code == (404 if {"snapshot_id", "volume_type"} & set(volume) else 400), answer.text


def test_a_volume_beyond_every_quota(lab: Lab) -> None:
    with nothing_changes(lab):
        assert lab.api.send("volume", "POST", "/volumes", {"volume": {"size": 10**9}}).status_code == 413


@pytest.mark.parametrize(
    "query",
    ["limit=-1", "limit=x", "limit=1e3", "offset=-1", f"marker={NOBODY}", "sort=password", "sort=name:up", "nosuch=1"],
)
def test_wrong_queries(lab: Lab, query: str) -> None:
    for service, path in (("volume", "/volumes/detail"), ("volume", "/snapshots"), ("compute", "/os-assisted-snapshots")):
        answer = lab.api.send(service, "GET", f"{path}?{query}")
        assert answer.status_code == (404 if query.startswith("marker") else 400), (path, answer.text)


def test_wrong_versions_and_credentials(lab: Lab) -> None:
    for version, status in (("volume 9.9", 406), ("volume abc", 400), ("volume 3.x", 400), ("volume 3.99999", 400)):
        headers = {"OpenStack-API-Version": version}
        assert lab.api.send("volume", "GET", "/volumes", headers=headers).status_code == status, version
    for auth in (("member", "wrong"), ("nobody", "x"), ("", "")):
        answer = lab.api.send("volume", "GET", "/volumes", auth=auth)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Basic")


@pytest.mark.parametrize("way", ["symlink", "another image", "no image", "shrunk", "foreign backing", "gone"])
def test_a_file_replaced_behind_our_back_is_noticed(lab: Lab, way: str) -> None:
    """The guest still has the old file open; what lies at its name is something else."""
    share = lab.stack.share
    wait_for(lambda: not unfinished(lab) and not needs_cleanup(lab), "the look at what the tests before left", 60)
    active = Path(_active(lab, lab.volumes[0]))
    aside = share / "aside"
    active.rename(aside)
    try:
        _replace(active, way, aside)
        with nothing_changes(lab):
            status, text = take(lab, {"assisted_snapshot": {"quiesce": "never"}})
        assert status in (409, 503), text
        assert active.name in text or lab.volumes[0] in text
    finally:
        active.unlink(missing_ok=True)
        aside.rename(active)
    lab.guest.still_writes()
    lab.check_one_instant(lab.api.take(lab.guest.id, quiesce="required"))


def _active(lab: Lab, volume_id: str) -> str:
    line = next(line for line in lab.guest.domain.XMLDesc(2).split("\n") if "source file" in line and volume_id in line)
    return str(line.split("'")[1])


def _replace(active: Path, way: str, aside: Path) -> None:
    import subprocess

    create = ["qemu-img", "create", "-q", "-f", "qcow2"]
    if way == "symlink":
        active.symlink_to(aside)
    elif way == "another image":
        subprocess.run(["cp", aside, active], check=True)
    elif way == "no image":
        active.write_bytes(b"#!/bin/sh\n" * 100_000)
    elif way == "shrunk":
        subprocess.run([*create, active, "64M"], check=True)
    elif way == "foreign backing":
        subprocess.run([*create, "-u", "-b", "/etc/shadow", "-F", "raw", active, "1G"], check=True)


def test_a_share_that_is_gone_or_full_is_503_and_changes_nothing(lab: Lab) -> None:
    share, aside = lab.stack.share, lab.directory / "share-aside"
    wait_for(lambda: not unfinished(lab), "the end of what was begun before")
    before = everything(lab)
    share.rename(aside)
    try:
        for service, path, body in (
            ("volume", "/volumes", {"volume": {"size": 1}}),
            ("compute", f"/servers/{lab.guest.id}/os-assisted-snapshots", {"assisted_snapshot": {}}),
        ):
            answer = lab.api.send(service, "POST", path, body)
            assert answer.status_code == 503, answer.text
            assert str(share) not in answer.text
            assert str(share) in lab.stack.api("stillframe-admin").send(service, "POST", path, body).text
            assert answer.headers["Retry-After"]
        share.mkdir()
        # The mount is lost and an empty directory lies in its place: not the share it was.
        answer = lab.api.send("volume", "POST", "/volumes", {"volume": {"size": 1}})
        assert (answer.status_code, "marker" in answer.text) == (503, True)
        assert os.listdir(share) == []
        share.rmdir()
    finally:
        aside.rename(share)
    assert everything(lab) == before
    lab.check_sound()


def test_a_chain_that_is_as_deep_as_allowed(lab: Lab, tmp_path: Path) -> None:
    config = tmp_path / "short.conf"
    config.write_text("[volumes]\nmax_chain_depth = 2\nminimum_free_mib = 100000000\n")
    lab.stack.stop()
    lab.stack._arguments = ["--config-file", str(config)]
    lab.stack.start()
    wait_for(lambda: not needs_cleanup(lab), "the look at what the tests before left")
    with nothing_changes(lab):
        status, text = take(lab, {"assisted_snapshot": {}})
        assert (status, "full" in text) == (503, True)
        answer = lab.api.send("volume", "POST", "/volumes", {"volume": {"size": 1}})
        assert (answer.status_code, "full" in answer.text) == (503, True)
    config.write_text("[volumes]\nmax_chain_depth = 2\n")
    lab.stack.stop()
    lab.stack.start()
    with nothing_changes(lab):
        status, text = take(lab, {"assisted_snapshot": {}})
        assert (status, "the most allowed is 2" in text) == (409, True), text
    assert json.loads(text)["conflictingRequest"]["code"] == 409
