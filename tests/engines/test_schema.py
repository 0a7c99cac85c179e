"""The tables on PostgreSQL and MariaDB: made once, those of the code, from whatever release they were."""

import multiprocessing
from collections.abc import Iterator

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect

from stillframe.db import migrations
from stillframe.db.engine import Database
from stillframe.db.migrations import upgrade
from stillframe.db.tables import metadata
from stillframe.errors import SchemaMismatch
from tests.support.database_server import Server
from tests.support.engines import upgraded
from tests.unit.db.test_migrations import keep_the_first_rows

NAMES = iter(f"fresh_{number}" for number in range(1000))


@pytest.fixture
def fresh(server: Server) -> Iterator[Database]:
    """An empty database."""
    database = Database(server.create(next(NAMES)))
    yield database
    database.close()


def test_they_are_those_of_the_metadata(database: Database) -> None:
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, metadata) == []
    found = inspect(database.engine)
    for table in metadata.tables.values():
        assert {each["name"] for each in found.get_indexes(table.name)} >= {index.name for index in table.indexes}


def test_rows_of_the_first_tables_are_kept(fresh: Database) -> None:
    keep_the_first_rows(fresh)


def test_several_that_upgrade_at_once_make_them_once(fresh: Database) -> None:
    url = fresh.engine.url.render_as_string(hide_password=False)
    with multiprocessing.get_context("forkserver").Pool(3) as pool:
        assert pool.map(upgraded, [url] * 3, chunksize=1) == [migrations.newest()] * 3


def test_other_tables_are_refused(fresh: Database) -> None:
    with pytest.raises(SchemaMismatch, match="has no tables yet"):
        migrations.check(fresh)
    upgrade(fresh, "0020")
    with pytest.raises(SchemaMismatch, match="is at schema 0020, and this release needs"):
        migrations.check(fresh)
    upgrade(fresh)
    with fresh.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    for refused in (migrations.check, upgrade):
        with pytest.raises(SchemaMismatch, match="9999, which this release does not know: a newer one"):
            refused(fresh)


def test_an_upgrade_that_did_not_end_is_gone_or_told(fresh: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL takes it back; MariaDB cannot, and says so at the next one."""

    def killed(self: MigrationContext, **more: object) -> None:
        real(self, **more)
        raise KeyboardInterrupt

    real = MigrationContext.run_migrations
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(MigrationContext, "run_migrations", killed)
        upgrade(fresh)
    if fresh.engine.dialect.name == "postgresql":
        assert migrations.current(fresh) is None
        upgrade(fresh)
        migrations.check(fresh)
        return
    with fresh.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0003'")
    with pytest.raises(SchemaMismatch, match=r"did not end, and MariaDB cannot take back .* Put the copy back"):
        upgrade(fresh)
