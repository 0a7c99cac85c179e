"""Block storage in this process, without HTTP and without threads: requests go to the manager, operations run to their end.

The share, the database and the backup store lie in memory where the machine has room for that: what is looked for here is
the content of files, not what a disk does with them.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from sqlalchemy import select, update

from stillframe import config
from stillframe.config import Settings
from stillframe.context import Context
from stillframe.db.engine import Database
from stillframe.db.queries import many
from stillframe.db.rows import BackupRow, OperationRow, SnapshotRow, VolumeRow
from stillframe.db.tables import backups, operations, snapshots, volumes
from stillframe.errors import StillframeError
from stillframe.host import files
from stillframe.journal.record import Journal, this_process
from stillframe.journal.runner import run
from stillframe.main import state
from stillframe.volumes import periodic
from stillframe.volumes.clients.compute import ComputeClient
from stillframe.volumes.kinds import KINDS
from stillframe.volumes.manager import Manager
from stillframe.volumes.worker.context import WorkerContext, open_context

HOST = "here"
THIN, THICK, LINKED = "thin", "thick", "linked"  # volume types: qcow2, raw, an overlay on another volume's snapshot
MOST_FILES = 6  # in one chain
_MEMORY = Path("/dev/shm")
_ROUNDS = 2000


class NoServers:
    """A compute service whose servers name no volume; there is one of every id."""

    def servers_with(self, _volume_id: str) -> list[str]:
        return []

    def has_server(self, _project_id: str, _server_id: str) -> bool:
        return True

    def server_of(self, _volume_id: str) -> None:
        return None

    def named_files(self, _directory: Path, sure: bool = False) -> dict[str, list[str]]:
        return {}


@contextmanager
def fast_directory() -> Iterator[Path]:
    """A directory in memory, or on disk where less than 1 GiB of memory may be used so."""
    roomy = _MEMORY.is_dir() and files.free_bytes(_MEMORY) > 1 << 30
    with tempfile.TemporaryDirectory(prefix="stillframe-", dir=_MEMORY if roomy else None) as name:
        yield Path(name)


def settings(directory: Path) -> Settings:
    """Two backends in ``directory``: qcow2 files, and raw ones until their first snapshot."""
    file = directory / "stillframe.conf"
    if not file.exists():
        sections = "".join(
            f"[{name}]\nvolume_driver = local\nshare_dir = {directory}/{name}\nvolume_format = {format_}\n"
            "max_over_subscription_ratio = 100000\n"
            for name, format_ in ((THIN, "qcow2"), (THICK, "raw"))
        )
        file.write_text(f"[DEFAULT]\nhost = {HOST}\nenabled_backends = {THIN},{THICK}\n{sections}")
    overrides: dict[tuple[str | None, str], Any] = {
        (None, "state_dir"): str(directory / "state"),
        ("volumes", "max_chain_depth"): MOST_FILES,
    }
    return config.load([str(file)], overrides)


def prepare(directory: Path) -> None:
    """Makes the database and the volume types; a copy of the directory is as good, at the same place."""
    found = settings(directory)
    state.Locks(found.state_dir, ())
    database = state.prepare(found)
    block = Block(directory, database)
    for name, specs in (
        (THIN, {"volume_backend_name": THIN}),
        (THICK, {"volume_backend_name": THICK}),
        (LINKED, {"stillframe:linked_clone": "true"}),
    ):
        block.call("create_type", wanted={"name": name, "extra_specs": specs})
    block.close()


@dataclass(frozen=True)
class Answer:
    """What a request got: its result, or why it was refused."""

    result: Any = None
    error: StillframeError | None = None

    @property
    def refused(self) -> bool:
        return self.error is not None


class Storage:
    """What lies there: rows, the directories of the shares, and the backup store."""

    def __init__(self, database: Database, shares: Sequence[Path], store: Path) -> None:
        self.database = database
        self._shares = shares
        self._store = store

    def failed(self) -> list[str]:
        """Operations that did not end as they should, in words."""
        with self.database.read() as connection:
            rows = many(OperationRow, connection, select(operations).where(operations.c.state != "done"))
        return [f"{row['kind']} is {row['state']}: {(row['fault'] or {}).get('message')}" for row in rows]

    def volumes(self) -> dict[str, VolumeRow]:
        return self._by_id(volumes)

    def snapshots(self) -> dict[str, SnapshotRow]:
        return self._by_id(snapshots)

    def backups(self) -> dict[str, BackupRow]:
        return self._by_id(backups)

    def _by_id(self, table: Any) -> dict[str, Any]:
        with self.database.read() as connection:
            return {row["id"]: row for row in many(dict, connection, select(table).order_by(table.c.seq))}

    @property
    def shares(self) -> Sequence[Path]:
        """Those that were used."""
        return [path for path in self._shares if path.is_dir()]

    def stored(self, row: BackupRow) -> Path:
        """The file in the backup store that reads as a backup, through those beside it."""
        (found,) = self._store.rglob(f"backup-{row['stored_id']}.qcow2")
        return found


class Block(Storage):
    """Block storage over a directory that ``prepare`` made."""

    def __init__(self, directory: Path, database: Database | None = None) -> None:
        found = settings(directory)
        shares = [directory / name for name in (THIN, THICK)]
        super().__init__(database or Database(found.database), shares, directory / "state/backups")
        self.worker: WorkerContext = replace(open_context(found, self.database), compute=cast("ComputeClient", NoServers()))
        self.journal = Journal(self.database, "volumes", this_process(HOST), 30, KINDS)
        self._methods = Manager(self.worker, lambda: None).methods()
        self._context = Context("somebody", "demo", ("member", "reader"), "req-1")

    def close(self) -> None:
        self.database.close()

    def call(self, method: str, **parameters: Any) -> Any:
        """Calls a method of the manager as the API does. Raises its error."""
        return self._methods[method](self._context, **parameters)

    def ask(self, method: str, **parameters: Any) -> Answer:
        """Calls a method and runs what follows. Refusals are 400, 404, 409 and 413: anything else raises."""
        answer = self.attempt(method, **parameters)
        self.drain()
        return answer

    def attempt(self, method: str, **parameters: Any) -> Answer:
        """As ``ask``, without running anything."""
        try:
            return Answer(self.call(method, **parameters))
        except StillframeError as error:
            if error.status not in (400, 404, 409, 413):
                raise
            return Answer(error=error)

    def drain(self) -> None:
        """Runs operations until none is left; what may wait waits no more."""
        for _ in range(_ROUNDS):
            taken = self.journal.claim_all()
            if not taken and self.journal.keeps:  # what another process has open is free in a moment
                time.sleep(0.01)
                continue
            if not taken and not self._speed_up():
                return
            for operation in taken:
                run(self.journal, KINDS[operation.kind], self.worker, operation)
        raise AssertionError(f"operations without an end: {self.failed()}")

    def _speed_up(self) -> bool:
        waiting = (
            operations.c.state.in_(("pending", "running", "undoing")),
            operations.c.lease_until > 0,
            operations.c.owner.is_(None),  # not what another process works on
        )
        with self.database.read() as connection:
            if connection.execute(select(operations.c.id).where(*waiting)).first() is None:
                return False
        time.sleep(0.001)
        with self.database.write() as connection:
            connection.execute(update(operations).where(*waiting).values(lease_until=0.0))
        return True

    def look_around(self) -> None:
        """What the worker does by itself from time to time."""
        periodic.look(self.worker)
        self.drain()


def fresh_copy(template: Path, directory: Path) -> None:
    """Puts the directory back to what ``prepare`` made."""
    shutil.rmtree(directory, ignore_errors=True)
    sparse_copy(template, directory)


def sparse_copy(source: Path, target: Path) -> None:
    """Copies a directory; what is a hole in a file, such as most of a raw volume, stays one."""
    shutil.copytree(source, target, copy_function=_copy_file)


def _copy_file(source: str, target: str) -> str:
    with open(source, "rb") as old, open(target, "wb") as new:
        place, end = 0, os.fstat(old.fileno()).st_size
        os.ftruncate(new.fileno(), end)
        while place < end:
            try:
                place = os.lseek(old.fileno(), place, os.SEEK_DATA)
            except OSError:
                break  # a hole up to the end
            until = os.lseek(old.fileno(), place, os.SEEK_HOLE)
            os.pwrite(new.fileno(), os.pread(old.fileno(), until - place, place), place)
            place = until
    shutil.copystat(source, target)
    return target
