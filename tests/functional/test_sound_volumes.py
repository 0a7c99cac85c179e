"""Volumes whose writer died, over REST and with nothing attached: every operation repairs before it builds, and says so, or
refuses before it touches anything. What is read afterwards is what was written."""

import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import select

from stillframe.db.tables import operations
from stillframe.host import files, qemu_img, soundness
from tests.support import qemu_io
from tests.support.image_store import ImageStore, image_store
from tests.support.lab import open_lab
from tests.support.operator import Operator
from tests.support.pattern import seen
from tests.support.stack import wait_for

SNAPSHOT = {32: 17, **dict.fromkeys(range(64, 104), 18)}
VOLUME = SNAPSHOT | {0: 19}


class Volume:
    """``snapshot`` holds SNAPSHOT, the volume VOLUME; the counts of both files know nothing of what was written last."""

    def __init__(self, operator: Operator, much_above: bool = False) -> None:
        self.operator = operator
        self.id = operator.volume()
        self.snapshot = operator.snapshot(self.id)
        base, self.above = f"volume-{self.id}", 60 if much_above else 0
        below = ("write -P 17 2M 64k", "write -P 18 4M 2560k")
        above = ("write -P 19 0 64k", *(("write -P 20 16M 3840k",) if much_above else ()))
        for name, commands in ((base, below), (operator.overlay(self.id, self.snapshot).name, above)):
            qemu_io.mark(operator.share / name, compatible=1)
            qemu_io.dead_writer(operator.share, name, *commands, "flush")
        self.files = [base, operator.overlay(self.id, self.snapshot).name]
        assert all(soundness.look(operator.share, name, "qcow2").dirty for name in self.files)

    @property
    def content(self) -> dict[int, int]:
        return VOLUME | dict.fromkeys(range(256, 256 + self.above), 20)

    @property
    def active(self) -> str:
        admin = self.operator.lab.stack.api("stillframe-admin")
        found = admin.ok("volume", "GET", f"/volumes/{self.id}/stillframe-chain")["chain"]["files"]
        return str(next(each["name"] for each in found if each["active"]))

    def act(self, **body: Any) -> None:
        self.operator.api.ok("volume", "POST", f"/volumes/{self.id}/action", {key.replace("_", "-"): body[key] for key in body})
        self.operator.settle()

    def repaired(self) -> list[str]:
        """What the journal says was repaired of the volume."""
        with self.operator.database().read() as connection:
            rows = connection.execute(select(operations)).mappings().all()
        mine = [row["evidence"] for row in rows if self.id in json.dumps([row["intent"], row["plan"]])]
        return [str(did) for found in mine for step in found.values() for did in step.get("repaired", ())]

    def sound(self) -> None:
        """Every file of it is, by QEMU's own check too, and whatever was repaired is recorded."""
        for name in files.listing(self.operator.share):
            if name.startswith(f"volume-{self.id}") and not name.endswith((".info", ".record")):
                assert soundness.look(self.operator.share, name, "qcow2") == soundness.Soundness()
                qemu_img.check(self.operator.share, name, "qcow2")
        assert len([each for each in self.repaired() if "reference counts of" in each and "repaired" in each]) == 2


@pytest.fixture(scope="module")
def images() -> Iterator[ImageStore]:
    with image_store() as store:
        yield store


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory, images: ImageStore) -> Iterator[Operator]:
    directory = tmp_path_factory.mktemp("sound")
    made = open_lab(directory, f"[volumes]\nbackup_url = file://{directory}/store\n[image]\nendpoint = {images.url}\n")
    try:
        yield Operator(made)
    finally:
        made.clear()


def test_a_snapshot(operator: Operator) -> None:
    volume = Volume(operator)
    second = operator.snapshot(volume.id)
    assert seen(operator.share, volume.files[1]) == VOLUME and seen(operator.share, volume.files[0]) == SNAPSHOT
    volume.sound()
    operator.run(["operation", "list"])
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -P 21 8M 64k", volume.active], cwd=operator.share, check=True)
    operator.api.ok("volume", "DELETE", f"/snapshots/{second}")
    operator.settle()
    assert seen(operator.share, volume.active) == VOLUME | {128: 21} and seen(operator.share, volume.files[0]) == SNAPSHOT


