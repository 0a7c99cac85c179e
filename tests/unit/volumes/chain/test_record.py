"""The record beside a volume: everything its rows are made from again, and nothing of the moment."""

import json
from datetime import datetime

from stillframe.db.engine import Database
from stillframe.db.tables import snapshots, volumes
from stillframe.volumes.chain import record as volume_record
from tests.unit import builders
from tests.unit.builders import SNAPSHOT, VOLUME

MOMENTARY = {
    "volumes": {"seq", "status", "fault", "updated_at", "needs_cleanup", "volume_type_id", "group_id", "parent_images"},
    "snapshots": {"seq", "status", "progress", "fault", "updated_at", "group_snapshot_id"},
}


def test_every_column_is_in_the_record_or_belongs_to_the_moment() -> None:
    """A new column must be put into one of the two."""
    assert {column.name for column in volumes.columns} == set(volume_record._VOLUME) | MOMENTARY["volumes"]
    assert {column.name for column in snapshots.columns} == set(volume_record._SNAPSHOT) | MOMENTARY["snapshots"]


def test_a_record_is_plain_json_and_names_the_volume_type(database: Database) -> None:
    moment = datetime(2024, 1, 2, 3, 4, 5, 6)
    with database.write() as connection:
        row = builders.volume_row(connection, created_at=moment, metadata={"a": "ä"}, linked_to={"volume_id": "x"})
        builders.snapshot_row(connection, created_at=moment, consistency={"level": "crash"})
        builders.snapshot_row(connection, id=builders.new_id(), status="creating")
        builders.snapshot_row(connection, id=builders.new_id(), status="error")
        found = volume_record.document(connection, row)
    assert json.loads(json.dumps(found)) == found
    assert (found["version"], found["volume"]["id"], found["volume"]["volume_type"]) == (1, VOLUME, "local")
    assert found["volume"]["created_at"] == "2024-01-02T03:04:05.000006"
    assert found["volume"]["metadata"] == {"a": "ä"}
    assert [each["id"] for each in found["snapshots"]] == [SNAPSHOT]
    assert found["snapshots"][0]["consistency"] == {"level": "crash"}
