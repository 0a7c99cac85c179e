"""The daemon of our own when it cannot start: the reason is told at once, in its own words."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from stillframe.errors import BadConfiguration, HypervisorUnavailable
from stillframe.host import private_libvirt


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
