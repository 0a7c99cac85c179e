"""Whether the tables of a file claim a cluster twice, or one that is not there: on bytes, without QEMU."""

import struct
from pathlib import Path

import pytest

from stillframe.errors import HostCommandFailed
from stillframe.host import references
from tests.unit.host.headers import CLUSTER, Header

COPIED = 1 << 63
COUNTS, BLOCK, FIRST, SECOND, CONTENT = (number * CLUSTER for number in range(1, 6))  # where the tables and the content lie
END = 8 * CLUSTER


def compressed(at: int, sectors: int) -> int:
    return 1 << 62 | (sectors - 1) << 54 | at


def told(tmp_path: Path, *entries: int, first: int = SECOND, counts: int = BLOCK, length: int = END) -> str | None:
    """What is said of a file with these entries in its only second-level table."""
    whole = bytearray(END)
    header = Header(l1_at=FIRST, ref_at=COUNTS, incompatible=1).start()
    whole[: len(header)] = header
    struct.pack_into(">Q", whole, COUNTS, counts)
    struct.pack_into(">Q", whole, FIRST, COPIED | first)
    struct.pack_into(f">{len(entries)}Q", whole, SECOND, *entries)
    (tmp_path / "a").write_bytes(whole[:length])
    return references.contradiction(tmp_path, "a")


def test_a_look_that_takes_too_long_ends(tmp_path: Path) -> None:
    assert told(tmp_path) is None
    with (tmp_path / "a").open("rb") as file, pytest.raises(HostCommandFailed) as ended:
        references.contradiction_of(file.fileno(), "a", until=0.0)
    assert ended.value.details == {"timed_out": True}


def test_what_lies_apart_is_right(tmp_path: Path) -> None:
    assert told(tmp_path) is None
    assert told(tmp_path, COPIED | CONTENT, 0, COPIED | (CONTENT + CLUSTER), COPIED | (CONTENT + 2 * CLUSTER) | 1) is None


def test_zeros_without_a_place_claim_none(tmp_path: Path) -> None:
    assert told(tmp_path, 1, 1, 1, COPIED | CONTENT) is None


def test_the_last_cluster_may_be_cut_off_in_the_middle(tmp_path: Path) -> None:
    assert told(tmp_path, COPIED | CONTENT, length=CONTENT + 512) is None
    assert "past the end" in str(told(tmp_path, COPIED | CONTENT, length=CONTENT))


def test_compressed_pieces_share_clusters_with_each_other_only(tmp_path: Path) -> None:
    pieces = (compressed(CONTENT, 3), compressed(CONTENT + 1400, 127), compressed(CONTENT + 66000, 2))
    assert told(tmp_path, *pieces, COPIED | (CONTENT + 2 * CLUSTER)) is None
    assert "something else" in str(told(tmp_path, *pieces, COPIED | (CONTENT + CLUSTER)))
    assert "something else" in str(told(tmp_path, COPIED | CONTENT, *pieces))
    assert "past the end" in str(told(tmp_path, compressed(END, 1)))


def test_the_last_compressed_piece_may_claim_more_sectors_than_there_are(tmp_path: Path) -> None:
    assert told(tmp_path, compressed(END - 512, 128)) is None


@pytest.mark.parametrize("place", [COUNTS, BLOCK, FIRST, SECOND])
def test_content_on_a_table_is_wrong(tmp_path: Path, place: int) -> None:
    assert "something else" in str(told(tmp_path, COPIED | place))


@pytest.mark.parametrize("place", [CONTENT, CONTENT + 512, END, 1 << 50])
def test_two_in_one_place_or_one_in_none(tmp_path: Path, place: int) -> None:
    assert told(tmp_path, COPIED | CONTENT, COPIED | place) is not None


def test_tables_on_each_other_are_wrong(tmp_path: Path) -> None:
    assert "a second-level table" in str(told(tmp_path, first=BLOCK))
    assert "a block of counts" in str(told(tmp_path, counts=FIRST))
