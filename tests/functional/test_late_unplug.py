"""A disk that leaves its guest late: told while nobody has looked, and released when somebody does. By the real QEMU."""

from collections.abc import Iterator

import libvirt
import pytest

from stillframe.compute.libvirt import domain_xml
from stillframe.compute.libvirt.domain_xml import NAMESPACE
from tests.support import qemu_io
from tests.support.content import digest
from tests.support.lab import Lab, open_lab
from tests.support.operator import Operator
from tests.support.stack import wait_for

# A machine without a system to answer an unplug; QEMU carries it out at the next reset.
DOMAIN = f"""<domain type='qemu'><name>deaf</name>
<metadata><sf:owner xmlns:sf="{NAMESPACE}" project="demo" user="operator"/></metadata><memory unit='MiB'>64</memory>
<os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features><devices><memballoon model='none'/></devices>
</domain>"""


@pytest.fixture
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = open_lab(tmp_path_factory.mktemp("unplug"), "[compute]\ndetach_timeout_seconds = 2\n")
    try:
        yield made
    finally:
        made.clear()


def volumes_of(lab: Lab, server_id: str) -> list[str]:
    return list(shown(lab, server_id))


def shown(lab: Lab, server_id: str) -> dict[str, tuple[str | None, bool | None]]:
    """What compute's list says of each volume: its device, and whether the guest has the disk."""
    found = lab.api.ok("compute", "GET", f"/servers/{server_id}/os-volume_attachments")["volumeAttachments"]
    return {each["volumeId"]: (each["device"], each["guest_has_disk"]) for each in found}


def missing(lab: Lab, server_id: str) -> set[str]:
    """The volumes whose attachment in block storage says since when the guest lacks them."""
    found = lab.api.ok("volume", "GET", f"/attachments/detail?instance_id={server_id}")["attachments"]
    assert {each["status"] for each in found} == {"attached"}
    return {each["volume_id"] for each in found if each["missing_in_guest_since"]}


def unplug_by_hand(lab: Lab, server_id: str, volume_id: str, flags: int) -> None:
    """As ``virsh detach-disk`` does it; the guest, which does not answer, lets go at a reset."""
    domain = lab.stack.hypervisor.domain(server_id)
    target = next(disk.target for disk in domain_xml.read(domain.XMLDesc(0)).disks if disk.volume_id == volume_id)
    domain.detachDeviceFlags(domain_xml.disk_element(domain.XMLDesc(0), target), flags)
    domain.reset(0)
    wait_for(lambda: volume_id not in domain.XMLDesc(0), "the unplug")


def look_again(lab: Lab) -> None:
    lab.stack.stop()
    lab.stack.start()  # what looks once a minute looks when it starts


def test_the_attachment_shows_a_disk_that_was_unplugged_by_hand(lab: Lab) -> None:
    """Of the running guest alone, then of the definition too; a restart of the server in between brings it back."""
    domain = lab.stack.hypervisor.connection().defineXML(DOMAIN)
    server_id = domain.UUIDString()
    try:
        domain.create()
        stays, goes = lab.api.create_volume("stays"), lab.api.create_volume("goes")
        lab.api.attach(server_id, stays)
        lab.api.attach(server_id, goes)
        assert shown(lab, server_id) == {stays: ("/dev/vda", True), goes: ("/dev/vdb", True)}
        unplug_by_hand(lab, server_id, goes, libvirt.VIR_DOMAIN_AFFECT_LIVE)
        assert shown(lab, server_id) == {stays: ("/dev/vda", True), goes: ("/dev/vdb", False)}
        look_again(lab)
        wait_for(lambda: missing(lab, server_id) == {goes}, "the look around", 60)
        assert lab.api.volume(goes)["status"] == "in-use"
        domain = lab.stack.hypervisor.domain(server_id)
        domain.destroy()
        assert shown(lab, server_id) == {stays: ("/dev/vda", None), goes: ("/dev/vdb", None)}
        domain.create()
        assert shown(lab, server_id) == {stays: ("/dev/vda", True), goes: ("/dev/vdb", True)}
        look_again(lab)
        wait_for(lambda: missing(lab, server_id) == set(), "the look around", 60)
        everywhere = libvirt.VIR_DOMAIN_AFFECT_LIVE | libvirt.VIR_DOMAIN_AFFECT_CONFIG
        unplug_by_hand(lab, server_id, goes, everywhere)
        assert shown(lab, server_id) == {stays: ("/dev/vda", True), goes: (None, False)}
        assert [each["kind"] for each in Operator(lab).document("--quick")["findings"]] == ["attached_without_disk"]
        lab.api.ok("compute", "DELETE", f"/servers/{server_id}/os-volume_attachments/{goes}")  # what the doctor says to do
        wait_for(lambda: lab.api.volume(goes)["status"] == "available", "the release", 60)
        assert volumes_of(lab, server_id) == [stays]
    finally:
        domain = lab.stack.hypervisor.domain(server_id)
        domain.destroy()
        domain.undefine()


def test_a_disk_that_left_late_is_shown_and_then_released(lab: Lab) -> None:
    domain = lab.stack.hypervisor.connection().defineXML(DOMAIN)
    server_id = domain.UUIDString()
    try:
        domain.create()
        stays, goes = lab.api.create_volume("stays"), lab.api.create_volume("goes")
        qemu_io.write(lab.stack.share, f"volume-{goes}", b"of the volume that goes")
        before = digest(lab.stack.share, f"volume-{goes}")
        lab.api.attach(server_id, stays)
        lab.api.attach(server_id, goes)
        lab.api.ok("compute", "DELETE", f"/servers/{server_id}/os-volume_attachments/{goes}")
        wait_for(lambda: "did not release" in lab.stack.log.read_text(), "the detachment's end", 60)
        assert sorted(volumes_of(lab, server_id)) == sorted([stays, goes])
        domain.reset(0)
        wait_for(lambda: goes not in domain.XMLDesc(0), "the unplug")
        assert {each: has for each, (_, has) in shown(lab, server_id).items()} == {stays: True, goes: False}
        assert [each["kind"] for each in Operator(lab).document("--quick")["findings"]] == ["disk_left_guest"]
        refused = lab.api.send(
            "compute",
            "POST",
            f"/servers/{server_id}/os-assisted-snapshots",
            {"assisted_snapshot": {"quiesce": "never", "volumes": [goes]}},
        )
        assert refused.status_code == 400
        assert "has no such disk now" in refused.text
        found = lab.api.take(server_id, quiesce="never")
        assert [each["volume_id"] for each in found["volumes"]] == [stays]
        assert [each.get("volume_id") for each in found["excluded_disks"]] == [goes]
        look_again(lab)
        wait_for(lambda: lab.api.volume(goes)["status"] == "available", "the release", 60)
        assert volumes_of(lab, server_id) == [stays]
        assert lab.api.volume(goes)["attachments"] == []
        assert digest(lab.stack.share, f"volume-{goes}") == before
    finally:
        domain = lab.stack.hypervisor.domain(server_id)
        domain.destroy()
        domain.undefine()
