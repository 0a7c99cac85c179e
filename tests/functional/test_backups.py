"""Backups over REST of a volume nobody writes to: what is stored of it, and what comes back."""

import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.content import digest
from tests.support.desk import Desk
from tests.support.lab import open_lab
from tests.support.stack import wait_for

MIB = 1 << 20


class Store(Desk):
    """A desk with a backup store in a directory."""

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
