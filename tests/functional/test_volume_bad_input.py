"""Bad input for the operations on volumes nothing is attached to, over REST: refused with a sentence, nothing changed."""

import json
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stillframe.chain.names import base_name
from tests.support import qemu_io
from tests.support.careless_images import CarelessImages, careless_images
from tests.support.lab import open_lab
from tests.support.operator import Operator
from tests.support.stack import wait_for

TIB = 1 << 40
CONFIGURATION = """
[volumes]
backup_url = file://{0}/backups
[image]
endpoint = {1}
"""


class Counter(Operator):
    """A operator, and the counter in front of it: what was asked for, and how it ended."""

    backups: Path
    images: CarelessImages

    def make(self, kind: str, **wanted: Any) -> str:
        made = str(self.api.ok("volume", "POST", f"/{kind}s", {kind: wanted})[kind]["id"])
        self.reached(kind, made, "available")
        return made

    def reached(self, kind: str, resource_id: str, status: str) -> None:
        wait_for(lambda: self.shown(kind, resource_id)["status"] == status, f"{status} of {kind} {resource_id}")
        self.settle()

    def shown(self, kind: str, resource_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.api.ok("volume", "GET", f"/{kind}s/{resource_id}")[kind]
        return found

    def everything(self) -> list[Any]:
        """Every row and every file with its size and time. When a row was written last is left out: the services look at
        what other tests left once a minute."""
        lists = [self.api.ok("volume", "GET", f"/{kind}/detail")[kind] for kind in ("volumes", "snapshots", "backups")]
        for row in (row for rows in lists for row in rows):
            row.pop("updated_at", None)
        found = [path for path in self.share.rglob("*") if path.is_file()]
        files = sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in found)
        return [*lists, files]

    def refused(self, method: str, path: str, body: Any = None, *words: str, status: int = 400) -> None:
        """The request is refused with this status and these words, and nothing is other than before."""
        self.settle()
        before = self.everything()
        answer = self.api.send("volume", method, path, body)
        assert answer.status_code == status, answer.text
        assert not [word for word in words if word not in answer.text], answer.text
        self.settle()
        assert self.everything() == before


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Counter]:
    directory = tmp_path_factory.mktemp("counter")
    with careless_images() as images:
        lab = open_lab(directory, CONFIGURATION.format(directory, images.url))
        try:
            made = Counter(lab)
            made.backups, made.images = directory / "backups", images
            yield made
        finally:
            lab.clear()


@pytest.fixture(scope="module")
def volume(operator: Counter) -> str:
    """Two GiB with something in them."""
    made = operator.make("volume", size=2)
    qemu_io.write(operator.share, base_name(made), b"content")
    return made


@pytest.fixture(scope="module")
def snapshot(operator: Counter, volume: str) -> str:
    return operator.make("snapshot", volume_id=volume)


@pytest.mark.parametrize("size", [1, 2, 0, -1, 1 << 31, "1e3", "3; rm", 3.5, None, True, [3], "\u0663"], ids=repr)
def test_sizes_that_a_volume_cannot_have(operator: Counter, volume: str, size: Any) -> None:
    operator.refused("POST", f"/volumes/{volume}/action", {"os-extend": {"new_size": size}}, "new_size")


def test_what_is_beyond_every_quota_is_not_made(operator: Counter, volume: str, snapshot: str) -> None:
    operator.refused("POST", f"/volumes/{volume}/action", {"os-extend": {"new_size": 10**9}}, "gigabytes quota", status=413)
    for source in ({"snapshot_id": snapshot}, {"source_volid": volume}):
        operator.refused("POST", "/volumes", {"volume": {**source, "size": 10**9}}, "gigabytes quota", status=413)


@pytest.mark.parametrize("size", [1, 0, -1])
def test_what_is_smaller_than_its_source_is_not_made(operator: Counter, volume: str, snapshot: str, size: int) -> None:
    for source in ({"snapshot_id": snapshot}, {"source_volid": volume}):
        operator.refused("POST", "/volumes", {"volume": {**source, "size": size}}, "size" if size != 1 else "1 GiB cannot hold")


