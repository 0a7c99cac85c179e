"""Domain XML: read as hostile text, made with an XML library."""

from dataclasses import replace
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from stillframe.compute.libvirt import domain_xml
from stillframe.compute.libvirt.domain_xml import NAMESPACE, Disk
from stillframe.compute.libvirt.network_source import NetworkSource
from stillframe.errors import StepFailed
from tests.unit.builders import OTHER_VOLUME, SERVER, SNAPSHOT, VOLUME
from tests.unit.compute import fakes

FILE = f"/srv/share/volume-{VOLUME}.{SNAPSHOT}"
PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FFF, exclude_categories=("Cs", "Cc")), min_size=1)


def parsed(text: str) -> etree._Element:
    return etree.fromstring(text.encode())


def test_disks_are_read_with_everything_we_ask_of_them() -> None:
    (disk,) = domain_xml.read(fakes.domain_xml(fakes.disk_xml("vda", FILE, serial=VOLUME))).disks
    assert disk == Disk("vda", "virtio", "disk", "file", "qcow2", VOLUME, FILE)
    assert (disk.name, disk.directory, disk.volume_id) == (f"volume-{VOLUME}.{SNAPSHOT}", "/srv/share", VOLUME)


@pytest.mark.parametrize("first", [True, False])
def test_a_copy_that_kept_the_serial_is_not_the_volume(first: bool) -> None:
    own, copy = fakes.disk_xml("vdb", FILE, VOLUME), fakes.disk_xml("vda", "/srv/copy.qcow2", VOLUME)
    description = domain_xml.read(fakes.domain_xml(*((copy, own) if first else (own, copy))))
    assert {disk.target: disk.volume_id for disk in description.disks} == {"vda": None, "vdb": VOLUME}
    found = description.disk_of(VOLUME)
    assert found is not None and found.target == "vdb"


def test_a_disk_in_the_network_is_not_the_volume_when_a_file_of_the_domain_is() -> None:
    network = f'<disk type="network"><source protocol="iscsi" name="a/1"/><target dev="vda"/><serial>{VOLUME}</serial></disk>'
    assert domain_xml.read(fakes.domain_xml(network)).disks[0].volume_id == VOLUME
    disks = domain_xml.read(fakes.domain_xml(network, fakes.disk_xml("vdb", FILE, VOLUME))).disks
    assert {disk.target: disk.volume_id for disk in disks} == {"vda": None, "vdb": VOLUME}


def test_a_disk_has_a_place_and_words_for_it() -> None:
    network = (
        '<disk type="network"><source protocol="iscsi" name="a/1"><host name="h" port="1"/></source><target dev="vda"/></disk>'
    )
    block = '<disk type="block"><source dev="/dev/sda"/><target dev="vdb"/></disk>'
    disks = domain_xml.read(fakes.domain_xml(network, block, fakes.disk_xml("vdc", FILE))).disks
    assert [disk.place for disk in disks] == ["iscsi a/1", None, FILE]
    assert [disk.words for disk in disks] == ["iscsi a/1 at h:1", "no file", FILE.rpartition("/")[2]]
    assert disks[2].beside(disks[0]) == "iscsi a/1 at h:1"


@pytest.mark.parametrize(
    "source", ['<source protocol="iscsi"/>', '<source protocol="rbd" name=""><host port="x"/><auth/></source>']
)
def test_a_source_in_the_network_may_lack_anything(source: str) -> None:
    (disk,) = domain_xml.read(fakes.domain_xml(f'<disk type="network">{source}<target dev="vda"/></disk>')).disks
    assert disk.network is not None
    assert (disk.network.name, disk.network.host, disk.network.port, disk.network.secret) == ("", "", 0, None)


def test_only_a_disk_in_the_network_gets_another_source() -> None:
    xml = fakes.domain_xml(fakes.disk_xml("vda", FILE))
    with pytest.raises(StepFailed, match="vda is not reached over the network"):
        domain_xml.with_source(xml, "vda", NetworkSource("iscsi", "a/1"))


def test_disks_that_are_no_files_are_read_without_one() -> None:
    network = '<disk type="network" device="disk"><source protocol="rbd" name="a/b"/><target dev="vdb" bus="virtio"/></disk>'
    block = '<disk type="block" device="lun"><source dev="/dev/sda"/><target dev="sdb"/></disk>'
    empty = '<disk type="file" device="cdrom"><target dev="sda" bus="sata"/></disk>'
    disks = domain_xml.read(fakes.domain_xml(network, block, empty)).disks
    assert [(disk.target, disk.kind, disk.device, disk.file, disk.name, disk.volume_id) for disk in disks] == [
        ("vdb", "network", "disk", None, None, None),
        ("sdb", "block", "lun", None, None, None),
        ("sda", "file", "cdrom", None, None, None),
    ]
    assert disks[2].directory is None


def test_a_disk_without_a_driver_is_raw() -> None:
    xml = fakes.domain_xml('<disk type="file" device="disk"><source file="/a"/><target dev="vda"/></disk>')
    assert domain_xml.read(xml).disks[0].format == "raw"


