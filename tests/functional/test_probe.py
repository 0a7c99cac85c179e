"""The probe of a share, with real child processes: it tells what is wrong, and never waits longer than it may."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stillframe.errors import BadConfiguration, ShareUnavailable
from stillframe.host import probe
from stillframe.host.probe import MARKER, Prober

CONTENT = b'{"share_id": "1"}\n'


@pytest.fixture
def share(tmp_path: Path) -> Path:
    (tmp_path / MARKER).write_bytes(CONTENT)
    return tmp_path


def read_and_wait(path: Path) -> list[str]:
    """What reads the marker, without the flag that keeps it from waiting for a FIFO: it stands for a server that is silent."""
    return [word.replace(",nonblock", "") for word in READ_MARKER(path)]


READ_MARKER = probe._read_marker


@pytest.fixture
def hanging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A share whose marker holds whoever opens it: a FIFO nobody writes to."""
    monkeypatch.setattr(probe, "_read_marker", read_and_wait)
    os.mkfifo(tmp_path / MARKER)
    yield tmp_path
    # Whoever still waits is let go.
    os.close(os.open(tmp_path / MARKER, os.O_RDWR | os.O_NONBLOCK))


def _told(prober: Prober) -> str:
    with pytest.raises(ShareUnavailable) as raised:
        prober.check()
    return raised.value.message


def test_a_share_that_answers_shows_its_marker(share: Path) -> None:
    assert Prober(share).check() == CONTENT


def test_at_most_4096_bytes_are_taken(share: Path) -> None:
    (share / MARKER).write_bytes(b"x" * 5000)
    assert Prober(share).check() == b"x" * 4096


def test_a_missing_marker_or_directory_is_reported(share: Path) -> None:
    (share / MARKER).unlink()
    assert "No such file or directory" in _told(Prober(share))
    assert MARKER in _told(Prober(share))
    assert str(share / "gone") in _told(Prober(share / "gone"))


def test_a_link_in_the_markers_place_is_not_followed(share: Path) -> None:
    (share / MARKER).rename(share / "elsewhere")
    (share / MARKER).symlink_to(share / "elsewhere")
    assert "Too many levels of symbolic links" in _told(Prober(share))


def test_an_answer_is_believed_for_a_while(share: Path) -> None:
    believing, asking = Prober(share, fresh_for=3600.0), Prober(share, fresh_for=0.0)
    assert believing.check() == asking.check() == CONTENT
    (share / MARKER).unlink()
    assert believing.check() == CONTENT
    assert "No such file" in _told(asking)


def test_a_bad_answer_is_believed_for_a_while_too(share: Path) -> None:
    (share / MARKER).unlink()
    believing, asking = Prober(share, fresh_for=3600.0), Prober(share, fresh_for=0.0)
    assert _told(believing) == _told(asking)
    (share / MARKER).write_bytes(CONTENT)
    assert "No such file" in _told(believing)
    assert asking.check() == CONTENT


def test_a_share_that_hangs_is_abandoned_at_the_deadline(hanging: Path) -> None:
    assert _told(Prober(hanging, seconds=0.3)) == f"the share {hanging} does not answer within 0.3 s"


def test_many_who_ask_at_once_wait_for_one_answer(hanging: Path) -> None:
    prober, told = Prober(hanging, seconds=0.5, fresh_for=3600.0), []
    threads = [threading.Thread(target=lambda: told.append(_told(prober))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert told == [f"the share {hanging} does not answer within 0.5 s"] * 8


def test_no_second_child_is_started_while_one_is_stuck(
    hanging: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    start = probe._start

    def unkillable(command: list[str]) -> "subprocess.Popen[bytes]":
        child = start(command)
        monkeypatch.setattr(child, "kill", lambda: None)  # as one in state D: the signal is pending for ever
        started.append(child)
        return child

    monkeypatch.setattr(probe, "_start", unkillable)
    prober = Prober(hanging, seconds=0.3, fresh_for=0.0)
    assert "does not answer within" in _told(prober)
    count = len(started)
    stuck = started[-1]
    for _ in range(3):
        assert _told(prober).endswith(f"process {stuck.pid}, which checked it, still hangs")
    assert len(started) == count
    (hanging / MARKER).rename(hanging / "fifo")
    (hanging / MARKER).write_bytes(CONTENT)
    os.close(os.open(hanging / "fifo", os.O_WRONLY))  # the open the child waits in succeeds now, and it ends
    stuck.wait(20)
    assert prober.check() == CONTENT
    os.rename(hanging / "fifo", hanging / MARKER)


def test_the_child_dies_with_the_service(hanging: Path) -> None:
    asks = (
        "from pathlib import Path\nfrom stillframe.host import probe\nfrom tests.functional.test_probe import read_and_wait\n"
        f"probe._read_marker = read_and_wait\nprobe.Prober(Path({str(hanging)!r}), 600).check()"
    )
    service = subprocess.Popen([sys.executable, "-c", asks])
    try:
        child = _wait_for_reader(hanging / MARKER)
    finally:
        service.kill()
        service.wait()
    for _ in range(200):
        if not Path(f"/proc/{child}").exists():
            return
        time.sleep(0.05)
    raise AssertionError(f"process {child} is still there")


def _wait_for_reader(fifo: Path) -> int:
    """Waits for a process that has the FIFO's name in its arguments and is not our service; returns its pid."""
    for _ in range(400):
        for entry in Path("/proc").iterdir():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
            except OSError:
                continue
            if words[:2] == [b"dd", f"if={fifo}".encode()]:
                return int(entry.name)
        time.sleep(0.05)
    raise AssertionError("nobody opened the marker")


@pytest.mark.parametrize("mode", [0o2770, 0o770, 0o2750, 0o755])
def test_a_directory_only_we_and_a_group_may_write_to_is_taken(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    probe.refuse_if_open(tmp_path)


@pytest.mark.parametrize("mode", [0o777, 0o2772, 0o1777])
def test_a_directory_everybody_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(BadConfiguration, match=f"everybody may write.*{tmp_path}.*mode {mode:04o}: chmod 2770"):
        probe.refuse_if_open(tmp_path)


def test_a_directory_we_may_not_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o2750)
    refused = (
        "import os, sys\nfrom pathlib import Path\nfrom stillframe.host import probe\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "probe.refuse_if_open(Path('/usr'))"
    )
    done = subprocess.run([sys.executable, "-c", refused], capture_output=True, text=True, timeout=60, check=False)
    assert "BadConfiguration: this process (uid 65534, gid 65534) may not write to the share's directory /usr" in done.stderr
    assert "mode 0755: give it to a group" in done.stderr


def test_a_missing_directory_is_not_reported_as_a_matter_of_rights(tmp_path: Path) -> None:
    with pytest.raises(ShareUnavailable, match="No such file or directory"):
        probe.refuse_if_open(tmp_path / "gone")
