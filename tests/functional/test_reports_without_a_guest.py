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
from tests.support.lab import open_lab
from tests.support.operator import Operator
from tests.support.stack import wait_for

GIB = 1 << 30
ODD = "ü 'Café' \"日本\" <b>&amp; $(reboot) %s {0} \\ 🙂"
CONFIGURATION = "[volumes]\nbackup_url = file://{0}/backups\n"


class Counter(Operator):
    """A operator, and what is asked for there."""

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
        self.settle()  # the documents are written after the rows are gone

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
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Counter]:
    directory = tmp_path_factory.mktemp("counter")
    lab = open_lab(directory, CONFIGURATION.format(directory))
    try:
        yield Counter(lab)
    finally:
        lab.clear()


@pytest.fixture
def volume(operator: Counter) -> str:
    """One GiB with something in it."""
    made = operator.make("volume", size=1)
    operator.write(made, b"first")
    return made


def test_sizes_after_growing_and_going_back(operator: Counter, volume: str) -> None:
    small = operator.make("snapshot", volume_id=volume)
    first = operator.seen(volume)
    operator.act(volume, {"os-extend": {"new_size": 2}})
    operator.write(volume, b"second")
    large = operator.make("snapshot", volume_id=volume)
    before = operator.used()
    operator.act(volume, {"revert": {"snapshot_id": small, "newer_snapshots": "keep"}})
    assert operator.size(volume) == 2 * GIB
    again = operator.make("snapshot", volume_id=volume)
    assert [operator.api.snapshot(each)["size"] for each in (small, large, again)] == [1, 2, 2]
    more = {"totalSnapshotsUsed": 1, "totalGigabytesUsed": 2}
    assert operator.used() == before | {key: before[key] + added for key, added in more.items()}
    copy = operator.make("volume", snapshot_id=again, size=2)
    old = operator.make("volume", snapshot_id=small, size=1)
    assert (operator.size(copy), operator.size(old)) == (2 * GIB, GIB)
    assert operator.seen(old) == first
    for each in (large, small, again):
        operator.gone("snapshot", each)
    assert operator.size(volume) == 2 * GIB
    assert operator.seen(volume) == operator.seen(copy)


def test_an_increment_of_a_volume_that_grew_and_a_larger_place_for_it(operator: Counter, volume: str) -> None:
    first = operator.seen(volume)
    full = operator.make("backup", volume_id=volume)
    operator.act(volume, {"os-extend": {"new_size": 2}})
    fill(operator, volume, 7, 1600)
    grown = operator.seen(volume)
    part = operator.make("backup", volume_id=volume, incremental=True)
    place = operator.make("volume", size=2)
    subprocess.run(
        ["qemu-io", "-f", "qcow2", "-c", "write -P 9 1200M 64k", operator.active(place)],
        cwd=operator.share,
        check=True,
        capture_output=True,
    )
    kept = operator.make("snapshot", volume_id=place)
    held = digest(operator.share, operator.files(place)[0]["name"])
    operator.api.ok("volume", "POST", f"/backups/{full}/restore", {"restore": {"volume_id": place}})
    operator.reached("volume", place)
    with flattened(operator.share, operator.active(place)) as raw:
        assert raw.stat().st_size == 2 * GIB
        with raw.open("rb") as file:
            assert file.read(5) == b"first"
            file.seek(1200 << 20)
            assert not file.read(64 << 10).strip(b"\0")  # nothing shows through of what was there before
    assert digest(operator.share, operator.files(place)[0]["name"]) == held
    operator.gone("snapshot", kept)
    operator.api.ok("volume", "POST", f"/backups/{part}/restore", {"restore": {"volume_id": place}})
    operator.reached("volume", place)
    assert operator.seen(place) == grown
    small = operator.make("volume", size=1)
    answer = operator.api.send("volume", "POST", f"/backups/{part}/restore", {"restore": {"volume_id": small}})
    assert answer.status_code == 400 and "cannot hold" in answer.text
    operator.api.ok("volume", "POST", f"/backups/{full}/restore", {"restore": {"volume_id": small}})
    operator.reached("volume", small)
    assert operator.seen(small) == first


