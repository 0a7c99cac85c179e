"""Headers as hostile input: what is accepted says exactly what QEMU would read, everything else is BadImage."""

import os
import re
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stillframe.chain.image import Image
from stillframe.chain.names import base_name, overlay_name
from stillframe.errors import BadImage, InternalSnapshots, NotSound
from stillframe.host import qcow2
from tests.unit.builders import GIB, SNAPSHOT, VOLUME
from tests.unit.host.headers import BACKING_FORMAT, CLUSTER, DATA_FILE, FEATURE_NAMES, Header, overlay

NAME = overlay_name(VOLUME, SNAPSHOT)
BASE = base_name(VOLUME).encode()


def parsed(header: Header, length: int = 1 << 40) -> Image:
    return qcow2.parse(NAME, header.start(), length)


def refused(header: Header, length: int = 1 << 40) -> str:
    with pytest.raises(BadImage) as told:
        parsed(header, length)
    assert NAME in told.value.message
    return told.value.message


def test_a_base_is_read() -> None:
    assert parsed(Header(extensions=[(FEATURE_NAMES, b"\0" * 96)])) == Image(NAME, "qcow2", GIB)


@pytest.mark.parametrize("format_", ["qcow2", "raw"])
def test_an_overlay_is_read_with_its_backing_file_and_the_format_of_that(format_: str) -> None:
    assert parsed(overlay(BASE, format_.encode())) == Image(NAME, "qcow2", GIB, base_name(VOLUME), format_)


def test_a_version_2_header_is_read() -> None:
    assert parsed(replace(overlay(BASE), version=2)) == Image(NAME, "qcow2", GIB, base_name(VOLUME), "qcow2")
    assert parsed(Header(version=2)) == Image(NAME, "qcow2", GIB)


def test_an_image_that_was_not_closed_is_read() -> None:
    assert parsed(replace(overlay(BASE), incompatible=1)).backing == base_name(VOLUME)


def test_a_longer_header_moves_the_extensions() -> None:
    assert parsed(replace(overlay(BASE), header_length=112)).backing_format == "qcow2"


@pytest.mark.parametrize("magic", [b"QFI\xfa", b"\0\0\0\0", b"KDMV", b"qfi\xfb", b"\xfbIFQ"])
def test_another_magic_is_refused(magic: bytes) -> None:
    assert "not a qcow2 file" in refused(Header(magic=magic))


@pytest.mark.parametrize("version", [0, 1, 4, 0xFFFFFFFF])
def test_another_version_is_refused(version: int) -> None:
    assert "version 2 or 3" in refused(Header(version=version))


@pytest.mark.parametrize("length", [0, 4, 71, 72, 103])
def test_a_truncated_header_is_refused(length: int) -> None:
    with pytest.raises(BadImage, match="too short"):
        qcow2.parse(NAME, overlay(BASE).start()[:length], length)


@pytest.mark.parametrize("bit", [2, 4, 5, 31, 63])
def test_every_incompatible_feature_but_dirty_is_refused(bit: int) -> None:
    assert "incompatible features" in refused(Header(incompatible=1 << bit))
    assert "incompatible features" in refused(Header(incompatible=1 << bit | 1))


def test_zstd_compression_is_read_and_any_other_kind_refused() -> None:
    def kind(number: int, incompatible: int) -> Header:
        return Header(incompatible=incompatible, header_length=112, compression=number)

    assert parsed(kind(1, 8)).size == GIB
    assert parsed(kind(0, 0)).size == GIB
    for number, incompatible in ((0, 8), (2, 8), (255, 8), (1, 0)):
        assert "unknown kind of compression" in refused(kind(number, incompatible))
    assert "unknown kind of compression" in refused(Header(incompatible=8))


def test_an_external_data_file_is_refused_by_its_extension_alone() -> None:
    assert "data file" in refused(Header(extensions=[(DATA_FILE, b"/etc/shadow")]))
    assert "data file" in refused(Header(extensions=[(FEATURE_NAMES, b"\0" * 48), (DATA_FILE, b"x")]))


def test_two_backing_formats_are_refused_because_two_parsers_would_answer_differently() -> None:
    for formats in ((b"raw", b"qcow2"), (b"qcow2", b"qcow2")):
        header = replace(overlay(BASE), extensions=[(BACKING_FORMAT, format_) for format_ in formats])
        assert "two backing formats" in refused(header)


