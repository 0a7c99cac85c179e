"""Which way a disk goes in a set: by what block storage records of its volume, and by what the server has."""

from typing import Any

import pytest

from stillframe.compute.libvirt import domain_xml
from stillframe.compute.libvirt.domain_xml import Disk
from stillframe.compute.requests.disk_methods import Method, classify
from tests.unit.builders import OTHER_VOLUME, VOLUME
from tests.unit.compute import fakes

FILE = fakes.disk_xml("vda", f"/srv/volume-{VOLUME}", VOLUME)
RAW = fakes.disk_xml("vda", f"/srv/volume-{VOLUME}", VOLUME, "raw")
TRANSIENT = FILE.replace("</disk>", "<transient/></disk>")
NETWORK = f'<disk type="network"><source protocol="{{}}" name="a/1"/><target dev="vda"/><serial>{VOLUME}</serial></disk>'
ISCSI, RBD = NETWORK.format("iscsi"), NETWORK.format("rbd")
BLOCK = f'<disk type="block"><source dev="/dev/sda"/><target dev="vda"/><serial>{VOLUME}</serial></disk>'


def disk(xml: str) -> Disk:
    (found,) = domain_xml.read(fakes.domain_xml(xml)).disks
    return found


def of(kind: str) -> dict[str, Any]:
    return {"driver_volume_type": kind}


@pytest.mark.parametrize("kind", ["local", "nfs", "glusterfs"])
def test_a_file_on_a_share_is_assisted(kind: str) -> None:
    assert classify(disk(FILE), {VOLUME: of(kind)}, True) == Method("assisted")
    assert classify(disk(TRANSIENT), {VOLUME: of(kind)}, False) == Method("assisted")


@pytest.mark.parametrize("active", [True, False])
def test_a_volume_with_snapshots_of_its_own_is_native(active: bool) -> None:
    assert classify(disk(ISCSI), {VOLUME: of("iscsi")}, active) == Method("native")


@pytest.mark.parametrize(
    ("xml", "known", "reason"),
    [
        (FILE, {}, "not a volume of block storage"),
        (FILE, {OTHER_VOLUME: of("local")}, "not a volume of block storage"),
        (fakes.disk_xml("vda", "/srv/golden"), {VOLUME: of("local")}, "not a volume of block storage"),
        (ISCSI, {}, "not a volume of block storage"),
        (FILE, {VOLUME: {}}, "still being attached"),
        (ISCSI, {VOLUME: {}}, "still being attached"),
        (TRANSIENT, {VOLUME: of("local")}, "a transient disk"),
        (ISCSI.replace("</disk>", "<transient/></disk>"), {VOLUME: of("iscsi")}, "a transient disk"),
        (BLOCK, {VOLUME: of("local")}, "a raw disk of type block"),
        (ISCSI, {VOLUME: of("local")}, "a raw disk of type network"),
        (BLOCK, {VOLUME: of("iscsi")}, "a disk of type block, but block storage gives its volume out by iscsi"),
        (FILE, {VOLUME: of("iscsi")}, "a disk of type file, but block storage gives its volume out by iscsi"),
        (RBD, {VOLUME: of("iscsi")}, "a disk of type network, but"),
        (RBD, {VOLUME: of("rbd")}, "on a rbd backend, which this host does not know"),
        (ISCSI, {VOLUME: of("fibre_channel")}, "on a fibre_channel backend, which this host does not know"),
    ],
)
def test_anything_else_is_left_out_with_the_reason(xml: str, known: dict[str, Any], reason: str) -> None:
    found = classify(disk(xml), known, True)
    assert found.name == "excluded"
    assert found.reason.startswith(reason)


def test_a_raw_file_is_assisted_as_a_qcow2_one_is() -> None:
    assert classify(disk(RAW), {VOLUME: of("local")}, True).name == "assisted"


def test_a_file_of_another_format_is_left_out() -> None:
    found = classify(disk(RAW.replace('"raw"', '"vmdk"')), {VOLUME: of("local")}, True)
    assert (found.name, found.reason.startswith("a vmdk disk of type file; of a share only")) == ("excluded", True)
