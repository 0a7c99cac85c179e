"""What is done to a volume that is there: the bodies that fit, and what the worker is asked for."""

from pathlib import Path
from typing import Any

import pytest

from stillframe.db import volumes
from stillframe.db.engine import Database
from stillframe.errors import BadRequest, Forbidden
from stillframe.volumes.api import volume_actions as api
from stillframe.web import body
from stillframe.web.route import Call, Version
from tests.unit import builders
from tests.unit.builders import SNAPSHOT, VOLUME, context

UPLOADED = {"image_id": "i", "image_name": "n", "volume_type": "local", "disk_format": "raw", "container_format": "bare"}


@pytest.fixture
def asked(database: Database, tmp_path: Path) -> Any:
    with database.write() as connection:
        builders.volume_row(connection, image_metadata={"os": "x"})
    answers = {
        "upload_volume": {**UPLOADED, "visibility": "shared", "protected": False},
        "set_volume_image_metadata": {"merged": "m"},
    }

    def make(version: Version = (3, 71), *roles: str, **more: Any) -> Call:
        return builders.call(builders.api(database, tmp_path, answers), version, context(*roles), path={"id": VOLUME}, **more)

    return make


ACTIONS = {route.action: route for route in api.ROUTES}


def do(asked: Any, action: str, document: Any, *roles: str) -> list[tuple[str, dict[str, Any]]]:
    """Checks the body against the schema, calls the handler; returns what the worker was asked for."""
    route, wanted = ACTIONS[action], {action: document}
    assert route.newest_schema is not None
    body.check(wanted, route.newest_schema)
    call = asked((3, 71), *roles, body=wanted)
    route.handler(call)
    found: list[tuple[str, dict[str, Any]]] = call.api.bus.asked
    return found


@pytest.mark.parametrize(
    ("action", "document", "method", "parameters"),
    [
        ("os-extend", {"new_size": 3}, "extend_volume", {"new_size": 3}),
        ("os-extend", {"new_size": "3"}, "extend_volume", {"new_size": 3}),
        ("revert", {"snapshot_id": SNAPSHOT}, "revert_volume", {"snapshot_id": SNAPSHOT, "newer": None}),
        (
            "revert",
            {"snapshot_id": SNAPSHOT, "newer_snapshots": "keep"},
            "revert_volume",
            {"snapshot_id": SNAPSHOT, "newer": "keep"},
        ),
        ("os-undo_revert", None, "undo_revert", {}),
        ("os-undo_revert", {}, "undo_revert", {}),
        ("os-reset_status", {"status": "error"}, "reset_volume_status", {"status": "error"}),
        ("os-force_delete", None, "delete_volume", {"cascade": True, "force": True}),
        ("os-unmanage", {}, "unmanage_volume", {}),
        ("os-set_bootable", {"bootable": True}, "set_volume_bootable", {"bootable": True}),
        ("os-set_bootable", {"bootable": "False"}, "set_volume_bootable", {"bootable": False}),
        ("os-set_image_metadata", {"metadata": {"a": "b"}}, "set_volume_image_metadata", {"metadata": {"a": "b"}}),
        ("os-unset_image_metadata", {"key": "a"}, "unset_volume_image_metadata", {"key": "a"}),
    ],
)
def test_an_action_asks_the_worker(asked: Any, action: str, document: Any, method: str, parameters: dict[str, Any]) -> None:
    assert do(asked, action, document) == [(method, {"volume_id": VOLUME, **parameters})]


@pytest.mark.parametrize(
    ("action", "document"),
    [
        ("os-extend", {}),
        ("os-extend", {"new_size": 0}),
        ("os-extend", {"new_size": "3 "}),
        ("os-extend", {"new_size": 1.5}),
        ("os-extend", {"new_size": 3, "more": 1}),
        ("revert", {}),
        ("revert", {"snapshot_id": SNAPSHOT, "newer_snapshots": "burn"}),
        ("revert", {"snapshot_id": None}),
        ("os-undo_revert", {"x": 1}),
        ("os-reset_status", {"status": "reverting"}),
        ("os-set_bootable", {}),
        ("os-set_bootable", {"bootable": []}),
        ("os-set_image_metadata", {}),
        ("os-unset_image_metadata", {"key": ""}),
        ("os-volume_upload_image", {}),
        ("os-volume_upload_image", {"image_name": "n", "disk_format": "vmdk"}),
        ("os-volume_upload_image", {"image_name": "n", "container_format": "ovf"}),
    ],
)
def test_an_action_that_does_not_fit_is_refused(action: str, document: Any) -> None:
    schema = ACTIONS[action].newest_schema
    assert schema is not None
    with pytest.raises(BadRequest):
        body.check({action: document}, schema)


def test_a_status_that_is_not_said_is_not_set(asked: Any) -> None:
    assert do(asked, "os-reset_status", {"attach_status": "detached"}) == []


def test_what_follows_from_the_attachments_cannot_be_set(asked: Any) -> None:
    with pytest.raises(BadRequest, match="0 attachments"):
        do(asked, "os-reset_status", {"status": "error", "attach_status": "attached"})


def test_only_an_administrator_makes_an_image_public(asked: Any) -> None:
    with pytest.raises(Forbidden):
        do(asked, "os-volume_upload_image", {"image_name": "n", "visibility": "public"})
    (found,) = do(asked, "os-volume_upload_image", {"image_name": "n", "visibility": "public", "force": None}, "admin")
    assert found[1]["wanted"] == {"image_name": "n", "visibility": "public"}


def test_an_upload_answers_as_cinder_does(asked: Any) -> None:
    wanted = {"os-volume_upload_image": {"image_name": "n"}}
    for version, more in (((3, 0), {}), ((3, 1), {"visibility": "shared", "protected": False})):
        shown = api.upload(asked(version, body=wanted))["os-volume_upload_image"]
        assert shown == {
            "id": VOLUME,
            "updated_at": None,
            "status": "uploading",
            "display_description": None,
            "size": 1,
            **UPLOADED,
            **more,
        }


def test_image_metadata_is_shown_and_an_empty_one_is_no_null(asked: Any, database: Database) -> None:
    assert api.show_image_metadata(asked()) == {"metadata": {"os": "x"}}
    with database.write() as connection:
        volumes.change(connection, VOLUME, image_metadata=None)
    assert api.show_image_metadata(asked()) == {"metadata": {}}
