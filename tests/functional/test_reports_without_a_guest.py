"""Public reports of other systems, tried on volumes that are not attached; see docs/design/field-reports.md."""

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from stillframe.chain.names import base_name
from tests.support import qemu_io
from tests.support.content import digest, flattened
from tests.support.desk import Desk
from tests.support.lab import open_lab
from tests.support.stack import wait_for

GIB = 1 << 30
ODD = "ü 'Café' \"日本\" <b>&amp; $(reboot) %s {0} \\ 🙂"
CONFIGURATION = "[volumes]\nbackup_url = file://{0}/backups\n"


class Counter(Desk):
    """A desk, and what is asked for there."""

    def make(self, kind: str, status: str = "available", **wanted: Any) -> str:
        made = str(self.api.ok("volume", "POST", f"/{kind}s", {kind: wanted})[kind]["id"])
        self.reached(kind, made, status)
        return made

    def reached(self, kind: str, resource_id: str, status: str = "available") -> None:
        def over() -> bool:
            shown = self.api.ok("volume", "GET", f"/{kind}s/{resource_id}")[kind]
            assert not shown["status"].startswith("error"), shown
            return bool(shown["status"] == status)

        wait_for(over, f"{status} of {kind} {resource_id}")
        self.settle()

    def act(self, volume_id: str, body: Any) -> None:
        self.api.ok("volume", "POST", f"/volumes/{volume_id}/action", body)
        self.reached("volume", volume_id)

    def gone(self, kind: str, resource_id: str) -> None:
        self.api.ok("volume", "DELETE", f"/{kind}s/{resource_id}")
        path = f"/{kind}s/{resource_id}"
        wait_for(lambda: self.api.send("volume", "GET", path).status_code == 404, f"the end of {path}")

    def active(self, volume_id: str) -> str:
        return next(str(each["name"]) for each in self.files(volume_id) if each["active"])

    def files(self, volume_id: str) -> list[dict[str, Any]]:
        found = self.lab.stack.api("stillframe-admin").ok("volume", "GET", f"/volumes/{volume_id}/stillframe-chain")
        return list(found["chain"]["files"])

    def write(self, volume_id: str, text: bytes) -> None:
        qemu_io.write(self.share, self.active(volume_id), text)

    def seen(self, volume_id: str) -> str:
        return digest(self.share, self.active(volume_id))

    def size(self, volume_id: str) -> int:
        with flattened(self.share, self.active(volume_id)) as raw:
            return raw.stat().st_size

    def used(self) -> dict[str, int]:
        limits = self.api.ok("volume", "GET", "/limits")["limits"]["absolute"]
        return {name: value for name, value in limits.items() if name.endswith("Used")}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Counter]:
    directory = tmp_path_factory.mktemp("counter")
    lab = open_lab(directory, CONFIGURATION.format(directory))
    try:
        yield Counter(lab)
    finally:
        lab.clear()


@pytest.fixture
def volume(desk: Counter) -> str:
    """One GiB with something in it."""
    made = desk.make("volume", size=1)
    desk.write(made, b"first")
    return made


def test_sizes_after_growing_and_going_back(desk: Counter, volume: str) -> None:
    small = desk.make("snapshot", volume_id=volume)
    first = desk.seen(volume)
    desk.act(volume, {"os-extend": {"new_size": 2}})
    desk.write(volume, b"second")
    large = desk.make("snapshot", volume_id=volume)
    before = desk.used()
    desk.act(volume, {"revert": {"snapshot_id": small, "newer_snapshots": "keep"}})
    assert desk.size(volume) == 2 * GIB
    again = desk.make("snapshot", volume_id=volume)
    assert [desk.api.snapshot(each)["size"] for each in (small, large, again)] == [1, 2, 2]
    assert desk.used() == {**before, "totalSnapshotsUsed": before["totalSnapshotsUsed"] + 1}
    copy = desk.make("volume", snapshot_id=again, size=2)
    old = desk.make("volume", snapshot_id=small, size=1)
    assert (desk.size(copy), desk.size(old)) == (2 * GIB, GIB)
    assert desk.seen(old) == first
    for each in (large, small, again):
        desk.gone("snapshot", each)
    assert desk.size(volume) == 2 * GIB
    assert desk.seen(volume) == desk.seen(copy)


