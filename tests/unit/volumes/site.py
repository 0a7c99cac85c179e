"""Block storage run to the end of its journal, and what every volume and snapshot must hold meanwhile.

Requests go through the functions the API calls, operations through the runner with the verbs the service has; only the
share is in memory. A worker may be killed at any moment; the next one takes over.
"""

import copy
import itertools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stillframe.chain import names, plan
from stillframe.chain.tree import Tree
from stillframe.context import Context
from stillframe.db import operations, snapshots, volumes
from stillframe.db.rows import OperationRow, VolumeRow
from stillframe.journal import runner
from stillframe.volumes import periodic
from stillframe.volumes.chain import observe
from stillframe.volumes.kinds import KINDS
from stillframe.volumes.operations import chain_metadata
from stillframe.volumes.requests import new_volumes
from stillframe.volumes.requests import snapshots as snapshot_requests
from stillframe.volumes.requests import volumes as volume_requests
from stillframe.volumes.worker.context import WorkerContext
from tests.unit.builders import context
from tests.unit.journal.fakes import LEASE, Clock, Crash, DyingJournal, owner
from tests.unit.journal.fakes import WorkerContext as Moments
from tests.unit.volumes import fakes
from tests.unit.volumes.memory_share import MARKER, MemoryShare, nothing

Content = dict[int, int]
MEMBER = context()
SERVICE = context("service", project="service")
SETTLED = ("available", "in-use")
HIDDEN = ("record_chain", "release_files")
NO_FAILURES: Mapping[int, Exception] = {}


@dataclass
class Site:
    """``model`` maps a volume's or a snapshot's id to what it must read as."""

    worker: WorkerContext
    clock: Clock
    model: dict[str, Content] = field(default_factory=dict)
    member: Context = MEMBER
    workers: int = 0

    @property
    def path(self) -> Path:
        return Path(str(self.worker.database.engine.url.database))

    @property
    def share(self) -> MemoryShare:
        return fakes.memory(self.worker)

    def row(self, volume_id: str) -> Any:
        with self.worker.database.read() as connection:
            found = volumes.get(connection, volume_id, None)
        assert found is not None
        return found

    def rows(self) -> list[VolumeRow]:
        with self.worker.database.read() as connection:
            return volumes.list_all(connection)

    def snapshot_row(self, snapshot_id: str) -> Any:
        with self.worker.database.read() as connection:
            return snapshots.get(connection, snapshot_id, None)

    # requests, and the model that follows them

    def volume(self, **wanted: Any) -> str:
        made = new_volumes.create(self.worker, self.member, {"size": 1, **wanted})
        self.end()
        source = wanted.get("snapshot_id") or wanted.get("source_volid")
        self.model[made] = dict(self.model[source]) if source else {}
        return made

    def write(self, volume_id: str, cluster: int, value: int) -> None:
        self.share.write(self.row(volume_id)["active_file"], cluster, value)
        self.model[volume_id] = {**self.model[volume_id], cluster: value}

    def snapshot(self, volume_id: str) -> str:
        made = snapshot_requests.create(self.worker, self.member, volume_id, {})
        self.end()
        self.model[made] = dict(self.model[volume_id])
        return made

    def revert(self, volume_id: str, snapshot_id: str, newer: str | None = "keep") -> None:
        volume_requests.revert(self.worker, self.member, volume_id, snapshot_id, newer)
        self.end()
        self.model[volume_id] = dict(self.model[snapshot_id])

    # running

    def end(self, crashes: frozenset[int] = frozenset(), fails: Mapping[int, Exception] = NO_FAILURES) -> int:
        """Runs the journal to its end; a worker dies at the moments numbered in ``crashes``, the share fails at its own moves
        numbered in ``fails``. Returns how many moments there were."""
        moments, moves = Moments(crashes=crashes), itertools.count(1)

        def move(_what: str) -> None:
            moments.moment()
            if (error := fails.get(next(moves))) is not None:
                raise error

        self.end_with(move, moments)
        return moments.moments

    def end_with(self, move: Callable[[str], None], moments: Moments | None = None) -> None:
        """Runs the journal to its end, with ``move`` called at each move of the share."""
        self.share.moment, died, moments = move, True, moments or Moments()
        try:
            for _ in range(100):
                self.clock.now += 2 * LEASE
                self.workers += 1
                journal = DyingJournal(self.worker.database, owner(self.workers), moments, KINDS)
                try:
                    if died:
                        journal.take_over()
                    died = False
                    while claimed := journal.claim_all():
                        for operation in claimed:
                            runner.run(journal, KINDS[operation.kind], self.worker, operation)
                    journal.close()
                except Crash:
                    died = True
                left = self.unfinished()
                parked = [row for row in left if row["state"] == "parked"]
                if not left or (parked and all(row in parked or row["kind"] in HIDDEN for row in left)):
                    return  # what is hidden waits for what is parked
        finally:
            self.share.moment = nothing
        faults = [(row["kind"], row["fault"]) for row in self.unfinished()]
        raise AssertionError(f"the journal does not end: {faults[:3]}")

    def unfinished(self) -> list[OperationRow]:
        with self.worker.database.read() as connection:
            return operations.unfinished(connection, "volumes")

    def asked(self) -> list[OperationRow]:
        """The newest operations somebody asked for, the newest first."""
        with self.worker.database.read() as connection:
            rows = operations.newest(connection, 50)
        return [row for row in rows if row["kind"] not in HIDDEN]

    def newest(self) -> Any:
        return self.asked()[0]

    def settle(self) -> None:
        """Lets block storage tidy up until there is nothing more to do."""
        for _ in range(20):
            periodic.look(self.worker)
            if not self.unfinished():
                return
            self.end()
        raise AssertionError("housekeeping does not come to an end")

    # looking

    def seen(self) -> dict[str, Content]:
        """What the share holds of each volume and each snapshot there is."""
        with self.worker.database.read() as connection:
            rows = [row for row in volumes.list_all(connection) if row["status"] in SETTLED]
            found = {row["id"]: self.share.content(row["active_file"]) for row in rows}
            for row in rows:
                for snapshot in snapshots.of_volume(connection, row["id"]):
                    if snapshot["status"] == "available":
                        found[snapshot["id"]] = self.share.content(snapshot["backing"])
        return found

    def check(self) -> None:
        """Everything reads as it must, rows and headers agree, the documents are right, and nothing lies about."""
        assert [row["fault"] for row in self.unfinished()] == []
        self.worker.backends.sweep()
        seen = self.seen()
        assert seen == {key: value for key, value in self.model.items() if key in seen}
        wanted, old = {MARKER}, set[str]()
        for row in self.rows():
            if row["status"] in SETTLED:
                wanted |= self._check_volume(row)
            if row["fault"]:  # writing the documents failed, and is tried again
                old |= {names.record_name(row["id"]), names.info_name(row["id"])}
        assert set(self.share.listing()) - old == wanted - old
        assert [name for name, file in self.share.entries.items() if file.leaks] == []

    def documents_are_right(self, row: VolumeRow) -> bool:
        operation: Any = None
        return (
            chain_metadata.KIND.verbs["write_info"].done(self.worker, operation, chain_metadata.WriteInfo(volume_id=row["id"]))
            is not None
        )

    def _info(self, row: VolumeRow, tree: Tree) -> list[str]:
        """Without a document a reader takes the file with the volume's own name."""
        return [names.info_name(row["id"])] if tree.snapshots or tree.active != names.base_name(row["id"]) else []

    def _check_volume(self, row: VolumeRow) -> set[str]:
        tree = observe.observe(self.worker, row)
        if not row["fault"]:
            assert self.documents_are_right(row), "the documents beside the volume are old"
        if not row["undo_file"] and not row["needs_cleanup"]:
            assert plan.clean_up(tree, lambda _name: (), ends=True) is None, f"nobody needs some of {sorted(tree.images)}"
        return {*tree.images, names.record_name(row["id"]), *self._info(row, tree)}


