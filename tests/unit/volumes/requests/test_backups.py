"""What an incremental backup builds on, and what it waits for instead of saying that there is nothing to build on."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from stillframe.db import backups, snapshots, volumes
from stillframe.errors import BadRequest, Busy, ChainConflict, Conflict
from stillframe.journal.operation import Operation
from stillframe.volumes.backups import keys
from stillframe.volumes.chain import observe
from stillframe.volumes.operations import backups as operations
from stillframe.volumes.requests import backups as backup_requests
from stillframe.volumes.requests import snapshots as snapshot_requests
from stillframe.volumes.worker.context import WorkerContext
from tests.unit.builders import BACKUP, backup_row, context, new_id
from tests.unit.volumes.memory_share import MemoryShare
from tests.unit.volumes.site import MEMBER, Site


class Setting:
    """A volume with four snapshots, the second of which has a full backup."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.volume = site.volume()
        self.snapshots = []
        for number in range(4):
            site.write(self.volume, number, number + 1)
            self.snapshots.append(site.snapshot(self.volume))
        row = site.snapshot_row(self.snapshots[1])
        assert row is not None
        self.held = row["backing"]
        with site.worker.database.write() as connection:
            backup_row(
                connection,
                id=BACKUP,
                volume_id=self.volume,
                held_file=self.held,
                status="available",
                size=1,
                container="volumebackups",
            )

    def change(self, **values: Any) -> None:
        with self.site.worker.database.write() as connection:
            backups.change(connection, BACKUP, **values)

    def back_up(self, number: int = 3) -> str:
        wanted = {"volume_id": self.volume, "snapshot_id": self.snapshots[number], "incremental": True}
        return backup_requests.create(self.site.worker, MEMBER, wanted)

    def stored(self) -> dict[str, Any]:
        return next(each["args"] for each in self.site.newest()["plan"] if each["verb"] == "store")


@pytest.fixture
def setting(site: Site, monkeypatch: pytest.MonkeyPatch) -> Setting:
    monkeypatch.setattr(WorkerContext, "repository", lambda _worker, _container: cast("Any", None))
    return Setting(site)


def test_an_increment_over_several_files_is_one_object_above_what_the_parent_holds(setting: Setting) -> None:
    made = setting.back_up()
    row, stored = setting.site.snapshot_row(setting.snapshots[3]), setting.stored()
    assert row is not None
    assert [each["verb"] for each in setting.site.newest()["plan"]] == ["store", "write_manifest"]
    assert (stored["file"], stored["above"]) == (row["backing"], setting.held)
    assert (stored["object"], stored["backing"]) == (f"backup-{made}.qcow2", f"backup-{BACKUP}.qcow2")


def test_an_increment_builds_on_no_backup_of_another_project(setting: Setting) -> None:
    """The volume was transferred: its former project keeps its backups, and may delete them."""
    with setting.site.worker.database.write() as connection:
        volumes.change(connection, setting.volume, project_id="other")
        for each in setting.snapshots:
            snapshots.change(connection, each, project_id="other")
    wanted = {"volume_id": setting.volume, "snapshot_id": setting.snapshots[3], "incremental": True}
    with pytest.raises(BadRequest, match="make a full backup first"):
        backup_requests.create(setting.site.worker, context(project="other"), wanted)


def test_an_increment_asked_for_while_a_deletion_runs_names_the_deletion(setting: Setting) -> None:
    """In the middle of it, when the file the parent holds has gone down into another one."""
    site, refused = setting.site, []
    snapshot_requests.delete(site.worker, MEMBER, setting.snapshots[0])

    def ask(_move: str) -> None:
        if "delete_snapshot" not in {row["kind"] for row in site.unfinished()}:
            return  # what is written down beside the files afterwards is in nobody's way
        with pytest.raises(Busy) as caught:
            setting.back_up()
        refused.append(caught.value)

    ask("before")
    site.end_with(ask)
    kinds = {each.details["operation_id"] for each in refused if "operation_id" in each.details}
    assert len(refused) > 3
    assert kinds >= {next(row["id"] for row in site.asked() if row["kind"] == "delete_snapshot")}
    setting.back_up()


def test_an_increment_asked_for_while_a_backup_is_deleted_or_made_says_so(setting: Setting) -> None:
    backup_requests.delete(setting.site.worker, MEMBER, BACKUP)
    with pytest.raises(Busy, match=rf"backup {BACKUP} is busy: operation \S+ \(delete_backup\)"):
        setting.back_up()


def test_a_full_backup_does_not_wait_for_the_deletion_of_another(setting: Setting) -> None:
    backup_requests.delete(setting.site.worker, MEMBER, BACKUP)
    wanted = {"volume_id": setting.volume, "snapshot_id": setting.snapshots[3]}
    assert backup_requests.create(setting.site.worker, MEMBER, wanted)


@pytest.mark.parametrize("begun", [True, False])
def test_what_begins_or_ends_between_the_looks_is_told_instead(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    def late(worker: WorkerContext, _volume: Any) -> Any:
        monkeypatch.undo()
        setting.change(held_file=None)
        if begun:
            snapshot_requests.delete(worker, MEMBER, setting.snapshots[1])
        raise ChainConflict("a file that was there is not there")

    monkeypatch.setattr(observe, "observe", late)
    with pytest.raises(Busy if begun else Conflict, match="is busy with operation" if begun else "changed meanwhile"):
        setting.back_up()


@pytest.mark.parametrize(("files", "refused"), [(keys.MAX_LAYERS - 1, False), (keys.MAX_LAYERS, True)])
def test_no_increment_is_made_that_could_not_be_restored(setting: Setting, files: int, refused: bool) -> None:
    """The parent builds on a backup of an older release, which has a file for each layer."""
    older = new_id()
    with setting.site.worker.database.write() as connection:
        backup_row(connection, id=older, volume_id=setting.volume, object_count=files - 1, container="volumebackups")
        backups.change(connection, BACKUP, parent_id=older)
    if refused:
        with pytest.raises(BadRequest, match=f"have {files} files.* make a full backup"):
            setting.back_up()
    else:
        assert setting.back_up()


def test_without_a_fitting_backup_a_full_one_is_asked_for(setting: Setting) -> None:
    setting.change(held_file=None)
    with pytest.raises(BadRequest, match="make a full backup first"):
        setting.back_up()


def test_a_plan_of_an_older_release_is_done_to_its_end(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a step for each file, which says nothing of what lies below: the nearest file does."""
    setting.back_up()
    row: Any = setting.site.newest()
    asked = []

    def copy(_share: Any, source: Any, _target: Path, backing: str, above: str | None = None) -> None:
        asked.append((source.name, backing, above))

    store = SimpleNamespace(put=lambda _key, _path: SimpleNamespace(bytes=1, sha256="0" * 64))
    monkeypatch.setattr(WorkerContext, "repository", lambda _worker, _container: store)
    monkeypatch.setattr(MemoryShare, "copy_layer_out", copy)
    old = {"key": "store", "object": f"backup-{BACKUP}.1.qcow2", "file": "x", "format": "qcow2", "backing": "y"}
    operation = Operation.from_row(row | {"plan": [{"verb": "store", "args": old}]}, operations.CREATE)
    operations.CREATE.verbs["store"].do(setting.site.worker, operation, operation.plan[0].args)
    assert asked == [("x", "y", None)]
