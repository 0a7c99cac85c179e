"""The address of a libvirt daemon of our own."""

import os
import signal
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from stillframe.host import private_libvirt


@pytest.mark.parametrize("name", ["plain", "with space", "a&b=c", "100%", "50%25", "a+b", "a;b", "a#b?c", "Bücher, 'x'"])
def test_whatever_the_directory_is_called_the_socket_is_the_one_below_it(name: str) -> None:
    directory = Path("/srv") / name
    parts = urlsplit(private_libvirt.uri(directory))
    assert (parts.scheme, parts.path, parts.fragment) == ("qemu+unix", "/system", "")
    assert parse_qs(parts.query) == {"socket": [f"{directory}/run/libvirt-sock"]}


@pytest.mark.parametrize("looks", [0, 1000])
def test_a_daemon_that_ends_between_a_look_and_a_signal_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looks: int
) -> None:
    sent: list[int] = []

    def kill(_pid: int, number: int) -> None:
        sent.append(number)
        if number == signal.SIGKILL or looks == 0:
            raise ProcessLookupError

    monkeypatch.setattr(private_libvirt, "_pid", lambda _directory: 1 << 22)  # no process has that one
    monkeypatch.setattr(os, "kill", kill)
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    private_libvirt.stop(tmp_path)
    assert sent == ([signal.SIGTERM, signal.SIGKILL] if looks else [signal.SIGTERM])
