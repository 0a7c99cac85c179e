"""Headers as hostile input, and files too large to check while somebody waits."""

import math
import struct
from pathlib import Path
from typing import Any

import pytest

from stillframe.errors import HostCommandFailed, NotSound
from stillframe.host import examination, files, qcow2, qemu_img, references, soundness
from stillframe.host.run import Limits
from tests.unit.host.headers import CLUSTER, Header

BITMAPS = 0x23852875
NAME = "volume-a"


def with_bitmaps(share: Path, count: int, at: int, directory: bytes, size: int | None = None) -> None:
    """A file whose header says that it has bitmaps; the directory of them is written into its ninth cluster."""
    body = struct.pack(">IIQQ", count, 0, len(directory) if size is None else size, at)
    start = bytearray(Header(extensions=[(BITMAPS, body)]).start())
    struct.pack_into(">Q", start, 88, 1)  # autoclear: the bitmaps are as the file is
    (share / NAME).write_bytes(bytes(start).ljust(8 * CLUSTER, b"\0") + directory.ljust(CLUSTER, b"\0"))


def bitmap(name: bytes) -> bytes:
    entry = struct.pack(">QIIBBHI", 0, 0, 1, 1, 16, len(name), 0) + name
    return entry + b"\0" * (-len(entry) % 8)


@pytest.mark.parametrize(
    ("at", "size"), [((1 << 64) - 8, 64), (1 << 63, 64), (1 << 40, 64), (8 * CLUSTER, 1 << 63), (8 * CLUSTER, 2 * CLUSTER)]
)
def test_a_directory_of_bitmaps_outside_the_file_is_refused(tmp_path: Path, at: int, size: int) -> None:
    with_bitmaps(tmp_path, 1, at, bitmap(b"one"), size)
    with pytest.raises(NotSound, match="lies outside it"):
        soundness.look(tmp_path, NAME, "qcow2")


def test_a_few_of_many_bitmaps_are_named(tmp_path: Path) -> None:
    with_bitmaps(tmp_path, 500, 8 * CLUSTER, b"".join(bitmap(f"b{number}".encode()) for number in range(500)))
    with pytest.raises(NotSound, match=r"b0, b1, b2.* and 490 more") as refusal:
        soundness.require(tmp_path, NAME, "qcow2")
    assert "b10," not in refusal.value.message


@pytest.mark.parametrize(("bits", "length", "looked"), [(9, 1 << 30, False), (16, 1 << 30, True), (21, 1 << 40, True)])
def test_a_request_looks_into_a_file_by_its_clusters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bits: int, length: int, looked: bool
) -> None:
    """Small clusters make as much work of a small file as large ones of a huge one."""
    place = 1 << max(bits, 16)
    header = Header(bits=bits, incompatible=qcow2.DIRTY, size=1 << 20, l1_entries=32, ref_at=place, l1_at=3 * place)
    with (tmp_path / NAME).open("wb") as file:
        file.write(header.start())
        file.truncate(length)
    seen: list[str] = []
    monkeypatch.setattr(examination, "beyond_repair", lambda _share, name, _seconds: seen.append(name))
    soundness.refuse_beyond_repair(tmp_path, NAME, "qcow2")
    assert bool(seen) is looked


def large(share: Path, incompatible: int) -> None:
    header = Header(incompatible=incompatible, size=1 << 20, l1_entries=1)
    (share / NAME).write_bytes(header.start().ljust(8 * CLUSTER, b"\0"))


@pytest.mark.parametrize("slow", ["tables", "program"])
def test_a_file_whose_writer_died_is_refused_when_the_look_into_it_takes_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    """What is told to do reads the file and no more."""
    large(tmp_path, qcow2.DIRTY)
    given: list[float] = []

    def check(_words: Any, *, cwd: Any, limits: Limits) -> None:
        given.append(limits.seconds)
        raise HostCommandFailed("qemu-img check did not end within 3 s", timed_out=True)

    def tables(_handle: int, _name: str, until: float) -> str | None:
        if slow == "tables":
            raise HostCommandFailed("reading its tables took too long", timed_out=True)
        assert until < math.inf
        return None

    monkeypatch.setattr(examination, "attempt", check)
    monkeypatch.setattr(examination, "run", lambda _words, *, cwd: "")
    monkeypatch.setattr(references, "contradiction_of", tables)
    with pytest.raises(NotSound, match=r"dirty bit.*3 s were not enough.*qemu-img convert -f qcow2 -O qcow2 volume-a NEW"):
        soundness.check(tmp_path, NAME, "qcow2", 3.0)
    assert [seconds <= 3.0 for seconds in given] == ([True] if slow == "program" else [])


def test_of_a_file_that_was_closed_well_the_writer_vouches_when_there_is_no_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large(tmp_path, 0)
    failures = [HostCommandFailed("too slow", timed_out=True), HostCommandFailed("killed by signal 11")]

    def check(_words: Any, *, cwd: Any, limits: Limits) -> None:
        assert limits.seconds == 3.0
        raise failures.pop(0)

    monkeypatch.setattr(qemu_img, "attempt", check)
    soundness.check(tmp_path, NAME, "qcow2", 3.0)
    with pytest.raises(HostCommandFailed, match="signal 11"):
        soundness.check(tmp_path, NAME, "qcow2", 3.0)


@pytest.mark.parametrize(("locked", "written", "crashes"), [(True, False, True), (True, True, False), (False, False, False)])
def test_a_dirty_file_is_closed_by_its_writer_and_by_nobody_who_only_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locked: bool, written: bool, crashes: bool
) -> None:
    monkeypatch.setattr(files, "is_locked", lambda _share, _name: locked)
    monkeypatch.setattr(files, "is_written", lambda _share, _name: written)
    large(tmp_path, 0)
    soundness.require_for_closing(tmp_path, NAME, "qcow2")
    large(tmp_path, qcow2.DIRTY)
    if crashes:
        with pytest.raises(NotSound, match="so stop the server first"):
            soundness.require_for_closing(tmp_path, NAME, "qcow2")
    else:
        soundness.require_for_closing(tmp_path, NAME, "qcow2")
    soundness.require_for_closing(tmp_path, NAME, "raw")
