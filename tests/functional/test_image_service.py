"""Block storage's client to the image service, against a real Glance behind a real Keystone."""

import hashlib
import logging
import os
import stat
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stillframe import config
from stillframe.errors import (
    Conflict,
    Forbidden,
    ImageNotUsable,
    ImageServiceNotConfigured,
    ImageServiceUnavailable,
    NotFound,
)
from stillframe.volumes.clients.glance import ImageClient, NewImage
from tests.support.glance import Glance, glance, glance_without_keystone
from tests.support.keystone import Keystone, keystone

MIB = 1 << 20
LIMIT = 64 * MIB


@dataclass
class Site:
    keystone: Keystone
    glance: Glance

    def client(self, **more: Any) -> ImageClient:
        """The client as configured for this Keystone; ``more`` replaces options of the section [image]."""
        options = {
            "auth_type": "password",
            "auth_url": self.keystone.url,
            "username": "imager",
            "password_file": str(self.keystone.password_file("imager")),
            "timeout_seconds": 20,
            **more,
        }
        return ImageClient(config.load(overrides={("image", name): value for name, value in options.items()}))

    @property
    def demo(self) -> str:
        return self.keystone.projects["demo"]

    @property
    def other(self) -> str:
        return self.keystone.projects["other"]

    def wanted(self, disk_format: str = "raw", **more: Any) -> NewImage:
        return NewImage(str(uuid.uuid4()), "made of a volume", disk_format, "bare", self.demo, **more)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("openstack")
    with keystone(directory) as identity, glance(directory, identity) as images:
        yield Site(identity, images)


def qemu_img(*arguments: object) -> None:
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, capture_output=True, timeout=60)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "raw"
    path.write_bytes(os.urandom(3 * MIB) + bytes(5 * MIB))
    return path


@pytest.fixture
def qcow2(tmp_path: Path, raw: Path) -> Path:
    path = tmp_path / "qcow2"
    qemu_img("convert", "-f", "raw", "-O", "qcow2", raw, path)
    return path


def test_an_image_somebody_made_arrives_byte_for_byte(site: Site, tmp_path: Path, raw: Path, qcow2: Path) -> None:
    for path, disk_format in ((raw, "raw"), (qcow2, "qcow2")):
        image_id = site.glance.add_image("member", path.read_bytes(), disk_format=disk_format, min_disk=1, os_distro="here")
        target = tmp_path / f"{disk_format}.downloaded"
        facts = site.client().download(image_id, site.demo, target, LIMIT)
        assert target.read_bytes() == path.read_bytes()
        assert stat.S_IMODE(target.stat().st_mode) == 0o600
        assert (facts.disk_format, facts.container_format, facts.size) == (disk_format, "bare", path.stat().st_size)
        assert (facts.min_disk, facts.owner, facts.visibility, dict(facts.properties)) == (
            1,
            site.demo,
            "shared",
            {"os_distro": "here"},
        )
        assert facts.virtual_size == 8 * MIB


def test_an_image_made_of_a_file_is_its_projects_and_holds_the_file(site: Site, raw: Path, qcow2: Path) -> None:
    client = site.client()
    for path, disk_format in ((raw, "raw"), (qcow2, "qcow2")):
        wanted = site.wanted(disk_format, properties={"os_distro": "here", "owner": "nobody", "status": "active"})
        image_id = client.create(wanted)
        assert not client.is_complete(image_id, hashlib.sha512(path.read_bytes()).hexdigest())
        sent = client.upload(image_id, path)
        assert (sent.size, sent.sha512) == (path.stat().st_size, hashlib.sha512(path.read_bytes()).hexdigest())
        assert client.is_complete(image_id, sent.sha512)
        assert not client.is_complete(image_id, "0" * 128)
        assert site.glance.send("member", "GET", f"/images/{image_id}/file").content == path.read_bytes()
        told = site.glance.send("member", "GET", f"/images/{image_id}").json()
        assert (told["owner"], told["os_distro"], told["disk_format"], told["status"]) == (
            site.demo,
            "here",
            disk_format,
            "active",
        )
        assert site.glance.send("stranger", "GET", f"/images/{image_id}").status_code == 404


def test_everything_may_be_repeated(site: Site, raw: Path, qcow2: Path) -> None:
    client = site.client()
    wanted = site.wanted()
    assert client.create(wanted) == client.create(wanted) == wanted.id
    assert client.upload(wanted.id, raw) == client.upload(wanted.id, raw)
    assert client.create(wanted) == wanted.id
    with pytest.raises(ImageNotUsable, match="something else"):
        client.upload(wanted.id, qcow2)
    client.delete(wanted.id)
    client.delete(wanted.id)
    with pytest.raises(NotFound):
        client.show(wanted.id, site.demo)
    with pytest.raises(NotFound):
        client.upload(wanted.id, raw)
    with pytest.raises(Conflict, match="or had, another image"):
        client.create(wanted)


