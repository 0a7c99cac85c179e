"""A world of block storage over a share in memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from stillframe.chain.image import Image
from stillframe.chain.names import base_name
from stillframe.db import shares
from stillframe.db.engine import Database
from stillframe.errors import Conflict, ServiceUnavailable
from stillframe.volumes.storage.backends import Backends
from stillframe.volumes.worker.context import WorkerContext
from tests.unit.builders import GIB, SERVER, SHARE, VOLUME, settings
from tests.unit.volumes.memory_share import File, MemoryShare, nothing


class Compute:
    """Compute as block storage sees it: which server has a volume, and merges that are done as soon as they are asked for.

    ``refuses`` is what the merges asked for end with instead, one after the other: a status and a fault."""

    def __init__(self, memory: MemoryShare) -> None:
        self.memory = memory
        self.servers: dict[str, dict[str, Any]] = {}
        self.merges: dict[str, dict[str, Any]] = {}
        self.named: dict[str, list[str]] = {}  # what descriptions name besides volumes
        self.refuses: list[dict[str, Any] | None] = []
        self.silent = False
        self.projects: dict[str, str] = {SERVER: "demo"}
        self.attaching: dict[str, str] = {}  # a server that compute attaches the volume to now
        self.saved: dict[str, str] = {}  # a server whose saved state names the volume
        self.seen_running: Callable[[], object] = lambda: None  # called when it was told that a server runs or is saved

    def _answer(self) -> None:
        if self.silent:
            raise ServiceUnavailable("compute does not answer")

    def servers_with(self, volume_id: str) -> list[str]:
        self._answer()
        return [self.servers[volume_id]["id"]] if volume_id in self.servers else []

    def named_files(self, _directory: Path, sure: bool = False) -> dict[str, list[str]]:
        self._answer()
        return {file: [server["id"]] for server in self.servers.values() for file in [server["file"]]} | self.named

    def users_of(self, volume_id: str) -> list[dict[str, str]]:
        found = [(each, "live") for each in self.servers_with(volume_id)]
        found += [(self.saved[volume_id], "saved")] if volume_id in self.saved else []
        found += [(self.attaching[volume_id], "attaching")] if volume_id in self.attaching else []
        return [{"server_id": server_id, "name": "web", "where": where} for server_id, where in found]

    def has_server(self, project_id: str, server_id: str) -> bool:
        self._answer()
        return self.projects.get(server_id) == project_id

    def server_of(self, volume_id: str) -> dict[str, Any] | None:
        self._answer()
        found = self.servers.get(volume_id)
        if found is not None and (found["active"] or found.get("refusal")):
            found = dict(found)
            self.seen_running()
        return found

    def switch_file(self, volume_id: str, name: str, _format: str, to_come: bool = False) -> None:
        self._answer()
        assert to_come or name in self.memory.entries
        self.memory.moment("switch file")
        if self.servers[volume_id]["active"] and self.servers[volume_id]["file"] != name:
            self.seen_running()
            raise Conflict("the server runs")
        if self.servers[volume_id].get("refusal"):
            refusal = self.servers[volume_id]["refusal"]
            self.seen_running()
            raise Conflict(refusal)
        self.servers[volume_id]["file"] = name
        self.memory.moment("switch file")

    def resize(self, volume_id: str, size: int) -> None:
        self._answer()
        name = self.servers[volume_id]["file"]
        self.memory.resize(volume_id, name, self.memory.entries[name].image.format, size)

    def merge(self, _snapshot_id: str, info: dict[str, Any]) -> None:
        self._answer()
        if info["id"] not in self.merges:
            refused = self.refuses.pop(0) if self.refuses else None
            self.memory.moment("ask for a merge")
            if refused is None:
                self._merge_apart(info)
            self.merges[info["id"]] = refused or {"status": "done", "bytes_done": 0, "bytes_total": 0, "fault": None}

    def _merge_apart(self, info: dict[str, Any]) -> None:
        """Compute's worker is another one: it does not die with block storage's."""
        moment, self.memory.moment = self.memory.moment, nothing
        try:
            self._merge(info)
        finally:
            self.memory.moment = moment

    def _merge(self, info: dict[str, Any]) -> None:
        volume_id, target = info["volume_id"], info["merge_target_file"]
        active = self.servers[volume_id]["file"]
        if target is None:
            below = self.memory.entries[info["file_to_merge"]].image if info["file_to_merge"] else None
            self.memory.pull(volume_id, active, info["file_to_merge"], below.format if below else None)
            return
        top = info["file_to_merge"]
        self.memory.commit(volume_id, top, target)
        if top == active:
            self.servers[volume_id]["file"] = target
            return
        path = [active, *self.memory.below(active)]
        above = path[path.index(top) - 1]
        self.memory.repoint(volume_id, above, target, self.memory.entries[target].image.format)

    def merge_status(self, merge_id: str) -> dict[str, Any] | None:
        self._answer()
        return self.merges.get(merge_id)

    def cancel_merge(self, merge_id: str) -> None:
        self.merges[merge_id] = {"status": "undone", "fault": {"message": "cancelled", "details": {}}}


def share(*overlays: str, volume_id: str = VOLUME) -> MemoryShare:
    """The files of one volume, each overlay on the one before it."""
    made, below = MemoryShare(), base_name(volume_id)
    made.entries[below] = File(Image(below, "qcow2", GIB))
    for name in overlays:
        made.entries[name] = File(Image(name, "qcow2", GIB, below, "qcow2"))
        below = name
    return made


def worker(database: Database, state_dir: Path, memory: MemoryShare | None = None, **options: Any) -> WorkerContext:
    """``options`` are of the volumes section."""
    loaded = settings(state_dir, **{"share_dir": SHARE, **options}).of("volumes")
    backends = Backends(loaded, database)
    used = memory or share()
    for pool in backends.pools:
        pool._open = used
    with database.write() as connection:
        for url in (SHARE, loaded.backup_url):
            if shares.known_id(connection, url) is None:
                shares.remember(connection, url, "known")
    return WorkerContext(database, backends, cast("Any", Compute(used)), cast("Any", None), loaded)


def memory(worker: WorkerContext) -> MemoryShare:
    found = worker.backends.pools[0].share()
    assert isinstance(found, MemoryShare)
    return found


def compute(worker: WorkerContext) -> Compute:
    found: Any = worker.compute
    assert isinstance(found, Compute)
    return found
