"""Every place an operation can be stopped at, made from the plans themselves: a new step brings its own tests."""

from collections.abc import Iterator
from dataclasses import dataclass

from stillframe.chain import plan
from stillframe.chain.image import Image
from stillframe.chain.names import base_name, overlay_name
from stillframe.chain.tree import Tree
from stillframe.compute import operations as compute_operations
from stillframe.compute.operations import assisted_snapshot, assisted_volume_snapshot, delete_set
from stillframe.compute.operations import volumes as attachments
from stillframe.journal.failpoints import PHASES, UNDO_PHASES
from stillframe.journal.operation import key
from stillframe.journal.record import Request
from stillframe.volumes import operations as volumes_operations
from stillframe.volumes.operations import chain_record, snapshots, volumes
from stillframe.volumes.operations.hands import Hand

VOLUME, SNAPSHOT, SERVER = (f"{number}" * 8 + "-0000-4000-8000-000000000000" for number in (1, 2, 3))
KINDS = {**volumes_operations.KINDS, **compute_operations.KINDS}
# Stopped at every moment over a share in memory (tests/unit/volumes/test_every_moment), or with a guest (test_merges).
ELSEWHERE = {
    "undo_revert",
    "let_go",
    "link_volume",
    "manage_volume",
    "unmanage_volume",
    "image_to_volume",
    "volume_to_image",
    "create_backup",
    "restore_backup",
    "delete_backup",
    "merge_volume",
}


@dataclass(frozen=True)
class Place:
    """One place of one kind of operation; ``failpoint`` is what the environment must say."""

    kind: str
    failpoint: str
    back: bool

    def __str__(self) -> str:
        return self.failpoint.rpartition(",")[2]


def _requests() -> dict[str, Request]:
    """One sample of every kind, from the functions the product plans with."""
    base = Image(base_name(VOLUME), "qcow2", 1 << 30)
    overlay = Image(overlay_name(VOLUME, SNAPSHOT), "qcow2", 1 << 30, base.name, "qcow2")
    row = {"id": VOLUME, "backend": "local", "share": "/", "format": "qcow2", "active_file": base.name, "status": "available"}
    row["base_format"] = "qcow2"
    alone = Tree(VOLUME, {base.name: base}, base.name)
    two = Tree(VOLUME, {base.name: base, overlay.name: overlay}, overlay.name, {SNAPSHOT: base.name})
    deeper = {**row, "active_file": overlay.name}
    making = plan.snapshot(alone, SNAPSHOT, 64)
    down = plan.delete(two, [SNAPSHOT], lambda _name: (0, 9))
    up = plan.delete(two, [SNAPSHOT], lambda _name: (9, 0))
    reverting = plan.revert(two, SNAPSHOT, overlay_name(VOLUME, SERVER), [], lambda _name: ())
    options = {"snapshot_ids": [SNAPSHOT], "request_id": "r"}
    server = {"server_id": SERVER, "volume_id": VOLUME, "target": "vda", "set_id": SNAPSHOT, "disks": []}
    source = {"volume_id": SERVER, "name": base_name(SERVER), "format": "qcow2", "exclusive": True}
    return {
        "create_volume": volumes.create_request(row, 1 << 30, "r"),
        "copy_volume": volumes.copy_request(row, 1 << 30, source, "r"),
        "delete_volume": volumes.delete_request(row, "r"),
        "extend_volume": volumes.extend_request(row, 2, "r"),
        "create_snapshot": snapshots.create_request(row, SNAPSHOT, alone, making, "r"),
        "delete_snapshot": snapshots.change_request("delete_snapshot", deeper, (two, down, Hand()), options),
        "delete_snapshot up": snapshots.change_request("delete_snapshot", deeper, (two, up, Hand()), options),
        "revert_volume": snapshots.change_request("revert_volume", deeper, (two, reverting, Hand()), options),
        "record_chain": chain_record.request(VOLUME, "r"),
        "attach_volume": attachments.request("attach_volume", server, "r"),
        "detach_volume": attachments.request("detach_volume", server, "r"),
        "assisted_snapshot": assisted_snapshot.request(server, "r"),
        "assisted_volume_snapshot": assisted_volume_snapshot.request(server, "r"),
        "delete_assisted_snapshot": delete_set.request(SNAPSHOT, SERVER, [SNAPSHOT], "r"),
    }


def places(sample: str) -> Iterator[Place]:
    """Yields every place of a kind: going forward, and going back from the last step that can be taken back.

    A sample is a kind, or a kind and a word where its plans differ."""
    kind = sample.split()[0]
    plan_, known = _requests()[sample].plan, KINDS[kind].verbs
    for step in plan_:
        for phase in PHASES:
            yield Place(kind, f"{kind}/{key(step)}/{phase}", back=False)
    end = next((n for n, step in enumerate(plan_) if known[step["verb"]].no_return != "never"), len(plan_) - 1)
    cause = f"{kind}/{key(plan_[end])}/before:fail"
    for step in reversed(plan_[: end + 1]):
        if known[step["verb"]].undo is not None:
            for phase in UNDO_PHASES:
                yield Place(kind, f"{cause},{kind}/{key(step)}/{phase}", back=True)


def all_kinds_have_a_sample() -> bool:
    return {sample.split()[0] for sample in _requests()} | ELSEWHERE == set(KINDS)
