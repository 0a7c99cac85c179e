"""Brings a database's tables up to date, once, and tells whether they are. A test holds the result against ``tables``."""

import re
from pathlib import Path

from sqlalchemy import inspect
from sqlalchemy.exc import DBAPIError

from stillframe.db.engine import AWAY, Database
from stillframe.errors import SchemaMismatch, ServiceUnavailable

_HERE = Path(__file__).parent
_IS = re.compile(r'^revision = "(\w+)"', re.MULTILINE)
_FOLLOWS = re.compile(r'^down_revision = "(\w+)"', re.MULTILINE)
_HALF = (
    "{} The upgrade did not end, and MariaDB cannot take back the part that was done. Put the copy back that was made before it"
    " and repeat; a database that has never been in use may be dropped and created anew instead"
)


def upgrade(database: Database, revision: str = "head") -> None:
    """Applies every migration that is missing, up to ``revision``; may be repeated, by several at once. Raises
    SchemaMismatch, with nothing changed, for a database that a newer release has upgraded."""
    if revision == "head" and _applied(database) == [newest()]:
        return
    if current(database) not in (None, *_known()):
        check(database)
    # Alembic takes a quarter of the time a service needs to start, and most starts have nothing to apply.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_HERE))
    config.attributes["database"] = database
    try:
        command.upgrade(config, revision)
    except DBAPIError as error:
        if database.engine.dialect.name != "mysql" or isinstance(error.orig, ConnectionError):
            raise
        raise SchemaMismatch(_HALF.format(f"{error.orig}.")) from error


def check(database: Database) -> None:
    """Raises SchemaMismatch, saying what to do, unless the tables are those of this release; ServiceUnavailable when the
    database does not answer."""
    found, wanted = current(database), newest()
    if found == wanted:
        return
    if found is None:
        raise SchemaMismatch(f"the database has no tables yet; this release needs schema {wanted}")
    if found in _known():
        raise SchemaMismatch(f"the database is at schema {found}, and this release needs {wanted}: it has to be upgraded")
    raise SchemaMismatch(
        f"the database is at schema {found}, which this release does not know: a newer one upgraded it, and needs it so. Run"
        " that release, or put the copy back that was made before the upgrade"
    )


def current(database: Database) -> str | None:
    """Returns the schema that the database is at, None for one without tables."""
    try:
        with database.read() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return None
            found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalars().first()
            return None if found is None else str(found)
    except AWAY as error:
        raise ServiceUnavailable(f"the database does not answer: {error.orig}") from error


def _applied(database: Database) -> list[str]:
    """Returns what Alembic has recorded; nothing for a database without its table. Raises BadConfiguration as ``migrate``:
    a database whose rows refer to missing ones is refused at every start."""
    if database.engine.dialect.name == "sqlite":
        with database.migrate():
            pass
    found = current(database)
    return [] if found is None else [found]


def newest() -> str:
    """The schema of this release: the migration that no other one follows. The numbers of the files only tell them apart:
    several are made at a time."""
    (found,) = _known() - {each for text in _texts() for each in _FOLLOWS.findall(text)}
    return found


def _known() -> set[str]:
    return {str(each) for text in _texts() for each in _IS.findall(text)}


def _texts() -> list[str]:
    return [path.read_text() for path in (_HERE / "versions").glob("[0-9]*_*.py")]
