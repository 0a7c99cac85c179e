"""The steps for a volume that a target gives out while it is attached: the target follows another active file, the target and
the server learn of another size."""

from collections.abc import Mapping
from typing import Any

from stillframe.errors import Busy, Conflict
from stillframe.journal.operation import Document, NotYet, Operation, Verb
from stillframe.journal.typed import Args
from stillframe.volumes.operations.executors.intents import OnVolume
from stillframe.volumes.operations.executors.offline import GrowFile, never
from stillframe.volumes.worker import exports
from stillframe.volumes.worker.context import WorkerContext

BUSY_LOOK_SECONDS = 1.0


class GrowExport(GrowFile, frozen=True, kw_only=True):
    """Let the target give out the file with its new size."""

    verb = "grow_export"


class TellServer(GrowFile, frozen=True, kw_only=True):
    """Let the server's guest see the new size."""

    verb = "tell_server"


class CheckNoSet(Args, frozen=True, kw_only=True):
    """Check that the volume is not being taken into a set of its server."""

    verb = "check_no_set"


class HoldBack(Args, frozen=True, kw_only=True):
    """Give the volume out to nobody, which takes that nobody is connected."""

    verb = "hold_back"


class GiveOut(Args, frozen=True, kw_only=True):
    """Give the volume out again, with ``name`` as its active file."""

    verb = "give_out"
    name: str


def refuse_if_in_set(worker: WorkerContext, volume_id: str) -> None:
    """Raises Busy while compute takes the volume into a set: it stands still for its snapshot, and what its guest writes lies
    in a scratch overlay of this size. Raises ServiceUnavailable when that is not known."""
    server = worker.compute.server_of(volume_id)
    if server is not None and server.get("set_id"):
        raise Busy(
            f"volume {volume_id} is being taken into assisted snapshot {server['set_id']} of server {server['id']}; repeat the"
            " request when that has ended",
            set_id=server["set_id"],
        )


def refuse_if_open(worker: WorkerContext, volume_id: str) -> None:
    """Raises Conflict when somebody is connected to the volume, or when its server runs or has saved memory that belongs to the
    volume's content. Raises TargetUnavailable, ServiceUnavailable when that is not known."""
    connected = exports.sessions(worker, volume_id)
    server = worker.compute.server_of(volume_id)
    if server is not None and server["active"]:
        connected = (*connected, f"server {server['id']}, which runs")
    if connected:
        raise Conflict(
            f"volume {volume_id} is open: {', '.join(connected)}. Stop the server (openstack server stop) and repeat: a stopped"
            " server's volume is reverted where it is"
        )
    if server is not None and server.get("refusal"):
        raise Conflict(server["refusal"], server_state=server["state"])


def _hold_back(worker: WorkerContext, operation: Operation[OnVolume], _args: HoldBack) -> Document:
    """From here on nobody can connect, and the daemon has no file of the volume open."""
    refuse_if_in_set(worker, operation.intent.volume_id)
    refuse_if_open(worker, operation.intent.volume_id)
    exports.hold_back(worker, operation.intent.volume_id)
    return {}


def _check_no_set(worker: WorkerContext, operation: Operation[OnVolume], _args: CheckNoSet) -> Document:
    """The row says what is under way by now. A set looks at that before its switch, after it took its server: of the two that
    begin at one time, at least one sees the other."""
    refuse_if_in_set(worker, operation.intent.volume_id)
    return {}


def _give_again(worker: WorkerContext, operation: Operation[OnVolume], _args: HoldBack) -> None:
    exports.settle(worker, operation.intent.volume_id)


def _give(worker: WorkerContext, operation: Operation[OnVolume], args: GiveOut) -> Document:
    """The rows name the new file only when the operation has ended."""
    exports.settle(worker, operation.intent.volume_id, args.name)
    return {}


def _grow_export(worker: WorkerContext, operation: Operation[OnVolume], _args: GrowExport) -> Document:
    exports.settle(worker, operation.intent.volume_id)
    return {}


def _tell_server(worker: WorkerContext, operation: Operation[OnVolume], args: TellServer) -> Document:
    """A hypervisor that is not one of compute's finds the new size when it looks at the disk again."""
    volume_id = operation.intent.volume_id
    server = worker.compute.server_of(volume_id)
    if server is not None and server["active"]:
        try:
            worker.compute.resize(volume_id, args.size)
        except Busy as error:  # whatever the server is busy with ends, and nothing else can be done for the guest
            raise NotYet(BUSY_LOOK_SECONDS, why=error) from error
    return {}


# The file has grown by then, so there is nothing to put back: both only tell of it, and may do so again.
GROW: Mapping[str, Verb[OnVolume, Any]] = {
    "check_no_set": Verb(never, _check_no_set, args=CheckNoSet),
    "grow_export": Verb(never, _grow_export, no_return="start", args=GrowExport),
    "tell_server": Verb(never, _tell_server, no_return="start", args=TellServer),
}
# Around what makes another file active.
FOLLOW: Mapping[str, Verb[OnVolume, Any]] = {
    "hold_back": Verb(never, _hold_back, _give_again, args=HoldBack),
    "give_out": Verb(never, _give, no_return="start", args=GiveOut),
}
