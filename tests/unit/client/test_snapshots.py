"""The client library: what is deleted by one request, and what by another."""

from typing import Any

from stillframe.client.snapshots import Snapshots
from tests.unit.builders import OTHER_SNAPSHOT, OTHER_VOLUME, SET, SNAPSHOT, VOLUME
from tests.unit.client.fakes import Adapter, Answer


def of(snapshot_id: str, volume_id: str) -> dict[str, Any]:
    return {f"GET /snapshots/{snapshot_id}": Answer(200, {"snapshot": {"id": snapshot_id, "volume_id": volume_id}})}


def test_snapshots_of_one_volume_go_in_one_request_with_the_limit_that_was_given() -> None:
    one, several = f"DELETE /snapshots/{SET}?bandwidth_mib=5", f"POST /volumes/{VOLUME}/action"
    known = {**of(SNAPSHOT, VOLUME), **of(SET, OTHER_VOLUME), **of(OTHER_SNAPSHOT, VOLUME)}
    adapter = Adapter({**known, one: Answer(202), several: Answer(202)})
    assert Snapshots(adapter).delete([SNAPSHOT, SET, OTHER_SNAPSHOT], 5) == [SNAPSHOT, OTHER_SNAPSHOT, SET]
    assert [(f"{method} {path}", body) for method, path, body in adapter.sent if method != "GET"] == [
        (several, {"os-delete_snapshots": {"snapshot_ids": [SNAPSHOT, OTHER_SNAPSHOT], "bandwidth_mib": 5}}),
        (one, None),
    ]
