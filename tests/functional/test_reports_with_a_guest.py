"""Public reports of other systems, tried on a running guest; see docs/design/field-reports.md."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import pytest
from lxml import etree

from stillframe.compute.libvirt import domain_xml
from stillframe.host import hypervisor, qemu_img
from tests.support.content import digest
from tests.support.guest.domain import GuestOptions
from tests.support.lab import Lab, open_lab
from tests.support.pattern import Pattern, seen
from tests.support.stack import wait_for

ODD_DIRECTORY = "of 'Home' & ü, %d: #1"  # what a shell, an option of QEMU, XML or a format string would stumble over
AGENT = "qemu-ga -m virtio-serial -p /dev/vport0p1 -t /run -f /run/qemu-ga.pid -d"
ODD_NAME = "Home Assistant+ü"
EXTRA = """
<disk type='file' device='cdrom'><target dev='hda' bus='ide'/><readonly/></disk>
<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file={seed}/><target dev='hdb' bus='ide'/>
 <shareable/></disk>
<controller type='sata' index='0'/>"""
SETTINGS = """
<driver name='qemu' type='qcow2' cache='none' io='threads' error_policy='stop' discard='unmap' detect_zeroes='unmap'
 iothread='1' queues='2'/>
<iotune><total_bytes_sec>900000000</total_bytes_sec></iotune>
<blockio logical_block_size='512' physical_block_size='4096'/>
<alias name='ua-system'/>"""


def part(element: etree._Element, name: str) -> etree._Element:
    found = element.find(name)
    assert found is not None, name
    return found


class Scenario:
    """A server with an odd name in an odd place: ``plain`` has settings of its own and a filesystem, ``still`` may only be
    read, ``sata`` hangs on a bus the guest has no driver for, ``bytes`` has no filesystem but known bytes."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        seed = lab.directory / "cidata.img"
        seed.write_bytes(bytes(1 << 20))
        extra = EXTRA.format(seed=quoteattr(str(seed)))
        options = GuestOptions(name=ODD_NAME, raw="vdb:vdc", extra_disks=extra, interval_us=1_000_000)
        self.guest = lab.add_guest(4, options, boot=False)
        self.plain, self.still, self.sata, self.bytes = lab.volumes
        self.guest.domain.connect().defineXML(self.arranged(self.guest.domain.XMLDesc(2)))
        self.pattern = Pattern("/dev/vdc")  # its third virtio disk
        self.guest.boot()

    def arranged(self, xml: str) -> str:
        root = etree.fromstring(xml)
        for boot in root.findall("os/boot"):
            part(root, "os").remove(boot)
        root.insert(3, etree.fromstring("<iothreads>1</iothreads>"))
        disks = {part(disk, "target").get("dev"): disk for disk in root.iterfind("devices/disk")}
        plain, sata = disks["vda"], disks["vdc"]
        plain.remove(part(plain, "driver"))
        for setting in etree.fromstring(f"<x>{SETTINGS}<boot order='1'/></x>"):
            plain.append(setting)
        disks["vdb"].append(etree.Element("readonly"))
        sata.remove(part(sata, "address"))
        part(sata, "target").set("dev", "sda")
        part(sata, "target").set("bus", "sata")
        return etree.tostring(root, encoding="unicode")

    def take(self, **wanted: Any) -> dict[str, Any]:
        found = self.lab.api.take(self.guest.id, **wanted)
        assert found["status"] == "available", found
        return found

    def delete(self, found: dict[str, Any]) -> None:
        path = f"/servers/{self.guest.id}/os-assisted-snapshots/{found['id']}"
        self.lab.api.ok("compute", "DELETE", path)
        self.gone(found)

    def gone(self, found: dict[str, Any]) -> None:
        path = f"/os-assisted-snapshots/{found['id']}"

        def over() -> bool:
            answer = self.lab.api.send("compute", "GET", path)
            assert answer.status_code == 404 or answer.json()["assisted_snapshot"]["status"] == "deleting", answer.text
            return answer.status_code == 404

        wait_for(over, "the set's deletion", 60)

    def settings(self, inactive: bool) -> list[str]:
        """Everything the description says of the disks but their files."""
        root = etree.fromstring(self.guest.domain.XMLDesc(2 if inactive else 0))
        found = []
        for disk in root.iterfind("devices/disk"):
            for gone in (*disk.findall("source"), *disk.findall("backingStore")):
                disk.remove(gone)
            found.append(re.sub(r"\s+", " ", etree.tostring(disk, encoding="unicode")))
        return found


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scenario]:
    directory = tmp_path_factory.mktemp("r") / ODD_DIRECTORY
    directory.mkdir()
    lab = open_lab(directory)
    try:
        yield Scenario(lab)
    finally:
        lab.clear()


