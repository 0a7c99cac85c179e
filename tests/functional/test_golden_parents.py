"""Disks over golden images are adopted where they are; the golden images are read and never touched. Content is compared."""

import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stillframe.host import hypervisor
from tests.functional.test_adopted_disks import ODD, odd_disk, of_file
from tests.support.existing import FILES, SIZE, Existing, open_existing
from tests.support.operator import Operator
from tests.support.pattern import CLUSTER, of_raw, seen
from tests.support.stack import wait_for

FIRST = 0x31  # the byte in the first four clusters of the golden images
DISKS = """
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
 <source file='{images}/web-1.qcow2'/><target dev='vda' bus='virtio'/></disk>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
 <source file='{images}/web-1-data.img'/><target dev='vdb' bus='virtio'/></disk>"""
CONTENT = dict.fromkeys(range(4), FIRST)


def golden(images: Path) -> Path:
    return images.parent / "golden"


def qemu_img(*words: str | Path) -> None:
    subprocess.run(["qemu-img", *words], check=True)


def make_disks(images: Path) -> None:
    """``vda`` is backed by a QCOW2 file, by its absolute path, and that by a raw one beside it; ``vdb`` by the raw one."""
    place = golden(images)
    place.mkdir(mode=0o711)
    raw, middle = place / "debian.raw", place / "debian.qcow2"
    raw.write_bytes(bytes([FIRST]) * 4 * CLUSTER + bytes(8 * CLUSTER))
    qemu_img("create", "-qf", "qcow2", "-b", "debian.raw", "-F", "raw", middle, str(16 * CLUSTER))
    for path in (raw, middle):
        path.chmod(0o644)
    made = {"web-1.qcow2": (middle, "qcow2"), "web-1-data.img": (raw, "raw")}
    for name, (backing, format_) in made.items():
        qemu_img("create", "-qf", "qcow2", "-b", backing, "-F", format_, images / name, str(SIZE))
        (images / name).chmod(0o640)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Existing]:
    with open_existing(tmp_path_factory.mktemp("golden"), make_disks, DISKS) as opened:
        opened.system.clusters.update(CONTENT)
        opened.data.clusters.update(CONTENT)
        yield opened


def state(site: Existing) -> dict[str, tuple[str, int, int]]:
    """What may not change of a golden image: content, time of the last write, the file itself."""
    found = {}
    for path in sorted(golden(site.images).iterdir()):
        about = path.stat()
        found[path.name] = (hashlib.sha256(path.read_bytes()).hexdigest(), about.st_mtime_ns, about.st_ino)
    return found


def doctor(site: Existing) -> list[Any]:
    found: list[Any] = Operator(site.lab).document("--older-than", "0")["findings"]
    return found


def test_a_running_server_over_golden_images_goes_all_the_way(site: Existing) -> None:
    images, described, parents = site.images, site.descriptions, state(site)
    site.system.write(site.guest, 2, 4, 0x41)
    site.data.write(site.guest, 2, 4, 0x51)
    foreseen = site.adopt(dry_run=True)
    assert [(each["device"], each["result"], each["reason"]) for each in foreseen["disks"]] == [
        ("vda", "adopt", None),
        ("vdb", "adopt", None),
    ]
    assert sorted(os.listdir(images)) == list(FILES)
    site.adopt()
    system = site.volumes()[0]
    assert doctor(site) == []
    sets, contents = [], []
    for number in range(4):
        taken = site.lab.api.take(site.guest.id)
        assert (taken["status"], taken["fault"]) == ("available", None), taken
        sets.append(taken)
        contents.append((site.system.copy(), site.data.copy()))
        site.system.write(site.guest, 3 + 10 * number, 4, 0x42 + number)
        site.data.write(site.guest, 3 + 10 * number, 4, 0x52 + number)
    assert doctor(site) == []
    check_contents(site, sets, contents)
    clone(site, sets[1], contents[1])
    site.delete(sets[2])
    check_contents(site, [sets[0], sets[1], sets[3]], [contents[0], contents[1], contents[3]])
    site.delete(sets[0])
    check_contents(site, [sets[1], sets[3]], [contents[1], contents[3]])
    assert site.lab.snapshot_file(system, snapshot_of(sets[1], system)) == "web-1.qcow2"
    site.delete(sets[3])
    site.delete(sets[1])
    assert doctor(site) == []
    assert state(site) == parents
    site.guest.domain.destroy()
    wait_for(lambda: site.first_names() == set(FILES), "the first name", 60)
    site.quiet()
    taken = site.lab.api.take(site.guest.id)
    assert taken["status"] == "available", taken
    site.quiet()
    site.delete(taken)
    wait_for(lambda: site.first_names() == set(FILES), "the first name", 60)
    assert site.release()["files"] == [str(images / name) for name in FILES]
    wait_for(lambda: site.volumes() == [], "the end of the volumes")
    assert sorted(os.listdir(images)) == list(FILES)
    assert described[1] == site.descriptions[1]
    assert state(site) == parents
    for name, pattern in (("web-1.qcow2", site.system), ("web-1-data.img", site.data)):
        assert plain(images / name) == pattern.clusters


