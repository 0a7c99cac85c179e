"""The steps around the switch of a set's disks, asked again and again as the journal would."""

from types import SimpleNamespace
from typing import Any

import pytest

from stillframe.compute.operations import switch
from stillframe.journal.operation import Document, NotYet, Operation, notes_key
from tests.unit.builders import SERVER


class Guard:
    """The watchdog's door: the guest's agent answers at the look numbered ``thaws_at``."""

    def __init__(self, thaws_at: int) -> None:
        self.thaws_at, self.looks = thaws_at, 0

    def pending(self, _server: str) -> str | None:
        return "record"

    def try_thaw(self, _record: str) -> bool:
        self.looks += 1
        return self.looks >= self.thaws_at


def ends_with(guard: Guard) -> tuple[Document, int]:
    """Returns what the step ends with, and how often it gave its thread back."""
    world: Any = SimpleNamespace(guard=guard)
    notes: Document = {}
    for waited in range(100):
        operation = Operation(
            "o", "k", "running", {"server_id": SERVER}, [], 0, {notes_key("thaw"): notes}, 1, 0, "r", at="thaw"
        )
        try:
            return switch.VERBS["thaw"].do(world, operation, {}), waited
        except NotYet as waiting:
            assert waiting.seconds == switch.THAW_LOOK_SECONDS
            notes = waiting.notes
    raise AssertionError("the step does not end")


def test_a_thaw_is_looked_at_without_a_thread() -> None:
    assert ends_with(Guard(thaws_at=4)) == ({}, 3)


def test_a_guest_whose_agent_stays_silent_is_left_to_the_watchdog() -> None:
    document, waited = ends_with(Guard(thaws_at=1000))
    assert document == {"left_to_watchdog": True}
    assert waited * switch.THAW_LOOK_SECONDS == pytest.approx(switch.THAW_SECONDS, abs=switch.THAW_LOOK_SECONDS)