def test_a_snapshot_of_another_volume_is_not_reverted_to(operator: Counter, snapshot: str) -> None:
    other = operator.make("volume", size=2)
    body = {"revert": {"snapshot_id": snapshot}}
    operator.refused("POST", f"/volumes/{other}/action", body, f"snapshot {snapshot} is not one of volume {other}")
    operator.refused("POST", f"/volumes/{other}/action", {"revert": {"snapshot_id": str(uuid.uuid4())}}, status=404)


def test_what_something_depends_on_is_not_deleted_and_that_is_named(operator: Counter, volume: str, snapshot: str) -> None:
    admin = operator.lab.stack.api("stillframe-admin")
    specs = {"stillframe:linked_clone": "true"}
    admin.ok("volume", "POST", "/types", {"volume_type": {"name": "linked", "extra_specs": specs}})
    clone = operator.make("volume", snapshot_id=snapshot, volume_type="linked")
    operator.refused("DELETE", f"/volumes/{volume}", None, snapshot, status=409)
    operator.refused("DELETE", f"/volumes/{volume}?cascade=true", None, clone, status=409)
    operator.refused("DELETE", f"/snapshots/{snapshot}", None, clone, status=409)
    full = operator.make("backup", volume_id=clone)
    child = operator.make("backup", volume_id=clone, incremental=True)
    operator.refused("DELETE", f"/backups/{full}", None, child, status=409)
    operator.api.ok("volume", "DELETE", f"/volumes/{clone}")
    wait_for(lambda: operator.api.send("volume", "GET", f"/volumes/{clone}").status_code == 404, "the deletion")


@pytest.fixture(scope="module")
def backup(operator: Counter) -> tuple[str, str]:
    """A volume and its backup."""
    made = operator.make("volume", size=1)
    qemu_io.write(operator.share, base_name(made), b"saved")
    return made, operator.make("backup", volume_id=made)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [Path.unlink, _cut, _flip], ids=["missing", "truncated", "flipped"])
@pytest.mark.parametrize("ending", ["qcow2", "json"])
def test_a_damaged_backup_is_not_restored_and_the_object_is_named(
    operator: Counter, backup: tuple[str, str], harm: Any, ending: str
) -> None:
    """Into the volume it is of, which stays as it is, and into a new one, which ends in error or is not begun."""
    volume_id, backup_id = backup
    (path,) = operator.backups.rglob(f"backup-{backup_id}.{ending}")
    kept = operator.backups.parent / "kept"
    shutil.copy(path, kept)
    held = (operator.share / base_name(volume_id)).read_bytes()
    try:
        harm(path)
        for target in ({"volume_id": volume_id}, {"name": "new"}):
            answer = operator.api.send("volume", "POST", f"/backups/{backup_id}/restore", {"restore": target})
            told = answer.text
            if answer.status_code == 202:
                made = answer.json()["restore"]["volume_id"]
                wait_for(lambda made=made: "restoring-" not in operator.shown("volume", made)["status"], "the end")  # type: ignore[misc]
                told = operator.shown("volume", made)["fault"]
                assert operator.shown("volume", made)["status"] == ("error" if "name" in target else "available")
            else:
                assert answer.status_code in (404, 409), answer.text
            assert path.name in told
            operator.settle()
    finally:
        shutil.copy(kept, path)
    assert (operator.share / base_name(volume_id)).read_bytes() == held
    operator.api.ok("volume", "POST", f"/backups/{backup_id}/restore", {"restore": {"volume_id": volume_id}})
    operator.reached("volume", volume_id, "available")


