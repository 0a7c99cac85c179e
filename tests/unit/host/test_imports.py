"""Uploaded files: only what they were declared to be, only raw and whole qcow2, only up to a bound."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillframe.chain.image import Image
from stillframe.errors import BadImage
from stillframe.host import imports
from stillframe.host.imports import inspect_import
from tests.support.hostile_headers import QCOW2, SIZE, file_of, small

MOST = 1 << 30


def test_a_whole_qcow2_image_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(file_of(small().start()))
    assert inspect_import(tmp_path / "image", "qcow2", SIZE) == Image("image", "qcow2", SIZE)


def test_an_image_larger_than_what_it_is_for_is_refused_however_small_its_file(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(file_of(small().start()))
    with pytest.raises(BadImage, match=f"virtual size of {SIZE} bytes") as told:
        inspect_import(tmp_path / "image", "qcow2", SIZE - 1)
    assert told.value.details == {"size": SIZE}


def test_an_image_with_a_backing_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(file_of(small(backing=b"base", extensions=[QCOW2]).start()))
    with pytest.raises(BadImage, match="only whole images"):
        inspect_import(tmp_path / "image", "qcow2", MOST)


def test_a_raw_file_is_accepted_by_its_length(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(b"\x55" * 1000)
    assert inspect_import(tmp_path / "image", "raw", 1000) == Image("image", "raw", 1000)
    with pytest.raises(BadImage, match="1000 bytes"):
        inspect_import(tmp_path / "image", "raw", 999)


def test_an_empty_file_is_no_disk(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(b"")
    with pytest.raises(BadImage, match="0 bytes"):
        inspect_import(tmp_path / "image", "raw", MOST)


@pytest.mark.parametrize("declared", ["", "vmdk", "vhd", "vdi", "iso", "ami", "qcow", "RAW", "luks", "ploop"])
def test_other_formats_are_refused_by_their_name(tmp_path: Path, declared: str) -> None:
    (tmp_path / "image").write_bytes(b"\0" * 512)
    with pytest.raises(BadImage, match="are not accepted"):
        inspect_import(tmp_path / "image", declared, MOST)


def test_a_qcow2_file_declared_raw_is_refused(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(file_of(small().start()))
    with pytest.raises(BadImage, match="declared raw but has the mark of qcow or qcow2"):
        inspect_import(tmp_path / "image", "raw", MOST)


def test_what_is_not_there_or_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadImage, match="does not exist"):
        inspect_import(tmp_path / "image", "raw", MOST)
    os.mkfifo(tmp_path / "image")
    with pytest.raises(BadImage):
        inspect_import(tmp_path / "image", "raw", MOST)


@pytest.mark.parametrize("length", [1, 4, 511, 512, 513, 1024])
def test_a_short_file_is_searched_to_its_ends(tmp_path: Path, length: int) -> None:
    (tmp_path / "image").write_bytes(b"x" * length)
    assert imports.foreign_format(tmp_path, "image") is None


@pytest.mark.parametrize("before", [b"", b"# a comment\n", b"\n \t\r\n#\n", b"#\x00\xff\n"])
def test_a_vmdk_descriptor_is_found_behind_comments_and_blank_lines(tmp_path: Path, before: bytes) -> None:
    (tmp_path / "image").write_bytes(before + b"version=1\nRW 1 FLAT /etc/shadow 0\n")
    assert imports.foreign_format(tmp_path, "image") == "VMDK"


@pytest.mark.parametrize("text", [b"#!/bin/sh\necho version=1\n", b"hello\nversion=1\n", b"\0\nversion=1\n"])
def test_a_text_that_is_no_descriptor_is_raw(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "image").write_bytes(text)
    assert imports.foreign_format(tmp_path, "image") is None


@given(st.sampled_from(imports._MAGICS), st.binary(max_size=2000))
def test_a_mark_is_found_whatever_follows(
    tmp_path_factory: pytest.TempPathFactory, magic: tuple[int, bytes, str], rest: bytes
) -> None:
    directory = tmp_path_factory.getbasetemp()
    at, mark, _ = magic
    (directory / "marked").write_bytes(b"\0" * at + mark + rest)
    with pytest.raises(BadImage, match="has the mark of"):
        inspect_import(directory / "marked", "raw", MOST)