def test_an_id_that_is_somebody_elses_is_refused(site: Site) -> None:
    image_id = site.glance.add_image("stranger", b"x" * 512)
    wanted = NewImage(image_id, "made of a volume", "raw", "bare", site.demo)
    with pytest.raises(Conflict, match=image_id):
        site.client().create(wanted)


def test_a_private_image_of_another_project_is_as_if_it_did_not_exist(site: Site, tmp_path: Path) -> None:
    client, target = site.client(), tmp_path / "target"
    content = os.urandom(1024)
    hidden = [site.glance.add_image("stranger", content, visibility=how) for how in ("private", "shared")]
    for image_id in hidden:
        with pytest.raises(NotFound) as told:
            client.download(image_id, site.demo, target, LIMIT)
        with pytest.raises(NotFound) as missing:
            client.show(str(uuid.UUID(int=7)), site.demo)
        assert told.value.message.replace(image_id, "") == missing.value.message.replace(str(uuid.UUID(int=7)), "")
        assert not target.exists()
        client.download(image_id, site.other, target, LIMIT)
        target.unlink()
    answer = site.glance.send("stranger", "POST", f"/images/{hidden[1]}/members", json={"member": site.demo})
    assert answer.status_code == 200, answer.text
    assert client.show(hidden[1], site.demo).name == "image"
    with pytest.raises(NotFound):
        client.show(hidden[1], site.keystone.projects["service"])


@pytest.mark.parametrize(("visibility", "who"), [("public", "boss"), ("community", "stranger")])
def test_an_image_for_everybody_may_be_read_by_every_project(site: Site, tmp_path: Path, visibility: str, who: str) -> None:
    content = os.urandom(1024)
    image_id = site.glance.add_image(who, content, visibility=visibility)
    site.client().download(image_id, "f" * 32, tmp_path / "target", LIMIT)
    assert (tmp_path / "target").read_bytes() == content


@pytest.mark.parametrize("image_id", ["no-id", "../../v2/images", str(uuid.UUID(int=1)), "?", ""])
def test_an_id_that_is_none_is_not_found_and_never_part_of_a_path(site: Site, image_id: str) -> None:
    with pytest.raises(NotFound):
        site.client().show(image_id, site.demo)


def test_content_that_was_altered_is_refused(site: Site, tmp_path: Path, raw: Path) -> None:
    image_id = site.glance.add_image("member", raw.read_bytes())
    with site.glance.stored(image_id).open("r+b") as file:
        file.seek(4 * MIB)
        file.write(b"x")
    with pytest.raises(ImageNotUsable, match="sha512"):
        site.client().download(image_id, site.demo, tmp_path / "target", LIMIT)
    assert not (tmp_path / "target").exists()


def test_content_that_breaks_off_is_refused(site: Site, tmp_path: Path, raw: Path) -> None:
    image_id = site.glance.add_image("member", raw.read_bytes())
    os.truncate(site.glance.stored(image_id), 4 * MIB)
    with pytest.raises((ImageServiceUnavailable, ImageNotUsable)):
        site.client().download(image_id, site.demo, tmp_path / "target", LIMIT)
    assert not (tmp_path / "target").exists()


def test_an_image_above_the_limit_is_refused_before_it_is_asked_for(site: Site, tmp_path: Path, raw: Path) -> None:
    image_id = site.glance.add_image("member", raw.read_bytes())
    with pytest.raises(ImageNotUsable, match=f"{8 * MIB} bytes, more than the {8 * MIB - 1}"):
        site.client().download(image_id, site.demo, tmp_path / "target", 8 * MIB - 1)
    assert not (tmp_path / "target").exists()
    site.client().download(image_id, site.demo, tmp_path / "target", 8 * MIB)


