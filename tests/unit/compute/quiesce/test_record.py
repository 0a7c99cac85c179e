"""The record that a guest may be frozen."""

import json
import os
import stat
from pathlib import Path

import pytest

from stillframe.compute.quiesce import record as freeze_record
from stillframe.compute.quiesce.record import FreezeRecord
from stillframe.errors import Conflict
from tests.unit.builders import OTHER_VOLUME, SERVER

RECORD = FreezeRecord(SERVER, "operation", 12.5, 4711)
LATER = FreezeRecord(SERVER, "another", 99.0, 4711)
OTHER = FreezeRecord(OTHER_VOLUME, "operation", 12.5, 4711)


def test_a_record_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    freeze_record.write(tmp_path, RECORD)
    freeze_record.write(tmp_path, OTHER)
    assert freeze_record.read(tmp_path, SERVER) == RECORD
    assert sorted(freeze_record.read_all(tmp_path), key=lambda each: each.domain) == [OTHER, RECORD]


@pytest.mark.parametrize(
    "text",
    ["", "{", "{}", "[]", "0", "[" * 200_000, '{"domain": 1}', json.dumps({**vars(RECORD), "deadline": "soon"})]
    + [json.dumps({**vars(RECORD), **change}) for change in ({"worker": True}, {"domain": OTHER_VOLUME}, {"more": 1})],
)
def test_a_record_that_cannot_be_read_is_told_with_what_to_do(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It says that a guest may be frozen: never taken for none."""
    freeze_record.write(tmp_path, OTHER)
    (tmp_path / f"{SERVER}.json").write_text(text)
    with pytest.raises(Conflict, match=f"virsh domfsthaw {SERVER}"):
        freeze_record.read(tmp_path, SERVER)
    assert freeze_record.read_all(tmp_path) == [OTHER]
    assert "may still be frozen" in caplog.text


def test_a_directory_that_does_not_exist_yet_holds_no_record_and_is_made_for_one_user(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "freeze"
    assert freeze_record.read(directory, SERVER) is None
    assert freeze_record.read_all(directory) == []
    freeze_record.clear(directory, RECORD)
    freeze_record.write(directory, RECORD)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / f"{SERVER}.json").stat().st_mode) == 0o600


def test_a_record_is_cleared_by_who_wrote_it(tmp_path: Path) -> None:
    freeze_record.write(tmp_path, RECORD)
    freeze_record.write(tmp_path, OTHER)
    freeze_record.clear(tmp_path, RECORD)
    assert freeze_record.read_all(tmp_path) == [OTHER]
    freeze_record.clear(tmp_path, RECORD)


def test_a_record_another_operation_wrote_meanwhile_is_not_cleared(tmp_path: Path) -> None:
    freeze_record.write(tmp_path, RECORD)
    freeze_record.write(tmp_path, LATER)
    freeze_record.clear(tmp_path, RECORD)
    assert freeze_record.read(tmp_path, SERVER) == LATER


def test_what_a_crash_left_half_written_is_no_record(tmp_path: Path) -> None:
    freeze_record.write(tmp_path, RECORD)
    os.rename(tmp_path / f"{SERVER}.json", tmp_path / f".tmp.{SERVER}.json")
    assert freeze_record.read_all(tmp_path) == []


def test_a_record_written_before_there_was_anything_to_put_back_is_understood(tmp_path: Path) -> None:
    freeze_record.write(tmp_path, RECORD)
    path = tmp_path / f"{SERVER}.json"
    kept = json.loads(path.read_text())
    for added in ("rcu_expedited", "suspended"):
        del kept[added]
    path.write_text(json.dumps(kept))
    assert freeze_record.read(tmp_path, SERVER) == RECORD


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"domain": "x"}', '{"domain": "x", "more": 1}', "\0"])
def test_a_record_nobody_can_read_hides_no_other_one(tmp_path: Path, content: str) -> None:
    freeze_record.write(tmp_path, RECORD)
    (tmp_path / f"{OTHER_VOLUME}.json").write_text(content)
    assert freeze_record.read_all(tmp_path) == [RECORD]


def test_the_clock_of_deadlines_only_goes_forward() -> None:
    first = freeze_record.boot_seconds()
    assert freeze_record.boot_seconds() >= first > 0
