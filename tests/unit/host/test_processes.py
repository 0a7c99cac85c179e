"""A helper that answers too late is asked again, and understood."""

import os
import subprocess
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from stillframe.errors import ServiceUnavailable
from stillframe.host.processes import Helper


class Slow:
    """The other side of a helper: answers what it is told to, when it is asked or before."""

    def __init__(self) -> None:
        reading, self.answers = os.pipe()
        self.stdout = os.fdopen(reading, "rb", buffering=0)
        self.next: list[bytes] = []
        self.helper = Helper.__new__(Helper)
        vars(self.helper)["_process"] = SimpleNamespace(stdin=self, stdout=self.stdout, pid=7, poll=lambda: None)

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


def test_a_host_that_starts_no_more_processes_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    with pytest.raises(ServiceUnavailable, match="cannot be started: Resource temporarily unavailable"):
        Helper("stillframe.compute.quiesce.watchdog", [])
