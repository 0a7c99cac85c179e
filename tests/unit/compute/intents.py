"""What is asked of operations, for tests that need one of each; every function takes what is to be different."""

from typing import Any

from msgspec.structs import replace

from stillframe.compute.operations.merge_intents import CommitMerge, PullMerge
from stillframe.compute.operations.snapshot_intents import AssistedSnapshot, SnapshotDisk
from tests.unit.builders import GIB, SERVER, SET, SNAPSHOT, VOLUME

ABOUT: dict[str, Any] = {
    "server_id": SERVER,
    "project_id": "demo",
    "volume_id": VOLUME,
    "snapshot_id": SNAPSHOT,
    "target": "vda",
    "directory": "/",
    "active": "c",
    "bandwidth": 0,
}


def pull(**changes: Any) -> PullMerge:
    """b out of a <- b <- c."""
    files: dict[str, Any] = {"backing": "a", "backing_format": "qcow2", "old_backing": "b", "old_format": "qcow2"}
    return replace(PullMerge(**ABOUT, **files, gone=("b",), closes=(("b", "qcow2"),)), **changes)


def commit(**changes: Any) -> CommitMerge:
    """b into a, below c."""
    files: dict[str, Any] = {"top": "b", "base": "a", "base_format": "qcow2", "above": "c"}
    return replace(CommitMerge(**ABOUT, **files, gone=("b",), closes=(("b", "qcow2"),)), **changes)


def disk(**changes: Any) -> SnapshotDisk:
    """The volume's base is the active file."""
    made = SnapshotDisk(
        volume_id=VOLUME,
        snapshot_id=SNAPSHOT,
        target="vda",
        directory="/",
        active=f"volume-{VOLUME}",
        overlay=f"volume-{VOLUME}.{SNAPSHOT}",
        size=GIB,
    )
    return replace(made, **changes)


def assisted_snapshot(**changes: Any) -> AssistedSnapshot:
    """Of a running server with one volume."""
    return replace(
        AssistedSnapshot(set_id=SET, server_id=SERVER, active=True, quiesce="preferred", disks=(disk(),)),
        **changes,
    )