@pytest.mark.parametrize("format_", [b"vmdk", b"luks", b"", b"QCOW2", b"qcow2\0", b"raw,file.filename=/etc/shadow", b"\xff"])
def test_any_other_backing_format_is_refused(format_: bytes) -> None:
    assert "backing format" in refused(overlay(BASE, format_))


def test_a_backing_file_without_its_format_is_refused() -> None:
    assert "without its format" in refused(Header(backing=BASE))


def test_a_backing_format_without_a_file_is_refused() -> None:
    assert "without its format" in refused(Header(extensions=[(BACKING_FORMAT, b"qcow2")]))


@pytest.mark.parametrize(
    "backing",
    [
        b'json:{"driver":"file","filename":"/etc/shadow"}',
        b"nbd:localhost:10809",
        b"nbd://localhost/x",
        b"http://localhost/x",
        b"ssh://root@localhost/x",
        b"fat:/etc",
        b"blkdebug::x",
        b"file:x",
        b"/etc/shadow",
        b"/dev/sda",
        b"../" + BASE,
        b"./" + BASE,
        b"sub/" + BASE,
        b"..",
        b".",
        b".hidden",
        BASE + b"\n",
        BASE + b"\0",
        b" " + BASE,
        b"a b",
        b"a,b",
        b"a=b",
        b"a\\b",
        "volumé".encode(),
        "\u0661".encode(),
        b"\xff\xfe",
    ],
)
def test_a_backing_name_that_is_no_plain_file_name_is_refused(backing: bytes) -> None:
    assert "not a plain file name" in refused(overlay(backing))


@pytest.mark.parametrize("backing", [b"-drive", b"_x", b"-"])
def test_a_backing_name_begins_with_a_letter_or_a_digit(backing: bytes) -> None:
    assert "not a plain file name" in refused(overlay(backing))


@pytest.mark.parametrize(
    "header",
    [
        Header(backing=BASE, backing_length=0, extensions=[(BACKING_FORMAT, b"qcow2")]),
        Header(backing=BASE, backing_length=1024, extensions=[(BACKING_FORMAT, b"qcow2")]),
        Header(backing=BASE, backing_length=0xFFFFFFFF, extensions=[(BACKING_FORMAT, b"qcow2")]),
        Header(backing=BASE, backing_at=CLUSTER - 4, extensions=[(BACKING_FORMAT, b"qcow2")]),
        Header(backing=BASE, backing_at=CLUSTER, extensions=[(BACKING_FORMAT, b"qcow2")]),
        Header(backing=BASE, backing_at=(1 << 64) - 1, extensions=[(BACKING_FORMAT, b"qcow2")]),
    ],
)
def test_a_backing_name_that_is_not_inside_the_header_is_refused(header: Header) -> None:
    assert "out of bounds" in refused(header)


@pytest.mark.parametrize("bits", [0, 8, 22, 63, 0xFFFFFFFF])
def test_an_absurd_cluster_size_is_refused(bits: int) -> None:
    assert "cluster size" in refused(Header(bits=bits))


@pytest.mark.parametrize("bits", [9, 21])
def test_the_smallest_and_the_largest_cluster_size_are_read(bits: int) -> None:
    header = Header(bits=bits, l1_at=1 << 21, ref_at=1 << 22, l1_entries=1 << 15)
    assert parsed(header).size == GIB


@pytest.mark.parametrize("changes", [{"ref_at": 0}, {"l1_at": 0}, {"l1_at": CLUSTER, "ref_at": CLUSTER}])
def test_tables_on_the_header_or_on_each_other_are_refused(changes: dict[str, Any]) -> None:
    assert "overlap its header or each other" in refused(replace(Header(), **changes))


def test_a_first_level_table_too_small_for_the_disk_is_refused() -> None:
    assert parsed(Header(size=GIB, l1_entries=2)).size == GIB
    assert "too small" in refused(Header(size=GIB + 1, l1_entries=2))
    assert "too small" in refused(Header(size=GIB, l1_entries=1))


@pytest.mark.parametrize(
    "changes",
    [
        {"size": (1 << 56) + 1},
        {"size": (1 << 64) - 1},
        {"l1_entries": (4 << 20) + 1},
        {"l1_entries": 0xFFFFFFFF},
        {"ref_clusters": 129},
        {"ref_clusters": 0xFFFFFFFF},
    ],
)
def test_absurd_tables_are_refused(changes: dict[str, Any]) -> None:
    assert "out of bounds" in refused(replace(Header(), **changes))


