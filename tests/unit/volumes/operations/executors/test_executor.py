"""Who does a plan's steps, and how quick a live merge may be."""

from typing import Any

import pytest

from stillframe.chain import plan
from stillframe.chain.image import Image
from stillframe.chain.steps import Commit, Repoint, Trash
from stillframe.chain.tree import Tree
from stillframe.volumes.operations.executors.executor import Executor, plan_for
from stillframe.volumes.operations.executors.live import MergedFiles, MergeLive
from tests.unit.builders import GIB, VOLUME


@pytest.mark.parametrize(
    ("server", "found"),
    [
        (None, 0),
        ({"active": True, "merge_bandwidth_mib": 100}, 100),
        ({"active": False, "merge_bandwidth_mib": 100}, 0),
        ({"active": True, "merge_bandwidth_mib": 0}, 0),
        ({"active": True}, 0),
    ],
)
def test_compute_says_what_a_live_merge_may_copy(server: dict[str, Any] | None, found: int) -> None:
    assert Executor(server).usual_bandwidth_mib == found


def test_compute_learns_of_branches_that_the_next_steps_point_elsewhere() -> None:
    """The guest has c open, on b and a; d, what a revert left, is on b too."""
    links = {"a": None, "b": "a", "c": "b", "d": "b"}
    images = {name: Image(name, "qcow2", GIB, below, "qcow2" if below else None) for name, below in links.items()}
    before = Tree(VOLUME, images, "c", holds={plan.UNDO: "d"})
    steps = (Commit("b", "a", "qcow2", 7), Repoint("c", "a", "qcow2"), Repoint("d", "a", "qcow2"), Trash("b"))
    row: Any = {"id": VOLUME}
    first, *_ = plan_for(row, before, steps, Executor({"active": True}))
    assert first.args == MergeLive(
        bytes=7, bandwidth_mib=0, info=MergedFiles(file_to_merge="b", merge_target_file="a", branches=("d",))
    )
