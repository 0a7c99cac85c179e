"""What is asked of volumes, their types and backups beside lists: links, promises, marks, usage."""

import pytest

from stillframe.db import backups, volume_types, volumes
from stillframe.db.engine import Database
from stillframe.db.queries import Page
from stillframe.db.rows import LinkedFile
from stillframe.db.values import NewVolumeType
from tests.unit import builders
from tests.unit.builders import BACKUP, OTHER_VOLUME, SET, SHARE, VOLUME

THIRD = "8b8b8b8b-8888-4888-8888-888888888888"


def test_linked_clones_are_found_by_what_they_read(database: Database) -> None:
    with database.write() as connection:
        builders.volume_row(connection)
        for number, volume_id in enumerate((OTHER_VOLUME, THIRD)):
            linked: LinkedFile = {"volume_id": VOLUME, "file": f"file-{number}", "format": "qcow2"}
            builders.volume_row(connection, id=volume_id, linked_to=linked)
        found = volumes.linked_to(connection, VOLUME)
        read = [(row["id"], row["linked_to"] and row["linked_to"]["file"]) for row in found]
        assert read == [(OTHER_VOLUME, "file-0"), (THIRD, "file-1")]
        assert volumes.linked_to(connection, OTHER_VOLUME) == []


def test_what_is_promised_on_a_share_is_counted_by_share(database: Database) -> None:
    with database.write() as connection:
        assert volumes.provisioned(connection, SHARE) == 0
        builders.volume_row(connection, size=3)
        builders.volume_row(connection, id=OTHER_VOLUME, size=4, project_id="other")
        builders.volume_row(connection, id=THIRD, size=5, share="/elsewhere")
        assert volumes.provisioned(connection, SHARE) == 7
        assert [row["id"] for row in volumes.on_share(connection, "/elsewhere")] == [THIRD]


def test_raw_files_are_known_by_the_format_of_the_lowest_file(database: Database) -> None:
    """The active file of one with snapshots is qcow2 all the same."""
    with database.write() as connection:
        builders.volume_row(connection, format="qcow2", base_format="raw")
        builders.volume_row(connection, id=OTHER_VOLUME)
        builders.volume_row(connection, id=THIRD, base_format="raw", share="/elsewhere")
        assert volumes.raw_bases(connection, SHARE) == [(VOLUME, None)]


def test_marks_are_found(database: Database) -> None:
    with database.write() as connection:
        builders.volume_row(connection, undo_file="x")
        builders.volume_row(connection, id=OTHER_VOLUME, needs_cleanup=True)
        builders.volume_row(connection, id=THIRD)
        assert [row["id"] for row in volumes.with_undo(connection)] == [VOLUME]
        assert [row["id"] for row in volumes.needing_cleanup(connection)] == [OTHER_VOLUME]
        volumes.change(connection, VOLUME, undo_file=None)
        volumes.change(connection, OTHER_VOLUME, needs_cleanup=False)
        assert volumes.with_undo(connection) + volumes.needing_cleanup(connection) == []


def test_documents_come_back_as_they_were_and_none_is_null(database: Database) -> None:
    with database.write() as connection:
        builders.volume_row(connection, image_metadata={"a": {"b": [1, "ä"]}}, linked_to=None)
        row = volumes.get(connection, VOLUME, None)
        assert row is not None
        assert (row["image_metadata"], row["linked_to"]) == ({"a": {"b": [1, "ä"]}}, None)
        volumes.change(connection, VOLUME, image_metadata=None)
        again = volumes.get(connection, VOLUME, None)
        assert again is not None
        assert again["image_metadata"] is None


def test_the_default_type_is_the_built_in_one_else_the_first(database: Database) -> None:
    def add(name: str) -> None:
        row: NewVolumeType = {"id": name, "name": name, "description": None, "extra_specs": {}, "is_public": True}
        volume_types.insert(connection, row)

    with database.write() as connection:
        assert volume_types.default(connection) is None
        add("b")
        add("a")
        found = volume_types.default(connection)
        assert found is not None
        assert found["name"] == "a"
        for _ in range(2):
            volume_types.ensure_default(connection)
        found = volume_types.default(connection)
        assert found is not None
        assert found["name"] == volume_types.DEFAULT
        assert [row["name"] for row in volume_types.list_all(connection)] == ["a", "b", "local"]
        for wanted in ("default", "local", found["id"]):
            assert volume_types.find(connection, wanted) == found
        assert volume_types.find(connection, "c") is None


def test_a_type_is_changed_deleted_and_known_to_be_used(database: Database) -> None:
    with database.write() as connection:
        row = builders.volume_row(connection)
        assert volume_types.is_used(connection, row["volume_type_id"])
        volume_types.insert(connection, {"id": "t", "name": "t", "description": None, "extra_specs": {}, "is_public": True})
        volume_types.change(connection, "t", extra_specs={"a": "b"})
        found = volume_types.find(connection, "t")
        assert found is not None
        assert (found["extra_specs"], volume_types.is_used(connection, "t")) == ({"a": "b"}, False)
        volume_types.delete(connection, "t")
        assert volume_types.find(connection, "t") is None


def test_backups_of_a_volume_come_in_order_with_what_builds_on_them(database: Database) -> None:
    with database.write() as connection:
        builders.backup_row(connection)
        builders.backup_row(connection, id=SET, parent_id=BACKUP)
        builders.backup_row(connection, id=THIRD, parent_id=BACKUP, project_id="other")
        assert [row["id"] for row in backups.of_volume(connection, VOLUME)] == [BACKUP, SET, THIRD]
        assert backups.children(connection, [BACKUP, SET]) == {BACKUP: [SET, THIRD], SET: []}
        assert backups.usage(connection, "demo") == (2, 2)
        assert backups.count(connection, "demo", {"status": "available"}) == 2
        assert [row["id"] for row in backups.list_page(connection, "demo", Page())] == [SET, BACKUP]


@pytest.mark.parametrize("missing", [BACKUP, "x"])
def test_a_backup_is_seen_by_its_project_only(database: Database, missing: str) -> None:
    with database.write() as connection:
        builders.backup_row(connection)
        assert backups.get(connection, missing, "other") is None
        found = backups.get(connection, BACKUP, "demo")
    assert found is not None
    assert found["id"] == BACKUP


def test_a_backups_status_moves_only_from_where_it_is_allowed_to(database: Database) -> None:
    with database.write() as connection:
        builders.backup_row(connection, status="creating")
        assert not backups.move(connection, BACKUP, ("available",), "deleting")
        assert backups.move(connection, BACKUP, ("creating",), "error", fault="why", held_file=None)
        row = backups.get(connection, BACKUP, None)
        assert row is not None
        assert (row["status"], row["fault"]) == ("error", "why")
        backups.delete(connection, BACKUP)
        assert backups.of_volume(connection, VOLUME) == []
