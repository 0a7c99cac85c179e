"""Backups over REST of a volume nobody writes to: what is stored of it, and what comes back."""

import json
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stillframe.host import workdir
from tests.support.content import digest
from tests.support.lab import open_lab
from tests.support.operator import Operator, stillframe_apart
from tests.support.stack import wait_for

MIB = 1 << 20


class Store(Operator):
    """A operator with a backup store in a directory."""

    backups: Path

    def make(self, kind: str, **wanted: Any) -> dict[str, Any]:
        made = str(self.api.ok("volume", "POST", f"/{kind}s", {kind: wanted})[kind]["id"])
        wait_for(lambda: self.shown(kind, made)["status"] == "available", f"{kind} {made}")
        self.settle()
        return self.shown(kind, made)

    def shown(self, kind: str, resource_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.api.ok("volume", "GET", f"/{kind}s/{resource_id}")[kind]
        return found

    def active(self, volume_id: str) -> str:
        admin = self.lab.stack.api("stillframe-admin")
        files = admin.ok("volume", "GET", f"/volumes/{volume_id}/stillframe-chain")["chain"]["files"]
        return str(next(each["name"] for each in files if each["active"]))

    def write(self, volume_id: str, *commands: str) -> None:
        words = ["qemu-io", "-f", "qcow2", *(word for each in commands for word in ("-c", each)), self.active(volume_id)]
        subprocess.run(words, cwd=self.share, check=True, capture_output=True)

    def delete_snapshot(self, snapshot_id: str) -> None:
        self.api.ok("volume", "DELETE", f"/snapshots/{snapshot_id}")
        wait_for(lambda: self.api.send("volume", "GET", f"/snapshots/{snapshot_id}").status_code == 404, "the deletion")
        self.settle()

    def everything(self) -> list[Any]:
        """Every row but for when it was written, and every file of the share and the store. What is in the share's working
        directory goes by and by: a large file that was removed shrinks there piece by piece."""
        lists = [self.api.ok("volume", "GET", f"/{kind}/detail")[kind] for kind in ("volumes", "snapshots", "backups")]
        rows = [{key: value for key, value in row.items() if key != "updated_at"} for found in lists for row in found]
        places = [each for place in (self.share, self.backups) for each in place.rglob("*") if workdir.NAME not in each.parts]
        files = [each for each in places if each.is_file()]
        return [*rows, *sorted((str(each), each.stat().st_size, each.stat().st_mtime_ns) for each in files)]

    def files_of(self, backup: dict[str, Any]) -> dict[str, int]:
        """Name and bytes of what a backup has in its store."""
        return {each.name: each.stat().st_size for each in self.backups.rglob(f"backup-{backup['id']}*")}

    def restored(self, backup: dict[str, Any]) -> str:
        made = self.api.ok("volume", "POST", f"/backups/{backup['id']}/restore", {"restore": {}})["restore"]["volume_id"]
        wait_for(lambda: self.shown("volume", made)["status"] == "available", "the restored volume")
        self.settle()
        return digest(self.share, self.active(made))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    directory = tmp_path_factory.mktemp("backups")
    lab = open_lab(directory, f"[volumes]\nbackup_url = file://{directory}/store\n")
    try:
        made = Store(lab)
        made.backups = directory / "store"
        yield made
    finally:
        lab.clear()


def test_an_increment_over_several_snapshots_is_one_small_file(store: Store) -> None:
    """The same 16 MiB are written between any two of four snapshots; what differs in the end is stored once, compressed."""
    volume = store.make("volume", size=1)["id"]
    noise = store.state.parent / "noise"
    noise.write_bytes(random.Random(17).randbytes(MIB))
    store.write(volume, f"write -s {noise} 0 1M", "write -P 17 1M 63M")
    first = store.make("snapshot", volume_id=volume)["id"]
    full = store.make("backup", volume_id=volume, snapshot_id=first)
    for number in range(4):
        store.write(
            volume, f"write -P {33 + number} 0 16M", f"write -s {noise} 20M 1M", "write -z 30M 2M", "write -P 17 40M 4M"
        )
        last = store.make("snapshot", volume_id=volume)["id"]
    expected = digest(store.share, store.active(volume))
    store.write(volume, "write -P 99 0 64M")
    increment = store.make("backup", volume_id=volume, snapshot_id=last, incremental=True)
    files = store.files_of(increment)
    assert set(files) == {f"backup-{increment['id']}.qcow2", f"backup-{increment['id']}.json"}
    assert increment["object_count"] == 1
    # 16 MiB of one byte and 2 MiB of zeros take next to nothing, 1 MiB of noise all of its room; six clusters are tables.
    assert MIB < files[f"backup-{increment['id']}.qcow2"] < MIB + 16 * MIB // 100 + 6 * (64 << 10)
    assert store.restored(increment) == expected
    assert set(store.files_of(full)) == {f"backup-{full['id']}.qcow2", f"backup-{full['id']}.json"}


def test_an_increment_after_the_snapshot_of_the_backup_before_it_was_deleted(store: Store) -> None:
    """Nothing but the backup keeps its file then."""
    volume = store.make("volume", size=1)["id"]
    store.write(volume, "write -P 1 0 8M")
    first = store.make("snapshot", volume_id=volume)["id"]
    store.make("backup", volume_id=volume, snapshot_id=first)
    store.write(volume, "write -P 2 0 4M")
    second = store.make("snapshot", volume_id=volume)["id"]
    store.make("backup", volume_id=volume, snapshot_id=second, incremental=True)
    store.write(volume, "write -P 3 1M 1M", "write -z 6M 1M")
    for each in (first, second):
        store.delete_snapshot(each)
    expected = digest(store.share, store.active(volume))
    store.api.ok("volume", "POST", f"/volumes/{volume}/action", {"os-extend": {"new_size": 3}})
    wait_for(lambda: store.shown("volume", volume)["status"] == "available", "the larger volume")
    store.settle()
    larger = digest(store.share, store.active(volume))
    increment = store.make("backup", volume_id=volume, incremental=True)
    assert increment["is_incremental"] and increment["object_count"] == 1
    assert sum(store.files_of(increment).values()) < 8 * (64 << 10)
    assert store.restored(increment) == larger != expected


def _explained(store: Store, method: str, path: str, body: Any = None) -> dict[str, Any]:
    """Asks what a request would cost, and sees that nothing was done."""
    before = store.everything()
    found: dict[str, Any] = store.api.ok("volume", method, f"{path}?explain=1", body)["explanation"]
    store.settle()
    assert store.everything() == before
    return found


def test_backups_and_restores_cost_no_more_than_explained(store: Store) -> None:
    volume = store.make("volume", size=1)["id"]
    noise = store.state.parent / "noise"
    noise.write_bytes(random.Random(20).randbytes(8 * MIB))
    store.write(volume, f"write -s {noise} 0 8M", f"write -s {noise} 100M 8M")
    wanted = {"volume_id": volume, "incremental": True}
    refused = _explained(store, "POST", "/backups", {"backup": wanted})
    assert not refused["possible"] and "make a full backup first" in refused["why"]
    made: list[dict[str, Any]] = []
    for incremental in (False, True):
        wanted = {"volume_id": volume, "incremental": incremental}
        told = _explained(store, "POST", "/backups", {"backup": wanted})
        assert told["possible"] and told["method"].startswith("incremental" if incremental else "full")
        assert told["parent_id"] == (made[0]["id"] if incremental else None)
        made.append(store.make("backup", **wanted))
        held = store.files_of(made[-1])[f"backup-{made[-1]['id']}.qcow2"]
        assert held <= told["bytes_stored"] <= held * 1.5 + 8 * (64 << 10)
        assert told["staging_needed"] <= told["staging_free"]
        told = _explained(store, "POST", f"/backups/{made[-1]['id']}/restore", {"restore": {}})
        assert told["possible"] and told["bytes_fetched"] == sum(
            size for each in made for name, size in store.files_of(each).items() if name.endswith(".qcow2")
        )
        over = _explained(store, "POST", f"/backups/{made[-1]['id']}/restore", {"restore": {"volume_id": volume}})
        assert over["method"] == f"restore over volume {volume}" and over["bytes"] == told["bytes"]
        before = {each.name for each in store.share.iterdir()}
        store.restored(made[-1])
        (restored,) = (each for each in store.share.iterdir() if each.name not in before and each.suffix == "")
        assert restored.stat().st_blocks * 512 <= told["bytes"] + 6 * (64 << 10)
        assert told["bytes"] <= 26 * MIB and told["share_free"] > told["bytes"]
        store.write(volume, f"write -s {noise} 300M 8M")
    small = store.make("volume", size=1)["id"]
    store.api.ok("volume", "POST", f"/volumes/{volume}/action", {"os-extend": {"new_size": 2}})
    wait_for(lambda: store.shown("volume", volume)["status"] == "available", "the larger volume")
    store.settle()
    larger = store.make("backup", volume_id=volume)
    refused = _explained(store, "POST", f"/backups/{larger['id']}/restore", {"restore": {"volume_id": small}})
    assert not refused["possible"] and "cannot hold a backup of 2 GiB" in refused["why"] and refused["bytes"] >= 24 * MIB


def test_a_deletion_of_a_backup_tells_what_it_frees_and_what_is_copied_after_it(store: Store) -> None:
    volume = store.make("volume", size=1)["id"]
    store.write(volume, "write -P 1 0 8M")
    full = store.make("backup", volume_id=volume)
    store.write(volume, "write -P 2 0 2M")
    increment = store.make("backup", volume_id=volume, incremental=True)
    refused = store.api.ok("volume", "GET", f"/backups/{full['id']}?explain=1")["backup"]["deletion"]
    assert (refused["possible"], refused["dependants"]) == (False, [increment["id"]])
    told = _explained(store, "DELETE", f"/backups/{increment['id']}")
    assert (told["possible"], told["method"], told["steps"][0]["step"]) == (True, "remove", "commit")
    assert told["bytes_freed"] == store.files_of(increment)[f"backup-{increment['id']}.qcow2"]
    store.api.ok("volume", "DELETE", f"/backups/{increment['id']}")
    wait_for(lambda: store.api.send("volume", "GET", f"/backups/{increment['id']}").status_code == 404, "the deletion")
    assert store.files_of(increment) == {}


def test_a_request_without_a_cost_to_explain_is_not_carried_out(store: Store) -> None:
    volume = store.make("volume", size=1)["id"]
    before = store.everything()
    for method, path, body in (
        ("DELETE", f"/volumes/{volume}", None),
        ("POST", f"/volumes/{volume}/action", {"os-extend": {"new_size": 2}}),
        ("POST", "/snapshots", {"snapshot": {"volume_id": volume}}),
    ):
        answer = store.api.send("volume", method, f"{path}?explain=1", body)
        assert answer.status_code == 400 and "no cost to explain" in answer.text
    assert store.everything() == before


def test_the_command_line_shows_the_cost(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(store.state / "clouds.yaml"))
    volume = store.make("volume", size=1, name="ledger")["id"]
    store.write(volume, "write -P 1 0 8M")
    backup = store.make("backup", volume_id=volume, name="monday")
    for words, expected in (
        (("create", "ledger"), "full backup"),
        (("create", "--incremental", "ledger"), "incremental backup"),
        (("restore", "monday"), "restore into a new volume"),
        (("restore", "--volume", "ledger", "monday"), f"restore over volume {volume}"),
        (("delete", backup["id"]), "remove"),
    ):
        said = stillframe_apart("backup", "explain", *words, "-f", "json")
        assert said.code == 0, said.complaint
        found = json.loads(said.out)
        assert (found["possible"], found["method"]) == (True, expected)
