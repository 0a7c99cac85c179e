"""What sets leave of native volumes when they end otherwise than they should: scratch overlays, and snapshots. Pure."""

from collections.abc import Iterator

from stillframe.labels import SET
from stillframe.volumes.recovery.doctor.findings import Finding
from stillframe.volumes.recovery.doctor.seen import ScratchSeen, WorkerContext


def judge(worker: WorkerContext) -> Iterator[Finding]:
    """Yields scratch overlays that no operation has any more, and native snapshots that no set has."""
    for each in worker.guests.scratch:
        if each.left.set_id not in worker.known.busy | worker.known.parked | worker.unsettled:
            yield from _overlay(worker, each)
    yield from _snapshots(worker)


def _overlay(worker: WorkerContext, seen: ScratchSeen) -> Iterator[Finding]:
    left, facts = seen.left, {"scratch": seen}
    users = list(_users(worker, seen))
    for server_id, what in users:
        says = f"{what} is still on the scratch overlay {seen.path}, and the set {left.set_id} it was made for is over"
        yield Finding("scratch_in_use", says, None, left.volume_id, file=left.name, server_id=server_id, facts=facts)
    if not users:
        holds = f"it holds {left.length} bytes, which a guest wrote" if left.holds_data else "nothing was written to it"
        opened = f"; {left.programs[0]} has it open" if left.programs else ""
        says = (
            f"the scratch overlay {seen.path} of volume {left.volume_id} is left of set {left.set_id}, which is over; {holds}"
        )
        yield Finding("scratch_left", f"{says}{opened}", None, left.volume_id, file=left.name, facts=facts)


def _users(worker: WorkerContext, seen: ScratchSeen) -> Iterator[tuple[str, str]]:
    """Yields the servers that have it, each with its disk in words."""
    for server in worker.guests.servers:
        described = (*server.disks, *(server.inactive or ()), *(server.saved or ()))
        targets = sorted({disk.target for disk in described if disk.path == str(seen.path)})
        if targets:
            state = "running" if server.running else "saved" if server.saved is not None else "not running"
            yield server.id, f"disk {targets[0]} of server {server.id} ({server.name}, {state}), volume {seen.left.volume_id},"


def _snapshots(worker: WorkerContext) -> Iterator[Finding]:
    """A label is metadata, which a user may change; so this is told and never acted upon."""
    for volume_id, known in worker.known.volumes.items():
        for row in known.snapshots:
            set_id = (row["metadata"] or {}).get(SET)
            ids = {set_id, volume_id, row["id"]}
            if set_id is None or ids & (worker.known.busy | worker.known.parked | worker.unsettled):
                continue
            members = worker.known.taken.get(set_id)
            if members is None or row["id"] not in members:
                why = "does not list it" if members is not None else "does not exist"
                what = f"snapshot {row['id']} of volume {volume_id} was taken for set {set_id}, which {why}"
                yield Finding("snapshot_of_no_set", what, known.row["share"], volume_id, row["id"])
