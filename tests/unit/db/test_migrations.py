"""The migrations, from nothing, make exactly the tables the code uses."""

from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect

from stillframe.db import migrations
from stillframe.db.engine import Database
from stillframe.db.migrations import upgrade
from stillframe.db.tables import metadata


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
