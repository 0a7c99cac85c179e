"""What the last release stored and did not end is understood, and done to its end.

``last_release.json`` holds an operation of every kind as that release stored it, made once by its own code: several where plans
differ. ``before`` is what the volume's files were then. Names in braces stand for ids, of which a row is full.
"""

import importlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stillframe.chain.image import Image
from stillframe.chain.names import base_name
from stillframe.db import backups, operations, snapshots, volumes
from stillframe.host import imports, staging
from stillframe.journal import typed
from stillframe.journal.operation import BEGINS_NOTED, Operation
from stillframe.volumes.backups import chain, keys
from stillframe.volumes.kinds import KINDS
from stillframe.volumes.worker.context import WorkerContext
from tests.unit import builders
from tests.unit.builders import GIB, OTHER_VOLUME, SERVER, SHARE, VOLUME
from tests.unit.volumes import fakes
from tests.unit.volumes.memory_share import File, MemoryShare
from tests.unit.volumes.site import Content, Site

MADE = "44444444-0000-4000-8000-000000000000"
SNAPSHOTS = {f"s{number}": f"{number:08d}-1111-4111-8111-000000000000" for number in range(4)}
IDS = {"volume": VOLUME, "other": OTHER_VOLUME, "made": MADE, "server": SERVER, "share": SHARE, **SNAPSHOTS}
ELSEWHERE: Content = {0: 91, 1: 92, 2: 93}  # what an image, a backup, a file or another volume holds
STATUSES = {
    "delete_volume": "deleting",
    "extend_volume": "extending",
    "unmanage_volume": "unmanaging",
    "revert_volume": "reverting",
    "undo_revert": "reverting",
    "volume_to_image": "uploading",
    "create_backup": "backing-up",
    "restore_backup": "restoring-backup",
}


def table() -> dict[str, dict[str, Any]]:
    text = (Path(__file__).parent / "last_release.json").read_text()
    for name, value in IDS.items():
        text = text.replace(f"{{{name}}}", value)
    return dict(json.loads(text))


TABLE = table()


def migrated(stored: dict[str, Any]) -> Any:
    """A row as it is after the schema was upgraded."""
    names = importlib.import_module("stillframe.db.migrations.versions.0026_names_of_the_field")
    return {
        "id": "99999999-0000-4000-8000-000000000000",
        "service": "volumes",
        "kind": "release_files" if stored["kind"] == "let_go" else stored["kind"],
        "state": "pending",
        "intent": names._renamed(stored["intent"]),
        "version": 1,
        "plan": [names._step(step) for step in stored["plan"]],
        "step": 0,
        "evidence": {BEGINS_NOTED: {}},
        "epoch": 0,
        "lease_until": 0.0,
        "attempts": 0,
        "bytes": 0,
        "request_id": "r",
        "project_id": "demo",
        "fault": None,
    }


def says(value: object, old: Any) -> None:
    """Asserts that everything the old document says is said, and nothing else but defaults."""
    now = json.loads(json.dumps(typed.document(value)))
    given = {name: each for name, each in old.items() if name != "key"}
    assert {**now, **given} == {**given, **now}
    assert typed.read(type(value), now, "it") == typed.read(type(value), {**now, **given}, "it") == value


def test_every_kind_is_among_them() -> None:
    later = {"release_volume", "create_group_snapshot"}
    assert {migrated(stored)["kind"] for stored in TABLE.values()} == set(KINDS) - later


@pytest.mark.parametrize("stored", TABLE.values(), ids=TABLE)
def test_it_is_understood_and_means_the_same(stored: dict[str, Any]) -> None:
    row = migrated(stored)
    kind = KINDS[row["kind"]]
    operation = Operation.from_row(row, kind)
    assert operation.not_understood == ""
    assert isinstance(operation.intent, kind.intent)
    says(operation.intent, row["intent"])
    assert [step.key for step in operation.plan] == [step.get("key", step["verb"]) for step in row["plan"]]
    for step, old in zip(operation.plan, row["plan"], strict=True):
        assert isinstance(step.args, kind.verbs[step.verb].args)
        says(step.args, old["args"])


class Store:
    """A backup store in memory."""

    def __init__(self) -> None:
        self.objects: list[str] = []

    def put(self, key: str, _path: Path) -> SimpleNamespace:
        self.objects.append(key)
        return SimpleNamespace(bytes=7, sha256="0" * 64)

    def put_bytes(self, key: str, _content: bytes) -> None:
        self.objects.append(key)

    def exists(self, key: str) -> bool:
        return key in self.objects

    def delete(self, key: str) -> None:
        self.objects = [each for each in self.objects if each != key]

    def unfinished(self, _prefix: str) -> list[str]:
        return []

    def list(self, _prefix: str) -> Iterator[tuple[str, int]]:
        return ((key, 1) for key in self.objects)


class Images:
    """An image service that has one image."""

    def __init__(self) -> None:
        self.made: list[Any] = []

    def download(self, image_id: str, project_id: str, _target: Path, _most: int) -> SimpleNamespace:
        assert (image_id, project_id) == (MADE, "p")
        return SimpleNamespace(disk_format="qcow2")

    def create(self, image: Any) -> None:
        self.made.append((image.id, image.name, image.visibility, dict(image.properties)))

    def upload(self, image_id: str, _content: Path) -> SimpleNamespace:
        return SimpleNamespace(size=7, sha512=image_id)

    def is_complete(self, image_id: str, sha512: str) -> bool:
        return image_id == sha512


