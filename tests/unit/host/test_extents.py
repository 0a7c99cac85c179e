"""qemu-img's map, read as it comes: in pieces of any size, and never believed when a part is missing."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillframe.chain.image import Image
from stillframe.errors import HostCommandFailed, StepFailed
from stillframe.host import extents, pins
from stillframe.host.extents import Extent
from stillframe.host.inspection import Opened
from stillframe.host.pins import Pinned
from stillframe.host.run import Outcome

HERE = Path("/")
TWO = [
    {"start": 0, "length": 65536, "depth": 1, "present": True, "zero": False, "data": True, "offset": 327680},
    {"start": 65536, "length": 65536, "depth": 0, "present": True, "zero": True, "data": False},
]
AS_EXTENTS = (
    Extent(0, 65536, 1, data=True, zero=False, present=True),
    Extent(65536, 65536, 0, data=False, zero=True, present=True),
)


def printed(entries: list[dict[str, Any]]) -> bytes:
    """As QEMU 7.2 prints it: one object to a line."""
    return ("[" + ",\n".join(json.dumps(entry) for entry in entries) + "]\n").encode()


@contextmanager
def pinned(directory: Path, name: str, format_: str) -> Iterator[Pinned]:
    yield Pinned(directory, (Opened(Image(name, format_, 131072), 0, 0),))


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[str]]]:
    """Puts an output in qemu-img's place; returns the commands that were given."""

    def put(pieces: list[bytes], code: int = 0) -> list[list[str]]:
        given: list[list[str]] = []

        def feed(command: list[str], taker: Callable[[bytes], None], **_more: Any) -> Outcome:
            given.append(command)
            for piece in pieces:
                taker(piece)
            return Outcome(code, "", "its own words")

        monkeypatch.setattr(extents, "feed", feed)
        monkeypatch.setattr(pins, "chain", pinned)
        return given

    return put


Answering = Callable[..., list[list[str]]]


def test_a_map_is_read(answering: Answering) -> None:
    given = answering([printed(TWO)])
    assert extents.extents(HERE, "a", "qcow2", 1) == AS_EXTENTS
    assert "-U" not in given[0]


def test_a_file_in_use_is_read_without_a_lock_only_when_asked(answering: Answering) -> None:
    given = answering([printed(TWO)])
    extents.extents(HERE, "a", "qcow2", 1, shared=True)
    assert given[0][-2] == "-U"


@pytest.mark.parametrize("size", [1, 7, 100])
def test_it_may_come_in_pieces_of_any_size(answering: Answering, size: int) -> None:
    whole = printed(TWO)
    answering([whole[at : at + size] for at in range(0, len(whole), size)])
    assert extents.extents(HERE, "a", "qcow2", 1) == AS_EXTENTS


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_a_map_that_is_cut_off_is_an_error(answering: Answering, kept: int) -> None:
    lines = printed(TWO).rstrip(b"]\n").split(b"\n")
    answering([b"\n".join(lines[:kept])])
    with pytest.raises(StepFailed, match="cut off"):
        extents.extents(HERE, "a", "qcow2", 1)


def test_a_failed_map_is_told_in_its_own_words(answering: Answering) -> None:
    answering([], 1)
    with pytest.raises(HostCommandFailed, match="its own words"):
        extents.extents(HERE, "a", "qcow2", 1)


def test_neighbours_of_one_kind_are_joined_and_others_are_not(answering: Answering) -> None:
    first = {**TWO[0], "offset": 1}
    answering([printed([first, {**first, "start": 65536}, {**TWO[1], "start": 131072}, {**TWO[1], "start": 300000}])])
    found = extents.extents(HERE, "a", "qcow2", 1)
    assert [(each.start, each.length) for each in found] == [(0, 131072), (131072, 65536), (300000, 65536)]


def test_a_map_in_too_many_pieces_is_refused(answering: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extents, "MOST_EXTENTS", 1)
    answering([printed(TWO)])
    with pytest.raises(StepFailed, match="more than 1 pieces"):
        extents.extents(HERE, "a", "qcow2", 1)


KIND = st.tuples(st.integers(0, 3), st.booleans(), st.booleans(), st.booleans())


@given(st.lists(st.tuples(st.integers(1, 5), KIND), max_size=30), st.integers(1, 50))
def test_joining_loses_and_invents_nothing(runs: list[tuple[int, tuple[int, bool, bool, bool]]], size: int) -> None:
    entries, at = [], 0
    for length, (depth, data, zero, present) in runs:
        entries.append({"start": at, "length": length, "depth": depth, "data": data, "zero": zero, "present": present})
        at += length
    reader = extents._Reader("a")
    whole = printed(entries)
    for place in range(0, len(whole), size):
        reader.take(whole[place : place + size])
    found = reader.end()
    units = [kind for length, kind in runs for _ in range(length)]
    assert [(e.depth, e.data, e.zero, e.present) for e in found for _ in range(e.length)] == units
    assert all(one.start + one.length == other.start for one, other in pairwise(found))
