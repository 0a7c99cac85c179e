"""``database`` on PostgreSQL and on MariaDB, ``url`` on SQLite too; everything else as the unit tests have it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from stillframe.db.engine import Database
from stillframe.db.migrations import upgrade
from tests.support.database_server import Server
from tests.support.engines import START, clear, migrated, running
from tests.unit import conftest as unit

__all__ = ["unit"]  # how hypothesis works there is how it works here


class Servers:
    """One server of a kind, and one database with its tables on it, from when it is first asked for."""

    def __init__(self, until: ExitStack) -> None:
        self._until = until
        self._running: dict[str, Server] = {}
        self._tables: dict[str, str] = {}

    def server(self, kind: str) -> Server:
        if kind not in self._running:
            self._running[kind] = self._until.enter_context(running(kind))
        return self._running[kind]

    def tables(self, kind: str) -> str:
        """Returns the URL of the database that has them. Whoever uses it leaves it without rows."""
        if kind not in self._tables:
            self._tables[kind] = migrated(self.server(kind))
        return self._tables[kind]


@contextmanager
def opened(address: str) -> Iterator[Database]:
    """A database that is without rows afterwards."""
    database = Database(address)
    try:
        yield database
    finally:
        try:
            clear(database)
        finally:
            database.close()


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    with ExitStack() as until:
        yield Servers(until)


@pytest.fixture(params=sorted(START))
def server(servers: Servers, request: pytest.FixtureRequest) -> Server:
    return servers.server(request.param)


@pytest.fixture(params=sorted(START))
def database(servers: Servers, request: pytest.FixtureRequest) -> Iterator[Database]:
    with opened(servers.tables(request.param)) as database:
        yield database


@pytest.fixture(params=["sqlite", *sorted(START)])
def url(servers: Servers, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a database with its tables and without rows, for several who open it."""
    address = f"sqlite:///{tmp_path}/stillframe.sqlite" if request.param == "sqlite" else servers.tables(request.param)
    with opened(address) as database:
        upgrade(database)
        yield address
