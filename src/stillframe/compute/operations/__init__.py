"""Compute's operations, one file per noun, and the table of their kinds."""

from collections.abc import Mapping

from stillframe.compute.operations import assisted_snapshot, assisted_volume_snapshot, await_server, delete_set, merge, volumes
from stillframe.journal.operation import Kind

KINDS: Mapping[str, Kind] = {
    "attach_volume": volumes.ATTACH,
    "detach_volume": volumes.DETACH,
    "assisted_snapshot": assisted_snapshot.KIND,
    "await_server": await_server.KIND,
    "assisted_volume_snapshot": assisted_volume_snapshot.KIND,
    "merge_volume": merge.KIND,
    "delete_assisted_snapshot": delete_set.KIND,
}