@dataclass(frozen=True)
class Saved:
    """A site as it was once: the database's bytes and the share's files."""

    database: bytes
    share: dict[str, Any]
    compute: dict[str, Any]
    model: dict[str, Content]


def save(site: Site) -> Saved:
    site.worker.database.close()  # writes the log back into the one file
    held = {name: vars(site.share)[name] for name in ("entries", "documents", "opened")}
    known = {name: vars(fakes.compute(site.worker))[name] for name in ("servers", "merges")}
    return Saved(site.path.read_bytes(), copy.deepcopy(held), copy.deepcopy(known), copy.deepcopy(site.model))


def restore(site: Site, saved: Saved) -> None:
    site.worker.database.close()
    for path in site.path.parent.glob(f"{site.path.name}-*"):
        path.unlink()
    site.path.write_bytes(saved.database)
    vars(site.share).update(copy.deepcopy(saved.share))
    vars(fakes.compute(site.worker)).update(copy.deepcopy(saved.compute))
    site.model = copy.deepcopy(saved.model)


def each_moment(site: Site, act: Callable[[], None], after: Callable[[], None]) -> int:
    """Does ``act``, which submits an operation, kills the worker once at each moment of it, and looks ``after`` each.

    Each third moment, and others with each change of src; STILLFRAME_EVERY_PLACE tries all of them, in three times the time.
    Returns the number of moments; zero would prove nothing.
    """
    begun = save(site)
    act()
    moments = site.end()
    after()
    every = bool(os.environ.get("STILLFRAME_EVERY_PLACE"))
    for moment in range(1, moments + 1) if every else range(1 + int(os.environ["STILLFRAME_SEED"]) % 3, moments + 1, 3):
        restore(site, begun)
        act()
        site.end(frozenset({moment}))
        after()
    return moments
