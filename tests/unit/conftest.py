"""A migrated database for each test, copied from one made once; how hypothesis works here."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

from stillframe.db.engine import Database
from stillframe.db.migrations import upgrade

# Two cores shared with others: no deadlines. A fixture that one example leaves changed is each test's own business.
settings.register_profile(
    "unit",
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("unit")


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("migrated") / "stillframe.sqlite"
    database = Database(f"sqlite:///{path}")
    upgrade(database)
    database.close()
    return path


@pytest.fixture
def database(migrated: Path, tmp_path: Path) -> Iterator[Database]:
    path = tmp_path / "stillframe.sqlite"
    shutil.copy(migrated, path)
    opened = Database(f"sqlite:///{path}")
    yield opened
    opened.close()
