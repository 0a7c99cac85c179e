"""One plan, three executors: offline when nothing is attached; for a stopped server also offline, and its definition follows;
for a running server through compute, which merges live."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stillframe.chain import names
from stillframe.chain.steps import Commit, Pull, Record, Rename, Repoint
from stillframe.chain.steps import Step as ChainStep
from stillframe.chain.tree import Tree
from stillframe.db.rows import VolumeRow
from stillframe.errors import Conflict
from stillframe.journal.typed import Step, numbered, step
from stillframe.volumes.operations.executors.exported import GiveOut, HoldBack
from stillframe.volumes.operations.executors.live import MergedFiles, MergeLive, SwitchFile
from stillframe.volumes.operations.executors.offline import CheckStopped, CheckUnused
from stillframe.volumes.worker import file_users
from stillframe.volumes.worker.context import WorkerContext


@dataclass(frozen=True)
class Executor:
    """``server`` is what ``ComputeClient.server_of`` returns of the server that has the volume; None when nothing is attached.
    ``bandwidth_mib`` is what the request asks for. ``exported``: a target gives the volume out, to a server that need not be
    one of ours; its files stand alone, so what lies beside the active one does not concern who is connected."""

    server: dict[str, Any] | None = None
    bandwidth_mib: int = 0
    exported: bool = False

    @property
    def running(self) -> bool:
        """Whether the active file must stay what and where it is."""
        return self.exported or (self.server is not None and bool(self.server["active"]))

    @property
    def usual_bandwidth_mib(self) -> int:
        """Returns how many MiB a second a merge without a limit of its own may copy; 0: no limit."""
        return int(self.server.get("merge_bandwidth_mib") or 0) if self.server and self.running else 0

    @property
    def stopped(self) -> bool:
        return self.server is not None and not self.server["active"]


def executor_for(worker: WorkerContext, volume: VolumeRow, bandwidth_mib: int = 0) -> Executor:
    """Raises Conflict for a volume in a status in which its files must be left alone, or whose server has another file;
    FileInUse for one that a file of another name is based on."""
    share = worker.share(volume)
    file_users.refuse_foreign_readers(worker, share, volume["id"])
    if volume["status"] == "available":
        return Executor()
    if volume["status"] == "in-use" and share.capabilities.exported:
        return Executor(exported=True)
    if volume["status"] != "in-use":
        raise Conflict(f"volume {volume['id']} is {volume['status']}; wait until it is available or in-use")
    server = worker.compute.server_of(volume["id"])
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
    return Executor(server, bandwidth_mib)


def plan_for(volume: VolumeRow, before: Tree, steps: Sequence[ChainStep], executor: Executor) -> list[Step]:
    """Returns the plan for the executor that carries it out."""
    plain = numbered(steps)
    if executor.exported:
        return _with_export(volume, plain)
    if executor.server is None:
        return [step(CheckUnused()), *plain]
    if executor.stopped:
        return [step(CheckStopped()), *_with_definition(volume, plain)]
    open_ = {image.name for image in before.path(before.active).images}
    return [_live(each, open_, executor, _branches(plain[place + 1 :], open_)) for place, each in enumerate(plain)]


def _with_export(volume: VolumeRow, plain: Sequence[Step]) -> list[Step]:
    """What lies beside the active file concerns nobody who is connected; another active file needs another target."""
    active = [each.args.active for each in plain if isinstance(each.args, Record)]
    if not active or active[-1] == volume["active_file"]:
        return list(plain)
    return [step(HoldBack()), *plain, step(GiveOut(name=active[-1]))]


def _with_definition(volume: VolumeRow, plain: Sequence[Step]) -> list[Step]:
    """The server's definition names the new active file before that is recorded, and the new name before the active file is
    renamed: if somebody else starts the server nevertheless, it finds no file, and none is renamed while it is open."""
    found: list[Step] = []
    active, committed = volume["active_file"], None

    def switch(args: SwitchFile) -> None:
        number = 1 + sum(isinstance(each.args, SwitchFile) for each in found)
        found.append(step(args, f"SwitchFile-{number}"))

    for each in plain:
        args = each.args
        if isinstance(args, Rename) and args.name == active:
            active = args.to
            switch(SwitchFile(name=active, format="qcow2", to_come=True))
        elif isinstance(args, Record) and args.active != active:
            active = args.active
            raw = active == names.base_name(volume["id"], volume["base_file"]) and volume["base_format"] == "raw"
            switch(SwitchFile(name=active, format="raw" if raw else "qcow2", committed=committed))
        elif isinstance(args, Commit) and args.top == active:
            committed = each.key
        found.append(each)
    return found


def _branches(rest: Sequence[Step], open_: set[str]) -> tuple[str, ...]:
    """Returns the files beside the guest's chain that the steps right after a commit point at its base."""
    repointed = itertools.takewhile(lambda each: isinstance(each.args, Repoint), rest)
    return tuple(each.args.name for each in repointed if isinstance(each.args, Repoint) and each.args.name not in open_)


def _live(each: Step, open_: set[str], executor: Executor, branches: tuple[str, ...]) -> Step:
    """Tells whether compute must carry out the step: a commit or a pull of files that the guest has open."""
    args = each.args
    if isinstance(args, Commit) and args.top in open_:
        files = MergedFiles(file_to_merge=args.top, merge_target_file=args.base, branches=branches)
    elif isinstance(args, Pull) and args.name in open_:
        files = MergedFiles(file_to_merge=args.backing, merge_target_file=None)
    else:
        return each
    live = MergeLive(bytes=args.bytes, bandwidth_mib=executor.bandwidth_mib, info=files)
    return step(live, f"MergeLive-{each.key}")
