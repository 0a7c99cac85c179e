"""A history of real volumes that goes through every offline operation, its rows in PostgreSQL and in MariaDB."""

import shutil
from collections.abc import Iterator

import pytest

from stillframe.db.engine import Database
from tests.functional.test_histories import Site, test_a_history_that_goes_through_every_operation
from tests.support import oracle_service
from tests.support.oracle_reader import Reader
from tests.support.oracle_service import fast_directory, prepare

__all__ = ["test_a_history_that_goes_through_every_operation"]


@pytest.fixture
def site(database: Database) -> Iterator[Site]:
    with fast_directory() as directory:
        place, template = directory / "place", directory / "template"
        place.mkdir()
        oracle_service.settings(place)  # writes the file
        config = place / "stillframe.conf"
        url = database.engine.url.render_as_string(hide_password=False)
        config.write_text(config.read_text().replace("[DEFAULT]\n", f"[DEFAULT]\ndatabase = {url}\n"))
        prepare(place)
        shutil.copytree(place, template)
        reader = Reader()
        try:
            yield Site(place, template, reader, database)
        finally:
            reader.close()
