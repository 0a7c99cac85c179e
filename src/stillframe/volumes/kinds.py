"""Block storage's operations by the names of their kinds, and what each touches."""

from collections.abc import Mapping

from stillframe.journal.about import about
from stillframe.journal.operation import Kind, Operation
from stillframe.volumes.operations import adopted_volumes, backups, chain_metadata, group_snapshots, images, snapshots, volumes

KINDS: Mapping[str, Kind] = {
    "create_volume": volumes.CREATE,
    "copy_volume": volumes.COPY,
    "link_volume": volumes.LINK,
    "delete_volume": volumes.DELETE,
    "extend_volume": volumes.EXTEND,
    "manage_volume": volumes.MANAGE,
    "unmanage_volume": volumes.UNMANAGE,
    "release_volume": adopted_volumes.RELEASE,
    "create_snapshot": snapshots.CREATE,
    "create_group_snapshot": group_snapshots.CREATE,
    "delete_snapshot": snapshots.DELETE,
    "revert_volume": snapshots.REVERT,
    "undo_revert": snapshots.UNDO,
    "release_files": snapshots.RELEASE,
    "image_to_volume": images.IMPORT,
    "volume_to_image": images.UPLOAD,
    "create_backup": backups.CREATE,
    "restore_backup": backups.RESTORE,
    "delete_backup": backups.DELETE,
    "record_chain": chain_metadata.KIND,
}


def places(operation: Operation) -> tuple[str, ...]:
    """What an operation touches, and may hang at, within the lane of its share."""
    if isinstance(operation.intent, group_snapshots.CreateGroupSnapshot):
        return tuple(f"volume {member.volume_id}" for member in operation.intent.members)
    volume_id = about(operation.intent).volume_id
    return (f"volume {volume_id}",) if volume_id else ()
