"""Brings a database's tables up to date. A test holds the result against ``tables``."""

import re
from pathlib import Path

from sqlalchemy.exc import DBAPIError

from stillframe.db.engine import Database

_HERE = Path(__file__).parent
_IS = re.compile(r'^revision = "(\w+)"', re.MULTILINE)
_FOLLOWS = re.compile(r'^down_revision = "(\w+)"', re.MULTILINE)


def upgrade(database: Database, revision: str = "head") -> None:
    """Applies every migration that is missing, up to ``revision``; may be repeated."""
    if revision == "head" and _applied(database) == [_newest()]:
        return
    # Alembic takes a quarter of the time a service needs to start, and most starts have nothing to apply.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_HERE))
    config.attributes["database"] = database
    command.upgrade(config, revision)


def _applied(database: Database) -> list[str]:
    """Returns what Alembic has recorded; nothing for a database without its table. Raises BadConfiguration as ``migrate``:
    a database whose rows refer to missing ones is refused at every start."""
    try:
        with database.migrate() as connection:
            return list(connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalars())
    except DBAPIError:
        return []


def _newest() -> str:
    """The one that no other one follows. The numbers of the files only tell them apart: several are made at a time."""
    told = [path.read_text() for path in (_HERE / "versions").glob("[0-9]*_*.py")]
    followed = {found for text in told for found in _FOLLOWS.findall(text)}
    (newest,) = {found for text in told for found in _IS.findall(text)} - followed
    return str(newest)