def snapshot_of(found: dict[str, Any], volume_id: str) -> str:
    return next(str(each["snapshot_id"]) for each in found["volumes"] if each["volume_id"] == volume_id)


def check_contents(site: Existing, sets: list[dict[str, Any]], contents: list[tuple[dict[int, int], dict[int, int]]]) -> None:
    for taken, content in zip(sets, contents, strict=True):
        for volume_id, expected in zip(site.volumes(), content, strict=True):
            name = site.lab.snapshot_file(volume_id, snapshot_of(taken, volume_id))
            assert seen(site.images, name) == expected


def clone(site: Existing, taken: dict[str, Any], content: tuple[dict[int, int], dict[int, int]]) -> None:
    """A volume made of a snapshot holds what the golden image does, and needs it no more."""
    snapshot_id = snapshot_of(taken, site.volumes()[0])
    made = site.lab.api.create_volume("copy", snapshot_id=snapshot_id)
    share = site.lab.share_of(made)
    name = f"volume-{made}"
    assert seen(share, name) == content[0]
    assert str(golden(site.images)).encode() not in (share / name).read_bytes()[:4096]


def plain(path: Path) -> dict[int, int]:
    """Reads a file as QEMU does, without us."""
    raw = path.parent.parent / "plain.raw"
    qemu_img("convert", "-f", "qcow2", "-O", "raw", path, raw)
    try:
        return of_raw(raw)
    finally:
        raw.unlink()


def over(site: Existing, name: str, backing: str, *format_: str) -> Path:
    """Lets a file of the stopped server name its golden image in another way."""
    path = site.images / name
    qemu_img("rebase", "-u", "-f", "qcow2", *format_, "-b", backing, path)
    return path


def test_a_stopped_server_over_relative_and_json_names(site: Existing) -> None:
    """Backed up whole and by difference, merged over several files, and made anew from the share."""
    assert not site.guest.domain.isActive()
    raw, parents = golden(site.images) / "debian.raw", state(site)
    over(site, "web-1.qcow2", "../golden/debian.qcow2", "-F", "qcow2")
    over(site, "web-1-data.img", f'json:{{"driver":"raw","file":{{"driver":"file","filename":"{raw}"}}}}', "-F", "raw")
    site.adopt()
    system = site.volumes()[0]
    sets = [site.lab.api.take(site.guest.id) for _ in range(2)]
    first = site.system.copy()
    site.guest.console.write_text("")
    site.guest.boot()
    site.system.write(site.guest, 1, 5, 0x61)
    site.data.write(site.guest, 1, 5, 0x71)
    sets += [site.lab.api.take(site.guest.id) for _ in range(2)]
    site.guest.domain.destroy()
    second = site.system.copy()
    assert [taken["status"] for taken in sets] == ["available"] * 4, sets
    site.quiet()
    full, difference = back_up(site, system, sets[0], False), back_up(site, system, sets[2], True)
    for taken in (sets[1], sets[3], sets[0]):
        site.delete(taken)
    check_contents(site, [sets[2]], [(site.system.copy(), site.data.copy())])
    for backup, content in ((full, first), (difference, second)):
        made = restore(site, backup)
        assert seen(site.lab.share_of(made), f"volume-{made}") == content
    assert doctor(site) == []
    assert state(site) == parents


