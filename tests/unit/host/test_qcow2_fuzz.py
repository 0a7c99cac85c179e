"""Damaged headers in files: only BadImage escapes, little is read, and what is accepted is what QEMU would be told.

The same property without end, guided by coverage: ``tests/fuzz/qcow2_header.py``.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from stillframe.chain.image import Image
from stillframe.errors import BadImage
from stillframe.host import files, imports, inspection, qcow2
from tests.support.hostile_headers import QCOW2, RAW, SIZE, file_of, small
from tests.support.hostile_tables import Image as Tables
from tests.unit.host.headers import CLUSTER

MOST_READ = 2 << 20

VALID = [
    file_of(small().start()),
    file_of(small(backing=b"base", extensions=[QCOW2]).start()),
    file_of(small(backing=b"base", extensions=[RAW]).start()),
    file_of(small(version=2, extensions=[]).start()),
    file_of(small(incompatible=1).start()),
    file_of(small(incompatible=8, header_length=112, compression=1).start()),
    Tables().content(),
]
NUMBERS = st.sampled_from([0, 1, 4, 8, 9, 16, 21, 22, 63, 64, 104, 112, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
PLACES = st.one_of(st.integers(0, 400), st.sampled_from([CLUSTER, 2 * CLUSTER, 3 * CLUSTER]))
CHANGE = st.one_of(
    st.tuples(st.just("byte"), PLACES, st.integers(0, 255)),
    st.tuples(st.just("word"), PLACES.map(lambda at: at // 4 * 4), st.one_of(NUMBERS, st.integers(0, 0xFFFFFFFF))),
    st.tuples(st.just("long"), PLACES.map(lambda at: at // 8 * 8), st.integers(0, (1 << 64) - 1)),
    st.tuples(st.just("bit"), PLACES, st.integers(0, 7)),
    st.tuples(st.just("cut"), st.one_of(st.integers(0, 400), st.integers(0, 5 * CLUSTER)), st.just(0)),
    st.tuples(st.just("grow"), st.just(0), st.sampled_from([CLUSTER, 1 << 30, 1 << 40])),
)
Change = tuple[str, int, int]


@dataclass
class Meter:
    """Counts what is read of files."""

    bytes: int = 0


@pytest.fixture(scope="module")
def meter() -> Iterator[Meter]:
    found, real = Meter(), os.pread

    def counted(handle: int, length: int, at: int) -> bytes:
        data = real(handle, length, at)
        found.bytes += len(data)
        return data

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pread", counted)
        patch.setattr(os, "read", None)
        yield found


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def damage(path: Path, whole: bytes, changes: list[Change]) -> None:
    data, length = bytearray(whole), len(whole)
    for verb, at, value in changes:
        if verb == "cut":
            length = min(length, at)
        elif verb == "grow":
            length = max(length, value)
        elif verb == "bit" and at < len(data):
            data[at] ^= 1 << value
        elif verb != "bit":
            kind = {"byte": ">B", "word": ">I", "long": ">Q"}[verb]
            if at + struct.calcsize(kind) <= len(data):
                struct.pack_into(kind, data, at, value)
    with path.open("wb") as file:
        file.write(data[:length])
        file.truncate(length)


def trustworthy(image: Image) -> bool:
    """Bounded, and naming nothing outside its directory."""
    if image.format != "qcow2" or not 0 <= image.size <= 1 << 56:
        return False
    if image.backing is None:
        return image.backing_format is None
    return image.backing_format in ("raw", "qcow2") and inspection.plain_name(image.backing) == image.backing


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(whole=st.sampled_from(VALID), changes=st.lists(CHANGE, max_size=12))
@example(whole=VALID[0], changes=[("word", 36, 4 << 20), ("grow", 0, 1 << 40)])
@example(whole=VALID[0], changes=[("long", 40, 1 << 30), ("grow", 0, 1 << 40)])
@example(whole=VALID[6], changes=[("long", 3 * CLUSTER, 0xFFFFFFFFFFFFFFFF)])
def test_a_damaged_file_is_read_safely_or_refused(share: Path, meter: Meter, whole: bytes, changes: list[Change]) -> None:
    path = share / "image"
    damage(path, whole, changes)
    meter.bytes = 0
    try:
        image = inspection.alone(share, "image", "qcow2")
    except BadImage:
        image = None
    assert meter.bytes < MOST_READ
    assert image is None or trustworthy(image)


@settings(deadline=None)
@given(whole=st.sampled_from(VALID), changes=st.lists(CHANGE, max_size=6))
def test_every_other_reader_of_damaged_files_is_as_safe(share: Path, meter: Meter, whole: bytes, changes: list[Change]) -> None:
    path = share / "image"
    damage(path, whole, changes)
    meter.bytes = 0
    accepted = []
    for reader in (
        lambda: qcow2.read(share, "image"),
        lambda: qcow2.holds_data(share, "image"),
        lambda: imports.inspect_import(path, "qcow2", SIZE),
        lambda: imports.inspect_import(path, "raw", 8 * SIZE),
    ):
        try:
            accepted.append(reader())
        except BadImage:
            continue
    assert meter.bytes < 4 * MOST_READ
    qcow2_images = [each for each in accepted if isinstance(each, Image) and each.format == "qcow2"]
    assert all(trustworthy(each) for each in qcow2_images)


def test_the_largest_table_qemu_allows_is_read_in_pieces(share: Path, meter: Meter) -> None:
    """The bound above is for what a header can make us read before its tables are believed; a table has QEMU's bound."""
    header = replace(small(), size=1 << 50, l1_entries=4 << 20)
    with (share / "large").open("wb") as file:
        file.write(file_of(header.start()))
        file.truncate(3 * CLUSTER + (32 << 20))
    meter.bytes = 0
    assert inspection.alone(share, "large", "qcow2").size == 1 << 50
    assert meter.bytes <= 16 * (1 << 20) + MOST_READ  # as many entries as the size needs


def test_reads_are_counted(share: Path, meter: Meter) -> None:
    (share / "a").write_bytes(b"x" * 100)
    meter.bytes = 0
    assert files.read_start(share, "a", 64) == (b"x" * 64, 100)
    assert meter.bytes == 64
