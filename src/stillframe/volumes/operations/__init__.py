"""Block storage's operations, one file per noun, and the table of their kinds."""

from collections.abc import Mapping

from stillframe.journal.operation import Kind
from stillframe.volumes.operations import chain_record, snapshots, volumes

KINDS: Mapping[str, Kind] = {
    "create_volume": volumes.CREATE,
    "delete_volume": volumes.DELETE,
    "create_snapshot": snapshots.CREATE,
    "delete_snapshot": snapshots.DELETE,
    "record_chain": chain_record.KIND,
}