@pytest.mark.parametrize("much_above", [False, True], ids=["commit", "pull"])
def test_a_merge(operator: Operator, much_above: bool) -> None:
    volume = Volume(operator, much_above)
    operator.api.ok("volume", "DELETE", f"/snapshots/{volume.snapshot}")
    wait_for(lambda: operator.api.send("volume", "GET", f"/snapshots/{volume.snapshot}").status_code == 404, "the deletion")
    operator.settle()
    assert seen(operator.share, volume.active) == volume.content
    volume.sound()


def test_a_revert_and_its_undo(operator: Operator) -> None:
    volume = Volume(operator)
    volume.act(revert={"snapshot_id": volume.snapshot})
    assert seen(operator.share, volume.active) == SNAPSHOT
    volume.sound()


def test_an_extension(operator: Operator) -> None:
    volume = Volume(operator)
    volume.act(os_extend={"new_size": 2})
    assert operator.api.volume(volume.id)["size"] == 2
    assert seen(operator.share, volume.active) == VOLUME and seen(operator.share, volume.files[0]) == SNAPSHOT
    volume.sound()


def test_a_deletion(operator: Operator) -> None:
    volume = Volume(operator)
    operator.api.ok("volume", "DELETE", f"/snapshots/{volume.snapshot}")
    operator.settle()
    operator.api.ok("volume", "DELETE", f"/volumes/{volume.id}")
    wait_for(lambda: operator.api.send("volume", "GET", f"/volumes/{volume.id}").status_code == 404, "the deletion")
    assert [name for name in files.listing(operator.share) if volume.id in name] == []


def test_a_copy_an_image_and_a_backup(operator: Operator, images: ImageStore) -> None:
    volume = Volume(operator)
    before = [(operator.share / name).read_bytes() for name in volume.files]
    for source, wanted in (({"source_volid": volume.id}, VOLUME), ({"snapshot_id": volume.snapshot}, SNAPSHOT)):
        made = operator.api.ok("volume", "POST", "/volumes", {"volume": {"size": 1, "name": "copy", **source}})["volume"]["id"]
        wait_for(lambda each=made: operator.api.volume(each)["status"] == "available", "the copy")  # type: ignore[misc]
        assert seen(operator.share, f"volume-{made}") == wanted
    body = {"os-volume_upload_image": {"image_name": "i", "disk_format": "raw"}}
    image = operator.api.ok("volume", "POST", f"/volumes/{volume.id}/action", body)["os-volume_upload_image"]["image_id"]
    wait_for(lambda: images.images.get(image, {}).get("status") == "active", "the image")
    operator.settle()
    got = images.content[image]
    assert {at: got[at << 16] for at in range(len(got) >> 16) if any(got[at << 16 : (at << 16) + 1])} == VOLUME
    assert [(operator.share / name).read_bytes() for name in volume.files] == before
    assert volume.repaired() == []
    # A backup begins with a file of its own for later writes: it builds on the files, so they are repaired.
    backup = operator.api.ok("volume", "POST", "/backups", {"backup": {"volume_id": volume.id}})["backup"]["id"]
    wait_for(lambda: operator.api.ok("volume", "GET", f"/backups/{backup}")["backup"]["status"] == "available", "the backup")
    restored = operator.api.ok("volume", "POST", f"/backups/{backup}/restore", {"restore": {}})["restore"]["volume_id"]
    wait_for(lambda: operator.api.volume(restored)["status"] == "available", "the restored volume")
    assert seen(operator.share, f"volume-{restored}") == VOLUME
    volume.sound()


def _damage(operator: Operator, how: str) -> Volume:
    volume = Volume(operator)
    base = operator.share / volume.files[0]
    if how == "corrupt bit":
        qemu_io.mark(base, incompatible=2)
    elif how == "crossed":
        qemu_io.cross(base, 32, 70)
    else:
        subprocess.run(["qemu-img", "check", "-q", "-r", "all", base], check=False)
        subprocess.run(["qemu-img", "bitmap", "--add", base, "monday"], check=True)
        qemu_io.dead_writer(operator.share, base.name, "write -P 17 2M 64k", "flush")
    return volume


