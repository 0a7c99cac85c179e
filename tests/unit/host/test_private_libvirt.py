"""The address of a libvirt daemon of our own."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from stillframe.errors import HypervisorUnavailable
from stillframe.host import private_libvirt


@pytest.mark.parametrize("name", ["plain", "with space", "a&b=c", "100%", "50%25", "a+b", "a;b", "a#b?c", "Bücher, 'x'"])
def test_whatever_the_directory_is_called_the_socket_is_the_one_below_it(name: str) -> None:
    directory = Path("/srv") / name
    parts = urlsplit(private_libvirt.uri(directory))
    assert (parts.scheme, parts.path, parts.fragment) == ("qemu+unix", "/system", "")
    assert parse_qs(parts.query) == {"socket": [f"{directory}/run/libvirt-sock"]}


class Daemons:
    """Processes that the pid file names one after the other; ``deaf`` ones need SIGKILL."""

    def __init__(self, *pids: int, deaf: bool = False) -> None:
        self.left, self.deaf = list(pids), deaf
        self.sent: list[tuple[int, int]] = []

    def pid(self, _directory: Path) -> int | None:
        return self.left[0] if self.left else None

    def kill(self, pid: int, number: int) -> None:
        if pid not in self.left:
            raise ProcessLookupError
        self.sent.append((pid, number))
        if number == signal.SIGKILL or not self.deaf:
            self.left.remove(pid)


@pytest.fixture
def daemons(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Daemons]:
    def make(*pids: int, deaf: bool = False) -> Daemons:
        made = Daemons(*pids, deaf=deaf)
        monkeypatch.setattr(private_libvirt, "_pid", made.pid)
        monkeypatch.setattr(os, "kill", made.kill)
        monkeypatch.setattr(time, "sleep", lambda _seconds: None)
        return made

    return make


FIRST, SECOND = 1 << 22, (1 << 22) + 1  # no process has such a number


@pytest.mark.parametrize(("deaf", "signals"), [(False, [signal.SIGTERM]), (True, [signal.SIGTERM, signal.SIGKILL])])
def test_a_daemon_is_ended(tmp_path: Path, daemons: Callable[..., Daemons], deaf: bool, signals: list[int]) -> None:
    found = daemons(FIRST, deaf=deaf)
    private_libvirt.stop(tmp_path)
    assert found.sent == [(FIRST, number) for number in signals]


def test_one_that_ends_between_a_look_and_a_signal_has_ended(
    tmp_path: Path, daemons: Callable[..., Daemons], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = daemons(FIRST)

    def gone(_pid: int, _number: int) -> None:
        found.left.clear()
        raise ProcessLookupError

    monkeypatch.setattr(os, "kill", gone)
    private_libvirt.stop(tmp_path)


def test_one_that_was_started_again_meanwhile_is_ended_too(tmp_path: Path, daemons: Callable[..., Daemons]) -> None:
    found = daemons(FIRST, SECOND)
    private_libvirt.stop(tmp_path)
    assert found.sent == [(FIRST, signal.SIGTERM), (SECOND, signal.SIGTERM)]


def test_one_that_always_comes_back_is_told(tmp_path: Path, daemons: Callable[..., Daemons]) -> None:
    daemons(*range(FIRST, FIRST + 100))
    with pytest.raises(HypervisorUnavailable, match="started again each time"):
        private_libvirt.stop(tmp_path)


def test_where_none_was_ever_started_there_is_nothing_to_end(tmp_path: Path) -> None:
    private_libvirt.stop(tmp_path / "never")
    assert not (tmp_path / "never").exists()
