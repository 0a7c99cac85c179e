"""What QEMU will open is looked at first, the whole chain of it."""

import os
from pathlib import Path
from typing import Any

import pytest

from stillframe.errors import BadImage, ChainConflict
from stillframe.host import inspection
from tests.support.hostile_headers import QCOW2, RAW, SIZE, file_of, small
from tests.unit.host.headers import CLUSTER


def put(share: Path, name: str, **changes: Any) -> None:
    (share / name).write_bytes(file_of(small(**changes).start()))


def tower(share: Path) -> None:
    (share / "base").write_bytes(b"QFI\xfb" + b"\0" * 1020)  # a guest's header on a raw disk is never read
    put(share, "middle", backing=b"base", extensions=[RAW])
    put(share, "top", backing=b"middle", extensions=[QCOW2])


def test_a_chain_is_read_from_the_top_down_each_file_in_the_format_the_one_above_records(tmp_path: Path) -> None:
    tower(tmp_path)
    found = inspection.chain_of(tmp_path, "top", "qcow2")
    assert [(image.name, image.format, image.size) for image in found] == [
        ("top", "qcow2", SIZE),
        ("middle", "qcow2", SIZE),
        ("base", "raw", 1024),
    ]


def test_the_recorded_format_is_believed_not_the_content(tmp_path: Path) -> None:
    tower(tmp_path)
    assert [image.name for image in inspection.chain_of(tmp_path, "middle", "raw")] == ["middle"]
    with pytest.raises(BadImage):
        inspection.chain_of(tmp_path, "base", "qcow2")
    with pytest.raises(BadImage, match="not an image format that Stillframe uses"):
        inspection.chain_of(tmp_path, "top", "vmdk")


def test_a_missing_file_is_told_by_who_names_it(tmp_path: Path) -> None:
    tower(tmp_path)
    (tmp_path / "base").unlink()
    with pytest.raises(ChainConflict, match="middle names base as its backing file, which does not exist"):
        inspection.chain_of(tmp_path, "top", "qcow2")
    with pytest.raises(FileNotFoundError):
        inspection.chain_of(tmp_path, "missing", "qcow2")


def test_a_chain_may_be_as_deep_as_allowed_and_no_deeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tower(tmp_path)
    monkeypatch.setattr(inspection, "MAX_DEPTH", 3)
    assert len(inspection.chain_of(tmp_path, "top", "qcow2")) == 3
    monkeypatch.setattr(inspection, "MAX_DEPTH", 2)
    with pytest.raises(BadImage, match="does not end"):
        inspection.chain_of(tmp_path, "top", "qcow2")


def test_a_file_alone_is_read_without_what_backs_it(tmp_path: Path) -> None:
    put(tmp_path, "top", backing=b"missing", extensions=[QCOW2])
    assert inspection.alone(tmp_path, "top", "qcow2").backing == "missing"


@pytest.mark.parametrize("name", ["volume-1", "a", ".tmp.x.y", ".trash.a", "A.b_c-d", "x" * 255])
def test_plain_names_pass(name: str) -> None:
    assert inspection.plain_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "-f", "a/b", "/a", "a:b", "json:{}", "a\n", "a\0", "a b", "a,b", "é", "a=b", "x" * 256, "a%b", '"a"'],
)
def test_names_qemu_could_take_for_something_else_do_not(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadImage, match="not a plain file name"):
        inspection.plain_name(name)
    with pytest.raises(BadImage):
        inspection.chain_of(tmp_path, name, "raw")


def test_a_first_level_table_is_looked_at_in_every_file_of_the_chain(tmp_path: Path) -> None:
    tower(tmp_path)
    content = bytearray((tmp_path / "middle").read_bytes())
    content[3 * CLUSTER : 3 * CLUSTER + 8] = (1 << 63 | 1 << 40).to_bytes(8, "big")
    (tmp_path / "middle").write_bytes(bytes(content))
    with pytest.raises(BadImage, match="middle has a table entry"):
        inspection.chain_of(tmp_path, "top", "qcow2")


def test_a_file_that_grows_while_it_is_looked_at_is_not_taken_for_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guest appends a table and names it between our look at the header and our look at the first-level table."""
    put(tmp_path, "live")
    real = os.pread

    def growing(handle: int, length: int, at: int) -> bytes:
        if at == 3 * CLUSTER:
            with (tmp_path / "live").open("r+b") as file:
                file.truncate(5 * CLUSTER)
                file.seek(3 * CLUSTER)
                file.write((1 << 63 | 4 * CLUSTER).to_bytes(8, "big"))
        return real(handle, length, at)

    monkeypatch.setattr(os, "pread", growing)
    assert inspection.alone(tmp_path, "live", "qcow2").size == SIZE
