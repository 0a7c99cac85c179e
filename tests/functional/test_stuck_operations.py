"""What can never succeed ends with everything as before; what is parked is retried, or abandoned, by its id."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from stillframe.db import operations, volumes
from stillframe.db.rows import Row
from stillframe.db.tables import operations as table
from stillframe.host import files
from stillframe.journal import record
from stillframe.volumes.operations import volumes as volume_operations
from tests.support import qemu_io
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


def content(desk: Desk, path: Path) -> bytes:
    """The first 4 KiB of the disk."""
    raw = desk.lab.directory / "raw"
    command = ["qemu-img", "dd", "-f", "qcow2", "-O", "raw", "bs=4096", "count=1", f"if={path}", f"of={raw}"]
    subprocess.run(command, check=True, capture_output=True)
    found = raw.read_bytes()
    assert found.startswith(b"kept")
    return found


def park(desk: Desk, volume_id: str, **evidence: Any) -> str:
    """An extend to 3 GiB that met a damaged file, as an operation that nobody works on any more. With ``evidence`` of its steps
    begun."""
    with desk.database().write() as connection:
        row = volumes.get(connection, volume_id, None)
        assert row is not None
        operation_id = record.submit(connection, volume_operations.extend_request(row, 3, "req-by-hand"))
        fault = {"code": "parked", "message": "the file is damaged", "details": {}}
        known = operations.get(connection, operation_id)
        assert known is not None
        values = {"state": "parked", "fault": fault, "step": 1, "evidence": {**known["evidence"], **evidence}}
        connection.execute(update(table).where(table.c.id == operation_id).values(values))
        volumes.change(connection, volume_id, status="error_extending", fault="the file is damaged")
    return operation_id


def state(desk: Desk, operation_id: str) -> str:
    with desk.database().read() as connection:
        row = operations.get(connection, operation_id)
    assert row is not None
    return str(row["state"])


def grows(desk: Desk, volume_id: str) -> None:
    desk.api.ok("volume", "POST", f"/volumes/{volume_id}/action", {"os-extend": {"new_size": 4}})
    wait_for(lambda: volume(desk, volume_id)["size"] == 4, "the growth")
    desk.settle()


def test_a_parked_operation_that_was_never_begun_is_abandoned_and_the_volume_is_as_before(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    volume_id = desk.volume()
    operation_id = park(desk, volume_id)
    assert desk.api.send("volume", "POST", f"/volumes/{volume_id}/action", {"os-extend": {"new_size": 4}}).status_code in (
        400,
        409,
    )
    said = desk.run(["operation", "abandon"], operation_id)
    assert (said.code, state(desk, operation_id)) == (1, "parked"), "nobody was asked"
    assert "--yes" in caplog.text
    said = desk.run(["operation", "abandon"], operation_id, "--yes")
    assert said.code == 0, said.complaint
    assert f"volume {volume_id} was error_extending and is available" in said.out
    assert (state(desk, operation_id), volume(desk, volume_id)["size"]) == ("undone", 1)
    assert desk.run(["operation", "abandon"], operation_id, "--yes").code != 0
    assert desk.run(["operation", "retry"], operation_id).code != 0
    grows(desk, volume_id)


def test_what_was_begun_is_told_by_the_doctor_until_it_is_put_right(desk: Desk) -> None:
    volume_id = desk.volume()
    path = desk.share / f"volume-{volume_id}"
    qemu_io.write(desk.share, path.name, b"kept")
    operation_id = park(desk, volume_id, **{"Resize begun": {}})
    before = content(desk, path), path.stat().st_mtime_ns, files.listing(desk.share)
    said = desk.run(["operation", "abandon"], operation_id, "--yes")
    assert said.code == 0, said.complaint
    assert (content(desk, path), path.stat().st_mtime_ns, files.listing(desk.share)) == before
    assert f"look at {path.name}" in said.out
    assert volume(desk, volume_id)["status"] == "error_extending"
    found = [each for each in desk.document()["findings"] if each["kind"] == "abandoned_operation"]
    assert [(each["volume_id"], operation_id in each["what"], path.name in each["what"]) for each in found] == [
        (volume_id, True, True)
    ]
    assert "reset the status" in found[0]["what"]
    admin = desk.lab.stack.api("stillframe-admin")
    admin.ok("volume", "POST", f"/volumes/{volume_id}/action", {"os-reset_status": {"status": "available"}})
    assert [each for each in desk.document()["findings"] if each["volume_id"] == volume_id] == []
    grows(desk, volume_id)
    assert content(desk, path) == before[0]


def test_a_retried_one_goes_on(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    volume_id = desk.volume()
    operation_id = park(desk, volume_id, **{"Resize begun": {}})
    assert desk.run(["operation", "retry"], operation_id).code == 0
    wait_for(lambda: state(desk, operation_id) == "done", "the operation")
    assert (volume(desk, volume_id)["status"], volume(desk, volume_id)["size"]) == ("available", 3)
    assert desk.run(["operation", "abandon"], operation_id, "--yes").code != 0
    assert "has ended" in caplog.text
    desk.settle()


def test_a_volume_on_a_share_that_is_gone_is_forgotten_and_taken_back_when_it_comes_back(desk: Desk) -> None:
    volume_id, other = desk.volume(), desk.volume()
    qemu_io.write(desk.share, f"volume-{volume_id}", b"kept")
    snapshot = desk.snapshot(volume_id)
    held = content(desk, desk.share / f"volume-{volume_id}")
    assert desk.run(["volume", "forget"], volume_id, "--yes").code != 0, "the share answers"
    names = sorted(path.name for path in desk.share.iterdir())
    kept = desk.share.rename(desk.lab.directory / "gone")
    said = desk.run(["volume", "forget"], volume_id, "--dry-run")
    assert said.code == 0 and f"with it goes snapshot {snapshot}" in said.out, said
    assert volume(desk, volume_id)["status"] == "available"
    assert desk.run(["volume", "forget"], volume_id).code != 0, "nobody said yes"
    before = used(desk)
    assert desk.run(["volume", "forget"], volume_id, "--yes").code == 0
    assert used(desk) == (before[0] - 1, before[1] - 1, before[2] - 1)
    for path in (f"/volumes/{volume_id}", f"/snapshots/{snapshot}"):
        assert desk.api.send("volume", "GET", path).status_code == 404
    assert volume(desk, other)["status"] == "available" and not desk.share.exists()
    kept.rename(desk.share)
    assert sorted(path.name for path in desk.share.iterdir()) == names
    assert desk.run(["manage-share"], "--share", str(desk.share)).code == 0
    assert volume(desk, volume_id)["status"] == "available" and used(desk) == before
    assert content(desk, desk.share / desk.lab.snapshot_file(volume_id, snapshot)) == held


def used(desk: Desk) -> tuple[int, int, int]:
    """What the project uses of its quota: volumes, GiB, snapshots."""
    admin = desk.lab.stack.api("stillframe-admin")
    found = admin.ok("volume", "GET", "/os-quota-sets/demo?usage=true")["quota_set"]
    return found["volumes"]["in_use"], found["gigabytes"]["in_use"], found["snapshots"]["in_use"]
