"""Servers that are paused, or have no definition, are adopted, snapshotted and released like any other one."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest

from tests.support.existing import Existing, make
from tests.support.lab import Lab, open_lab
from tests.support.pattern import Pattern, seen
from tests.support.stack import wait_for

SERVER = """
<domain type='qemu'><name>{name}</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type></os><devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{place}/system.qcow2'/>
 <target dev='sda' bus='sata'/></disk>
<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{place}/data.img'/>
 <target dev='vdb' bus='virtio'/></disk></devices></domain>"""
NAMES = ["data.img", "system.qcow2"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    opened = open_lab(tmp_path_factory.mktemp("states"))
    yield opened
    opened.clear()


class Plain:
    """A domain with an empty machine in it."""

    def __init__(self, domain: Any) -> None:
        self.domain, self.id = domain, domain.UUIDString()


@pytest.mark.parametrize("state", ["paused", "transient", "transient-paused"])
def test_a_server_in_that_state_is_adopted_and_released(lab: Lab, tmp_path: Path, state: str) -> None:
    place = tmp_path / "images"
    place.mkdir(mode=0o711)
    for name in NAMES:
        make(place / name, "raw" if name.endswith(".img") else "qcow2")
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -P 0x41 0 64k", place / "system.qcow2"], check=True)
    connection, described = lab.stack.hypervisor.connection(), SERVER.format(name=state, place=place)
    domain = connection.createXML(described, 0) if "transient" in state else connection.defineXML(described)
    if "transient" not in state:
        domain.create()
    if "paused" in state:
        domain.suspend()
    guest: Any = Plain(domain)
    site = Existing(lab, place, guest, Pattern("/dev/sda"), Pattern("/dev/vdb"))
    try:
        before = domain.XMLDesc(0)
        assert [each["result"] for each in site.adopt()["disks"]] == ["adopt", "adopt"]
        assert len(site.volumes()) == 2
        taken = lab.api.take(guest.id, quiesce="never")
        assert (taken["status"], len(taken["volumes"])) == ("available", 2), taken
        assert domain.state()[0] == (libvirt.VIR_DOMAIN_PAUSED if "paused" in state else libvirt.VIR_DOMAIN_RUNNING)
        site.release(delete_snapshots=True)
        wait_for(lambda: site.volumes() == [], "the end of the volumes", 60)
        site.quiet()
        assert sorted(os.listdir(place)) == NAMES
        assert domain.XMLDesc(0) == before
        assert domain.isActive() and domain.isPersistent() == ("transient" not in state)
    finally:
        domain.destroy()
        if "transient" not in state:
            domain.undefine()
    assert seen(place, "system.qcow2") == {0: 0x41}
