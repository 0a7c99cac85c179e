"""The daemon of our own when it cannot start: the reason is told at once, in its own words."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from stillframe.errors import BadConfiguration, HypervisorUnavailable
from stillframe.host import private_libvirt
from tests.support.stack import wait_for


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory of a short name, for a socket below it."""
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


def test_a_daemon_that_ends_at_once_is_not_waited_for_and_says_why(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_libvirt, "_DAEMON_CONF", "this is nonsense\n")
    with pytest.raises(HypervisorUnavailable, match=r"did not start: .*libvirtd\.conf") as caught:
        private_libvirt.start(place)
    assert f"{place}/log/start.log" in str(caught.value)


def test_a_place_too_long_for_a_socket_is_refused_before_anything_is_made(place: Path) -> None:
    far = place / ("x" * 100)
    with pytest.raises(BadConfiguration, match="too long for a socket"):
        private_libvirt.start(far)
    assert not far.exists()


PRETENDER = """
import os, pathlib, signal, subprocess, sys
directory, rounds = pathlib.Path(sys.argv[2]), int(sys.argv[3])
def end(*_):
    if rounds:  # as a watchdog does that finds the daemon gone
        command = ["libvirtd", "-c", os.environ["PRETENDER"], sys.argv[1], str(directory), str(rounds - 1)]
        subprocess.Popen(command, executable=os.environ["PYTHON"])
        signal.pause()
    os._exit(0)
signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGCHLD, lambda *_: os._exit(0))
signal.signal(signal.SIGUSR1, lambda *_: os._exit(0))
(directory / "run/new").write_text(str(os.getpid()))
(directory / "run/new").rename(directory / "run/libvirtd.pid")
if os.getppid() != int(sys.argv[1]):
    os.kill(os.getppid(), signal.SIGUSR1)
while True:
    signal.pause()
"""


def alive(directory: Path) -> list[str]:
    found = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = each.read_bytes().split(b"\0")
            if words[0] == b"libvirtd" and str(directory).encode() in words:
                found.append(each.parent.name)
    return found


def test_a_daemon_that_somebody_starts_again_meanwhile_is_ended_too(place: Path) -> None:
    (place / "run").mkdir()
    command = ["libvirtd", "-c", PRETENDER, str(os.getpid()), str(place), "2"]
    environment = {**os.environ, "PRETENDER": PRETENDER, "PYTHON": sys.executable}  # it calls itself libvirtd
    daemon = subprocess.Popen(command, executable=sys.executable, env=environment)
    wait_for((place / "run/libvirtd.pid").exists, "the daemon")
    try:
        private_libvirt.stop(place)
        assert alive(place) == []
    finally:
        for pid in alive(place):
            os.kill(int(pid), signal.SIGKILL)
        with suppress(ChildProcessError):
            daemon.wait()