def test_what_cannot_be_in_a_set_is_named_and_the_rest_is_taken(scenario: Scenario) -> None:
    found = scenario.take()
    assert {entry["volume_id"] for entry in found["volumes"]} == {scenario.plain, scenario.sata, scenario.bytes, scenario.still}
    excluded = {each["device"]: each["reason"] for each in found["excluded_disks"]}
    assert excluded == {"/dev/hdb": "not a volume of block storage"}
    scenario.delete(found)


def test_all_other_properties_of_a_disk_stay(scenario: Scenario) -> None:
    before = scenario.settings(False), scenario.settings(True)
    assert sum("iothread" in each and "ua-system" in each and "total_bytes_sec" in each for each in before[1]) == 1
    volumes = [scenario.plain, scenario.sata, scenario.bytes]
    found = scenario.take(volumes=volumes)
    assert (scenario.settings(False), scenario.settings(True)) == before
    scenario.delete(found)
    assert (scenario.settings(False), scenario.settings(True)) == before


def test_what_the_guest_discards_does_not_come_back(scenario: Scenario) -> None:
    scenario.pattern.write(scenario.guest, 0, 16, 65)
    first = scenario.take(volumes=[scenario.bytes])
    scenario.guest.execute("blkdiscard -o 0 -l 524288 /dev/vdc")
    for place in range(8):
        del scenario.pattern.clusters[place]
    second = scenario.take(volumes=[scenario.bytes])
    scenario.delete(first)
    held = scenario.lab.snapshot_file(scenario.bytes, second["volumes"][0]["snapshot_id"])
    assert seen(scenario.lab.stack.share, held) == dict.fromkeys(range(8, 16), 65)
    scenario.delete(second)


def test_the_newest_and_the_one_before_are_deleted_without_a_pause(scenario: Scenario) -> None:
    scenario.pattern.write(scenario.guest, 32, 4, 66)
    sets = [scenario.take(volumes=[scenario.bytes])]
    for value in (67, 68):
        scenario.pattern.write(scenario.guest, 33, 2, value)
        sets.append(scenario.take(volumes=[scenario.bytes]))
    scenario.pattern.write(scenario.guest, 35, 1, 69)
    held = scenario.lab.snapshot_file(scenario.bytes, sets[0]["volumes"][0]["snapshot_id"])
    before = digest(scenario.lab.stack.share, held)
    for each in reversed(sets[1:]):
        snapshot = each["volumes"][0]["snapshot_id"]

        def accepted(snapshot_id: str = snapshot) -> bool:
            answer = scenario.lab.api.send("volume", "DELETE", f"/snapshots/{snapshot_id}")
            assert answer.status_code in (202, 409), answer.text
            return answer.status_code == 202

        wait_for(accepted, "the deletion before")
    for each in sets[1:]:
        path = f"/snapshots/{each['volumes'][0]['snapshot_id']}"
        wait_for(lambda path=path: scenario.lab.api.send("volume", "GET", path).status_code == 404, "the deletion")  # type: ignore[misc]
    assert digest(scenario.lab.stack.share, held) == before
    scenario.delete(sets[0])


def test_a_guest_that_somebody_else_froze_stays_theirs(scenario: Scenario) -> None:
    scenario.guest.agent("guest-fsfreeze-freeze")
    try:
        path = f"/servers/{scenario.guest.id}/os-assisted-snapshots"
        answer = scenario.lab.api.send("compute", "POST", path, {"assisted_snapshot": {"quiesce": "required"}})
        assert answer.status_code == 409 and "frozen already, by another program" in answer.text, answer.text
        found = scenario.take(volumes=[scenario.plain])
        assert found["consistency"]["level"] == "crash"
        assert "frozen already, by another program" in found["consistency"]["degraded_reason"]
        assert scenario.guest.frozen()
    finally:
        scenario.guest.agent("guest-fsfreeze-thaw")
    scenario.guest.still_writes()
    scenario.delete(found)


def test_an_agent_that_may_not_freeze_is_named_as_the_reason(scenario: Scenario) -> None:
    another_agent(scenario, f"{AGENT} -b guest-fsfreeze-freeze,guest-fsfreeze-freeze-list")
    try:
        path = f"/servers/{scenario.guest.id}/os-assisted-snapshots"
        answer = scenario.lab.api.send("compute", "POST", path, {"assisted_snapshot": {"quiesce": "required"}})
        found = scenario.take(volumes=[scenario.plain])
    finally:
        another_agent(scenario, AGENT)
    assert answer.status_code == 409 and "does not allow freezing" in answer.text, answer.text
    assert found["consistency"]["level"] == "crash"
    assert "does not allow freezing" in found["consistency"]["degraded_reason"]
    scenario.delete(found)


def another_agent(scenario: Scenario, command: str) -> None:
    scenario.guest.execute(f"(sleep 0.5; killall qemu-ga; sleep 2; {command}) >/dev/null 2>&1 &")
    wait_for(lambda: not scenario.guest.agent_answers(), "the agent's end")
    wait_for(scenario.guest.agent_answers, "the agent")


