"""Compute's operations, one file per noun, and the table of their kinds."""

from collections.abc import Mapping

from stillframe.compute.operations import assisted_snapshot, assisted_volume_snapshot, await_server, delete_set, merge, volumes
from stillframe.journal.operation import Kind, Operation

KINDS: Mapping[str, Kind] = {
    "attach_volume": volumes.ATTACH,
    "detach_volume": volumes.DETACH,
    "assisted_snapshot": assisted_snapshot.KIND,
    "await_server": await_server.KIND,
    "assisted_volume_snapshot": assisted_volume_snapshot.KIND,
    "merge_volume": merge.KIND,
    "delete_assisted_snapshot": delete_set.KIND,
}


def places(operation: Operation) -> tuple[str, ...]:
    """What an operation touches, and may hang at: the server, its volumes, and the shares they lie on."""
    intent = operation.intent
    each = [intent, *intent.get("disks", ())]
    named = {"server": "server_id", "volume": "volume_id", "share": "directory"}
    return tuple(sorted({f"{what} {one[key]}" for one in each for what, key in named.items() if one.get(key)}))