def fill(operator: Counter, volume: str, value: int, mib: int) -> None:
    command = ["qemu-io", "-f", "qcow2", "-c", f"write -P {value} {mib}M 64k", operator.active(volume)]
    subprocess.run(command, cwd=operator.share, check=True, capture_output=True)


def test_what_is_thin_stays_thin(operator: Counter, volume: str) -> None:
    snapshot = operator.make("snapshot", volume_id=volume)
    backup = operator.make("backup", volume_id=volume)
    clones = [operator.make("volume", source_volid=volume), operator.make("volume", snapshot_id=snapshot)]
    clones.append(str(operator.api.ok("volume", "POST", f"/backups/{backup}/restore", {"restore": {}})["restore"]["volume_id"]))
    operator.reached("volume", clones[-1])
    operator.act(volume, {"revert": {"snapshot_id": snapshot}})
    for each in (volume, *clones):
        names = [operator.share / file["name"] for file in operator.files(each)]
        assert sum(name.stat().st_blocks * 512 for name in names) < 4 << 20


def test_volumes_of_two_snapshots_one_after_the_other(operator: Counter, volume: str) -> None:
    taken, seen = [], []
    for text in (b"A", b"B"):
        operator.write(volume, text)
        taken.append(operator.make("snapshot", volume_id=volume))
        seen.append(operator.seen(volume))
    made = [operator.make("volume", snapshot_id=each) for each in taken]
    assert [operator.seen(each) for each in made] == seen
    assert [operator.api.snapshot(each)["status"] for each in taken] == ["available"] * 2
    operator.gone("snapshot", taken[0])
    assert [operator.seen(each) for each in (*made, volume)] == [*seen, seen[1]]


def test_a_snapshot_that_failed_gives_its_quota_back(operator: Counter, volume: str) -> None:
    before = operator.used()
    snapshot = operator.make("snapshot", volume_id=volume)
    admin = operator.lab.stack.api("stillframe-admin")
    admin.ok("volume", "POST", f"/snapshots/{snapshot}/action", {"os-reset_status": {"status": "error"}})
    operator.gone("snapshot", snapshot)
    base = operator.share / base_name(volume)
    away = base.rename(operator.lab.directory / "away")
    assert operator.api.send("volume", "POST", "/snapshots", {"snapshot": {"volume_id": volume}}).status_code >= 409
    away.rename(base)
    assert operator.used() == before


def test_names_that_mean_something_elsewhere(operator: Counter) -> None:
    volume = operator.make("volume", size=1, name=ODD, description=ODD, metadata={"k": ODD})
    operator.write(volume, b"x")
    snapshot = operator.make("snapshot", volume_id=volume, name=ODD, metadata={"k": ODD})
    backup = operator.make("backup", volume_id=volume, name=ODD, description=ODD)
    record = json.loads((operator.share / f"volume-{volume}.record").read_text())
    assert ODD in json.dumps(record, ensure_ascii=False).replace("\\\\", "\\").replace('\\"', '"')
    assert operator.api.volume(volume)["metadata"] == {"k": ODD}
    restored = operator.api.ok("volume", "POST", f"/backups/{backup}/restore", {"restore": {"name": ODD}})["restore"][
        "volume_id"
    ]
    operator.reached("volume", restored)
    assert operator.api.volume(restored)["name"] == ODD
    assert operator.seen(restored) == operator.seen(volume)
    operator.gone("snapshot", snapshot)
    assert operator.document()["findings"] == []


FORMATS = {
    "compat 0.10": ["-o", "compat=0.10"],
    "small clusters": ["-o", "cluster_size=1024"],
    "large clusters": ["-o", "cluster_size=2M"],
    "zstd": ["-o", "compression_type=zstd"],
    "preallocated": ["-o", "preallocation=metadata"],
}