def test_what_lies_behind_a_disk_is_not_taken_for_a_disk() -> None:
    chain = (
        f'<disk type="file" device="disk"><driver type="qcow2"/><source file="{FILE}"/><backingStore type="file">'
        f'<source file="/srv/share/volume-{OTHER_VOLUME}"/></backingStore><target dev="vda"/></disk>'
    )
    description = domain_xml.read(fakes.domain_xml(chain))
    assert [disk.file for disk in description.disks] == [FILE]
    assert description.disk_of(OTHER_VOLUME) is None
    assert description.disk_of(VOLUME) is description.disks[0]


@pytest.mark.parametrize(
    ("serial", "volume"),
    [
        (VOLUME, VOLUME),
        ("", None),
        (VOLUME.upper(), None),
        (VOLUME[:20], None),
        ("WD-1234", None),
        (f"{VOLUME}.{SNAPSHOT}", None),
        (f"{VOLUME}/../x", None),
    ],
)
def test_a_disk_whose_file_has_no_volumes_name_is_known_by_its_serial(serial: str, volume: str | None) -> None:
    disk = Disk("vda", "virtio", "disk", "file", "qcow2", serial, "/srv/share/disk.qcow2")
    assert disk.volume_id == volume
    assert replace(disk, file=None).volume_id == volume


def test_the_files_name_counts_more_than_the_serial() -> None:
    disk = Disk("vda", "virtio", "disk", "file", "qcow2", OTHER_VOLUME, FILE)
    assert disk.volume_id == VOLUME


def test_memory_processors_and_the_agents_channel_are_read() -> None:
    description = domain_xml.read(fakes.domain_xml())
    assert (description.memory_mib, description.vcpus, description.has_agent_channel) == (512, 2, True)
    assert not domain_xml.read(fakes.domain_xml(channel=False)).has_agent_channel
    bare = domain_xml.read("<domain/>")
    assert (bare.memory_mib, bare.vcpus, bare.disks) == (0, 1, ())


def test_the_owner_is_read_from_our_own_metadata_first() -> None:
    own = f'<s:owner xmlns:s="{NAMESPACE}" project="p" user="u"/>'
    space = 'xmlns:n="http://openstack.org/xmlns/libvirt/nova/1.1"'
    nova = f'<n:instance {space}><n:owner><n:project uuid="q"/></n:owner></n:instance>'
    assert domain_xml.read(fakes.domain_xml(metadata=nova + own)).project_id == "p"
    assert domain_xml.read(fakes.domain_xml(metadata=own)).user_id == "u"


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.2"])
def test_the_owner_is_read_from_novas_metadata_of_any_version(version: str) -> None:
    nova = (
        f'<!-- c --><o:other xmlns:o="urn:o"/><n:instance xmlns:n="http://openstack.org/xmlns/libvirt/nova/{version}">'
        '<n:owner><n:user uuid="u">ann</n:user><n:project uuid="p">demo</n:project></n:owner></n:instance>'
    )
    description = domain_xml.read(fakes.domain_xml(metadata=nova))
    assert (description.project_id, description.user_id) == ("p", "u")


def test_a_domain_nobody_owns_has_no_owner() -> None:
    assert domain_xml.read(fakes.domain_xml()).project_id is None
    nova = '<n:instance xmlns:n="http://openstack.org/xmlns/libvirt/nova/1.1"/>'
    assert domain_xml.read(fakes.domain_xml(metadata=nova)).project_id is None


def test_entities_are_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("canary")
    xml = (
        f'<!DOCTYPE d [<!ENTITY x SYSTEM "file://{secret}"><!ENTITY y "{VOLUME}">]><domain><devices><disk type="file">'
        "<target dev='vda'/><serial>&x;</serial></disk><disk><target dev='vdb'/><serial>&y;</serial></disk></devices></domain>"
    )
    disks = domain_xml.read(xml).disks
    assert not any("canary" in (disk.serial or "") for disk in disks)
    assert all(disk.volume_id is None for disk in disks)


def test_a_bomb_of_entities_does_not_go_off() -> None:
    layers = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 20))
    xml = f'<!DOCTYPE d [<!ENTITY l0 "{"x" * 1000}">{layers}]><domain><vcpu>1</vcpu><name>&l19;</name></domain>'
    try:
        assert domain_xml.read(xml).vcpus == 1
    except etree.XMLSyntaxError:
        return


def test_a_new_disk_carries_the_volumes_id_as_serial_and_no_cache_of_the_host() -> None:
    disk = parsed(domain_xml.volume_disk(VOLUME, FILE, "qcow2", "vdb"))
    driver = disk.find("driver")
    assert driver is not None
    assert (driver.get("type"), driver.get("cache"), disk.get("type")) == ("qcow2", "none", "file")
    (read_back,) = domain_xml.read(fakes.domain_xml(domain_xml.volume_disk(VOLUME, FILE, "qcow2", "vdb"))).disks
    assert read_back == Disk("vdb", "virtio", "disk", "file", "qcow2", VOLUME, FILE)


