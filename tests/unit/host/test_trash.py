"""What is thrown away: gone at once under its name, whole or in pieces, whatever happens in between."""

import os
import threading
from pathlib import Path

import pytest

from stillframe.host import files, trash
from tests.unit.host.test_files import Crash, crash


def test_nobody_waits_until_a_large_file_is_unlinked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trash, "SECONDS", 3600)
    monkeypatch.setattr(files, "free_bytes", files.total_bytes)
    monkeypatch.setattr(trash, "PIECE", 1 << 20)
    monkeypatch.setattr(trash, "PAUSE_SECONDS", 0)
    with (tmp_path / "a").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, trash.AT_ONCE + 4096)
    trash.put(tmp_path, "a", ".trash.a")
    assert os.listdir(tmp_path) == [".trash.a"]
    (timer,) = (thread for thread in threading.enumerate() if isinstance(thread, threading.Timer))
    timer.cancel()
    timer.function(*timer.args)
    assert os.listdir(tmp_path) == []


def test_trash_may_be_repeated_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    trash.put(tmp_path, "a", ".trash.a")
    trash.put(tmp_path, "a", ".trash.a")
    assert os.listdir(tmp_path) == []


def test_a_crash_after_the_rename_leaves_a_name_nothing_refers_to_and_a_repeat_removes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"data")
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", crash)
        with pytest.raises(Crash):
            trash.put(tmp_path, "a", ".trash.a")
    assert os.listdir(tmp_path) == [".trash.a"]
    trash.put(tmp_path, "a", ".trash.a")
    assert os.listdir(tmp_path) == []