@pytest.mark.parametrize("options", FORMATS.values(), ids=FORMATS)
def test_a_foreign_kind_of_qcow2_is_taken_over_grown_snapshotted_and_merged(operator: Counter, options: list[str]) -> None:
    create(operator, "foreign.qcow2", *options)
    qemu_io.write(operator.share, "foreign.qcow2", b"foreign")
    admin = operator.lab.stack.api("stillframe-admin")
    volume = ask_to_manage(operator, "foreign.qcow2").json()["volume"]["id"]
    wait_for(lambda: admin.volume(volume)["status"] == "available", "the volume")
    first = digest(operator.share, base_name(volume))
    made = admin.ok("volume", "POST", "/snapshots", {"snapshot": {"volume_id": volume}})["snapshot"]["id"]
    wait_for(lambda: admin.snapshot(made)["status"] == "available", "the snapshot")
    operator.settle()
    admin.ok("volume", "POST", f"/volumes/{volume}/action", {"os-extend": {"new_size": 2}})
    wait_for(lambda: admin.volume(volume)["status"] == "available", "the extension")
    qemu_io.write(operator.share, operator.active(volume), b"later")
    assert digest(operator.share, base_name(volume)) == first
    later = operator.seen(volume)
    admin.ok("volume", "DELETE", f"/snapshots/{made}")
    wait_for(lambda: admin.send("volume", "GET", f"/snapshots/{made}").status_code == 404, "the merge")
    assert operator.seen(volume) == later
    subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", operator.active(volume)], cwd=operator.share, check=True)


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
def test_a_kind_of_qcow2_that_is_not_supported_is_refused_untouched(operator: Counter, options: list[str], words: str) -> None:
    create(operator, "foreign.qcow2", *options)
    file = operator.share / "foreign.qcow2"
    before = file.read_bytes()
    answer = ask_to_manage(operator, file.name)
    assert answer.status_code == 409
    assert words in answer.text
    assert file.read_bytes() == before
    file.unlink()


def ask_to_manage(operator: Counter, name: str) -> requests.Response:
    admin = operator.lab.stack.api("stillframe-admin")
    pool = admin.ok("volume", "GET", "/scheduler-stats/get_pools")["pools"][0]["name"]
    body = {"volume": {"host": pool, "ref": {"source-name": name}}}
    return admin.send("volume", "POST", "/manageable_volumes", body)


def create(operator: Counter, name: str, *options: str) -> None:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, name, "1G"], cwd=operator.share, check=True)


def test_one_deletion_asked_for_many_times_at_once(operator: Counter, volume: str) -> None:
    taken = []
    for text in (b"1", b"2", b"3"):
        taken.append(operator.make("snapshot", volume_id=volume))
        operator.write(volume, text)
    seen = operator.seen(volume)
    codes: list[int] = []

    def ask(snapshot: str) -> None:
        codes.append(operator.lab.stack.api().send("volume", "DELETE", f"/snapshots/{snapshot}").status_code)

    threads = [threading.Thread(target=ask, args=(each,)) for each in taken for _ in range(5)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert set(codes) <= {202, 400, 404, 409}
    operator.settle()
    for snapshot in taken:
        if operator.api.send("volume", "GET", f"/snapshots/{snapshot}").status_code != 404:
            assert operator.api.snapshot(snapshot)["status"] == "available"
            operator.gone("snapshot", snapshot)
    assert operator.seen(volume) == seen
    assert len(operator.files(volume)) == 1


def test_an_overlay_that_somebody_removed_is_reported_and_restored(operator: Counter, volume: str) -> None:
    snapshot = operator.make("snapshot", volume_id=volume)
    operator.write(volume, b"kept")
    seen, overlay = operator.seen(volume), operator.share / operator.active(volume)
    away = overlay.rename(operator.lab.directory / "removed")
    for path, body in (("/snapshots", {"snapshot": {"volume_id": volume}}), ("/backups", {"backup": {"volume_id": volume}})):
        assert operator.api.send("volume", "POST", path, body).status_code >= 409
    assert operator.api.send("volume", "DELETE", f"/snapshots/{snapshot}").status_code >= 409
    assert any(overlay.name in json.dumps(each) for each in operator.document()["findings"])
    os.rename(away, overlay)
    assert operator.seen(volume) == seen
    operator.gone("snapshot", snapshot)
    assert operator.seen(volume) == seen