@given(PRINTABLE)
def test_no_path_can_break_out_of_its_attribute(path: str) -> None:
    (disk,) = domain_xml.read(fakes.domain_xml(domain_xml.volume_disk(VOLUME, path, "qcow2", "vdb"))).disks
    assert disk.file == path
    disks = parsed(domain_xml.snapshot({"vda": path}, ["vda"])).find("disks")
    assert disks is not None
    assert [each.find("source").get("file") for each in disks] == [path]  # type: ignore[union-attr]


def test_a_snapshot_switches_the_named_disks_and_says_of_every_other_that_it_stays() -> None:
    root = parsed(domain_xml.snapshot({"vdb": "/s/b", "vda": "/s/a"}, ["sda", "vda", "vdb", "vdc"]))
    assert root.tag == "domainsnapshot"
    found = {
        disk.get("name"): (
            disk.get("snapshot"),
            disk.get("type"),
            [(child.tag, dict(child.attrib)) for child in disk],
        )
        for disk in root.iterfind("disks/disk")
    }
    assert found == {
        "sda": ("no", None, []),
        "vda": ("external", "file", [("driver", {"type": "qcow2"}), ("source", {"file": "/s/a"})]),
        "vdb": ("external", "file", [("driver", {"type": "qcow2"}), ("source", {"file": "/s/b"})]),
        "vdc": ("no", None, []),
    }


def test_a_disk_is_cut_out_as_the_domain_has_it() -> None:
    first, second = fakes.disk_xml("vda", "/a"), fakes.disk_xml("vdb", "/b & c".replace("&", "&amp;"), serial=SERVER)
    cut = domain_xml.disk_element(fakes.domain_xml(first, second), "vdb")
    (disk,) = domain_xml.read(fakes.domain_xml(cut)).disks
    assert (disk.target, disk.file, disk.serial) == ("vdb", "/b & c", SERVER)


def test_a_disk_that_is_not_there_cannot_be_cut_out() -> None:
    with pytest.raises(StepFailed, match="no disk vdz"):
        domain_xml.disk_element(fakes.domain_xml(fakes.disk_xml("vda", "/a")), "vdz")


def test_the_first_free_name_is_taken() -> None:
    assert domain_xml.free_target(set()) == "vda"
    assert domain_xml.free_target({"vda", "vdc", "sdb"}) == "vdb"
    everything = {f"vd{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"}
    assert domain_xml.free_target(everything - {"vdz"}) == "vdz"
    with pytest.raises(StepFailed, match="all 26"):
        domain_xml.free_target(everything)


@given(PRINTABLE)
def test_what_is_read_from_xml_is_what_was_meant(path: str) -> None:
    xml = fakes.domain_xml(
        f"<disk type='file' device='disk'><source file={quoteattr(path)}/><target dev='vda'/>"
        f"<serial>{escape(path)}</serial></disk>"
    )
    (disk,) = domain_xml.read(xml).disks
    assert (disk.file, disk.serial) == (path, path)


def test_the_alias_of_a_disk_is_libvirts_own() -> None:
    first, second = (fakes.disk_xml(target, "/a") for target in ("vda", "vdb"))
    named = second.replace("</disk>", '<alias name="virtio-disk1"/></disk>')
    assert domain_xml.alias_of(fakes.domain_xml(first, named), "vdb") == "virtio-disk1"
    with pytest.raises(StepFailed, match="no alias"):
        domain_xml.alias_of(fakes.domain_xml(first, named), "vda")


SCRATCH = """<domain><devices><disk type="file" device="disk">
<driver name="qemu" type="qcow2" cache="none" discard="unmap"/><source file="/s/scratch-a.qcow2" index="3"/>
<backingStore type="network" index="2"><format type="raw"/><source protocol="iscsi" name="iqn.2010-10.org:a/1">
<host name="127.0.0.1" port="3260"/><auth username="u"><secret type="iscsi" uuid="s"/></auth></source></backingStore>
<target dev="vdb" bus="virtio"/><serial>x</serial></disk></devices></domain>"""


def test_a_scratch_overlay_gives_its_disk_back_to_what_lies_below() -> None:
    (before,) = domain_xml.read(SCRATCH).disks
    assert before.below is not None
    assert (before.file, before.network, before.below.user) == ("/s/scratch-a.qcow2", None, "u")
    disk = domain_xml.without_scratch(SCRATCH, "vdb")
    (after,) = domain_xml.read(f"<domain><devices>{disk}</devices></domain>").disks
    assert (after.kind, after.format, after.file, after.network, after.below) == ("network", "raw", None, before.below, None)
    assert after.serial == before.serial
    with pytest.raises(StepFailed, match="no overlay over a disk in the network"):
        domain_xml.without_scratch(f"<domain><devices>{disk}</devices></domain>", "vdb")
