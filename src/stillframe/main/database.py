"""``stillframe database upgrade`` and ``show``."""

import argparse

from cliff.command import Command
from cliff.show import ShowOne
from sqlalchemy import make_url

from stillframe import config
from stillframe.db import migrations
from stillframe.main import state
from stillframe.main.existing import open_database
from stillframe.main.operations import add_options


def _settings(parsed: argparse.Namespace) -> config.Settings:
    """Reads only what concerns both services: the sections of one may make no sense on the host of the other."""
    return config.load(parsed.config_file, {(None, "state_dir"): parsed.state_dir}, "database")


class Upgrade(Command):
    """Make the tables of the database those of this release; nothing is done when they are

    Stop every service that uses the database and copy it away first. May be repeated, and run on several hosts at once.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Adds what several commands share."""
        return add_options(super().get_parser(prog_name))

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Carries the command out and prints what came of it. Raises what the service answers."""
        before, after = state.upgrade(_settings(parsed_args))
        was = "it had no tables" if before is None else "unchanged" if before == after else f"it was at {before}"
        self.app.stdout.write(f"the database is at schema {after} ({was})\n")


class Show(ShowOne):
    """Show which database is configured, and whether its tables are those of this release"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Adds what several commands share."""
        return add_options(super().get_parser(prog_name))

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Returns the names and the values that are shown."""
        settings = _settings(parsed_args)
        database = open_database(settings)
        try:
            found, wanted = migrations.current(database), migrations.newest()
        finally:
            database.close()
        shown = make_url(settings.database).render_as_string(hide_password=True)
        return ("database", "schema", "needed"), (shown, found or "none", wanted)
