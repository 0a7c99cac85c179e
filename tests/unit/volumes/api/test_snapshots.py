"""Snapshots as clients read them, at every microversion that changes something, and as they ask for them."""

from pathlib import Path
from typing import Any

import pytest

from stillframe.db import snapshots as rows
from stillframe.db.engine import Database
from stillframe.errors import BadRequest, NotFound
from stillframe.volumes.api import snapshots as api
from stillframe.web import body
from stillframe.web.route import Call, Version
from tests.unit import builders
from tests.unit.builders import OTHER_SNAPSHOT, SET, SNAPSHOT, VOLUME, context

FIELDS = {"group_snapshot_id": (3, 14), "user_id": (3, 41), "consumes_quota": (3, 65)}
OUTCOME = {"level": "crash", "frozen_ms": 12.5, "filesystems": 1, "degraded_reason": "why", "set_id": SET, "flushed": True}


@pytest.fixture
def asked(database: Database, tmp_path: Path) -> Any:
    with database.write() as connection:
        builders.volume_row(connection)
        builders.snapshot_row(connection, consistency=OUTCOME)

    def make(version: Version = (3, 0), *roles: str, **more: Any) -> Call:
        api = builders.api(database, tmp_path, {"create_snapshot": SNAPSHOT, "create_snapshot_metadata": SNAPSHOT})
        return builders.call(api, version, context(*roles), **{"path": {"id": SNAPSHOT}, **more})

    return make


@pytest.mark.parametrize(("name", "since"), FIELDS.items())
def test_a_field_is_shown_from_its_version_on(asked: Any, name: str, since: Version) -> None:
    assert name not in api.show(asked((since[0], since[1] - 1)))["snapshot"]
    assert name in api.show(asked(since))["snapshot"]
    assert name in api.show(asked((3, 71)))["snapshot"]


def test_a_snapshot_has_every_field_of_the_oldest_version_and_says_how_consistent_it_is(asked: Any) -> None:
    shown = api.show(asked(additions=True))["snapshot"]
    assert {key: value for key, value in shown.items() if key != "created_at"} == {
        "id": SNAPSHOT,
        "name": "before",
        "description": None,
        "volume_id": VOLUME,
        "status": "available",
        "size": 1,
        "metadata": {},
        "updated_at": None,
        "os-extended-snapshot-attributes:progress": "100%",
        "os-extended-snapshot-attributes:project_id": "demo",
        "consistency": OUTCOME,
    }
    del shown["consistency"]
    assert api.show(asked())["snapshot"] == shown


@pytest.mark.parametrize("made", [api.create, api.update])
def test_a_snapshot_that_is_made_or_changed_is_shown_with_fewer_keys(asked: Any, made: Any) -> None:
    shown = made(asked(body={"snapshot": {"volume_id": VOLUME, "name": "n"}}))["snapshot"]
    assert set(api.show(asked())["snapshot"]) - set(shown) == {
        "os-extended-snapshot-attributes:progress",
        "os-extended-snapshot-attributes:project_id",
    }


def test_the_files_of_a_snapshot_are_shown_to_nobody_who_lists_it(asked: Any) -> None:
    for role in ("member", "admin", "service"):
        assert {"overlay", "backing", "file"}.isdisjoint(api.show(asked((3, 71), role))["snapshot"])


def test_a_fault_is_shown_when_there_is_one(asked: Any, database: Database) -> None:
    assert "fault" not in api.show(asked(additions=True))["snapshot"]
    with database.write() as connection:
        rows.change(connection, SNAPSHOT, fault="why")
    assert api.show(asked(additions=True))["snapshot"]["fault"] == "why"
    assert "fault" not in api.show(asked())["snapshot"]


