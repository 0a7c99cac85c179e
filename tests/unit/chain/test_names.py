"""Names on a share: made only from UUIDs, and checked as hostile input."""

import re
import uuid

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stillframe.chain import names
from stillframe.errors import BadImage, BadRequest
from tests.unit.builders import OTHER_VOLUME, SNAPSHOT, VOLUME

CANONICAL = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
HOSTILE = [
    "",
    ".",
    "..",
    "../volume-" + VOLUME,
    "/etc/passwd",
    f"volume-{VOLUME}/",
    f"./volume-{VOLUME}",
    f"volume-{VOLUME}\n",
    f"volume-{VOLUME}\0",
    f"volume-{VOLUME} ",
    f"VOLUME-{VOLUME}",
    f"volume-{VOLUME}.",
    f"volume-{VOLUME}..{SNAPSHOT}",
    f"volume-{VOLUME}.{SNAPSHOT}.{SNAPSHOT}",
    f"volume-{VOLUME}.info",
    f".trash.volume-{VOLUME}",
    f".tmp.{VOLUME}.x",
    f"json:volume-{VOLUME}",
    f"nbd:volume-{VOLUME}",
    "volume-" + VOLUME.replace("1", "\u0661"),
    f"volume-{'A' * 8}-1111-4111-8111-111111111111",
]


@given(st.uuids(), st.sampled_from([str.lower, str.upper]), st.booleans())
def test_a_uuid_is_made_canonical_however_it_is_written(value: uuid.UUID, case: object, dashes: bool) -> None:
    text = str(value) if dashes else value.hex
    assert names.canonical_id(text.upper() if case is str.upper else text) == str(value)


@given(st.one_of(st.text(), st.text("0123456789abcdefABCDEF-{}urn:_ ", min_size=32, max_size=36), st.integers(), st.none()))
@example("0" * 33)
@example("g" * 32)
@example(f"{VOLUME}\n")
@example("../../../../../../../../../etc/passwd")
def test_whatever_is_taken_as_an_id_comes_out_canonical(text: object) -> None:
    try:
        found = names.canonical_id(text)
    except BadRequest:
        return
    assert CANONICAL.fullmatch(found)
    assert names.canonical_id(found) == found


def test_the_message_for_a_bad_id_names_it_and_stays_short() -> None:
    with pytest.raises(BadRequest, match=r"the snapshot_id 'xxx") as told:
        names.canonical_id("x" * 10_000, "snapshot_id")
    assert len(told.value.message) < 150


@given(st.uuids(), st.uuids())
def test_the_names_of_a_chain_are_read_back_as_they_were_made(volume: uuid.UUID, snapshot: uuid.UUID) -> None:
    assert names.parse(names.base_name(str(volume))) == (str(volume), None)
    assert names.parse(names.overlay_name(str(volume), str(snapshot))) == (str(volume), str(snapshot))


def test_files_beside_a_chain_are_no_chain_files() -> None:
    for name in (
        names.info_name(VOLUME),
        names.temporary_name(VOLUME, SNAPSHOT),
        names.trash_name(names.base_name(VOLUME)),
    ):
        assert names.parse(name) is None


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_belongs_to_no_volume(name: str) -> None:
    assert names.parse(name) is None
    with pytest.raises(BadImage):
        names.check_belongs(name, VOLUME)


@given(st.text())
def test_no_text_that_is_taken_for_a_chain_file_can_leave_its_directory(name: str) -> None:
    if names.parse(name) is not None:
        assert re.fullmatch(r"[a-z0-9.-]+", name)


def test_a_file_of_another_volume_does_not_belong() -> None:
    with pytest.raises(BadImage, match=OTHER_VOLUME):
        names.check_belongs(names.base_name(VOLUME), OTHER_VOLUME)
    with pytest.raises(BadImage):
        names.check_belongs(names.overlay_name(OTHER_VOLUME, VOLUME), VOLUME)


def test_an_own_file_belongs() -> None:
    for name in (names.base_name(VOLUME), names.overlay_name(VOLUME, SNAPSHOT)):
        assert names.check_belongs(name, VOLUME) == name
