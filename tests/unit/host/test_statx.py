"""Which file it is, without a question to a file server."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from stillframe.host import statx, users


@pytest.mark.parametrize("libc", ["has it", "is old"])
def test_it_is_the_file_that_stat_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, libc: str) -> None:
    if libc == "is old":
        monkeypatch.setattr(statx, "_LIBC", SimpleNamespace())
    for path in (tmp_path, Path("/"), Path("/dev/null"), Path("/proc/self/stat")):
        found = os.stat(path)
        assert statx.device_and_inode(str(path)) == (found.st_dev, found.st_ino)
    (tmp_path / "link").symlink_to("nothing")
    with pytest.raises(FileNotFoundError) as missing:
        statx.device_and_inode(str(tmp_path / "link"))
    assert missing.value.errno == errno.ENOENT


def test_whose_server_is_away_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program has files of many shares open; one that is away must not hold up a look at another's."""
    (tmp_path / "file").write_bytes(b"")
    wanted = users.identity(tmp_path / "file")
    asked: list[str] = []

    def stat(path: object, **_options: object) -> os.stat_result:
        asked.append(str(path))
        raise TimeoutError

    with (tmp_path / "file").open():
        monkeypatch.setattr(os, "stat", stat)
        found = list(users._opened(str(os.getpid())))
    monkeypatch.undo()
    assert wanted in found
    assert asked == []
