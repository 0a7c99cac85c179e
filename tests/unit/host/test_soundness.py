"""Headers as hostile input, and files too large to be looked into while somebody waits."""

import struct
from pathlib import Path

import pytest

from stillframe.errors import NotSound
from stillframe.host import examination, qcow2, soundness
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
    monkeypatch.setattr(examination, "beyond_repair", lambda _share, name: seen.append(name))
    soundness.refuse_beyond_repair(tmp_path, NAME, "qcow2")
    assert bool(seen) is looked
