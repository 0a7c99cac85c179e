"""Room that a file has before anything is written to it."""

import ctypes
import errno
import os
from pathlib import Path

import pytest

from stillframe.errors import ShareUnavailable
from stillframe.host import reserve

MIB = 1 << 20


def test_a_file_keeps_its_length_and_gets_its_room(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"begins")
    with path.open("r+b") as file:
        for _ in range(2):
            reserve.reserve(file.fileno(), 4 * MIB)
        found = os.fstat(file.fileno())
    assert (found.st_size, path.read_bytes()) == (6, b"begins")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_file_system_is_told(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    answers(monkeypatch, [errno.EINTR, number])
    with pytest.raises(ShareUnavailable, match="no room for 4096 bytes"):
        reserve.reserve(0, 4096)


def test_a_file_system_without_reservations_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, [errno.EOPNOTSUPP])
    assert reserve.reserve(0, 4096) is False
    answers(monkeypatch, [errno.EIO])
    with pytest.raises(OSError, match="Input/output error"):
        reserve.reserve(0, 4096)


def answers(monkeypatch: pytest.MonkeyPatch, numbers: list[int]) -> None:
    """Lets the calls fail with these numbers, one after the other."""
    left = iter(numbers)

    class Libc:
        @staticmethod
        def fallocate(*_: int) -> int:
            return -1

    monkeypatch.setattr(reserve, "_LIBC", Libc)
    monkeypatch.setattr(ctypes, "get_errno", lambda: next(left))
