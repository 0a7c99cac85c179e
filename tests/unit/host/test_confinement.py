"""What a confined thread may open; the thread that made it, and those after it, may open all as before."""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stillframe.host import confinement
from stillframe.host.confinement import Confined


@pytest.fixture
def handle(tmp_path: Path) -> Iterator[int]:
    """An open file outside of the directory."""
    (tmp_path / "given").write_text("given")
    found = os.open(tmp_path / "given", os.O_RDONLY)
    yield found
    os.close(found)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory/within").write_text("within")
    return tmp_path / "directory"


def called(directory: Path, handle: int, call: Callable[[], str]) -> str:
    confined = Confined(directory, (handle,), call)
    confined.end()
    return confined.made


def appended(path: Path | str) -> str:
    with open(path, "a+") as file:
        file.write("!")
        file.seek(0)
        return file.read()


def test_it_opens_what_it_was_given_under_any_name(directory: Path, handle: int) -> None:
    link = directory / "link"
    link.symlink_to(f"/proc/self/fd/{handle}")
    for count, path in enumerate((f"/proc/self/fd/{handle}", link), 1):
        assert called(directory, handle, lambda path=path: appended(path)) == "given" + "!" * count  # type: ignore[misc]
    assert called(directory, handle, lambda: appended(directory / "within")) == "within!"
    assert called(directory, handle, lambda: appended(directory / "made")) == "!"
    assert called(directory, handle, lambda: Path("/usr/bin/env").read_bytes().decode("latin-1"))[1:4] == "ELF"


@pytest.mark.parametrize("other", ["beside", "directory/to-beside", "/etc/passwd"])
def test_it_opens_no_other_file(directory: Path, handle: int, other: str) -> None:
    beside = directory.parent / "beside"
    beside.write_text("another")
    (directory / "to-beside").symlink_to(beside)
    before = Path("/etc/passwd").read_text()
    path = directory.parent / other
    with pytest.raises(PermissionError):
        called(directory, handle, path.read_text)
    if other == "beside":
        with pytest.raises(PermissionError):
            called(directory, handle, lambda: appended(path))
    assert beside.read_text() == "another"  # read by this thread, which may
    assert Path("/etc/passwd").read_text() == before


def test_its_thread_lives_until_it_is_ended(directory: Path, handle: int) -> None:
    confined = Confined(directory, (handle,), threading.current_thread)
    assert confined.made.is_alive()
    assert confined.made is not threading.current_thread()
    confined.end()
    assert not confined.made.is_alive()


def test_an_error_is_raised_and_leaves_no_thread(directory: Path, handle: int) -> None:
    def fails() -> None:
        raise FileNotFoundError("qemu-img")

    before = threading.active_count()
    with pytest.raises(FileNotFoundError, match="qemu-img"):
        Confined(directory, (handle,), fails)
    for thread in threading.enumerate():
        if thread.name == "confined":
            thread.join(30)
    assert threading.active_count() <= before


def test_where_the_kernel_has_none_the_program_runs_and_the_log_says_so_once(
    directory: Path, handle: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(confinement, "version", lambda: 0)
    monkeypatch.setattr(confinement, "_reported", threading.Event())
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert called(directory, handle, Path("/etc/passwd").read_text)
    assert caplog.text.count("nothing keeps qemu-img from other files") == 1


@pytest.mark.parametrize("known", [1, 2, 3, 4, 5, 6, 7, 99])
def test_each_version_of_the_kernels_is_asked_for_what_it_knows(
    directory: Path, handle: int, known: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older one refuses rights it does not know, a newer one knows more than we ask for."""
    have = confinement.version()
    monkeypatch.setattr(confinement, "version", lambda: min(known, have))
    assert called(directory, handle, lambda: appended(f"/proc/self/fd/{handle}")) == "given!"
    with pytest.raises(PermissionError):
        called(directory, handle, Path("/etc/passwd").read_text)
