"""Brings a database's tables up to date. A test holds the result against ``tables``."""

from pathlib import Path

from alembic import command
from alembic.config import Config

from stillframe.db.engine import Database


def upgrade(database: Database, revision: str = "head") -> None:
    """Applies every migration that is missing, up to ``revision``; may be repeated."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["database"] = database
    command.upgrade(config, revision)
