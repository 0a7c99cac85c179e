"""A world of block storage over a share in memory, as new as each test wants it."""

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import event

pytest.register_assert_rewrite("tests.unit.volumes.site")

from stillframe.db import volume_types  # noqa: E402 -- after pytest was told
from stillframe.db.engine import Database  # noqa: E402
from tests.unit.journal.fakes import Clock  # noqa: E402
from tests.unit.volumes import fakes  # noqa: E402
from tests.unit.volumes.memory_share import MemoryShare  # noqa: E402
from tests.unit.volumes.site import Site  # noqa: E402

NewSite = Callable[[], Site]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock().install(monkeypatch)


def _do_not_sync(connection: sqlite3.Connection, _record: object) -> None:
    """Thousands of histories; power loss is not what is tested here."""
    connection.execute("PRAGMA synchronous=OFF")


@pytest.fixture
def new_site(migrated: Path, tmp_path: Path, clock: Clock) -> Iterator[NewSite]:
    """Makes a site without volumes; one that was made before is given up."""
    opened: list[Database] = []

    def make() -> Site:
        while opened:
            opened.pop().close()
        for path in tmp_path.glob("site.sqlite*"):
            path.unlink()
        shutil.copy(migrated, tmp_path / "site.sqlite")
        database = Database(f"sqlite:///{tmp_path}/site.sqlite")
        event.listen(database.engine, "connect", _do_not_sync)
        opened.append(database)
        with database.write() as connection:
            volume_types.ensure_default(connection)
        return Site(fakes.worker(database, tmp_path, MemoryShare()), clock)

    yield make
    while opened:
        opened.pop().close()


@pytest.fixture
def site(new_site: NewSite) -> Site:
    return new_site()
