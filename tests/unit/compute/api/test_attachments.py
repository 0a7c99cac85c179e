"""A server's volumes as clients read them, at every microversion that changes something."""

from pathlib import Path
from typing import Any

import pytest

from stillframe.compute.api import attachments
from stillframe.db.engine import Database
from stillframe.errors import NotFound
from stillframe.web.route import Call, Version
from tests.unit import builders
from tests.unit.builders import OTHER_VOLUME, SERVER, VOLUME

ENTRY = {"volume_id": VOLUME, "server_id": SERVER, "device": "/dev/vdb", "attachment_id": "a", "guest_has_disk": True}
BASE = {"volumeId": VOLUME, "serverId": SERVER, "device": "/dev/vdb", "guest_has_disk": True}


@pytest.fixture
def asked(database: Database, tmp_path: Path) -> Any:
    def make(version: Version, volume_id: str = VOLUME, **more: Any) -> Call:
        answers = {"list_attached": [ENTRY], "attach_volume": ENTRY}
        path = {"id": SERVER, "volume_id": volume_id}
        return builders.call(builders.api(database, tmp_path, answers), version, path=path, **more)

    return make


@pytest.mark.parametrize(
    ("version", "more"),
    [
        ((2, 1), {"id": VOLUME}),
        ((2, 69), {"id": VOLUME}),
        ((2, 70), {"id": VOLUME, "tag": None}),
        ((2, 79), {"id": VOLUME, "tag": None, "delete_on_termination": False}),
        ((2, 88), {"id": VOLUME, "tag": None, "delete_on_termination": False}),
        ((2, 89), {"tag": None, "delete_on_termination": False, "attachment_id": "a", "bdm_uuid": "a"}),
        ((2, 100), {"tag": None, "delete_on_termination": False, "attachment_id": "a", "bdm_uuid": "a"}),
    ],
)
def test_an_attachment_has_the_fields_of_the_version(asked: Any, version: Version, more: dict[str, Any]) -> None:
    assert attachments.show(asked(version)) == {"volumeAttachment": {**BASE, **more}}
    assert attachments.list_all(asked(version)) == {"volumeAttachments": [{**BASE, **more}]}


def test_a_volume_that_is_not_attached_is_not_found(asked: Any) -> None:
    with pytest.raises(NotFound, match=OTHER_VOLUME):
        attachments.show(asked((2, 1), OTHER_VOLUME))


@pytest.mark.parametrize(("device", "passed"), [("/dev/vdb", "/dev/vdb"), (None, None), ("", None)])
def test_a_device_that_is_left_open_is_chosen_by_the_worker(asked: Any, device: str | None, passed: str | None) -> None:
    call = asked((2, 1), body={"volumeAttachment": {"volumeId": VOLUME, "device": device}})
    assert attachments.attach(call)["volumeAttachment"]["id"] == VOLUME
    assert call.api.bus.asked == [("attach_volume", {"server_id": SERVER, "volume_id": VOLUME, "device": passed})]


def test_offset_and_limit_cut_the_list(asked: Any) -> None:
    for query, shown in (({"limit": "0"}, 0), ({"offset": "1"}, 0), ({"offset": "0", "limit": "1"}, 1)):
        assert len(attachments.list_all(asked((2, 1), query=query))["volumeAttachments"]) == shown
