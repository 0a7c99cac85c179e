"""Plans in words: the method, the direction and its reason, the bytes and about how long."""

from dataclasses import replace
from typing import Any

import pytest

from stillframe.chain import plan
from stillframe.chain.image import Image
from stillframe.chain.tree import with_image
from stillframe.errors import Conflict
from stillframe.volumes.chain import explain as chain_explain
from tests.unit.builders import GIB, OTHER_VOLUME
from tests.unit.chain.test_merge import IDS, NAMES, chain

MIB = 1 << 20
LITTLE, MUCH = 10 * MIB, 300 * MIB


def explained(held: list[int], gone: int, running: bool, limit_mib: int = 0) -> dict[str, Any]:
    """``held`` are the bytes of each file, the lowest first; every file but the last holds a snapshot, ``gone`` goes."""
    tree = chain(len(held), *range(len(held) - 1))

    def visible(name: str) -> list[int]:
        return held[NAMES.index(name) :: -1]

    planned = plan.delete(tree, [IDS[gone]], visible, running)
    return chain_explain.document(tree, planned, [IDS[gone]], running, limit_mib)


@pytest.mark.parametrize(
    ("held", "gone", "running", "method", "copied", "words"),
    [
        ([MUCH, LITTLE], 0, True, "active commit and pivot", LITTLE, "what lies above it holds no more"),
        ([LITTLE, MUCH], 0, True, "block pull", LITTLE, "holds less than the file above it, so its content goes up"),
        ([LITTLE, MUCH, LITTLE], 0, True, "block commit", MUCH, "libvirt pulls into the active file only, so this goes down"),
        ([LITTLE, MUCH, LITTLE], 0, False, "offline pull", LITTLE, "its content goes up"),
        ([MUCH, LITTLE], 0, False, "offline commit", LITTLE, "goes down into"),
    ],
)
def test_the_direction_is_told_with_its_reason(
    held: list[int], gone: int, running: bool, method: str, copied: int, words: str
) -> None:
    found = explained(held, gone, running)
    assert (found["possible"], found["method"], found["bytes"]) == (True, method, copied)
    assert words in found["why"] and f"{copied} bytes are copied" in found["why"]


def test_every_file_that_goes_somewhere_is_named() -> None:
    found = explained([LITTLE, MUCH], 0, True)["steps"]
    assert found[0] == {"step": "pull", "file": NAMES[0], "into": NAMES[1], "bytes": LITTLE}
    assert found[-1] == {"step": "remove", "file": NAMES[0], "into": None, "bytes": 0}
    offline = explained([LITTLE, MUCH], 0, False)["steps"]
    assert [each["step"] for each in offline] == ["pull", "remove", "rename"]
    assert offline[-1] == {"step": "rename", "file": NAMES[1], "into": NAMES[0], "bytes": 0}


@pytest.mark.parametrize(("running", "limit", "seconds"), [(True, 0, 3.0), (True, 50, 6.0), (True, 500, 3.0), (False, 50, 3.0)])
def test_the_guess_keeps_to_a_limit_of_live_merges(running: bool, limit: int, seconds: float) -> None:
    assert explained([MUCH, MUCH], 0, running, limit)["seconds"] == seconds


def test_a_file_that_something_else_needs_stays_without_its_snapshot() -> None:
    branch = Image(NAMES[3], "qcow2", GIB, NAMES[0], "qcow2")
    tree = with_image(replace(chain(2, 0), holds={"backup x": NAMES[3]}), branch)
    planned = plan.delete(tree, [IDS[0]], lambda name: [0, 0], True)
    found = chain_explain.document(tree, planned, [IDS[0]], True)
    assert (found["method"], found["bytes"], found["steps"]) == ("record only", 0, [])
    assert found["why"].startswith(f"{NAMES[0]} stays, without a snapshot, because ") and NAMES[3] in found["why"]


def test_an_end_of_a_branch_is_only_removed() -> None:
    aside = Image(NAMES[3], "qcow2", GIB, NAMES[0], "qcow2")
    tree = with_image(chain(2, 0), aside)
    tree = replace(tree, snapshots={**tree.snapshots, IDS[3]: NAMES[3]})
    planned = plan.delete(tree, [IDS[3]], lambda name: [0, 0], True)
    found = chain_explain.document(tree, planned, [IDS[3]], True)
    assert (found["method"], found["why"]) == ("remove", f"nothing is backed by {NAMES[3]}, so it is only removed")


def test_a_refusal_says_what_is_in_the_way() -> None:
    tree = replace(chain(2, 0), shared={NAMES[0]: (OTHER_VOLUME,)})
    with pytest.raises(Conflict) as told:
        plan.delete(tree, [IDS[0]], lambda name: [0, 0], True)
    found = chain_explain.refused(told.value)
    assert (found["possible"], found["method"], found["dependants"]) == (False, None, [OTHER_VOLUME])
    assert OTHER_VOLUME in found["why"]
