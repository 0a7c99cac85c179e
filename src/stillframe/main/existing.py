"""Opens the services' database for commands that work beside them; never creates one."""

from pathlib import Path

from stillframe.config import Settings
from stillframe.db import migrations
from stillframe.db.engine import Database
from stillframe.errors import BadConfiguration


def open_database(settings: Settings) -> Database:
    """Opens the database as it is. Raises BadConfiguration."""
    path = settings.database.removeprefix("sqlite:///")
    if path != settings.database and not Path(path).exists():
        raise BadConfiguration(f"there is no database {path}: give the services' own --state-dir or --config-file")
    return Database(settings.database)


def open_current(settings: Settings) -> Database:
    """Like ``open_database``. Raises SchemaMismatch for the tables of another release."""
    database = open_database(settings)
    try:
        migrations.check(database)
    except BaseException:
        database.close()
        raise
    return database
