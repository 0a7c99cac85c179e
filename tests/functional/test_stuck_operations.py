"""What can never succeed ends with everything as before; what is parked is retried, or abandoned, by its id."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from stillframe.db import operations, volumes
from stillframe.db.tables import operations as table
from stillframe.host import files
from stillframe.journal import record
from stillframe.volumes.operations import volumes as volume_operations
from tests.support import qemu_io
from tests.support.lab import open_lab
from tests.support.operator import Operator
from tests.support.stack import wait_for


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    made = open_lab(tmp_path_factory.mktemp("stuck"))
    try:
        yield Operator(made)
    finally:
        made.clear()


def volume(operator: Operator, volume_id: str) -> dict[str, Any]:
    found: dict[str, Any] = operator.api.ok("volume", "GET", f"/volumes/{volume_id}")["volume"]
    return found


def newest(operator: Operator, kind: str) -> Any:
    with operator.database().read() as connection:
        return next(row for row in operations.newest(connection, 50) if row["kind"] == kind)


def ended(operator: Operator, kind: str) -> Any:
    wait_for(lambda: newest(operator, kind)["state"] in ("done", "undone", "parked"), f"the end of {kind}", 120)
    return newest(operator, kind)


def dies(operator: Operator, place: str, volume_id: str, path: str, body: dict[str, Any]) -> None:
    """A request whose worker is killed at that place."""
    operator.lab.stack.stop()
    operator.lab.stack.start(f"{place}@{volume_id}")
    operator.api.ok("volume", "POST", path, body)
    operator.lab.stack.wait_killed()


@pytest.mark.parametrize("place", ["check_unused/before", "Resize/before"])
def test_a_volume_whose_file_somebody_removed_cannot_grow_and_is_as_before(operator: Operator, place: str) -> None:
    volume_id = operator.volume()
    dies(operator, f"extend_volume/{place}", volume_id, f"/volumes/{volume_id}/action", {"os-extend": {"new_size": 3}})
    file = operator.share / f"volume-{volume_id}"
    kept = file.rename(operator.lab.directory / "kept")
    operator.lab.stack.start()
    row = ended(operator, "extend_volume")
    assert (row["state"], row["fault"]["code"]) == ("undone", "chain_conflict")
    assert file.name in row["fault"]["message"]
    found = volume(operator, volume_id)
    assert (found["status"], found["size"]) == ("available", 1)
    kept.rename(file)
    operator.api.ok("volume", "POST", f"/volumes/{volume_id}/action", {"os-extend": {"new_size": 3}})
    wait_for(lambda: volume(operator, volume_id)["size"] == 3, "the growth")
    assert volume(operator, volume_id)["status"] == "available"
    operator.settle()


def content(operator: Operator, path: Path) -> bytes:
    """The first 4 KiB of the disk."""
    raw = operator.lab.directory / "raw"
    command = ["qemu-img", "dd", "-f", "qcow2", "-O", "raw", "bs=4096", "count=1", f"if={path}", f"of={raw}"]
    subprocess.run(command, check=True, capture_output=True)
    found = raw.read_bytes()
    assert found.startswith(b"kept")
    return found


def park(operator: Operator, volume_id: str, **evidence: Any) -> str:
    """An extend to 3 GiB that met a damaged file, as an operation that nobody works on any more. With ``evidence`` of its steps
    begun."""
    with operator.database().write() as connection:
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


def state(operator: Operator, operation_id: str) -> str:
    with operator.database().read() as connection:
        row = operations.get(connection, operation_id)
    assert row is not None
    return str(row["state"])


def grows(operator: Operator, volume_id: str) -> None:
    operator.api.ok("volume", "POST", f"/volumes/{volume_id}/action", {"os-extend": {"new_size": 4}})
    wait_for(lambda: volume(operator, volume_id)["size"] == 4, "the growth")
    operator.settle()


def test_a_parked_operation_that_was_never_begun_is_abandoned_and_the_volume_is_as_before(
    operator: Operator, caplog: pytest.LogCaptureFixture
) -> None:
    volume_id = operator.volume()
    operation_id = park(operator, volume_id)
    assert operator.api.send("volume", "POST", f"/volumes/{volume_id}/action", {"os-extend": {"new_size": 4}}).status_code in (
        400,
        409,
    )
    said = operator.run(["operation", "abandon"], operation_id)
    assert (said.code, state(operator, operation_id)) == (1, "parked"), "nobody was asked"
    assert "--yes" in caplog.text
    said = operator.run(["operation", "abandon"], operation_id, "--yes")
    assert said.code == 0, said.complaint
    assert f"volume {volume_id} was error_extending and is available" in said.out
    assert (state(operator, operation_id), volume(operator, volume_id)["size"]) == ("undone", 1)
    assert operator.run(["operation", "abandon"], operation_id, "--yes").code != 0
    assert operator.run(["operation", "retry"], operation_id).code != 0
    grows(operator, volume_id)


def test_the_doctor_reports_what_was_begun_until_it_is_corrected(operator: Operator) -> None:
    volume_id = operator.volume()
    path = operator.share / f"volume-{volume_id}"
    qemu_io.write(operator.share, path.name, b"kept")
    operation_id = park(operator, volume_id, **{"Resize begun": {}})
    before = content(operator, path), path.stat().st_mtime_ns, files.listing(operator.share)
    said = operator.run(["operation", "abandon"], operation_id, "--yes")
    assert said.code == 0, said.complaint
    assert (content(operator, path), path.stat().st_mtime_ns, files.listing(operator.share)) == before
    assert f"look at {path.name}" in said.out
    assert volume(operator, volume_id)["status"] == "error_extending"
    found = [each for each in operator.document()["findings"] if each["kind"] == "abandoned_operation"]
    assert [(each["volume_id"], operation_id in each["what"], path.name in each["what"]) for each in found] == [
        (volume_id, True, True)
    ]
    assert "reset the status" in found[0]["what"]
    admin = operator.lab.stack.api("stillframe-admin")
    admin.ok("volume", "POST", f"/volumes/{volume_id}/action", {"os-reset_status": {"status": "available"}})
    assert [each for each in operator.document()["findings"] if each["volume_id"] == volume_id] == []
    grows(operator, volume_id)
    assert content(operator, path) == before[0]


def test_a_retried_operation_continues(operator: Operator, caplog: pytest.LogCaptureFixture) -> None:
    volume_id = operator.volume()
    operation_id = park(operator, volume_id, **{"Resize begun": {}})
    assert operator.run(["operation", "retry"], operation_id).code == 0
    wait_for(lambda: state(operator, operation_id) == "done", "the operation")
    assert (volume(operator, volume_id)["status"], volume(operator, volume_id)["size"]) == ("available", 3)
    assert operator.run(["operation", "abandon"], operation_id, "--yes").code != 0
    assert "has ended" in caplog.text
    operator.settle()


def test_a_volume_on_a_share_that_is_gone_is_forgotten_and_taken_back_when_it_comes_back(operator: Operator) -> None:
    volume_id, other = operator.volume(), operator.volume()
    qemu_io.write(operator.share, f"volume-{volume_id}", b"kept")
    snapshot = operator.snapshot(volume_id)
    held = content(operator, operator.share / f"volume-{volume_id}")
    assert operator.run(["volume", "forget"], volume_id, "--yes").code != 0, "the share answers"
    names = sorted(path.name for path in operator.share.iterdir())
    kept = operator.share.rename(operator.lab.directory / "gone")
    said = operator.run(["volume", "forget"], volume_id, "--dry-run")
    assert said.code == 0 and f"this also removes snapshot {snapshot}" in said.out, said
    assert volume(operator, volume_id)["status"] == "available"
    assert operator.run(["volume", "forget"], volume_id).code != 0, "nobody said yes"
    before = used(operator)
    assert operator.run(["volume", "forget"], volume_id, "--yes").code == 0
    assert used(operator) == (before[0] - 1, before[1] - 2, before[2] - 1)  # a snapshot counts in the GiB too
    for path in (f"/volumes/{volume_id}", f"/snapshots/{snapshot}"):
        assert operator.api.send("volume", "GET", path).status_code == 404
    assert volume(operator, other)["status"] == "available" and not operator.share.exists()
    kept.rename(operator.share)
    assert sorted(path.name for path in operator.share.iterdir()) == names
    assert operator.run(["manage-share"], "--share", str(operator.share)).code == 0
    assert volume(operator, volume_id)["status"] == "available" and used(operator) == before
    assert content(operator, operator.share / operator.lab.snapshot_file(volume_id, snapshot)) == held


def used(operator: Operator) -> tuple[int, int, int]:
    """What the project uses of its quota: volumes, GiB, snapshots."""
    admin = operator.lab.stack.api("stillframe-admin")
    found = admin.ok("volume", "GET", "/os-quota-sets/demo?usage=true")["quota_set"]
    return found["volumes"]["in_use"], found["gigabytes"]["in_use"], found["snapshots"]["in_use"]
