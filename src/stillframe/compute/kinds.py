"""Compute's operations by the names of their kinds, and what each touches."""

from collections.abc import Mapping

from stillframe.compute.operations import assisted_snapshots as assisted_snapshot_operations
from stillframe.compute.operations import assisted_volume_snapshots, attachments, delete_set, merge
from stillframe.compute.requests import queue
from stillframe.journal.operation import Kind, Operation

KINDS: Mapping[str, Kind] = {
    "attach_volume": attachments.ATTACH,
    "detach_volume": attachments.DETACH,
    "assisted_snapshot": assisted_snapshot_operations.KIND,
    "await_server": queue.KIND,
    "assisted_volume_snapshot": assisted_volume_snapshots.KIND,
    "merge_volume": merge.KIND,
    "delete_assisted_snapshot": delete_set.KIND,
}


def places(operation: Operation) -> tuple[str, ...]:
    """What an operation touches, and may hang at: the server, its volumes, and the shares they lie on."""
    intent = operation.intent
    each = [intent, *intent.get("disks", ())]
    named = {"server": "server_id", "volume": "volume_id", "share": "directory"}
    return tuple(sorted({f"{what} {one[key]}" for one in each for what, key in named.items() if one.get(key)}))