@pytest.fixture
def store(site: Site, monkeypatch: pytest.MonkeyPatch) -> Store:
    """What the kinds reach outside of the share, which the site has not."""
    made = Store()
    outside = File(Image("outside", "qcow2", GIB), dict(ELSEWHERE))
    site.share.entries["outside"] = outside
    found = SimpleNamespace(name="outside", format="qcow2", depth=1, directory=None)

    @contextmanager
    def opened(_store: Store, volume_id: str, backup_id: str, _directory: Path) -> Iterator[tuple[Any, Any]]:
        assert (volume_id, backup_id) == (VOLUME, MADE)
        yield SimpleNamespace(top=found, depth=1, directory=None, manifest=SimpleNamespace(size=GIB)), lambda: None

    def copied(*_arguments: Any, **_more: Any) -> None:
        return

    monkeypatch.setattr(WorkerContext, "repository", lambda _worker, _container: made)
    monkeypatch.setattr(chain, "opened", opened)
    monkeypatch.setattr(imports, "inspect_import", lambda *_: found)
    monkeypatch.setattr(staging, "require_room", copied)
    monkeypatch.setattr(MemoryShare, "copy_out", copied)
    monkeypatch.setattr(MemoryShare, "copy_layer_out", copied)
    return made


def arrange(site: Site, name: str, stored: dict[str, Any]) -> None:
    """The rows and files as they were when that was asked for; what is made from another volume reads from its file."""
    before, kind = stored["before"], stored["kind"]
    with site.worker.database.write() as connection:
        builders.volume_row(connection, id=OTHER_VOLUME)
        site.share.entries[base_name(OTHER_VOLUME)] = File(Image(base_name(OTHER_VOLUME), "qcow2", GIB), dict(ELSEWHERE))
        site.share.entries["x"] = File(Image("x", "qcow2", GIB), dict(ELSEWHERE))
        active = before["active"] if before else base_name(VOLUME)
        status = STATUSES.get(kind, "available" if before else "creating")
        undo = (before or {"holds": {}})["holds"].get("the undo of a revert")
        builders.volume_row(connection, active_file=active, status=status, undo_file=undo, project_id="p")
        builders.backup_row(connection, id=MADE, stored_id=MADE, status="deleting" if kind == "delete_backup" else "creating")
        for each, backing in (before or {"snapshots": {}})["snapshots"].items():
            builders.snapshot_row(connection, id=each, backing=backing, overlay=before["overlays"][each])
        if kind == "create_snapshot":
            builders.snapshot_row(connection, id=MADE, status="creating")
    for file, of in (before or {"files": {}})["files"].items():
        image = Image(file, "qcow2", of["size"], of["backing"], "qcow2" if of["backing"] else None)
        site.share.entries[file] = File(image, {int(number): value for number, value in of["clusters"].items()})
    if "server" in name:
        running = "running" in name
        fakes.compute(site.worker).servers[VOLUME] = {"id": SERVER, "active": running, "file": active}


def read(site: Site) -> dict[str, Content]:
    """What the volume and its snapshots read as."""
    with site.worker.database.read() as connection:
        row = volumes.get(connection, VOLUME, None)
        if row is None:
            return {}
        found = {each["id"]: each["backing"] for each in snapshots.of_volume(connection, VOLUME)}
    files = {VOLUME: row["active_file"], **found}
    return {each: site.share.content(file) for each, file in files.items() if file in site.share.entries}


def wanted(stored: dict[str, Any], before: dict[str, Content], site: Site) -> dict[str, Content]:
    """What is to be read afterwards."""
    kind, after = stored["kind"], stored["intent"].get("after", {"removed": []})
    left = {each: content for each, content in before.items() if each not in after["removed"]}
    if kind in ("delete_volume", "unmanage_volume"):
        return {}
    if kind == "revert_volume":
        return {**left, VOLUME: before[SNAPSHOTS["s0"]]}
    if kind == "undo_revert":
        return {**left, VOLUME: site.share.content(after["active"])}
    if kind == "create_snapshot":
        return {**left, MADE: before[VOLUME]}
    if kind in ("copy_volume", "link_volume", "manage_volume", "image_to_volume", "restore_backup"):
        return {**left, VOLUME: ELSEWHERE}
    return left or {VOLUME: {}}


@pytest.mark.parametrize(("name", "stored"), TABLE.items(), ids=TABLE)
def test_it_is_done_to_its_end(site: Site, store: Store, name: str, stored: dict[str, Any]) -> None:
    site.worker, row = replace(site.worker, images=Images()), migrated(stored)  # type: ignore[arg-type]
    arrange(site, name, stored)
    store.objects += [keys.manifest_key(VOLUME, MADE)] if stored["kind"] == "delete_backup" else []
    before = read(site)
    expected = wanted(stored, before, site)
    with site.worker.database.write() as connection:
        del row["fault"]
        operations.insert(connection, row, stored["resources"], stored["shared"])
    site.end()
    with site.worker.database.read() as connection:
        ended = operations.get(connection, row["id"])
        volume, backup = volumes.get(connection, VOLUME, None), backups.get(connection, MADE, None)
    assert ended is not None
    assert (ended["state"], ended["fault"]) == ("done", None)
    assert read(site) == expected
    if volume is not None and "after" in stored["intent"]:
        assert (volume["active_file"], volume["status"]) == (stored["intent"]["after"]["active"], "available")
    if stored["kind"] == "unmanage_volume":
        assert f"unmanaged-{VOLUME}" in site.share.entries
    if stored["kind"] == "volume_to_image":
        assert site.worker.images.made == [(MADE, "n", "shared", {})]  # type: ignore[attr-defined]
    if stored["kind"] == "create_backup":
        assert backup is not None
        assert (backup["status"], backup["object_count"], len(store.objects)) == ("available", 1, 2)
    if stored["kind"] == "delete_backup":
        assert (backup, store.objects) == (None, [])
