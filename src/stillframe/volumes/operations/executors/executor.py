"""One plan, three executors: offline when nothing is attached; for a stopped server also offline, and its definition follows;
for a running server through compute, which merges live."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stillframe.chain import names
from stillframe.chain.steps import Step, to_documents
from stillframe.chain.tree import Tree
from stillframe.db.rows import Row
from stillframe.errors import Conflict
from stillframe.journal.operation import Document, step
from stillframe.volumes.worker import file_users
from stillframe.volumes.worker.context import WorkerContext


@dataclass(frozen=True)
class Hand:
    """``server`` is what ``ComputeDoor.server_of`` returns of the server that has the volume; None when nothing is attached.
    ``bandwidth_mib`` is what the request asks for."""

    server: dict[str, Any] | None = None
    bandwidth_mib: int = 0

    @property
    def running(self) -> bool:
        return self.server is not None and bool(self.server["active"])

    @property
    def usual_bandwidth_mib(self) -> int:
        """Returns how many MiB a second a merge without a limit of its own may copy; 0: no limit."""
        return int(self.server.get("merge_bandwidth_mib") or 0) if self.server and self.running else 0

    @property
    def stopped(self) -> bool:
        return self.server is not None and not self.server["active"]


def hand_for(world: WorkerContext, volume: Row, bandwidth_mib: int = 0) -> Hand:
    """Raises Conflict for a volume in a status in which its files must be left alone, or whose server has another file;
    FileInUse for one that a file of another name is based on."""
    file_users.refuse_foreign_readers(world, world.share(volume), volume["id"])
    if volume["status"] == "available":
        return Hand()
    if volume["status"] != "in-use":
        raise Conflict(f"volume {volume['id']} is {volume['status']}; wait until it is available or in-use")
    server = world.compute.server_of(volume["id"])
    if server is None:
        raise Conflict(f"volume {volume['id']} is in-use, but no server on compute's host has it; detach it first")
    if server["file"] != volume["active_file"]:
        raise Conflict(
            f"server {server['id']} has {server['file']} for volume {volume['id']}, block storage records"
            f" {volume['active_file']}: somebody else changed its chain. Nothing is merged until both agree; see"
            " 'stillframe doctor'"
        )
    if server.get("refusal"):
        raise Conflict(server["refusal"], server_state=server["state"])
    return Hand(server, bandwidth_mib)


def documents(volume: Row, before: Tree, steps: Sequence[Step], hand: Hand) -> list[Document]:
    """Returns the plan as the journal stores it, for the executor that carries it out."""
    plain = to_documents(steps)
    if hand.server is None:
        return [step("check_unused"), *plain]
    if hand.stopped:
        return [step("check_stopped"), *_with_definition(volume, plain)]
    open_ = {image.name for image in before.path(before.active).images}
    return [_live(each, open_, hand) for each in plain]


def _with_definition(volume: Row, plain: Sequence[Document]) -> list[Document]:
    """The server's definition names the new active file before that is recorded, and the new name before the active file is
    renamed: if somebody else starts the server nevertheless, it finds no file, and none is renamed while it is open."""
    found: list[Document] = []
    active, committed = volume["active_file"], None

    def switch(name: str, format_: str, **more: Any) -> None:
        key = f"SwitchFile-{sum(each['verb'] == 'SwitchFile' for each in found) + 1}"
        found.append({"verb": "SwitchFile", "key": key, "args": {"key": key, "name": name, "format": format_, **more}})

    for each in plain:
        args = each["args"]
        if each["verb"] == "Rename" and args["name"] == active:
            active = args["to"]
            switch(active, "qcow2", to_come=True)
        elif each["verb"] == "Record" and args["active"] != active:
            active = args["active"]
            raw = active == names.base_name(volume["id"]) and volume["base_format"] == "raw"
            switch(active, "raw" if raw else "qcow2", committed=committed)
        elif each["verb"] == "Commit" and args["top"] == active:
            committed = each["key"]
        found.append(each)
    return found


def _live(each: Document, open_: set[str], hand: Hand) -> Document:
    """Tells whether compute must carry out the step: a commit or a pull of files that the guest has open."""
    args = each["args"]
    if each["verb"] == "Commit" and args["top"] in open_:
        info = {"file_to_merge": args["top"], "merge_target_file": args["base"]}
    elif each["verb"] == "Pull" and args["name"] in open_:
        info = {"file_to_merge": args["backing"], "merge_target_file": None}
    else:
        return each
    key = f"MergeLive-{each['key']}"
    live = {"key": key, "bytes": args["bytes"], "bandwidth_mib": hand.bandwidth_mib, "info": info}
    return {"verb": "MergeLive", "key": key, "args": live}
