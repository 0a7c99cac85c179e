"""``stillframe operation list|show|retry``: shows what is in the journal, and for a parked operation what a person must do."""

import argparse
import json
from datetime import datetime
from typing import Any

from cliff.command import Command
from cliff.lister import Lister
from cliff.show import ShowOne

from stillframe import config
from stillframe.db import operations
from stillframe.db.engine import Database
from stillframe.errors import Conflict, NotFound
from stillframe.main.existing import open_current


def settings_of(parsed: argparse.Namespace) -> config.Settings:
    return config.load(parsed.config_file, {(None, "state_dir"): parsed.state_dir})


def database_of(parsed: argparse.Namespace) -> Database:
    return open_current(settings_of(parsed))


def add_options(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--config-file", action="append", default=[], metavar="FILE")
    parser.add_argument("--state-dir", metavar="DIR")
    return parser


class List(Lister):
    """List operations that have not ended (pending, running, undoing, parked), or with --all the newest hundred"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Adds ``--all``."""
        parser = add_options(super().get_parser(prog_name))
        parser.add_argument("--all", action="store_true", help="also those that ended, with why they failed")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Returns the columns and the rows that are shown."""
        with database_of(parsed_args).read() as connection:
            rows = (
                operations.newest(connection, 100)
                if parsed_args.all
                else [row for name in ("volumes", "compute") for row in operations.unfinished(connection, name)]
            )
        shown = [
            (row["id"], row["service"], row["kind"], row["state"], row["step"], (row["fault"] or {}).get("message", ""))
            for row in rows
        ]
        return ("ID", "Service", "Kind", "State", "Steps done", "Message"), shown


class Show(ShowOne):
    """Show one operation: what was asked, the plan, what each step found"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Adds ``ID``."""
        parser = add_options(super().get_parser(prog_name))
        parser.add_argument("operation", metavar="ID")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[tuple[str, ...], tuple[Any, ...]]:
        """Returns the names and the values that are shown."""
        with database_of(parsed_args).read() as connection:
            row = operations.get(connection, parsed_args.operation)
        if row is None:
            raise NotFound(f"there is no operation {parsed_args.operation}")
        return tuple(row), tuple(map(_shown, row.values()))


class Retry(Command):
    """Let the running worker continue a parked operation, after what its message names was fixed"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Adds ``ID``."""
        parser = add_options(super().get_parser(prog_name))
        parser.add_argument("operation", metavar="ID")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Carries the command out and prints what came of it. Raises what the service answers."""
        with database_of(parsed_args).write() as connection:
            row = operations.get(connection, parsed_args.operation)
            if row is None:
                raise NotFound(f"there is no operation {parsed_args.operation}")
            if not operations.unpark_one(connection, row):
                raise Conflict(f"operation {row['id']} is {row['state']}: only a parked operation can be retried")


def _shown(value: Any) -> Any:
    """Shows documents as indented JSON, times as ISO 8601, and the rest unchanged."""
    if isinstance(value, dict | list):
        return json.dumps(value, indent=1)
    return value.isoformat() if isinstance(value, datetime) else value
