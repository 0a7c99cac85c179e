"""Parent images: what a header names below a disk, what is recorded of it, and that nothing else is believed."""

import json
import os
from pathlib import Path

import pytest

from stillframe.chain.image import Parent
from stillframe.errors import BadImage, ChainConflict
from stillframe.host import ancestry, inspection, parents, pins, qcow2
from tests.unit.builders import OTHER_VOLUME, VOLUME
from tests.unit.host.headers import BACKING_FORMAT, CLUSTER, Header, overlay


def over(backing: bytes, format_: bytes | None = b"qcow2", **changes: int) -> bytes:
    extensions = [(BACKING_FORMAT, format_)] if format_ else []
    return Header(backing=backing, extensions=extensions, **changes).start().ljust(4 * CLUSTER, b"\0")  # type: ignore[arg-type]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A share with ``disk`` over ``golden/middle``, by its absolute path, over the raw ``golden/lowest``, by a relative one."""
    share, golden = tmp_path / "share", tmp_path / "golden"
    share.mkdir(mode=0o711)
    golden.mkdir()
    (golden / "lowest").write_bytes(b"x" * CLUSTER)
    (golden / "middle").write_bytes(over(b"lowest", b"raw"))
    (share / "disk").write_bytes(over(os.fsencode(golden / "middle")))
    return share


def recorded(share: Path) -> tuple[Parent, ...]:
    found = ancestry.look(share, "disk", "qcow2")
    parents.record(share, "disk", found)
    return found


def test_what_is_below_a_disk_is_found_header_by_header(place: Path) -> None:
    found = ancestry.look(place, "disk", "qcow2")
    golden = place.parent / "golden"
    assert [(each.path, each.format, each.size) for each in found] == [
        (str(golden / "middle"), "qcow2", 4 * CLUSTER),
        (str(golden / "lowest"), "raw", CLUSTER),
    ]
    assert ancestry.look(place, "disk", "raw") == ()
    assert os.listdir(place) == ["disk"]


def test_only_what_was_recorded_is_believed(place: Path) -> None:
    with pytest.raises(BadImage, match="not a plain file name"):
        qcow2.read(place, "disk")
    found = recorded(place)
    assert parents.recorded(place, "disk") == found
    image = qcow2.read(place, "disk")
    assert (image.backing, image.backing_format, image.parents) == (None, None, found)
    (place / "disk").write_bytes(over(b"/etc/shadow"))
    with pytest.raises(BadImage, match="not a plain file name"):
        qcow2.read(place, "disk")
    parents.forget(place, "disk")
    parents.forget(place, "disk")
    assert parents.recorded(place, "disk") == ()


def test_a_plain_name_that_is_recorded_is_a_parent_image_too(place: Path) -> None:
    (place / "base").write_bytes(over(b""[:0], None))
    (place / "disk").write_bytes(over(b"base"))
    assert qcow2.read(place, "disk").backing == "base"
    (found,) = recorded(place)
    assert (found.backing, found.path) == ("base", str(place / "base"))
    assert qcow2.read(place, "disk").backing is None


def test_a_file_named_like_a_volume_has_none(place: Path) -> None:
    name = f"volume-{VOLUME}.{OTHER_VOLUME}"
    parents.record(place, name, [Parent("/etc/shadow", "/etc/shadow", "raw", 1, 1)])
    (place / name).write_bytes(over(b"/etc/shadow", b"raw"))
    with pytest.raises(BadImage, match="not a plain file name"):
        qcow2.read(place, name)


@pytest.mark.parametrize(
    "row", [{}, {"backing": 1}, {"backing": "", "path": "", "format": "raw", "size": True, "written_ns": 0}]
)
def test_a_damaged_record_is_refused(place: Path, row: dict[str, object]) -> None:
    recorded(place)
    (place / ".stillframe" / parents.record_name("disk")).write_text(json.dumps({"file": "disk", "parents": [row]}))
    with pytest.raises(BadImage, match="is damaged"):
        qcow2.read(place, "disk")


def test_a_reader_holds_what_is_below_open(place: Path) -> None:
    recorded(place)
    (place / f"volume-{VOLUME}.{OTHER_VOLUME}").write_bytes(overlay(b"disk").start().ljust(4 * CLUSTER, b"\0"))
    assert len(inspection.chain_of(place, "disk", "qcow2")) == 3
    with pins.chain(place, f"volume-{VOLUME}.{OTHER_VOLUME}", "qcow2") as pinned:
        assert [each.name for each in pinned.opened][1:] == ["disk", "parent@1", "parent@2"]
        assert [each.format for each in pinned.images] == ["qcow2", "qcow2", "qcow2", "raw"]
        assert (pinned.directory / "parent@2").read_bytes() == b"x" * CLUSTER
        pinned.confirm()
        os.utime(place.parent / "golden/lowest")
        with pytest.raises(ChainConflict, match="parent@2 was written"):
            pinned.confirm()