def test_tables_as_large_as_qemu_allows_are_read() -> None:
    assert parsed(Header(l1_entries=4 << 20, ref_clusters=128, size=1 << 50)).size == 1 << 50


@pytest.mark.parametrize("changes", [{"l1_at": 3 * CLUSTER + 8}, {"ref_at": 512}])
def test_tables_that_are_not_aligned_are_refused(changes: dict[str, Any]) -> None:
    assert "not aligned" in refused(replace(Header(), **changes))


@pytest.mark.parametrize("changes", [{"l1_at": 3 * CLUSTER, "ref_at": CLUSTER}, {"l1_at": CLUSTER, "ref_at": 3 * CLUSTER}])
def test_a_file_cut_off_before_its_tables_is_refused_because_it_would_read_as_zeros(changes: dict[str, Any]) -> None:
    header = replace(overlay(BASE), **changes)
    assert parsed(header, 4 * CLUSTER).backing == base_name(VOLUME)
    refused(header, 3 * CLUSTER)


@pytest.mark.parametrize("kind", [1, 2])
def test_encryption_is_refused(kind: int) -> None:
    assert "is encrypted" in refused(replace(Header(), crypt=kind))


def test_internal_snapshots_are_refused_with_advice_that_loses_nothing() -> None:
    with pytest.raises(InternalSnapshots, match="2 internal snapshots") as told:
        parsed(replace(Header(), internal_snapshots=2))
    assert "qemu-img snapshot -d" in told.value.hint and "remove the volume" not in told.value.hint


@pytest.mark.parametrize("also", [0, 1, 8])
def test_the_corrupt_bit_is_refused_by_its_name(also: int) -> None:
    header = Header(incompatible=2 | also, header_length=112 if also == 8 else 104, compression=also // 8)
    with pytest.raises(NotSound, match="corrupt bit"):
        parsed(header)


@pytest.mark.parametrize("order", [7, 0xFFFFFFFF])
def test_an_absurd_refcount_width_is_refused(order: int) -> None:
    assert "refcount width" in refused(Header(refcount_order=order))


@pytest.mark.parametrize("length", [0, 72, 103, 4104, 0xFFFFFFFF])
def test_an_absurd_header_length_is_refused(length: int) -> None:
    start = bytearray(Header().start())
    struct.pack_into(">I", start, 100, length)
    with pytest.raises(BadImage, match="header length"):
        qcow2.parse(NAME, bytes(start), 1 << 40)


@pytest.mark.parametrize("length", [CLUSTER, 0x7FFFFFFF, 0xFFFFFFFF])
def test_an_extension_that_runs_past_the_header_is_refused(length: int) -> None:
    start = bytearray(Header().start())
    struct.pack_into(">II", start, 104, FEATURE_NAMES, length)
    with pytest.raises(BadImage, match="past the header"):
        qcow2.parse(NAME, bytes(start), 1 << 40)


def test_extensions_that_lie_beyond_what_is_read_are_refused() -> None:
    """With clusters of 2 MiB QEMU reads on where a long one has led out of the first 64 KiB."""
    large = Header(bits=21, l1_at=3 << 21, ref_at=1 << 21)
    hiding = replace(large, extensions=[(FEATURE_NAMES, bytes(CLUSTER - 104 - 8)), (DATA_FILE, b"/etc/shadow")])
    with pytest.raises(BadImage, match="extensions beyond the first 65536 bytes"):
        qcow2.parse(NAME, hiding.start()[:CLUSTER], 4 << 21)
    honest = replace(large, extensions=[(FEATURE_NAMES, bytes(48))])
    assert qcow2.parse(NAME, honest.start()[:CLUSTER], 4 << 21) == Image(NAME, "qcow2", GIB)


def test_an_extension_that_runs_into_the_backing_name_is_refused() -> None:
    start = bytearray(overlay(BASE).start())
    struct.pack_into(">II", start, 104, FEATURE_NAMES, 200)
    with pytest.raises(BadImage, match="past the header"):
        qcow2.parse(NAME, bytes(start), 1 << 40)


def test_what_stands_behind_the_end_mark_is_not_read() -> None:
    assert parsed(Header(extensions=[(0, b""), (DATA_FILE, b"/etc/shadow")])) == Image(NAME, "qcow2", GIB)


VALID = st.sampled_from(
    [
        overlay(BASE).start(),
        overlay(BASE, b"raw").start(),
        Header().start(),
        Header(version=2).start(),
        replace(overlay(BASE), version=2).start(),
        replace(overlay(BASE), incompatible=1, header_length=112).start(),
    ]
)
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("byte"), st.integers(0, 400), st.integers(0, 255)),
        st.tuples(st.just("word"), st.integers(0, 400), st.integers(0, 0xFFFFFFFF)),
        st.tuples(st.just("word"), st.integers(0, 50).map(lambda n: n * 4), st.sampled_from([0, 1, 0x7FFFFFFF, 0xFFFFFFFF])),
        st.tuples(st.just("cut"), st.integers(0, 400), st.just(0)),
    ),
    max_size=12,
)


