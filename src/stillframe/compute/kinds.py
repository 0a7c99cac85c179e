"""Compute's operations by the names of their kinds, and what each touches."""

from collections.abc import Mapping, Sequence

from stillframe.compute.operations import adopted_disks, assisted_volume_snapshots, attachments, delete_set, merge
from stillframe.compute.operations import assisted_snapshots as assisted_snapshot_operations
from stillframe.compute.requests import queue
from stillframe.journal.about import About, Disk, about
from stillframe.journal.operation import Kind, Operation

KINDS: Mapping[str, Kind] = {
    **attachments.KINDS,
    "assisted_snapshot": assisted_snapshot_operations.KIND,
    "adopt_disks": adopted_disks.ADOPT,
    "release_disks": adopted_disks.RELEASE,
    "await_server": queue.KIND,
    "assisted_volume_snapshot": assisted_volume_snapshots.KIND,
    "merge_volume": merge.KIND,
    "delete_assisted_snapshot": delete_set.KIND,
}


def places(operation: Operation) -> tuple[str, ...]:
    """What an operation touches, and may hang at: the server, its volumes, and the shares they lie on."""
    known = about(operation.intent)
    each: Sequence[About | Disk] = (known, *known.disks, *known.natives)
    named = {("server", known.server_id)}
    named |= {place for one in each for place in (("volume", one.volume_id), ("share", one.directory))}
    return tuple(sorted(f"{what} {name}" for what, name in named if name))