def test_an_increment_of_a_volume_that_grew_and_a_larger_place_for_it(desk: Counter, volume: str) -> None:
    first = desk.seen(volume)
    full = desk.make("backup", volume_id=volume)
    desk.act(volume, {"os-extend": {"new_size": 2}})
    fill(desk, volume, 7, 1600)
    grown = desk.seen(volume)
    part = desk.make("backup", volume_id=volume, incremental=True)
    place = desk.make("volume", size=2)
    subprocess.run(
        ["qemu-io", "-f", "qcow2", "-c", "write -P 9 1200M 64k", desk.active(place)],
        cwd=desk.share,
        check=True,
        capture_output=True,
    )
    kept = desk.make("snapshot", volume_id=place)
    held = digest(desk.share, desk.files(place)[0]["name"])
    desk.api.ok("volume", "POST", f"/backups/{full}/restore", {"restore": {"volume_id": place}})
    desk.reached("volume", place)
    with flattened(desk.share, desk.active(place)) as raw:
        assert raw.stat().st_size == 2 * GIB
        with raw.open("rb") as file:
            assert file.read(5) == b"first"
            file.seek(1200 << 20)
            assert not file.read(64 << 10).strip(b"\0")  # nothing shows through of what was there before
    assert digest(desk.share, desk.files(place)[0]["name"]) == held
    desk.gone("snapshot", kept)
    desk.api.ok("volume", "POST", f"/backups/{part}/restore", {"restore": {"volume_id": place}})
    desk.reached("volume", place)
    assert desk.seen(place) == grown
    small = desk.make("volume", size=1)
    answer = desk.api.send("volume", "POST", f"/backups/{part}/restore", {"restore": {"volume_id": small}})
    assert answer.status_code == 400 and "cannot hold" in answer.text
    desk.api.ok("volume", "POST", f"/backups/{full}/restore", {"restore": {"volume_id": small}})
    desk.reached("volume", small)
    assert desk.seen(small) == first


def fill(desk: Counter, volume: str, value: int, mib: int) -> None:
    command = ["qemu-io", "-f", "qcow2", "-c", f"write -P {value} {mib}M 64k", desk.active(volume)]
    subprocess.run(command, cwd=desk.share, check=True, capture_output=True)


def test_what_is_thin_stays_thin(desk: Counter, volume: str) -> None:
    snapshot = desk.make("snapshot", volume_id=volume)
    backup = desk.make("backup", volume_id=volume)
    clones = [desk.make("volume", source_volid=volume), desk.make("volume", snapshot_id=snapshot)]
    clones.append(str(desk.api.ok("volume", "POST", f"/backups/{backup}/restore", {"restore": {}})["restore"]["volume_id"]))
    desk.reached("volume", clones[-1])
    desk.act(volume, {"revert": {"snapshot_id": snapshot}})
    for each in (volume, *clones):
        names = [desk.share / file["name"] for file in desk.files(each)]
        assert sum(name.stat().st_blocks * 512 for name in names) < 4 << 20


def test_volumes_of_two_snapshots_one_after_the_other(desk: Counter, volume: str) -> None:
    taken, seen = [], []
    for text in (b"A", b"B"):
        desk.write(volume, text)
        taken.append(desk.make("snapshot", volume_id=volume))
        seen.append(desk.seen(volume))
    made = [desk.make("volume", snapshot_id=each) for each in taken]
    assert [desk.seen(each) for each in made] == seen
    assert [desk.api.snapshot(each)["status"] for each in taken] == ["available"] * 2
    desk.gone("snapshot", taken[0])
    assert [desk.seen(each) for each in (*made, volume)] == [*seen, seen[1]]


def test_a_snapshot_that_failed_gives_its_quota_back(desk: Counter, volume: str) -> None:
    before = desk.used()
    snapshot = desk.make("snapshot", volume_id=volume)
    admin = desk.lab.stack.api("stillframe-admin")
    admin.ok("volume", "POST", f"/snapshots/{snapshot}/action", {"os-reset_status": {"status": "error"}})
    desk.gone("snapshot", snapshot)
    base = desk.share / base_name(volume)
    away = base.rename(desk.lab.directory / "away")
    assert desk.api.send("volume", "POST", "/snapshots", {"snapshot": {"volume_id": volume}}).status_code >= 409
    away.rename(base)
    assert desk.used() == before


def test_names_that_mean_something_elsewhere(desk: Counter) -> None:
    volume = desk.make("volume", size=1, name=ODD, description=ODD, metadata={"k": ODD})
    desk.write(volume, b"x")
    snapshot = desk.make("snapshot", volume_id=volume, name=ODD, metadata={"k": ODD})
    backup = desk.make("backup", volume_id=volume, name=ODD, description=ODD)
    record = json.loads((desk.share / f"volume-{volume}.record").read_text())
    assert ODD in json.dumps(record, ensure_ascii=False).replace("\\\\", "\\").replace('\\"', '"')
    assert desk.api.volume(volume)["metadata"] == {"k": ODD}
    restored = desk.api.ok("volume", "POST", f"/backups/{backup}/restore", {"restore": {"name": ODD}})["restore"]["volume_id"]
    desk.reached("volume", restored)
    assert desk.api.volume(restored)["name"] == ODD
    assert desk.seen(restored) == desk.seen(volume)
    desk.gone("snapshot", snapshot)
    assert desk.document()["findings"] == []


FORMATS = {
    "compat 0.10": ["-o", "compat=0.10"],
    "small clusters": ["-o", "cluster_size=1024"],
    "large clusters": ["-o", "cluster_size=2M"],
    "zstd": ["-o", "compression_type=zstd"],
    "preallocated": ["-o", "preallocation=metadata"],
}


