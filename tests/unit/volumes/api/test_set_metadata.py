"""The snapshots of a set, recorded and finalized in one request each."""

from pathlib import Path
from typing import Any

import pytest

from stillframe.db.engine import Database
from stillframe.errors import BadRequest
from stillframe.volumes.api import set_metadata as api
from stillframe.web import body
from tests.unit import builders
from tests.unit.builders import SNAPSHOT, VOLUME, context


@pytest.fixture
def asked(database: Database, tmp_path: Path) -> Any:
    with database.write() as connection:
        builders.volume_row(connection)
        builders.snapshot_row(connection)

    def make(document: dict[str, Any]) -> Any:
        made = builders.api(database, tmp_path, {"create_set_metadata": [SNAPSHOT]})
        return builders.call(made, (3, 71), context("service"), body=document)

    return make


def test_the_rows_are_answered_with_the_files_they_are_about(asked: Any) -> None:
    call = asked({"create": {"snapshots": [{"volume_id": VOLUME.upper(), "snapshot_id": SNAPSHOT, "name": None}]}})
    (shown,) = api.create(call)["snapshots"]
    assert (shown["id"], shown["file"]["overlay"]) == (SNAPSHOT, f"volume-{VOLUME}.{SNAPSHOT}")
    assert call.api.bus.asked == [("create_set_metadata", {"asked": [{"volume_id": VOLUME, "snapshot_id": SNAPSHOT}]})]


def test_what_is_finalized_is_told_with_what_is_known_of_each(asked: Any) -> None:
    call = asked({"finalize": {"snapshots": [{"snapshot_id": SNAPSHOT, "status": "available", "created_at": None}]}})
    api.finalize(call)
    assert call.api.bus.asked == [("finalize_set_metadata", {"asked": [{"snapshot_id": SNAPSHOT, "status": "available"}]})]


@pytest.mark.parametrize("document", [{"volume_id": "../x"}, {"volume_id": "x" * 36}])
def test_what_can_be_nothings_id_is_refused(asked: Any, document: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        api.create(asked({"create": {"snapshots": [document]}}))


@pytest.mark.parametrize(
    ("document", "schema"),
    [
        ({"create": {"snapshots": []}}, api._CREATE),
        ({"create": {"snapshots": [{}]}}, api._CREATE),
        ({"create": {"snapshots": [{"volume_id": VOLUME, "overlay": "x"}]}}, api._CREATE),
        ({"create": {"snapshots": [{"volume_id": VOLUME}] * 129}}, api._CREATE),
        ({"finalize": {"snapshots": [{"snapshot_id": SNAPSHOT}]}}, api._FINALIZE),
        ({"finalize": {"snapshots": [{"snapshot_id": SNAPSHOT, "status": "deleting"}]}}, api._FINALIZE),
    ],
)
def test_what_does_not_fit_is_refused(document: dict[str, Any], schema: Any) -> None:
    with pytest.raises(BadRequest):
        body.check(document, schema)
