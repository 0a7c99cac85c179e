"""The migrations, from nothing, make exactly the tables the code uses."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text
from sqlalchemy.exc import IntegrityError

from stillframe.db import attachments, finished, holds, migrations, operations, snapshots, volumes
from stillframe.db.engine import Database
from stillframe.db.migrations import upgrade
from stillframe.db.tables import metadata
from stillframe.errors import BadConfiguration, SchemaMismatch
from stillframe.journal import pruning
from tests.unit import builders


def script() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    return ScriptDirectory.from_config(config)


def described(database: Database) -> dict[str, Any]:
    """Everything the database says about its tables, comparable."""
    found = inspect(database.engine)
    return {
        name: {
            "columns": [
                {**column, "type": str(column["type"]), "default": str(column["default"])} for column in found.get_columns(name)
            ],
            "primary key": found.get_pk_constraint(name),
            "foreign keys": sorted(map(str, found.get_foreign_keys(name))),
            "unique": sorted(map(str, found.get_unique_constraints(name))),
            "indexes": sorted(map(str, found.get_indexes(name))),
        }
        for name in found.get_table_names()
        if name != "alembic_version"
    }


def test_alembic_finds_nothing_to_add(database: Database) -> None:
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []


def test_the_migrated_tables_are_those_of_the_metadata_to_the_last_column(database: Database, tmp_path: Path) -> None:
    direct = Database(f"sqlite:///{tmp_path}/direct.sqlite")
    metadata.create_all(direct.engine)
    wanted = described(direct)
    direct.close()
    assert described(database) == wanted


def test_rows_of_the_first_tables_are_kept_and_say_where_their_files_lie(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/old.sqlite")
    keep_the_first_rows(database)
    with pytest.raises(IntegrityError), database.write() as connection:  # they are looked at again
        connection.exec_driver_sql("DELETE FROM volumes")
    database.close()


ABANDONED = '{"code": "abandoned", "message": "m"}'
OPERATIONS = (
    ("d1", "done", "NULL"),
    ("d2", "done", "NULL"),
    ("u1", "undone", """'{"code": "conflict"}'"""),
    ("u2", "undone", f"'{ABANDONED}'"),
    ("p", "parked", "NULL"),
)


def operation(name: str, state: str, fault: str) -> str:
    """An operation of the first release; the text is for a statement of SQLAlchemy."""
    return (
        "INSERT INTO operations (id, service, kind, state, intent, plan, step, evidence, epoch, lease_until, attempts, bytes,"
        " request_id, created_at, fault)"
        f" VALUES ('{name}', 'volumes', 'k', '{state}', '{{}}', '[]', 0, '{{}}', 1, 0, 0, 5, 'r', '2024-01-01', {fault})"
    )


def keep_the_first_rows(database: Database) -> None:
    """Fills an empty database with rows as the first release had them, and upgrades it."""
    upgrade(database, "0001")
    owned, values, day = "project_id, user_id, name, description", "'p', 'u', 'n', 'd'", "'2024-01-01'"
    with database.engine.begin() as connection:
        for statement in (
            f"INSERT INTO volume_types (id, name, extra_specs, created_at) VALUES ('t', 'local', '{{}}', {day})",
            f"INSERT INTO volumes (id, {owned}, size, status, volume_type_id, availability_zone, metadata, active_file,"
            f" format, created_at) VALUES ('v', {values}, 1, 'in-use', 't', 'nova', '{{}}', 'volume-v.s', 'qcow2', {day})",
            f"INSERT INTO snapshots (id, {owned}, volume_id, size, status, progress, metadata, overlay, backing,"
            f" backing_format, created_at) VALUES ('s', {values}, 'v', 1, 'available', '100%', '{{}}', 'volume-v.s',"
            f" 'volume-v', 'qcow2', {day})",
            "INSERT INTO attachments (id, project_id, volume_id, status, mode, created_at)"
            f" VALUES ('a', 'p', 'v', 'attached', 'rw', {day})",
            "INSERT INTO shares (path, share_id) VALUES ('/srv/share', 'known')",
            *(operation(name, state, fault) for name, state, fault in OPERATIONS),
            "INSERT INTO operation_resources (operation_id, resource, unfinished) VALUES ('d1', 'volume:gone', 0)",
            "INSERT INTO operation_resources (operation_id, resource, unfinished) VALUES ('p', 'server:x', 1)",
        ):
            connection.execute(text(statement))
    upgrade(database)
    with database.read() as connection:
        row = volumes.get(connection, "v", None)
        assert row is not None
        assert (row["backend"], row["share"], row["base_format"]) == ("local", "/srv/share", "qcow2")
        assert (row["bootable"], row["needs_cleanup"], row["undo_file"], row["status"]) == (False, False, None, "in-use")
        assert [found["overlay"] for found in snapshots.of_volume(connection, "v")] == ["volume-v.s"]
        assert [found["id"] for found in attachments.of_volumes(connection, ["v"])["v"]] == ["a"]
        counted = {(found["state"], found["amount"], int(found["bytes"])) for found in finished.totals(connection)}
        assert counted == {("done", 2, 10), ("undone", 2, 10), ("parked", 1, 5)}
        assert [found["id"] for found in operations.abandoned(connection)] == ["u2"]
        assert holds.volumes_ever(connection) == {"gone"}
    assert pruning.look(database, 1) == 3


def test_a_migration_that_breaks_a_reference_changes_nothing(database: Database) -> None:
    with database.write() as connection:
        builders.volume_row(connection)
        builders.snapshot_row(connection)
    with (
        pytest.raises(BadConfiguration, match=r"was not upgraded, and is as it was: .*snapshots.*volumes"),
        database.migrate() as connection,
    ):
        connection.exec_driver_sql("DELETE FROM volumes")
    with database.read() as connection:
        assert len(volumes.list_all(connection)) == 1
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


def test_there_is_one_newest_migration_and_the_database_is_at_it(database: Database) -> None:
    with database.read() as connection:
        context = MigrationContext.configure(connection)
        assert context.get_current_heads() == tuple(script().get_heads())
    assert len(script().get_heads()) == 1


def test_upgrading_again_changes_nothing(database: Database) -> None:
    before = described(database)
    upgrade(database)
    assert described(database) == before


def test_a_migration_that_fails_leaves_the_database_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(f"sqlite:///{tmp_path}/new.sqlite")
    real = MigrationContext.run_migrations

    def failing(self: MigrationContext, **more: Any) -> None:
        real(self, **more)
        raise RuntimeError("killed at the very end")

    monkeypatch.setattr(MigrationContext, "run_migrations", failing)
    with pytest.raises(RuntimeError):
        upgrade(database)
    assert inspect(database.engine).get_table_names() == []
    monkeypatch.undo()
    upgrade(database)
    assert set(described(database)) == set(metadata.tables)
    database.close()


def test_a_database_that_is_up_to_date_needs_no_alembic(migrated: Path, tmp_path: Path) -> None:
    """Importing it is a quarter of a service's start. A revision nobody knows is still refused by it."""
    copy = tmp_path / "copy.sqlite"
    shutil.copy(migrated, copy)
    script = (
        "import sys; from stillframe.db.engine import Database; from stillframe.db.migrations import upgrade;"
        f" upgrade(Database('sqlite:///{copy}')); print('alembic' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert told == "False\n"
    database = Database(f"sqlite:///{copy}")
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(SchemaMismatch, match="is at schema 9999, which this release does not know: a newer one"):
        upgrade(database)
    database.close()


def test_tables_of_another_release_are_refused_with_what_to_do(tmp_path: Path, database: Database) -> None:
    migrations.check(database)
    for found, told in (("0011", "is at schema 0011, and this release needs .* has to be upgraded"), ("9999", "newer one")):
        with database.write() as connection:
            connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{found}'")
        with pytest.raises(SchemaMismatch, match=told) as refusal:
            migrations.check(database)
        assert "'stillframe database upgrade'" in refusal.value.hint
    empty = Database(f"sqlite:///{tmp_path}/empty.sqlite")
    with pytest.raises(SchemaMismatch, match="has no tables yet"):
        migrations.check(empty)
    empty.close()


def test_the_newest_is_the_one_that_alembic_takes_for_it() -> None:
    assert [migrations.newest()] == list(script().get_heads())
