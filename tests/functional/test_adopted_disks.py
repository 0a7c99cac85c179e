"""Disks of a server that plain libvirt made become volumes where they are, and are plain files again. Content is compared."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import pytest

from stillframe.host import hypervisor
from tests.functional.test_tutorial import ROOT, commands, run
from tests.support.existing import FILES, SIZE, Existing, make, open_existing
from tests.support.operator import Operator
from tests.support.pattern import of_raw, seen
from tests.support.stack import wait_for


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Existing]:
    with open_existing(tmp_path_factory.mktemp("adopted")) as opened:
        yield opened


def test_from_plain_files_to_volumes_and_back(site: Existing) -> None:
    before, names, described = site.identities, list(FILES), site.descriptions
    site.system.write(site.guest, 0, 4, 0x41)
    site.data.write(site.guest, 0, 4, 0x51)
    foreseen = site.adopt(dry_run=True)
    assert [(each["device"], each["result"], each["size"]) for each in foreseen["disks"]] == [
        ("vda", "adopt", SIZE),
        ("vdb", "adopt", SIZE),
        ("hda", "excluded", None),
    ]
    assert sorted(os.listdir(site.images)) == names
    found = site.adopt()
    assert site.volumes() == [each["volume_id"] for each in found["disks"][:2]]
    assert (site.descriptions, site.identities) == (described, before)
    again = site.adopt()
    assert [each["result"] for each in again["disks"]] == ["adopted", "adopted", "excluded"]
    assert again["operation_id"] is None
    assert doctor(site) == []
    system, data = site.volumes()
    volume = site.lab.api.volume(system)
    assert (volume["status"], volume["size"], volume["name"]) == ("in-use", 1, "web-1-vda")
    sets = []
    contents = []
    for number in range(3):
        taken = site.lab.api.take(site.guest.id)
        assert (taken["status"], taken["fault"]) == ("available", None), taken
        assert len(taken["volumes"]) == 2
        sets.append(taken)
        contents.append((site.system.copy(), site.data.copy()))
        site.system.write(site.guest, 10 * (number + 1), 4, 0x42 + number)
        site.data.write(site.guest, 10 * (number + 1), 4, 0x52 + number)
    assert doctor(site) == []
    site.delete(sets[1])
    held = [(entry["volume_id"], entry["snapshot_id"]) for entry in sets[0]["volumes"]]
    files_of = {volume_id: site.lab.snapshot_file(volume_id, snapshot_id) for volume_id, snapshot_id in held}
    assert files_of == {system: "web-1.qcow2", data: "web-1-data.img"}
    assert seen(site.images, "web-1.qcow2") == contents[0][0]
    assert of_raw(site.images / "web-1-data.img") == contents[0][1]
    site.delete(sets[2])
    site.delete(sets[0])
    site.guest.domain.destroy()
    wait_for(lambda: site.first_names() == set(FILES), "the first name", 60)
    site.quiet()
    assert site.release()["files"] == [str(site.images / name) for name in FILES]
    wait_for(lambda: site.volumes() == [], "the end of the volumes")
    assert sorted(os.listdir(site.images)) == names
    assert described[1] == site.descriptions[1]
    assert seen(site.images, "web-1.qcow2") == site.system.clusters
    assert of_raw(site.images / "web-1-data.img") == site.data.clusters


PAGE = ROOT / "docs/start/existing-servers.md"
ODD = """
<domain type='qemu'><name>odd</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type></os><devices><emulator>/usr/bin/qemu-system-x86_64</emulator>{disks}</devices>
</domain>"""
ODD_DISK = """
<disk type='{type}' device='disk'><driver name='qemu' type='{format}'/>{source}
 <target dev='{target}' bus='virtio'/>{more}</disk>"""


def odd_disk(target: str, source: str, more: str = "", type_: str = "file", format_: str = "raw") -> str:
    return ODD_DISK.format(type=type_, format=format_, source=source, target=target, more=more)


def of_file(path: object) -> str:
    return f"<source file={quoteattr(str(path))}/>"


@pytest.fixture
def odd(site: Existing, tmp_path: Path) -> Iterator[Callable[[list[str]], list[dict[str, Any]]]]:
    """Defines a server with such disks, and tells what would become of each."""
    defined: list[str] = []

    def look(disks: list[str]) -> list[dict[str, Any]]:
        defined.append(hypervisor.define(site.lab.stack.hypervisor, ODD.format(disks="".join(disks))))
        body = {"adopt": {"dry_run": True}}
        answer = site.admin.ok("compute", "POST", f"/servers/{defined[-1]}/os-adopt-disks", body)
        return list(answer["adoption"]["disks"])

    yield look
    for server_id in defined:
        hypervisor.undefine(site.lab.stack.hypervisor.domain(server_id))


def test_what_cannot_be_adopted_has_its_reason(site: Existing, odd: Any, tmp_path: Path) -> None:
    place = tmp_path / "odd"
    place.mkdir()
    for name in ("plain", "two names", "a,b", "based", "empty", "linked", "shared", "read", "old"):
        make(place / name, "raw")
    (place / "empty").write_bytes(b"")
    os.link(place / "linked", place / "other name")
    (place / "symbolic").symlink_to(place / "plain")
    subprocess.run(
        ["qemu-img", "create", "-qf", "qcow2", "-b", "missing", "-F", "raw", "-u", place / "based", "1M"], check=True
    )
    (tmp_path / "way").symlink_to(place)
    before = sorted(os.listdir(place))
    disks = [
        odd_disk("vda", of_file(place / "two names")),
        odd_disk("vdb", of_file(place / "a,b")),
        odd_disk("vdc", of_file(place / "based"), format_="qcow2"),
        odd_disk("vdd", of_file(place / "empty")),
        odd_disk("vde", of_file(place / "linked")),
        odd_disk("vdf", of_file(place / "symbolic")),
        odd_disk("vdg", of_file(place / "missing")),
        odd_disk("vdh", of_file(place / "shared"), "<shareable/>"),
        odd_disk("vdi", of_file(place / "read"), "<readonly/>"),
        odd_disk("vdj", of_file(place / "old"), format_="vmdk"),
        odd_disk("vdk", of_file(tmp_path / "way" / "plain")),
        odd_disk("vdl", of_file("/dev/shm/disk.img")),
        odd_disk("vdm", of_file("/disk.img")),
        odd_disk("vdn", of_file(site.lab.stack.state_dir / "disk.img")),
        odd_disk("vdo", "<source dev='/dev/loop99'/>", type_="block"),
        odd_disk("vdp", "<source protocol='nbd' name='x'><host name='h' port='1'/></source>", type_="network"),
        odd_disk("vdq", "<source pool='p' volume='v'/>", type_="volume"),
        odd_disk("vdr", of_file(site.images / "web-1.qcow2"), format_="qcow2"),
    ]
    reasons = {each["device"]: each["reason"] for each in odd(disks)}
    expected = {
        "vda": "plain file name",
        "vdb": "plain file name",
        "vdc": "which cannot be opened",
        "vdd": "is empty",
        "vde": "not a regular file with one name",
        "vdf": "is a symbolic link",
        "vdg": "has no file 'missing'",
        "vdh": "shareable",
        "vdi": "read-only",
        "vdj": "convert it",
        "vdk": "leads through a symbolic link",
        "vdl": "loses everything when the host stops",
        "vdm": "cannot be a share",
        "vdn": "cannot be a share",
        "vdo": "a block device",
        "vdp": "a disk in the network",
        "vdq": "virsh vol-path",
        "vdr": "(web-1) too",
    }
    assert set(reasons) == set(expected)
    assert {target: words for target, words in expected.items() if words not in str(reasons[target])} == {}, reasons
    assert sorted(os.listdir(place)) == before


def test_a_stopped_server_is_adopted_and_released_with_its_snapshots_as_files(site: Existing) -> None:
    server = site.admin
    assert not site.guest.domain.isActive()
    described = site.guest.domain.XMLDesc(2)
    site.adopt(disks=["vda"])
    assert len(site.volumes()) == 1
    taken = site.lab.api.take(site.guest.id)
    assert taken["status"] == "available", taken
    refused = server.send("compute", "POST", f"/servers/{site.guest.id}/os-release-disks", {"release": {}})
    assert refused.status_code == 409
    assert "1 snapshots" in refused.json()["conflictingRequest"]["message"]
    left = site.release(keep_files=True)
    (entry,) = taken["volumes"]
    overlay = next(each for each in left["files"] if each.endswith(entry["snapshot_id"]))
    assert site.lab.api.send("volume", "GET", f"/volumes/{entry['volume_id']}").status_code == 404
    assert site.lab.api.send("volume", "GET", f"/snapshots/{entry['snapshot_id']}").status_code == 404
    assert sorted(os.listdir(site.images)) == sorted([*FILES, os.path.basename(overlay)])
    assert seen(site.images, os.path.basename(overlay)) == site.system.clusters
    site.guest.domain.connect().defineXML(described)
    os.unlink(overlay)


def test_the_page_does_what_it_says(site: Existing) -> None:
    """Command by command, on the server that it speaks of."""
    described, text = site.guest.domain.XMLDesc(2), PAGE.read_text()
    told = commands(text.replace("/var/lib/stillframe", str(site.lab.stack.state_dir)))
    assert told[0].startswith("stillframe serve")
    assert len(told) == 6
    site.guest.console.write_text("")
    site.guest.boot()
    for command in told[2:]:
        run([told[1], f"PATH={ROOT}/.venv/bin:$PATH"], command)
    site.quiet()
    assert sorted(os.listdir(site.images)) == list(FILES)
    assert site.guest.domain.XMLDesc(2) == described


def doctor(site: Existing) -> list[Any]:
    found: list[Any] = Operator(site.lab).document("--older-than", "0")["findings"]
    return found