def test_a_file_that_is_there_is_never_written_to(site: Site, tmp_path: Path) -> None:
    image_id = site.glance.add_image("member", b"new" * 512)
    (tmp_path / "mine").write_bytes(b"mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("mine", "link"):
        with pytest.raises(FileExistsError):
            site.client().download(image_id, site.demo, tmp_path / name, LIMIT)
    assert (tmp_path / "mine").read_bytes() == b"mine"
    assert not (tmp_path / "nowhere").exists()
    assert (tmp_path / "link").is_symlink()


def test_an_image_that_is_not_active_is_refused(site: Site, tmp_path: Path) -> None:
    queued = site.client().create(site.wanted())
    inactive = site.glance.add_image("member", b"x" * 512)
    assert site.glance.send("boss", "POST", f"/images/{inactive}/actions/deactivate").status_code == 204
    for image_id, status in ((queued, "queued"), (inactive, "deactivated")):
        with pytest.raises(ImageNotUsable, match=f"not active but {status}"):
            site.client().download(image_id, site.demo, tmp_path / "target", LIMIT)


def test_glance_itself_refuses_a_file_with_a_backing_file(site: Site, tmp_path: Path, qcow2: Path) -> None:
    """So an upload of a chain that was not flattened is told by a service that is not ours."""
    overlay = tmp_path / "overlay"
    qemu_img("create", "-f", "qcow2", "-b", qcow2, "-F", "qcow2", overlay)
    for disk_format in ("qcow2", "raw"):
        image_id = site.client().create(site.wanted(disk_format))
        with pytest.raises(ImageNotUsable, match="415") as told:
            site.client().upload(image_id, overlay)
        assert not told.value.may_retry
        assert site.client().show(image_id, site.demo).status == "queued"
        site.client().delete(image_id)


def test_glance_itself_refuses_a_format_that_is_not_what_was_declared(site: Site, raw: Path) -> None:
    image_id = site.client().create(site.wanted("qcow2"))
    with pytest.raises(ImageNotUsable, match="415"):
        site.client().upload(image_id, raw)


def test_a_protected_image_goes_only_while_it_is_not_complete(site: Site, raw: Path) -> None:
    client = site.client()
    failed, complete = site.wanted(protected=True), site.wanted(protected=True)
    for wanted in (failed, complete):
        client.create(wanted)
    client.upload(complete.id, raw)
    client.delete(failed.id)
    with pytest.raises(NotFound):
        client.show(failed.id, site.demo)
    with pytest.raises(Conflict, match="protected"):
        client.delete(complete.id)
    assert client.show(complete.id, site.demo).protected


def test_a_user_without_the_role_is_told_that_it_is_forbidden(site: Site) -> None:
    client = site.client(username="stillframe", password_file=str(site.keystone.password_file("stillframe")))
    with pytest.raises(Forbidden, match="403"):
        client.create(site.wanted())


def test_a_service_that_is_away_may_be_asked_again_and_then_answers(site: Site, tmp_path: Path, raw: Path) -> None:
    client = site.client()
    image_id = site.glance.add_image("member", raw.read_bytes())
    client.show(image_id, site.demo)
    site.glance.server.stop()
    try:
        calls = (
            lambda: client.show(image_id, site.demo),
            lambda: client.download(image_id, site.demo, tmp_path / "target", LIMIT),
            lambda: client.create(site.wanted()),
            lambda: client.upload(image_id, raw),
            lambda: client.is_complete(image_id, "0" * 128),
            lambda: client.delete(image_id),
        )
        for call in calls:
            with pytest.raises(ImageServiceUnavailable, match="does not answer") as told:
                call()
            assert (told.value.status, told.value.may_retry) == (503, True)
        assert not (tmp_path / "target").exists()
    finally:
        site.glance.server.start()
    client.download(image_id, site.demo, tmp_path / "target", LIMIT)
    assert (tmp_path / "target").read_bytes() == raw.read_bytes()


def test_a_keystone_that_is_away_is_reported_too(site: Site) -> None:
    with pytest.raises(ImageServiceUnavailable, match="does not answer"):
        site.client(auth_url="http://127.0.0.1:1/v3").show(str(uuid.uuid4()), site.demo)


def test_a_wrong_password_is_reported_and_shown_nowhere(site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    secret = tmp_path / "secret"
    secret.touch(mode=0o600)
    secret.write_text("canary-in-a-file\n")
    with caplog.at_level(logging.DEBUG), pytest.raises(ImageServiceUnavailable, match="Keystone answered 401") as told:
        site.client(password_file=str(secret)).show(str(uuid.uuid4()), site.demo)
    assert "canary" not in caplog.text + repr(told.value) + str(told.value.to_document())


def test_neither_password_nor_token_is_in_a_log(site: Site, raw: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        client = site.client()
        client.upload(client.create(site.wanted()), raw)
    token = client._session._session().get_token()
    assert token
    assert site.keystone.people["imager"].password not in caplog.text
    assert token not in caplog.text
    assert len(caplog.text) < 64 << 10


def test_an_endpoint_that_is_configured_wins_over_the_catalog(site: Site) -> None:
    image_id = site.glance.add_image("member", b"x" * 512)
    for url in (site.glance.url, f"{site.glance.url}/", f"{site.glance.url}/v2", f"{site.glance.url}/v2/"):
        assert site.client(endpoint=url).show(image_id, site.demo).size == 512
    with pytest.raises(ImageServiceUnavailable):
        site.client(endpoint="http://127.0.0.1:1").show(image_id, site.demo)
    with pytest.raises(ImageServiceUnavailable, match="catalog"):
        site.client(region="elsewhere").show(image_id, site.demo)


def test_a_glance_without_keystone_needs_its_endpoint_only(tmp_path: Path, raw: Path) -> None:
    with glance_without_keystone(tmp_path) as url:
        client = ImageClient(config.load(overrides={("image", "endpoint"): url}))
        image_id = client.create(NewImage(str(uuid.uuid4()), "made of a volume", "raw", "bare", "demo"))
        client.upload(image_id, raw)
        client.download(image_id, "demo", tmp_path / "target", LIMIT)
        assert (tmp_path / "target").read_bytes() == raw.read_bytes()
        with pytest.raises(NotFound):
            client.show(image_id, "other")
        client.delete(image_id)


def test_a_missing_configuration_is_named(site: Site) -> None:
    with pytest.raises(ImageServiceNotConfigured, match="password_file"):
        site.client(password_file="").show(str(uuid.uuid4()), site.demo)