@pytest.mark.parametrize("options", FORMATS.values(), ids=FORMATS)
def test_a_foreign_kind_of_qcow2_is_taken_over_grown_snapshotted_and_merged(desk: Counter, options: list[str]) -> None:
    create(desk, "foreign.qcow2", *options)
    qemu_io.write(desk.share, "foreign.qcow2", b"foreign")
    admin = desk.lab.stack.api("stillframe-admin")
    volume = ask_to_manage(desk, "foreign.qcow2").json()["volume"]["id"]
    wait_for(lambda: admin.volume(volume)["status"] == "available", "the volume")
    first = digest(desk.share, base_name(volume))
    made = admin.ok("volume", "POST", "/snapshots", {"snapshot": {"volume_id": volume}})["snapshot"]["id"]
    wait_for(lambda: admin.snapshot(made)["status"] == "available", "the snapshot")
    desk.settle()
    admin.ok("volume", "POST", f"/volumes/{volume}/action", {"os-extend": {"new_size": 2}})
    wait_for(lambda: admin.volume(volume)["status"] == "available", "the extension")
    qemu_io.write(desk.share, desk.active(volume), b"later")
    assert digest(desk.share, base_name(volume)) == first
    later = desk.seen(volume)
    admin.ok("volume", "DELETE", f"/snapshots/{made}")
    wait_for(lambda: admin.send("volume", "GET", f"/snapshots/{made}").status_code == 404, "the merge")
    assert desk.seen(volume) == later
    subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", desk.active(volume)], cwd=desk.share, check=True)


SECRET = ["--object", "secret,id=s,data=c2VjcmV0,format=base64"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([*SECRET, "-o", "encrypt.format=aes,encrypt.key-secret=s"], "encrypted"),
        (["-o", "extended_l2=on,cluster_size=128k"], "incompatible features 0x10"),
        (["-o", "data_file=data.raw"], "external data file"),
    ],
    ids=["encrypted", "subclusters", "data file"],
)
def test_a_kind_of_qcow2_that_is_not_supported_is_refused_untouched(desk: Counter, options: list[str], words: str) -> None:
    create(desk, "foreign.qcow2", *options)
    file = desk.share / "foreign.qcow2"
    before = file.read_bytes()
    answer = ask_to_manage(desk, file.name)
    assert answer.status_code == 409
    assert words in answer.text
    assert file.read_bytes() == before
    file.unlink()


def ask_to_manage(desk: Counter, name: str) -> requests.Response:
    admin = desk.lab.stack.api("stillframe-admin")
    pool = admin.ok("volume", "GET", "/scheduler-stats/get_pools")["pools"][0]["name"]
    body = {"volume": {"host": pool, "ref": {"source-name": name}}}
    return admin.send("volume", "POST", "/manageable_volumes", body)


def create(desk: Counter, name: str, *options: str) -> None:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, name, "1G"], cwd=desk.share, check=True)


def test_one_deletion_asked_for_many_times_at_once(desk: Counter, volume: str) -> None:
    taken = []
    for text in (b"1", b"2", b"3"):
        taken.append(desk.make("snapshot", volume_id=volume))
        desk.write(volume, text)
    seen = desk.seen(volume)
    codes: list[int] = []

    def ask(snapshot: str) -> None:
        codes.append(desk.lab.stack.api().send("volume", "DELETE", f"/snapshots/{snapshot}").status_code)

    threads = [threading.Thread(target=ask, args=(each,)) for each in taken for _ in range(5)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert set(codes) <= {202, 400, 404, 409}
    desk.settle()
    for snapshot in taken:
        if desk.api.send("volume", "GET", f"/snapshots/{snapshot}").status_code != 404:
            assert desk.api.snapshot(snapshot)["status"] == "available"
            desk.gone("snapshot", snapshot)
    assert desk.seen(volume) == seen
    assert len(desk.files(volume)) == 1


def test_an_overlay_that_somebody_removed_is_told_and_put_back(desk: Counter, volume: str) -> None:
    snapshot = desk.make("snapshot", volume_id=volume)
    desk.write(volume, b"kept")
    seen, overlay = desk.seen(volume), desk.share / desk.active(volume)
    away = overlay.rename(desk.lab.directory / "removed")
    for path, body in (("/snapshots", {"snapshot": {"volume_id": volume}}), ("/backups", {"backup": {"volume_id": volume}})):
        assert desk.api.send("volume", "POST", path, body).status_code >= 409
    assert desk.api.send("volume", "DELETE", f"/snapshots/{snapshot}").status_code >= 409
    assert any(overlay.name in json.dumps(each) for each in desk.document()["findings"])
    os.rename(away, overlay)
    assert desk.seen(volume) == seen
    desk.gone("snapshot", snapshot)
    assert desk.seen(volume) == seen