def test_a_brief_list_leaves_out_what_a_detailed_one_shows(asked: Any) -> None:
    (brief,), (detail,) = api.list_brief(asked())["snapshots"], api.list_detail(asked())["snapshots"]
    assert brief.items() <= detail.items()
    assert "consistency" not in brief
    assert "count" not in api.list_brief(asked((3, 44), query={"with_count": "true"}))
    assert api.list_brief(asked((3, 45), query={"with_count": "true"}))["count"] == 1


def test_lists_are_filtered(asked: Any) -> None:
    for query, count in (
        ({"volume_id": VOLUME}, 1),
        ({"volume_id": SET}, 0),
        ({"status": "error"}, 0),
        ({"name": "before"}, 1),
    ):
        assert len(api.list_detail(asked(query=query))["snapshots"]) == count


def test_a_snapshot_that_is_not_there_is_not_found(asked: Any) -> None:
    for wanted in (OTHER_SNAPSHOT, "x", "x" * 5000):
        with pytest.raises(NotFound):
            api.show(asked(path={"id": wanted}))
    with pytest.raises(NotFound):
        api.create(asked(body={"snapshot": {"volume_id": SET}}))


def test_a_snapshot_is_asked_for_of_a_volume_that_was_found(asked: Any) -> None:
    call = asked(body={"snapshot": {"volume_id": VOLUME.upper(), "display_name": "n", "description": None}})
    assert api.create(call)["snapshot"]["id"] == SNAPSHOT
    ((method, parameters),) = call.api.bus.asked
    assert (method, parameters["volume_id"], parameters["wanted"]["name"]) == ("create_snapshot", VOLUME, "n")


def test_recording_a_snapshot_answers_with_the_files_it_is_about(asked: Any) -> None:
    call = asked((3, 71), "service", path={"id": VOLUME}, body={"os-create_snapshot_metadata": {"snapshot_id": SNAPSHOT}})
    shown = api.create_snapshot_metadata(call)["snapshot"]
    assert shown["file"] == {
        "overlay": f"volume-{VOLUME}.{SNAPSHOT}",
        "backing": f"volume-{VOLUME}",
        "backing_format": "qcow2",
    }
    assert {**api.show(asked((3, 71)))["snapshot"], "file": shown["file"]} == shown


FINALIZE = "os-finalize_snapshot_metadata"


@pytest.mark.parametrize(
    "document",
    [
        {"status": "available"},
        {"status": "error"},
        {"status": "available", "active_file": None, "consistency": None},
        {"status": "available", "consistency": OUTCOME},
        {"status": "available", "consistency": {"level": "filesystem"}},
    ],
)
def test_a_snapshot_can_be_finalized_with_what_compute_knows(asked: Any, document: dict[str, Any]) -> None:
    body.check({FINALIZE: document}, api._FINALIZE)
    call = asked(body={FINALIZE: document})
    api.finalize(call)
    wanted = {key: value for key, value in document.items() if value is not None}
    assert call.api.bus.asked == [("finalize_snapshot_metadata", {"snapshot_id": SNAPSHOT, "wanted": wanted})]


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"status": "creating"},
        {"status": "deleting"},
        {"status": "available", "overlay": "x"},
        {"status": "available", "consistency": {}},
        {"status": "available", "consistency": {"level": "exact"}},
        {"status": "available", "consistency": {"level": "crash", "frozen_ms": -1}},
        {"status": "available", "consistency": {"level": "crash", "more": 1}},
        {"status": "available", "active_file": "x" * 256},
    ],
)
def test_a_finalizing_that_does_not_fit_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        body.check({FINALIZE: document}, api._FINALIZE)


@pytest.mark.parametrize(
    ("progress", "fits"), [("0%", True), ("90%", True), ("100%", True), ("101%", False), ("x", False), ("90%\n", False)]
)
def test_a_report_holds_a_percentage(progress: str, fits: bool) -> None:
    document = {"os-update_snapshot_status": {"status": "creating", "progress": progress}}
    if fits:
        body.check(document, api._REPORT)
    else:
        with pytest.raises(BadRequest):
            body.check(document, api._REPORT)