@pytest.mark.parametrize(
    ("how", "told"), [("corrupt bit", "corrupt bit"), ("crossed", "more is damaged"), ("bitmap", "monday")]
)
def test_what_cannot_be_repaired_is_refused_with_nothing_changed(operator: Operator, how: str, told: str) -> None:
    volume = _damage(operator, how)
    before = {name: (operator.share / name).read_bytes() for name in files.listing(operator.share) if volume.id in name}
    action = f"/volumes/{volume.id}/action"
    for method, path, body in (
        ("POST", "/snapshots", {"snapshot": {"volume_id": volume.id}}),
        ("DELETE", f"/snapshots/{volume.snapshot}", None),
        ("POST", action, {"revert": {"snapshot_id": volume.snapshot}}),
        ("POST", action, {"os-extend": {"new_size": 2}}),
    ):
        answer = operator.api.send("volume", method, path, body)
        assert answer.status_code == 409 and told in answer.text, (method, path, answer.status_code, answer.text)
    operator.settle()
    assert {name: (operator.share / name).read_bytes() for name in files.listing(operator.share) if volume.id in name} == before
    assert operator.api.volume(volume.id)["status"] == "available"
    assert operator.api.snapshot(volume.snapshot)["status"] == "available"


def test_the_list_says_of_a_damaged_file_what_the_request_says(operator: Operator) -> None:
    """Files damaged by hand: counts that are wrong, a bitmap in use, the corrupt bit, the dirty bit with and without more."""
    names = ("miscounted", "bitmap", "corrupt", "dirty", "dirty-and-crossed", "dirty-and-cut", "sound")
    for name in names:
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", name, "1G"], cwd=operator.share, check=True)
        qemu_io.dead_writer(operator.share, name, "write -P 17 2M 64k", "write -P 18 4M 64k", "flush")
        (operator.share / name).chmod(0o660)
    for name in ("miscounted", "dirty"):
        qemu_io.count(operator.share / name, qemu_io.cluster_of(operator.share / name, 32), 0)
    for name in ("dirty", "dirty-and-crossed", "dirty-and-cut"):
        qemu_io.mark(operator.share / name, incompatible=1)
    qemu_io.mark(operator.share / "corrupt", incompatible=2)
    qemu_io.cross(operator.share / "dirty-and-crossed", 32, 64)
    os.truncate(operator.share / "dirty-and-cut", 0x50000)
    subprocess.run(["qemu-img", "bitmap", "--add", "bitmap", "monday"], cwd=operator.share, check=True)
    qemu_io.dead_writer(operator.share, "bitmap", "write -P 17 2M 64k", "flush")
    admin = operator.lab.stack.api("stillframe-admin")
    pool = admin.ok("volume", "GET", "/scheduler-stats/get_pools")["pools"][0]["name"]
    listed = admin.ok("volume", "GET", f"/manageable_volumes/detail?host={quote(pool)}")["manageable-volumes"]
    told = {each["reference"]["source-name"]: each for each in listed}
    safe = {name for name, each in told.items() if each["safe_to_manage"]}
    assert safe == {"dirty", "sound"}
    for name in names:
        before = (operator.share / name).read_bytes()
        body = {"volume": {"host": pool, "ref": {"source-name": name}, "name": name}}
        answer = admin.send("volume", "POST", "/os-volume-manage", body)
        operator.settle()
        if name in safe:
            assert answer.status_code == 202, answer.text
            made = f"volume-{answer.json()['volume']['id']}"
            assert admin.volume(answer.json()["volume"]["id"])["status"] == "available"
            qemu_img.check(operator.share, made, "qcow2")
            assert seen(operator.share, made) == {32: 17, 64: 18}
        else:
            assert answer.status_code == 409, answer.text
            assert told[name]["reason_not_safe"] in json.loads(answer.text).popitem()[1]["message"]
            assert (operator.share / name).read_bytes() == before
            (operator.share / name).unlink()