def test_copies_with_the_same_serial_or_name_are_not_taken_for_the_volume(scenario: Scenario) -> None:
    own = domain_xml.read(scenario.guest.domain.XMLDesc(0)).disk_of(scenario.plain)
    assert own is not None
    name = str(own.name)
    copies = [scenario.lab.directory / "copy.qcow2", scenario.lab.directory / name]
    for copy in copies:
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", copy.name, "1G"], cwd=copy.parent, check=True)
    disks = [disk_xml(copy, f"vd{letter}", scenario.plain) for copy, letter in zip(copies, "fg", strict=True)]
    other = scenario.guest.domain.connect().defineXML(
        "<domain type='qemu'><name>a copy</name><memory unit='MiB'>64</memory><os><type arch='x86_64'>hvm</type></os>"
        f"<devices>{disks[1]}</devices></domain>"
    )
    try:
        hypervisor.attach_device(scenario.guest.domain, disks[0], live=True, config=True)
        found = scenario.take()
        excluded = {each["device"]: each["reason"] for each in found["excluded_disks"]}
        assert excluded["/dev/vdf"] == "not a volume of block storage"
        assert scenario.plain in {entry["volume_id"] for entry in found["volumes"]}
        scenario.delete(found)
    finally:
        other.undefine()


def test_a_copied_domain_does_not_hold_up_what_is_done_offline(scenario: Scenario) -> None:
    api = scenario.lab.api
    spare, copy = api.create_volume("spare"), scenario.lab.directory / "spare.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", copy.name, "1G"], cwd=copy.parent, check=True)
    other = scenario.guest.domain.connect().defineXML(
        "<domain type='qemu'><name>of spare</name><memory unit='MiB'>64</memory><os><type arch='x86_64'>hvm</type></os>"
        f"<devices>{disk_xml(copy, 'vda', spare)}</devices></domain>"
    )
    try:
        taken = api.ok("volume", "POST", "/snapshots", {"snapshot": {"volume_id": spare}})["snapshot"]["id"]
        wait_for(lambda: api.snapshot(taken)["status"] == "available", "the snapshot")
        wait_for(lambda: api.send("volume", "DELETE", f"/snapshots/{taken}").status_code == 202, "the deletion to begin")
        wait_for(lambda: api.send("volume", "GET", f"/snapshots/{taken}").status_code == 404, "the deletion")
    finally:
        other.undefine()


def disk_xml(file: Path, target: str, serial: str) -> str:
    disk = etree.Element("disk", type="file", device="disk")
    etree.SubElement(disk, "driver", name="qemu", type="qcow2")
    etree.SubElement(disk, "source", file=str(file))
    etree.SubElement(disk, "target", dev=target, bus="virtio")
    etree.SubElement(disk, "serial").text = serial
    return etree.tostring(disk, encoding="unicode")


def test_a_checkpoint_of_a_backup_program_outlives_a_set(scenario: Scenario) -> None:
    domain = scenario.guest.domain
    others = "".join(f"<disk name='{name}' checkpoint='no'/>" for name in ("vda", "vdb", "sda", "hdb", "vdf"))
    disks = f"<disk name='vdd' checkpoint='bitmap'/>{others}"
    point = domain.checkpointCreateXML(f"<domaincheckpoint><name>one</name><disks>{disks}</disks></domaincheckpoint>", 0)
    found = scenario.take(volumes=[scenario.bytes])
    scenario.pattern.write(scenario.guest, 48, 2, 70)
    scenario.delete(found)
    again = scenario.take(volumes=[scenario.bytes])
    assert [each.getName() for each in domain.listAllCheckpoints()] == ["one"]
    point.delete(0)
    scenario.delete(again)
    assert seen_live(scenario) == scenario.pattern.clusters


def seen_live(scenario: Scenario) -> dict[int, int]:
    found = scenario.take(volumes=[scenario.bytes])
    held = scenario.lab.snapshot_file(scenario.bytes, found["volumes"][0]["snapshot_id"])
    content = seen(scenario.lab.stack.share, held)
    scenario.delete(found)
    return content


def test_a_server_that_is_renamed_keeps_its_sets(scenario: Scenario) -> None:
    found = scenario.take(volumes=[scenario.bytes])
    hypervisor.power(scenario.guest.domain, "destroy")
    scenario.guest.domain.rename("another name", 0)
    shown = scenario.lab.api.ok("compute", "GET", f"/servers/{scenario.guest.id}/os-assisted-snapshots")["assisted_snapshots"]
    assert found["id"] in [each["id"] for each in shown]
    scenario.delete(found)
    (active,) = (
        disk.file for disk in domain_xml.read(scenario.guest.domain.XMLDesc(2)).disks if disk.volume_id == scenario.bytes
    )
    assert active is not None
    name = Path(active).name
    assert seen(scenario.lab.stack.share, name) == scenario.pattern.clusters
    qemu_img.check(scenario.lab.stack.share, name, "qcow2")
