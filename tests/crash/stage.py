"""Services on which many operations are stopped at once: volumes by the dozen, each a copy of one that was made over REST."""

import json
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table, select

from stillframe.chain.names import base_name
from stillframe.db.queries import many
from stillframe.db.tables import backups, snapshots, volumes
from stillframe.volumes.backups import manifest
from stillframe.volumes.backups.repository import DEFAULT_CONTAINER
from stillframe.volumes.worker.context import WorkerContext
from tests.crash.samples import CLUSTER, written
from tests.support import sound
from tests.support.image_store import ImageStore, image_store
from tests.support.lab import Lab, open_lab
from tests.support.qcow2_content import filled
from tests.support.stack import Api, wait_for

Content = Mapping[int, int]  # by cluster, the byte it is filled with
OPTIONS = "[DEFAULT]\nworkers = 64\n[image]\nendpoint = {}\n"
SOURCE = {0: 7, 3: 9, 8: 200}  # what a file from elsewhere holds


@dataclass(frozen=True)
class Copy:
    """Ids by what they are for ("volume", "0" for the first snapshot, ...), and by id what a reader finds."""

    ids: Mapping[str, str]
    content: Mapping[str, Content] = field(default_factory=dict)

    def __getitem__(self, part: str) -> str:
        return self.ids[part]

    def anew(self) -> "Copy":
        """The same with new ids."""
        ids = {part: str(uuid.uuid4()) for part in self.ids}
        now = {self.ids[part]: made for part, made in ids.items()}
        return Copy(ids, {now[key]: content for key, content in self.content.items()})


@dataclass(frozen=True)
class Stage:
    lab: Lab
    images: ImageStore
    worker: WorkerContext  # database and share, read without asking the services
    elsewhere: Path  # an image file as somebody else made it

    @property
    def share(self) -> Path:
        return self.lab.stack.share

    @property
    def backups(self) -> Path:
        return self.lab.stack.state_dir / "backups" / DEFAULT_CONTAINER

    # what templates are made of, over REST

    def grown(self, weights: Sequence[int]) -> Copy:
        """A volume with a snapshot after each but the last of ``weights``: so many clusters are written each time."""
        api = self.lab.api
        ids, content, now = {"volume": api.create_volume()}, {}, dict[int, int]()
        name = base_name(ids["volume"])
        for number, clusters in enumerate(written(weights)):
            if number:
                ids[str(number - 1)] = made = self.snapshot(api, ids["volume"])
                content[made], name = dict(now), f"{base_name(ids['volume'])}.{made}"
            write(self.share / name, clusters)
            now |= clusters
        return Copy(ids, {**content, ids["volume"]: now})

    def snapshot(self, api: Api, volume_id: str) -> str:
        made = str(api.ok("volume", "POST", "/snapshots", {"snapshot": {"volume_id": volume_id}})["snapshot"]["id"])
        wait_for(lambda: api.snapshot(made)["status"] == "available", "the snapshot", 60)
        return made

    def settle(self) -> None:
        """Waits until nothing is under way."""
        wait_for(lambda: not sound.unfinished(self.worker), "the end of all operations", 90)

    # looking

    def rows(self, table: Table) -> dict[str, dict[str, Any]]:
        """Every row by its id."""
        with self.worker.database.read() as connection:
            return {row["id"]: row for row in many(dict, connection, select(table))}


@contextmanager
def open_stage(directory: Path) -> Iterator[Stage]:
    with image_store() as images:
        lab = open_lab(directory, OPTIONS.format(images.url))
        try:
            elsewhere = directory / "elsewhere"
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(elsewhere), "1G"], check=True)
            write(elsewhere, SOURCE)
            specs = {"stillframe:linked_clone": "true"}
            body = {"volume_type": {"name": "linked", "extra_specs": specs}}
            lab.stack.api("stillframe-admin").ok("volume", "POST", "/types", body)
            with sound.worker(lab.stack.state_dir) as worker:
                yield Stage(lab, images, worker, elsewhere)
        finally:
            lab.clear()


