"""Every place an operation can be stopped at, made from the plans themselves: a new step brings its own tests."""

from collections.abc import Iterator
from dataclasses import dataclass

from stillframe.chain import plan
from stillframe.chain.image import Chain, Image
from stillframe.chain.names import base_name, overlay_name
from stillframe.compute import operations as compute_operations
from stillframe.compute.operations import assisted_snapshot, assisted_volume_snapshot, delete_set
from stillframe.compute.operations import volumes as attachments
from stillframe.journal.failpoints import PHASES, UNDO_PHASES
from stillframe.journal.record import Request
from stillframe.volumes import operations as volumes_operations
from stillframe.volumes.operations import chain_record, snapshots, volumes

VOLUME, SNAPSHOT, SERVER = (f"{number}" * 8 + "-0000-4000-8000-000000000000" for number in (1, 2, 3))
KINDS = {**volumes_operations.KINDS, **compute_operations.KINDS}


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
    row = {"id": SNAPSHOT, "volume_id": VOLUME, "active": base.name}
    making = plan.snapshot(Chain(VOLUME, (base,)), SNAPSHOT, 64)
    deleting = plan.delete_newest(Chain(VOLUME, (base, overlay)), overlay.name, 0)
    server = {"server_id": SERVER, "volume_id": VOLUME, "target": "vda", "set_id": SNAPSHOT, "disks": []}
    return {
        "create_volume": volumes.create_request(VOLUME, 1 << 30, "r"),
        "delete_volume": volumes.delete_request(VOLUME, "r"),
        "create_snapshot": snapshots.request("create_snapshot", row, making, "r"),
        "delete_snapshot": snapshots.request("delete_snapshot", row, deleting, "r"),
        "record_chain": chain_record.request(VOLUME, "r"),
        "attach_volume": attachments.request("attach_volume", server, "r"),
        "detach_volume": attachments.request("detach_volume", server, "r"),
        "assisted_snapshot": assisted_snapshot.request(server, "r"),
        "assisted_volume_snapshot": assisted_volume_snapshot.request(server, "r"),
        "delete_assisted_snapshot": delete_set.request(SNAPSHOT, SERVER, [SNAPSHOT], "r"),
    }


def places(kind: str) -> Iterator[Place]:
    """Yields every place of a kind: going forward, and going back from the last step that can be taken back."""
    verbs = [step["verb"] for step in _requests()[kind].plan]
    for verb in verbs:
        for phase in PHASES:
            yield Place(kind, f"{kind}/{verb}/{phase}", back=False)
    known = KINDS[kind].verbs
    end = next((n for n, verb in enumerate(verbs) if known[verb].no_return != "never"), len(verbs) - 1)
    cause = f"{kind}/{verbs[end]}/before:fail"
    for verb in reversed(verbs[: end + 1]):
        if known[verb].undo is not None:
            for phase in UNDO_PHASES:
                yield Place(kind, f"{cause},{kind}/{verb}/{phase}", back=True)


def all_kinds_have_a_sample() -> bool:
    return set(_requests()) == set(KINDS)
