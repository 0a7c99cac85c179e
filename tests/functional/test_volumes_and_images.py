"""A volume of an image and an image of a volume, as people ask for them: Stillframe, Keystone and Glance, all real."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.functional.test_keystone import OPTIONS, Site
from tests.support import qemu_io
from tests.support.glance import Glance, glance
from tests.support.keystone import keystone
from tests.support.lab import open_lab
from tests.support.stack import wait_for

MIB = 1 << 20
IMAGE_OPTIONS = """[image]
auth_type = password
auth_url = {auth_url}
username = imager
password_file = {password_file}
"""


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Glance]]:
    directory = tmp_path_factory.mktemp("cloud")
    with keystone(directory) as identity, glance(directory, identity) as images:
        for_people = OPTIONS.format(
            auth_url=identity.url, password_file=identity.password_file("stillframe"), project=identity.projects["demo"]
        )
        for_images = IMAGE_OPTIONS.format(auth_url=identity.url, password_file=identity.password_file("imager"))
        lab = open_lab(directory, for_people + for_images)
        try:
            yield Site(identity, lab), images
        finally:
            lab.clear()


def content(path: Path, image_format: str, scratch: Path) -> bytes:
    """The first 16 MiB of what a disk holds."""
    raw = scratch / f"{path.name}.raw"
    subprocess.run(["qemu-img", "convert", "-f", image_format, "-O", "raw", path, raw], check=True, timeout=120)
    with raw.open("rb") as file:
        found = file.read(16 * MIB)
    raw.unlink()
    return found


def ended(site: Site, volume_id: str) -> str:
    wait_for(lambda: site.status(volume_id) not in ("creating", "downloading", "uploading"), "the operation", 60)
    return site.status(volume_id)


def upload(site: Site, volume_id: str, **more: Any) -> dict[str, Any]:
    body = {"os-volume_upload_image": {"image_name": "of a volume", "disk_format": "qcow2", **more}}
    made: dict[str, Any] = site.ok("member", "volume", "POST", f"/volumes/{volume_id}/action", body)["os-volume_upload_image"]
    assert ended(site, volume_id) == "available"
    return made


def create(site: Site, who: str, image_id: str) -> str:
    wanted = {"volume": {"name": "of an image", "size": 1, "imageRef": image_id}}
    return str(site.ok(who, "volume", "POST", "/volumes", wanted)["volume"]["id"])


def test_a_volume_with_snapshots_becomes_an_image_and_a_volume_again(cloud: tuple[Site, Glance], tmp_path: Path) -> None:
    """What is written behind a snapshot and in front of it arrives, in one file that hangs on nothing."""
    site, images = cloud
    share, volume_id = site.lab.stack.share, site.create_volume("member")
    behind = os.urandom(4096)
    qemu_io.write(share, f"volume-{volume_id}", behind)
    snapshot = site.ok("member", "volume", "POST", "/snapshots", {"snapshot": {"volume_id": volume_id}})["snapshot"]["id"]
    wait_for(
        lambda: site.ok("member", "volume", "GET", f"/snapshots/{snapshot}")["snapshot"]["status"] == "available",
        "the snapshot",
    )
    subprocess.run(
        ["qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 64k", share / f"volume-{volume_id}.{snapshot}"],
        check=True,
        capture_output=True,
    )
    made = upload(site, volume_id)
    shown = images.send("member", "GET", f"/images/{made['image_id']}").json()
    assert (shown["status"], shown["owner"], shown["disk_format"]) == ("active", site.keystone.projects["demo"], "qcow2")
    assert images.send("stranger", "GET", f"/images/{made['image_id']}").status_code == 404
    (tmp_path / "image").write_bytes(images.send("member", "GET", f"/images/{made['image_id']}/file").content)
    found = content(tmp_path / "image", "qcow2", tmp_path)
    assert found == behind + bytes(MIB - 4096) + b"\7" * 65536 + bytes(15 * MIB - 65536)
    again = create(site, "member", made["image_id"])
    assert ended(site, again) == "available"
    assert content(share / f"volume-{again}", "qcow2", tmp_path) == found


@pytest.mark.parametrize("disk_format", ["raw", "qcow2"])
def test_an_image_somebody_made_becomes_a_volume(cloud: tuple[Site, Glance], tmp_path: Path, disk_format: str) -> None:
    site, images = cloud
    source = tmp_path / "source"
    source.write_bytes(os.urandom(MIB) + bytes(7 * MIB))
    if disk_format == "qcow2":
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", source, tmp_path / "packed"], check=True)
    packed = (tmp_path / "packed" if disk_format == "qcow2" else source).read_bytes()
    image_id = images.add_image("member", packed, disk_format=disk_format)
    volume_id = create(site, "member", image_id)
    assert ended(site, volume_id) == "available"
    assert content(site.lab.stack.share / f"volume-{volume_id}", "qcow2", tmp_path) == source.read_bytes() + bytes(8 * MIB)
    shown = site.ok("member", "volume", "GET", f"/volumes/{volume_id}")["volume"]
    assert (shown["bootable"], shown["volume_image_metadata"]["image_id"]) == ("true", image_id)


def test_a_private_image_of_another_project_becomes_no_volume(cloud: tuple[Site, Glance]) -> None:
    site, images = cloud
    image_id = images.add_image("stranger", os.urandom(MIB), visibility="private")
    wanted = {"volume": {"size": 1, "imageRef": image_id}}
    answer = site.send("member", "volume", "POST", "/volumes", wanted)
    assert answer.status_code == 404, answer.text
    assert ended(site, create(site, "stranger", image_id)) == "available"


def test_an_image_that_was_altered_becomes_a_volume_in_error_and_leaves_nothing(cloud: tuple[Site, Glance]) -> None:
    site, images = cloud
    image_id = images.add_image("member", os.urandom(MIB))
    images.stored(image_id).write_bytes(os.urandom(MIB))
    volume_id = create(site, "member", image_id)
    assert ended(site, volume_id) == "error"
    assert not (site.lab.stack.share / f"volume-{volume_id}").exists()


def test_only_an_administrator_makes_an_image_public(cloud: tuple[Site, Glance]) -> None:
    site, _ = cloud
    body = {"os-volume_upload_image": {"image_name": "for all", "disk_format": "qcow2", "visibility": "public"}}
    volume_id = site.create_volume("member")
    assert site.send("member", "volume", "POST", f"/volumes/{volume_id}/action", body).status_code == 403
    assert site.send("boss", "volume", "POST", f"/volumes/{volume_id}/action", body).status_code == 202
    assert ended(site, volume_id) == "available"


def test_while_glance_is_away_a_volume_of_an_image_is_refused_and_may_be_asked_for_again(cloud: tuple[Site, Glance]) -> None:
    site, images = cloud
    image_id = images.add_image("member", os.urandom(MIB))
    images.server.stop()
    try:
        answer = site.send("member", "volume", "POST", "/volumes", {"volume": {"size": 1, "imageRef": image_id}})
        assert answer.status_code == 503
        assert "image_service_unavailable" in answer.text
    finally:
        images.server.start()
    assert ended(site, create(site, "member", image_id)) == "available"