def write(path: Path, clusters: Content) -> None:
    """Writes as a guest does: through QEMU."""
    said = [part for number, value in clusters.items() for part in ("-c", f"write -P {value} {number * CLUSTER} {CLUSTER}")]
    if said:
        subprocess.run(["qemu-io", "-f", "qcow2", *said, path.name], cwd=path.parent, check=True, capture_output=True)


# copying: files, documents and rows, each id replaced by another of the same length; the services do not run


def duplicate(stage: Stage, template: Copy, count: int) -> list[Copy]:
    made = [template.anew() for _ in range(count)]
    names = [path for path in stage.share.rglob("*") if any(key in path.name for key in template.ids.values())]
    stored = [path for path in stage.backups.rglob("*") if any(key in path.name for key in template.ids.values())]
    for copy in made:
        new = {template.ids[part]: key for part, key in copy.ids.items()}
        for path in names:
            _copy_file(path, stage.share / _text(path.name, new), new)
        for path in stored:
            if path.is_file():
                target = stage.backups / _text(path.relative_to(stage.backups).as_posix(), new)
                target.parent.mkdir(exist_ok=True)
                _copy_object(path, target, new)
    with stage.worker.database.write() as connection:
        for copy in made:
            for table in (volumes, snapshots, backups):
                _copy_rows(connection, table, {template.ids[part]: key for part, key in copy.ids.items()})
    return made


def _copy_file(path: Path, target: Path, new: Mapping[str, str]) -> None:
    """Replaces ids in a header, which is in the first cluster, or anywhere in a document."""
    with path.open("rb") as source, target.open("xb") as copy:
        head = source.read(CLUSTER)
        copy.write(_bytes(head, new))
        shutil.copyfileobj(source, copy)
    shutil.copymode(path, target)


def _copy_object(path: Path, target: Path, new: Mapping[str, str]) -> None:
    """Objects of full backups name no other; a manifest carries the sum of its own text."""
    if path.suffix != ".json":
        shutil.copy(path, target)
        return
    changed = json.loads(_bytes(path.read_bytes(), new))
    old = {made: key for key, made in new.items()}
    found = manifest.parse(path.read_bytes(), old[changed["volume_id"]], old[changed["backup_id"]])
    objects = [manifest.StoredObject(_text(each.name, new), each.bytes, each.sha256) for each in found.objects]
    ids = {"volume_id": changed["volume_id"], "backup_id": changed["backup_id"], "objects": tuple(objects)}
    target.write_bytes(manifest.serialise(manifest.Manifest(**{**vars(found), **ids})))
    shutil.copymode(path, target)


def _copy_rows(connection: Connection, table: Table, new: Mapping[str, str]) -> None:
    for row in many(dict, connection, select(table).where(table.c.id.in_(list(new))).order_by(table.c.seq)):
        values = {name: _value(value, new) for name, value in row.items() if name != "seq"}
        connection.execute(table.insert().values(values))


def _value(value: Any, new: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return json.loads(_text(json.dumps(value), new))
    return _text(value, new) if isinstance(value, str) else value


def _text(text: str, new: Mapping[str, str]) -> str:
    for old, key in new.items():
        text = text.replace(old, key)
    return text


def _bytes(data: bytes, new: Mapping[str, str]) -> bytes:
    for old, key in new.items():
        data = data.replace(old.encode(), key.encode())
    return data


def backed_up(stage: Stage, backup_id: str, volume_id: str) -> Content:
    """What a backup reads as, through those it is backed by."""
    directory, plain = stage.backups / f"volume-{volume_id}", stage.lab.directory / f"plain-{backup_id}"
    words = ["convert", "-q", "-f", "qcow2", "-O", "qcow2", f"backup-{backup_id}.qcow2", str(plain)]  # it is compressed
    subprocess.run(["qemu-img", *words], cwd=directory, check=True)
    found = filled(plain.parent, plain.name)
    plain.unlink()
    return found
