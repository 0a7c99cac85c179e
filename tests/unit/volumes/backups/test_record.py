"""The record of a backup that a client keeps: Cinder's shape, and hostile when it comes back."""

import base64
import json
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillframe.errors import BadRequest
from stillframe.volumes.backups import record
from stillframe.volumes.backups.record import Record
from tests.unit.builders import OTHER_VOLUME, SNAPSHOT, VOLUME

BACKUP = "aaaaaaaa-0000-4000-8000-000000000001"
PARENT = "bbbbbbbb-0000-4000-8000-000000000002"
ROW: dict[str, Any] = {
    "id": BACKUP,
    "volume_id": VOLUME,
    "parent_id": PARENT,
    "container": "volumebackups",
    "name": "nightly",
    "description": None,
    "size": 4,
    "object_count": 2,
    "bytes": 12345,
    "metadata": {"key": "José"},
    "data_timestamp": datetime(2026, 11, 23, 12, 0, 0),
    "created_at": datetime(2026, 11, 23, 12, 0, 1, 250),
    "project_id": "secret to others",
    "snapshot_id": SNAPSHOT,
}


def encoded(document: Any) -> str:
    return base64.b64encode(json.dumps(document).encode()).decode()


def exported() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(base64.b64decode(record.export_record(ROW)["backup_url"]))
    return document


def test_a_record_comes_back() -> None:
    found = record.import_record(**record.export_record(ROW))
    assert found == Record(stored_id=BACKUP, **{name: ROW[name] for name in record.Record.__dataclass_fields__ if name in ROW})


def test_a_record_tells_nothing_of_projects() -> None:
    assert "project_id" not in exported()
    assert "secret" not in json.dumps(exported())


def test_a_backup_may_be_imported_beside_itself() -> None:
    """As Tempest does: it changes the id in the record, and both backups are to read the same objects."""
    document = exported() | {"id": OTHER_VOLUME}
    found = record.import_record(record.SERVICE, encoded(document))
    assert (found.id, found.stored_id) == (OTHER_VOLUME, BACKUP)
    row = {**ROW, "id": found.id, "stored_id": found.stored_id}
    assert record.import_record(**record.export_record(row)) == found


def test_clients_find_the_beginning_they_look_for() -> None:
    assert record.export_record(ROW)["backup_service"].startswith("cinder.backup.drivers")


@pytest.mark.parametrize("service", ["", "cinder.backup.drivers.posix.PosixBackupDriver", record.SERVICE.upper()])
def test_another_services_record_is_refused(service: str) -> None:
    with pytest.raises(BadRequest, match=r"cinder\.backup\.drivers\.stillframe"):
        record.import_record(service, record.export_record(ROW)["backup_url"])


@pytest.mark.parametrize(
    "change",
    [
        {"id": "../x"},
        {"id": BACKUP.upper()},
        {"stored_id": None},
        {"volume_id": ""},
        {"parent_id": 5},
        {"container": "../x"},
        {"name": "x" * 256},
        {"name": "\ud800"},
        {"description": ["x"]},
        {"size": "4"},
        {"size": True},
        {"bytes": -1},
        {"bytes": 1 << 63},
        {"object_count": 1.0},
        {"metadata": {"a": 1}},
        {"metadata": []},
        {"metadata": {str(n): "" for n in range(1025)}},
        {"created_at": "yesterday"},
        {"created_at": "2026-02-30T00:00:00.000000"},
        {"data_timestamp": None},
        {"version": 2},
        {"extra": 1},
    ],
)
def test_what_export_would_not_write_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        record.import_record(record.SERVICE, encoded(exported() | change))


@pytest.mark.parametrize("missing", [*Record.__dataclass_fields__, "version"])
def test_no_field_may_be_missing(missing: str) -> None:
    document = exported()
    del document[missing]
    with pytest.raises(BadRequest):
        record.import_record(record.SERVICE, encoded(document))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "no base64!",
        "AAAA",
        encoded([]),
        encoded(None),
        encoded("x"),
        base64.b64encode(b"[" * 100_000).decode(),
        "A" * 2_000_000,
    ],
)
def test_what_is_no_record_is_refused(url: str) -> None:
    with pytest.raises(BadRequest):
        record.import_record(record.SERVICE, url)


@given(st.binary(max_size=100))
def test_nothing_but_bad_request_comes_of_any_text(text: bytes) -> None:
    with pytest.raises(BadRequest):
        record.import_record(record.SERVICE, base64.b64encode(text).decode())


@pytest.mark.parametrize("change", [{"container": "a/b"}, {"name": "x" * 300}])
def test_what_could_not_be_imported_is_not_exported(change: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        record.export_record({**ROW, **change})