def test_nothing_is_done_under_a_volume_that_is_attached(operator: Counter, backup: tuple[str, str]) -> None:
    made = operator.make("volume", size=1)
    connector = {"host": "h"}
    body = {"attachment": {"volume_uuid": made, "instance_uuid": str(uuid.uuid4()), "connector": connector}}
    service = operator.lab.stack.service_api()
    attachment = service.ok("volume", "POST", "/attachments", body)["attachment"]["id"]
    service.ok("volume", "POST", f"/attachments/{attachment}/action", {"os-complete": None})
    restore = {"restore": {"volume_id": made}}
    operator.refused("POST", f"/backups/{backup[1]}/restore", restore, "in-use", made)
    operator.refused("POST", "/backups", {"backup": {"volume_id": made}}, "in-use", made)
    operator.refused("POST", "/snapshots", {"snapshot": {"volume_id": made}}, "in-use", made)
    operator.refused("POST", "/volumes", {"volume": {"source_volid": made}}, "in-use", made)
    operator.refused("DELETE", f"/volumes/{made}", None, "in-use", made)


def test_a_small_image_of_a_huge_disk_is_refused_by_its_size(operator: Counter, tmp_path: Path) -> None:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "huge", str(8 * TIB)], check=True)
    content = (tmp_path / "huge").read_bytes()
    assert len(content) < 1 << 20
    image = operator.images.add(content, "qcow2")
    made = operator.api.ok("volume", "POST", "/volumes", {"volume": {"size": 1, "imageRef": image}})["volume"]["id"]
    operator.reached("volume", made, "error")
    assert str(8 * TIB) in operator.shown("volume", made)["fault"]
    assert not (operator.share / base_name(made)).exists()


@pytest.mark.parametrize("what", ["volumes", "gigabytes", "snapshots", "backups"])
def test_a_quota_that_is_used_up_is_told_with_numbers(operator: Counter, volume: str, what: str) -> None:
    admin = operator.lab.stack.api("stillframe-admin")
    used = admin.ok("volume", "GET", "/os-quota-sets/demo?usage=true")["quota_set"][what]["in_use"]
    admin.ok("volume", "PUT", "/os-quota-sets/demo", {"quota_set": {what: used}})
    source = base_name(volume)
    assert (operator.share / source).exists()
    asked = {"snapshots": {"snapshot": {"volume_id": volume}}, "backups": {"backup": {"volume_id": volume}}}
    path = what if what in asked else "volumes"
    try:
        operator.refused("POST", f"/{path}", asked.get(what, {"volume": {"size": 1}}), what.rstrip("s"), str(used), status=413)
        if what == "gigabytes":
            operator.refused("POST", f"/volumes/{volume}/action", {"os-extend": {"new_size": 3}}, "gigabytes", status=413)
    finally:
        admin.ok("volume", "PUT", "/os-quota-sets/demo", {"quota_set": {what: -1}})


def test_a_chain_gets_64_files_and_no_more(operator: Counter) -> None:
    admin = operator.lab.stack.api("stillframe-admin")
    admin.ok("volume", "PUT", "/os-quota-sets/demo", {"quota_set": {"snapshots": -1, "gigabytes": -1}})
    made = operator.make("volume", size=1)
    qemu_io.write(operator.share, base_name(made), b"deepdown")
    for number in range(63):
        body = {"snapshot": {"volume_id": made, "name": str(number)}}
        taken = operator.api.ok("volume", "POST", "/snapshots", body)["snapshot"]["id"]
        wait_for(lambda taken=taken: operator.shown("snapshot", taken)["status"] == "available", "the snapshot")  # type: ignore[misc]
        wait_for(lambda: not _busy(operator, made), "the record")
    operator.settle()
    operator.refused("POST", "/snapshots", {"snapshot": {"volume_id": made}}, "64", status=409)
    copy = operator.make("volume", source_volid=made)
    told = ["qemu-io", "-f", "qcow2", "-c", "read -v 0 512", base_name(copy)]
    assert "deepdown" in subprocess.run(told, cwd=operator.share, capture_output=True, text=True, check=True).stdout


def _busy(operator: Counter, volume_id: str) -> bool:
    found = json.loads(operator.run(["operation", "list"], "-f", "json").out or "[]")
    return any(volume_id in json.dumps(each) for each in found)