def back_up(site: Existing, volume_id: str, taken: dict[str, Any], incremental: bool) -> str:
    body = {"volume_id": volume_id, "snapshot_id": snapshot_of(taken, volume_id), "incremental": incremental, "force": True}
    made = str(site.lab.api.ok("volume", "POST", "/backups", {"backup": body})["backup"]["id"])
    wait_for(lambda: backup_status(site, made) in ("available", "error"), "the backup", 60)
    found = site.lab.api.ok("volume", "GET", f"/backups/{made}")["backup"]
    assert found["status"] == "available", found
    return made


def backup_status(site: Existing, backup_id: str) -> str:
    return str(site.lab.api.ok("volume", "GET", f"/backups/{backup_id}")["backup"]["status"])


def restore(site: Existing, backup_id: str) -> str:
    made = str(site.lab.api.ok("volume", "POST", f"/backups/{backup_id}/restore", {"restore": {}})["restore"]["volume_id"])
    wait_for(lambda: site.lab.api.volume(made)["status"] == "available", "the restored volume", 60)
    return made


def test_a_golden_image_that_changed_is_told_and_not_read(site: Existing) -> None:
    path, volume_id = golden(site.images) / "debian.raw", site.volumes()[1]
    about = path.stat()
    os.utime(path)
    assert sorted((each["kind"], each["file"]) for each in doctor(site)) == [("parent_image_changed", name) for name in FILES]
    (snapshot,) = site.lab.api.ok("volume", "GET", f"/snapshots?volume_id={volume_id}")["snapshots"]
    made = site.lab.api.send("volume", "POST", "/volumes", {"volume": {"size": 1, "snapshot_id": snapshot["id"]}})
    if made.status_code == 202:
        copy = made.json()["volume"]["id"]
        wait_for(lambda: site.lab.api.volume(copy)["status"] == "error", "the end of the copy", 60)
        site.lab.api.ok("volume", "DELETE", f"/volumes/{copy}")
    else:
        assert (made.status_code, "is not what it was" in made.text) == (409, True), made.text
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    site.quiet()
    assert doctor(site) == []


def test_a_golden_image_is_shared_and_never_adopted_itself(site: Existing) -> None:
    """A server that writes to it cannot be adopted, nor a disk above it afterwards."""
    path, volume_id = golden(site.images) / "debian.qcow2", site.volumes()[0]
    other = hypervisor.define(
        site.lab.stack.hypervisor,
        ODD.format(
            disks=odd_disk("vda", of_file(path), format_="qcow2")
            + odd_disk("vdb", of_file(make_shared(site)), format_="qcow2")
            + odd_disk("vdc", of_file(make_over(site)), format_="qcow2")
        ),
    )
    try:
        body = {"adopt": {"dry_run": True}}
        looked = site.admin.ok("compute", "POST", f"/servers/{other}/os-adopt-disks", body)["adoption"]["disks"]
        found = {each["device"]: each["reason"] for each in looked}
        assert f"is the parent image of volume {volume_id}" in found["vda"]
        assert "debian.qcow2 is disk vda of server" in found["vdb"]
        assert f"is a file of volume {volume_id}" in found["vdc"]
    finally:
        hypervisor.undefine(site.lab.stack.hypervisor.domain(other))


def make_shared(site: Existing) -> Path:
    path = site.images.parent / "golden" / "other.qcow2"
    qemu_img("create", "-qf", "qcow2", "-b", "debian.qcow2", "-F", "qcow2", path, str(SIZE))
    return path


def make_over(site: Existing) -> Path:
    path = site.images.parent / "golden" / "above.qcow2"
    qemu_img("create", "-qf", "qcow2", "-b", site.images / "web-1.qcow2", "-F", "qcow2", path, str(SIZE))
    return path