@pytest.mark.parametrize("backing", [b"../golden/middle", b"../share/../golden/middle"])
def test_a_relative_name_leads_to_what_was_looked_at(place: Path, backing: bytes) -> None:
    (place / "disk").write_bytes(over(backing))
    recorded(place)
    with pins.chain(place, "disk", "qcow2") as pinned:
        middle = pinned.directory / os.fsdecode(backing)
        assert Path(os.path.normpath(middle)).samefile(place.parent / "golden/middle")
        assert (Path(os.path.normpath(middle)).parent / "lowest").samefile(place.parent / "golden/lowest")
        top = pinned.directory
    assert not top.exists()


@pytest.mark.parametrize("name", ["middle", "lowest"])
@pytest.mark.parametrize("how", ["gone", "written", "replaced"])
def test_a_parent_image_that_is_not_what_it_was_is_not_read(place: Path, name: str, how: str) -> None:
    found = recorded(place)
    path = place.parent / "golden" / name
    content = path.read_bytes()
    path.unlink()
    if how == "written":
        path.write_bytes(content)
        os.utime(path, ns=(1, 1))
    elif how == "replaced":
        path.symlink_to("/etc/passwd")
    with pytest.raises(ChainConflict, match=f"golden/{name} of disk is not what it was"):
        inspection.chain_of(place, "disk", "qcow2")
    assert [parents.flaw(each, "disk") is None for each in found] == [name != "middle", name != "lowest"]
    assert qcow2.read(place, "disk").parents == found  # the header alone is still readable


@pytest.mark.parametrize(
    ("backing", "format_", "words"),
    [
        (b"nbd://host/x", b"raw", "no file of this host"),
        (b"file:middle", b"raw", "no file of this host"),
        (b"missing", b"raw", "cannot be opened"),
        (b"../golden", b"raw", "cannot be a parent image"),
        (b"disk", b"qcow2", "leads back to"),
        (b"../golden/middle", None, "does not say in which format"),
        (b"../golden/lowest", b"qcow2", "lowest"),
        (b"\xff\xfe", b"raw", "no text in UTF-8"),
        (b"a\nb", b"raw", "cannot be printed"),
        (b"parent@1", b"raw", "not supported"),
        (b"json:{", b"raw", "by its absolute path"),
        (b"json:[1]", b"raw", "by its absolute path"),
        (b'json:{"driver":"qcow2","file":{"driver":"nbd","filename":"/x"}}', b"qcow2", "by its absolute path"),
        (b'json:{"driver":"qcow2","file":{"driver":"file","filename":"x"}}', b"qcow2", "by its absolute path"),
        (b'json:{"driver":"qcow2","file.filename":"/x","offset":1}', b"qcow2", "by its absolute path"),
        (b'json:{"driver":"vmdk","file.filename":"/x"}', None, "by its absolute path"),
    ],
)
def test_what_cannot_be_below_a_disk_has_its_reason(place: Path, backing: bytes, format_: bytes | None, words: str) -> None:
    (place / "disk").write_bytes(over(backing, format_))
    with pytest.raises((BadImage, ChainConflict), match=words):
        ancestry.look(place, "disk", "qcow2")


FORMS = (
    '{"driver":"raw","file":{"driver":"file","filename":"%s"}}',
    '{"driver":"raw","file.filename":"%s"}',
    '{"driver":"file","filename":"%s"}',
)


@pytest.mark.parametrize("form", FORMS)
def test_json_names_a_file_with_its_format(place: Path, form: str) -> None:
    lowest = place.parent / "golden/lowest"
    (place / "disk").write_bytes(over(f"json:{form % lowest}".encode(), None))
    (found,) = recorded(place)
    assert (found.path, found.format) == (str(lowest), "raw")
    assert qcow2.read(place, "disk").parents == (found,)


def test_a_longer_parent_image_and_a_chain_without_end_are_refused(place: Path) -> None:
    (place / "disk").write_bytes(over(b"../golden/middle", size=CLUSTER))
    with pytest.raises(ChainConflict, match="less than"):
        ancestry.look(place, "disk", "qcow2")
    for number in range(250):
        (place / f"{number}").write_bytes(over(f"{number + 1}".encode()))
    (place / "250").write_bytes(over(b"", None))
    with pytest.raises(BadImage, match="more than 200 files"):
        ancestry.look(place, "0", "qcow2")
