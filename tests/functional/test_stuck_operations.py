"""What can never succeed ends with everything as before."""

from collections.abc import Iterator
from typing import Any

import pytest

from stillframe.db import operations
from stillframe.db.rows import Row
from tests.support.desk import Desk
from tests.support.lab import open_lab
from tests.support.stack import wait_for


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    made = open_lab(tmp_path_factory.mktemp("stuck"))
    try:
        yield Desk(made)
    finally:
        made.clear()


def volume(desk: Desk, volume_id: str) -> dict[str, Any]:
    found: dict[str, Any] = desk.api.ok("volume", "GET", f"/volumes/{volume_id}")["volume"]
    return found


def newest(desk: Desk, kind: str) -> Row:
    with desk.database().read() as connection:
        return next(row for row in operations.newest(connection, 50) if row["kind"] == kind)


def ended(desk: Desk, kind: str) -> Row:
    wait_for(lambda: newest(desk, kind)["state"] in ("done", "undone", "parked"), f"the end of {kind}", 120)
    return newest(desk, kind)


def dies(desk: Desk, place: str, volume_id: str, path: str, body: dict[str, Any]) -> None:
    """A request whose worker is killed at that place."""
    desk.lab.stack.stop()
    desk.lab.stack.start(f"{place}@{volume_id}")
    desk.api.ok("volume", "POST", path, body)
    desk.lab.stack.wait_killed()


@pytest.mark.parametrize("place", ["check_unused/before", "Resize/before"])
def test_a_volume_whose_file_somebody_removed_cannot_grow_and_is_as_before(desk: Desk, place: str) -> None:
    volume_id = desk.volume()
    dies(desk, f"extend_volume/{place}", volume_id, f"/volumes/{volume_id}/action", {"os-extend": {"new_size": 3}})
    file = desk.share / f"volume-{volume_id}"
    kept = file.rename(desk.lab.directory / "kept")
    desk.lab.stack.start()
    row = ended(desk, "extend_volume")
    assert (row["state"], row["fault"]["code"]) == ("undone", "chain_conflict")
    assert file.name in row["fault"]["message"]
    found = volume(desk, volume_id)
    assert (found["status"], found["size"]) == ("available", 1)
    kept.rename(file)
    desk.api.ok("volume", "POST", f"/volumes/{volume_id}/action", {"os-extend": {"new_size": 3}})
    wait_for(lambda: volume(desk, volume_id)["size"] == 3, "the growth")
    assert volume(desk, volume_id)["status"] == "available"
    desk.settle()
