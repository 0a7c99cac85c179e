"""Names in headers: which of them mean a file, however they are written."""

import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stillframe.errors import ShareUnavailable
from stillframe.host import users

GOLDEN = "golden.qcow2"


def qcow2(backing: str = "", data_file: str = "", version: int = 3) -> bytes:
    """A header as qemu-img writes it, as far as names go."""
    extensions = struct.pack(">II", 0x44415441, len(data_file)) + data_file.encode().ljust(-(-len(data_file) // 8) * 8, b"\0")
    body = (extensions if data_file else b"") + bytes(8)
    head = struct.pack(">4sIQI", b"QFI\xfb", version, 4096 if backing else 0, len(backing)).ljust(100, b"\0")
    return (head + struct.pack(">I", 104) + body).ljust(4096, b"\0") + backing.encode().ljust(4096, b"\0")


@pytest.fixture
def share(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / GOLDEN).write_bytes(qcow2())
    return tmp_path


def readers(share: Path, known: tuple[str, ...] = ()) -> list[str]:
    return users.readers(share, [GOLDEN], known).get(GOLDEN, [])


@pytest.mark.parametrize(
    "text",
    [
        GOLDEN,
        f"./{GOLDEN}",
        f"images/../{GOLDEN}",
        f"file:{GOLDEN}",
        f"/another/mount/point/{GOLDEN}",
        f'json:{{"driver": "qcow2", "file": {{"driver": "file", "filename": "{GOLDEN}"}}}}',
        f"driver=qcow2,file.filename={GOLDEN}",
        "link",
    ],
)
def test_a_name_in_a_header_is_understood_however_it_is_written(share: Path, text: str) -> None:
    os.symlink(GOLDEN, share / "link")
    (share / "clone").write_bytes(qcow2(text))
    assert readers(share) == ["clone"]


def test_the_absolute_path_is_understood(share: Path) -> None:
    (share / "clone").write_bytes(qcow2(f"{share}/{GOLDEN}"))
    assert readers(share) == ["clone"]


@pytest.mark.parametrize("text", [f"../{GOLDEN}", f"{GOLDEN}"])
def test_files_in_directories_below_are_looked_at_too(share: Path, text: str) -> None:
    (share / "images/clone").write_bytes(qcow2(text))
    assert readers(share) == (["images/clone"] if text.startswith("..") else [])


@pytest.mark.parametrize("text", ["other.qcow2", f"x{GOLDEN}", f"images/{GOLDEN}", f'json:{{"filename": "x{GOLDEN}"}}'])
def test_another_name_is_another_file(share: Path, text: str) -> None:
    (share / "clone").write_bytes(qcow2(text))
    assert readers(share) == []


def test_the_same_name_in_another_directory_that_is_there_is_another_file(share: Path) -> None:
    elsewhere = share / "images"
    (share / "clone").write_bytes(qcow2(f"{elsewhere}/{GOLDEN}"))
    assert readers(share) == []


def test_an_external_data_file_counts(share: Path) -> None:
    (share / "clone").write_bytes(qcow2(data_file=GOLDEN))
    assert readers(share) == ["clone"]


def test_a_qcow2_of_version_2_has_no_extensions_of_that_kind(share: Path) -> None:
    (share / "clone").write_bytes(qcow2(GOLDEN, version=2))
    assert readers(share) == ["clone"]


@pytest.mark.parametrize(
    "head",
    [
        b'# Disk DescriptorFile\nversion=1\nparentFileNameHint="golden.qcow2"\n',
        b"vhdxfile" + bytes(100) + GOLDEN.encode("utf-16-le"),
        b"conectix" + bytes(500) + GOLDEN.encode("utf-16-be"),
        struct.pack("<4sIIIQQQQQII", b"QED\0", 65536, 4, 1, 1, 0, 0, 0, 0, 64, len(GOLDEN)) + GOLDEN.encode(),
    ],
    ids=["vmdk", "vhdx", "vhd", "qed"],
)
def test_other_formats_count_when_the_name_stands_in_their_head(share: Path, head: bytes) -> None:
    (share / "clone").write_bytes(head)
    assert readers(share) == ["clone"]


def test_what_has_no_mark_of_a_format_is_not_read(share: Path) -> None:
    """It is a raw disk: a guest that writes a name there must not keep others from removing their volumes."""
    (share / "raw").write_bytes(bytes(512) + GOLDEN.encode())
    assert readers(share) == []


def test_a_hostile_header_ends_nothing(share: Path) -> None:
    (share / "far").write_bytes(struct.pack(">4sIQI", b"QFI\xfb", 3, 1 << 62, 1 << 31).ljust(200, b"\0") + GOLDEN.encode())
    (share / "short").write_bytes(b"QFI\xfb")
    (share / "loop").write_bytes(qcow2("loop"))
    (share / "nul").write_bytes(qcow2("a\0b"))
    os.mkfifo(share / "fifo")
    os.symlink("/dev/zero", share / "zero")
    assert readers(share) == ["far"], "a header that does not tell counts when the name stands in it"


def test_what_is_known_is_not_looked_at(share: Path) -> None:
    (share / "clone").write_bytes(qcow2(GOLDEN))
    assert readers(share, ("clone",)) == []


def test_many_names_are_looked_for_at_once(share: Path) -> None:
    odd = "my image (1).qcow2"
    for name in (odd, "second.qcow2"):
        (share / name).write_bytes(qcow2())
    os.link(share / "second.qcow2", share / "same.qcow2")
    (share / "one").write_bytes(qcow2(f"{share}/second.qcow2"))
    (share / "two").write_bytes(qcow2(f'json:{{"file": {{"filename": "{odd}"}}, "x": "{GOLDEN}"}}'))
    found = users.readers(share, [GOLDEN, odd, "second.qcow2", "same.qcow2", "one"])
    assert found == {"second.qcow2": ["one"], "same.qcow2": ["one"], odd: ["two"], GOLDEN: ["two"]}


@pytest.mark.parametrize("put", [os.mkfifo, lambda path: os.symlink("/dev/zero", path), lambda path: os.symlink("/etc", path)])
def test_what_takes_the_place_of_a_directory_is_not_opened(
    share: Path, put: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody who may write to the share puts it there after the directory was seen. To open a pipe waits without end, and
    to open a device may do anything."""
    (share / "images/inner").mkdir()
    real = os.open

    def swapped(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if path == "inner":
            (share / "images/inner").rmdir()
            put(share / "images/inner")
            assert flags & os.O_DIRECTORY
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", swapped)
    with pytest.raises(ShareUnavailable, match="changed while it was looked at"):
        readers(share)


def test_directories_without_end_are_refused(share: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each level took a descriptor and a frame: whoever made thousands left the process without either."""
    inside = share / Path(*["a"] * users.MOST_DEPTH)
    inside.mkdir(parents=True)
    (inside / "clone").write_bytes(qcow2(f"{share}/{GOLDEN}"))
    assert readers(share) == [f"{'a/' * users.MOST_DEPTH}clone"]
    (inside / "a").mkdir()
    with pytest.raises(ShareUnavailable, match="64 levels"):
        readers(share)
    (inside / "a").rmdir()
    monkeypatch.setattr(users, "MOST_ENTRIES", 20)  # directories count, too
    with pytest.raises(ShareUnavailable, match="more than 20 files"):
        readers(share)


def test_a_name_of_several_words_is_not_searched_for_in_each_text(share: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who may write to the share made a thousand of them, and a thousand headers that do not tell: hours of the
    whole process. One is found by its words, whatever their order."""
    odd = [f"my image ({number}).qcow2" for number in range(9)]
    for number in range(9):
        (share / odd[number]).write_bytes(b"KDMV" + f" image my [{number}] .qcow2 ".encode() * 9)

    def search(*_arguments: object) -> None:
        raise AssertionError("a text was searched for one name")

    monkeypatch.setattr(re, "search", search)
    found = users.readers(share, odd)
    monkeypatch.undo()
    assert found == {}
    (share / "two").write_bytes(b"KDMV" + f" image my [{odd[3]}] ".encode())
    assert users.readers(share, odd) == {odd[3]: ["two"]}


def test_a_clone_with_a_second_name_is_told(share: Path) -> None:
    (share / "clone").write_bytes(qcow2(f"{share}/{GOLDEN}"))
    os.link(share / "clone", share / "images/again")
    assert readers(share) == ["clone", "images/again"]


def test_a_program_that_has_no_lock_is_seen_and_this_one_is_not(share: Path) -> None:
    known = users.identity(share / GOLDEN)
    assert known is not None
    with (share / GOLDEN).open("rb"):
        assert users.programs([known]) == {}
