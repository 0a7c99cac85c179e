"""A helper that answers too late is asked again, and understood."""

import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from stillframe.errors import ServiceUnavailable
from stillframe.host.processes import Helper


class Slow:
    """The other side of a helper: answers what it is told to, when it is asked or before."""

    def __init__(self) -> None:
        reading, self.answers = os.pipe()
        self.stdout = os.fdopen(reading, "rb", buffering=0)
        self.next: list[bytes] = []
        self.helper: Any = Helper.__new__(Helper)
        self.helper._process = SimpleNamespace(stdin=self, stdout=self.stdout, pid=7, poll=lambda: None)

    def write(self, _line: bytes) -> None:
        if self.next:
            os.write(self.answers, self.next.pop(0))

    def close(self) -> None:
        os.close(self.answers)
        self.stdout.close()


@pytest.fixture
def slow() -> Iterator[Slow]:
    made = Slow()
    yield made
    made.close()


def test_a_late_answer_is_not_taken_for_the_next_one(slow: Slow) -> None:
    with pytest.raises(ServiceUnavailable, match="did not answer 'wait'"):
        slow.helper.ask("wait a 5", 0.0)
    os.write(slow.answers, b"waits a\n")
    slow.next = [b"armed b\n", b"armed c\n"]
    assert slow.helper.ask("arm b", 1.0) == "armed b"
    assert slow.helper.ask("arm c", 1.0) == "armed c"


def test_a_helper_that_is_gone_is_unavailable(slow: Slow) -> None:
    os.close(slow.answers)
    with pytest.raises(ServiceUnavailable):
        slow.helper.ask("ready", 1.0)
    slow.answers = os.open(os.devnull, os.O_WRONLY)