def mutated(start: bytes, changes: list[tuple[str, int, int]]) -> bytes:
    found = bytearray(start)
    for verb, at, value in changes:
        if verb == "cut":
            del found[at:]
        elif at + 4 <= len(found):
            struct.pack_into(">I" if verb == "word" else ">B", found, at, value)
    return bytes(found)


def check_trustworthy(image: Image) -> None:
    """Whatever is accepted can be handed to QEMU: bounded, and naming nothing outside its directory."""
    assert image.format == "qcow2"
    assert 0 <= image.size <= 1 << 56
    assert (image.backing is None) == (image.backing_format is None)
    assert image.backing_format in (None, "raw", "qcow2")
    assert image.backing is None or ("/" not in image.backing and ":" not in image.backing)


@given(VALID, CHANGES)
@example(Header().start(), [("word", 8, 0xFFFFFFFF)])
def test_a_damaged_header_is_read_safely_or_refused(start: bytes, changes: list[tuple[str, int, int]]) -> None:
    damaged = mutated(start, changes)
    try:
        image = qcow2.parse(NAME, damaged, max(len(damaged), 5 * CLUSTER))
    except BadImage:
        return
    check_trustworthy(image)


@given(st.binary(max_size=600))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(BadImage):
        qcow2.parse(NAME, noise, len(noise))


@given(st.binary(min_size=1, max_size=1023))
def test_whatever_backing_name_is_accepted_is_a_plain_one(backing: bytes) -> None:
    try:
        image = parsed(overlay(backing))
    except BadImage:
        return
    assert image.backing is not None
    assert re.fullmatch(r"[A-Za-z0-9._-]+", image.backing)
    assert image.backing.encode() == backing


def write(share: Path, header: Header, **tables: Any) -> None:
    content = bytearray(header.start().ljust(5 * CLUSTER, b"\0"))
    for at, entry in tables.get("entries", {}).items():
        struct.pack_into(">Q", content, at, entry)
    (share / NAME).write_bytes(bytes(content))


def test_a_file_on_the_share_is_read_by_its_header(tmp_path: Path) -> None:
    write(tmp_path, overlay(BASE))
    assert qcow2.read(tmp_path, NAME) == Image(NAME, "qcow2", GIB, base_name(VOLUME), "qcow2")


def test_a_missing_file_is_told_from_a_bad_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        qcow2.read(tmp_path, NAME)
    (tmp_path / NAME).write_bytes(b"")
    with pytest.raises(BadImage):
        qcow2.read(tmp_path, NAME)


def test_an_empty_overlay_holds_no_data(tmp_path: Path) -> None:
    write(tmp_path, overlay(BASE))
    assert not qcow2.holds_data(tmp_path, NAME)


def test_an_overlay_with_one_written_cluster_holds_data(tmp_path: Path) -> None:
    write(tmp_path, overlay(BASE), entries={3 * CLUSTER + 8: 1 << 63 | 4 * CLUSTER})
    assert qcow2.holds_data(tmp_path, NAME)


@pytest.mark.parametrize("content", [b"", b"QFI\xfb", Header(l1_at=(1 << 64) - CLUSTER).start(), os.urandom(4096)])
def test_a_file_that_is_no_image_is_refused_before_its_tables_are_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(BadImage):
        qcow2.holds_data(tmp_path, NAME)
