"""What is said of a set and of each of its disks: never more than is known (I10)."""

import json

import pytest

from stillframe.compute.quiesce.filesystems import NO_FILESYSTEM, Disk, Filesystem, Layout
from stillframe.compute.quiesce.outcome import Outcome, crash_only
from stillframe.volumes.api import snapshots
from stillframe.web import body

FINALIZE = next(route.newest_schema or {} for route in snapshots.ROUTES if route.action == "os-finalize_snapshot_metadata")
EXT4, VFAT = "ext4 filesystem /", "vfat filesystem /boot/efi"
WHOLE = Disk((EXT4,))
EFI = Disk((), (VFAT,), f"the {VFAT} on this disk cannot be frozen")
EMPTY = Disk((), (), NO_FILESYSTEM)


def test_a_disk_without_a_filesystem_is_never_called_more_than_crash_consistent() -> None:
    outcome = Outcome(100.0, 1, None, True, {"vda": WHOLE, "vdb": EMPTY})
    assert outcome.for_target("vda") == {
        "level": "filesystem",
        "frozen_ms": 100.0,
        "filesystems": 1,
        "degraded_reason": None,
        "flushed": True,
        "frozen": [EXT4],
        "not_frozen": [],
    }
    own = outcome.for_target("vdb")
    assert (own["level"], own["filesystems"], own["degraded_reason"]) == ("crash", 0, NO_FILESYSTEM)
    assert (outcome.level, outcome.degraded_reason) == ("filesystem", None)


def test_a_disk_that_holds_what_was_not_frozen_says_so_and_the_others_are_no_worse() -> None:
    outcome = Outcome(100.0, 1, None, True, {"vda": WHOLE, "vdb": EFI})
    assert outcome.for_target("vda")["level"] == "filesystem"
    own = outcome.for_target("vdb")
    assert (own["level"], own["degraded_reason"], own["not_frozen"]) == ("crash", EFI.reason, [VFAT])
    document = outcome.document()
    assert (document["level"], document["degraded_reason"]) == ("crash", f"the {VFAT} on vdb cannot be frozen")
    assert (document["frozen"], document["not_frozen"]) == ([EXT4], [VFAT])


def test_a_failure_of_the_whole_gives_each_disk_its_reason_and_claims_nothing_frozen() -> None:
    outcome = Outcome(100.0, 1, "why", True, {"vda": WHOLE, "vdb": EMPTY})
    for target in ("vda", "vdb", "vdz"):
        own = outcome.for_target(target)
        assert (own["level"], own["degraded_reason"], own["frozen"]) == ("crash", "why", [])
    assert crash_only("why") == Outcome(None, 0, "why", False)
    assert crash_only("why").for_target("vda")["frozen_ms"] is None


def test_expediting_is_told_of_the_set_and_not_of_each_disk() -> None:
    outcome = Outcome(100.0, 3, None, True, {"vda": WHOLE}, expedited=True)
    assert outcome.document()["expedited"] is True
    assert "expedited" not in outcome.for_target("vda")


FACE = "\N{GRINNING FACE}"


@pytest.mark.parametrize("failure", [None, "x" * 200_000, "\u202e[" * 5_000, FACE * 5_000])
def test_whatever_a_guest_says_block_storage_takes_the_outcome(failure: str | None) -> None:
    """It is sent after the switch: refused then, the operation would wait for a person, and the server with it."""
    mounted = tuple(
        Filesystem((f"/{FACE * 200}{number}",), "vfat" if number % 2 else "ext4", ("vda",)) for number in range(200)
    )
    layout = Layout(("vda",), mounted)
    outcome = Outcome(1.0, 100, failure, True, layout.judged(layout.left))
    sent = {"os-finalize_snapshot_metadata": {"status": "available", "consistency": outcome.for_target("vda")}}
    raw = json.dumps(sent).encode()
    body.check(body.parse(raw), FINALIZE)
    assert outcome.for_target("vda")["frozen"] or failure
    assert len(json.dumps(outcome.document())) < 1 << 16
