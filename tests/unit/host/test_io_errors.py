"""A guest that a disk's error has stopped: only such a one is resumed."""

from typing import Any

import pytest

from stillframe.host import io_errors

RUNS, PAUSED_BY_USER, STOPPED = [1, 1], [3, 1], [3, 5]


class Domain:
    def __init__(self, state: list[int]) -> None:
        self._state = state
        self.resumed = False

    def state(self) -> list[int]:
        return self._state

    def UUIDString(self) -> str:
        return "u"

    def diskErrors(self, _flags: int) -> dict[str, int]:
        return {"vdb": 2}

    def resume(self) -> None:
        self.resumed = True


@pytest.mark.parametrize(("state", "stopped"), [(RUNS, False), (PAUSED_BY_USER, False), (STOPPED, True)])
def test_who_runs_or_was_paused_otherwise_is_left_alone(state: list[int], stopped: bool) -> None:
    domain: Any = Domain(state)
    assert io_errors.stopped_by(domain) == (frozenset({"vdb"}) if stopped else frozenset())
    io_errors.resume(domain)
    assert domain.resumed == stopped
