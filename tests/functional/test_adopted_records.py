"""What is recorded of adopted disks stays true when their server is changed: by hand, by us, and after a lost database."""

import os
from collections.abc import Iterator
from typing import Any

import pytest

from stillframe.db import adopted_disks
from tests.support.existing import FILES, Existing, make, open_existing
from tests.support.operator import Operator, stillframe_apart
from tests.support.pattern import seen
from tests.support.stack import wait_for


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Existing]:
    with open_existing(tmp_path_factory.mktemp("records")) as opened:
        opened.system.write(opened.guest, 0, 4, 0x41)
        opened.guest.domain.destroy()
        yield opened


@pytest.fixture
def site(opened: Existing) -> Iterator[Existing]:
    """A stopped server, whose definition and files are as they were before afterwards."""
    described = opened.guest.domain.XMLDesc(2)
    yield opened
    opened.guest.domain.connect().defineXML(described)
    assert sorted(os.listdir(opened.images)) == list(FILES)
    assert recorded(opened) == []


def recorded(site: Existing) -> list[tuple[str, str, str]]:
    with Operator(site.lab).database().read() as connection:
        return [(row["target"], os.path.basename(row["file"]), row["volume_id"]) for row in adopted_disks.list_all(connection)]


def redefine(site: Existing, old: str, new: str) -> None:
    """As ``virsh edit`` does it."""
    described = site.guest.domain.XMLDesc(2)
    assert old in described
    site.guest.domain.connect().defineXML(described.replace(old, new))


def results(found: dict[str, Any]) -> dict[str, str]:
    return {each["device"]: each["result"] for each in found["disks"]}


def test_a_disk_that_got_another_file_is_not_adopted_before_its_first_one_is_released(site: Existing) -> None:
    site.adopt(disks=["vda"])
    before = recorded(site)
    make(site.images / "other.qcow2", "qcow2")
    redefine(site, "web-1.qcow2", "other.qcow2")
    found = site.adopt()
    assert results(found) == {"vda": "excluded", "vdb": "adopt", "hda": "excluded"}
    assert "web-1.qcow2, which is volume " in found["disks"][0]["reason"]
    assert f"'stillframe release {site.guest.id}'" in found["disks"][0]["reason"]
    with_both = recorded(site)
    assert with_both[0] == before[0]
    assert [each[:2] for each in with_both] == [("vda", "web-1.qcow2"), ("vdb", "web-1-data.img")]
    redefine(site, "other.qcow2", "web-1.qcow2")
    assert results(site.adopt()) == {"vda": "adopted", "vdb": "adopted", "hda": "excluded"}
    redefine(site, "web-1.qcow2", "other.qcow2")
    site.release()
    assert recorded(site) == []
    assert site.adopt(disks=["vda"])["operation_id"] is not None
    assert [each[:2] for each in recorded(site)] == [("vda", "other.qcow2")]
    site.release()
    (site.images / "other.qcow2").unlink()


def test_a_detached_volume_is_no_disk_that_was_adopted(site: Existing) -> None:
    site.adopt(disks=["vda"])
    (volume_id,) = site.volumes()
    detach(site, volume_id)
    assert recorded(site) == []
    attach(site, volume_id)
    assert recorded(site) == [("vda", "web-1.qcow2", volume_id)]
    taken = site.lab.api.take(site.guest.id)
    assert taken["status"] == "available", taken
    site.delete(taken)
    wait_for(lambda: "web-1.qcow2" in site.first_names(), "the first name", 60)
    site.quiet()
    assert results(site.adopt(dry_run=True))["vda"] == "adopted"
    site.release()


def test_an_unmanaged_volume_leaves_its_file_as_it_was(site: Existing) -> None:
    identity = site.identities
    site.adopt(disks=["vda"])
    (volume_id,) = site.volumes()
    detach(site, volume_id)
    site.admin.ok("volume", "POST", f"/volumes/{volume_id}/action", {"os-unmanage": None})
    wait_for(lambda: site.lab.api.send("volume", "GET", f"/volumes/{volume_id}").status_code == 404, "the end of the volume")
    assert sorted(os.listdir(site.images)) == list(FILES)
    assert site.identities == identity
    assert seen(site.images, "web-1.qcow2") == site.system.clusters


def detach(site: Existing, volume_id: str) -> None:
    site.lab.api.ok("compute", "DELETE", f"/servers/{site.guest.id}/os-volume_attachments/{volume_id}")
    wait_for(lambda: site.lab.api.volume(volume_id)["status"] == "available", "the detached volume")
    site.quiet()


def attach(site: Existing, volume_id: str) -> None:
    body = {"volumeAttachment": {"volumeId": volume_id, "device": "/dev/vda"}}
    site.lab.api.ok("compute", "POST", f"/servers/{site.guest.id}/os-volume_attachments", body)
    wait_for(lambda: site.lab.api.volume(volume_id)["status"] == "in-use", "the attached volume")
    site.quiet()


def test_after_a_lost_database_the_volumes_are_connected_again(site: Existing) -> None:
    """One disk has a snapshot, and its definition names an overlay; the other one's names the base."""
    site.adopt()
    before, identity = recorded(site), site.identities
    taken = site.lab.api.take(site.guest.id, volumes=[before[0][2]])
    assert taken["status"] == "available", taken
    Operator(site.lab).settle()
    lose_the_database(site)
    assert recorded(site) == []
    foreseen = site.adopt(dry_run=True)["disks"]
    assert [(each["result"], each["volume_id"]) for each in foreseen[:2]] == [("adopt", each[2]) for each in before]
    site.adopt()
    assert recorded(site) == before
    assert site.volumes() == [each[2] for each in before]
    assert results(site.adopt()) == {"vda": "adopted", "vdb": "adopted", "hda": "excluded"}
    found: list[Any] = Operator(site.lab).document("--older-than", "0")["findings"]
    assert found == []
    site.release(delete_snapshots=True)
    wait_for(lambda: site.volumes() == [], "the end of the volumes", 60)
    site.quiet()
    assert site.identities == identity
    assert seen(site.images, "web-1.qcow2") == site.system.clusters


def lose_the_database(site: Existing) -> None:
    stack = site.lab.stack
    stack.stop()
    for file in stack.state_dir.glob("stillframe.sqlite*"):
        file.unlink()
    said = stillframe_apart("rebuild", "--state-dir", str(stack.state_dir), "--share", str(site.images))
    assert said.code == 0, said
    stack.start()
