"""Who does a plan's steps, and how quick a live merge may be."""

from typing import Any

import pytest

from stillframe.volumes.operations.executors.executor import Executor


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
