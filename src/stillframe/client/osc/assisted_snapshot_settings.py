"""What a server's assisted snapshots keep to: ``assisted snapshot settings show`` and ``set``."""

import argparse
from typing import Any

from cliff.command import Command
from cliff.show import ShowOne

from stillframe.client.assisted_snapshots import AssistedSnapshots, Document
from stillframe.errors import BadRequest

SHOWN = ("server_id", "quiesce", "allow_unfreezable", "hook_timeout")
KEY = "assisted_snapshot_settings"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that a set and a server's settings share."""
    parser.add_argument(
        "--allow-unfreezable",
        action="append",
        metavar="<name>",
        help="Mount point or type of a filesystem that need not be frozen, e.g. vfat or /boot/efi; may be repeated",
    )
    parser.add_argument(
        "--hook-timeout", type=int, metavar="<seconds>", help="How long freeze hooks in the guest may take, 1 to 600"
    )


def given_options(given: argparse.Namespace) -> Document:
    """Returns what of ``add_options`` was named on the command line."""
    names = ("allow_unfreezable", "hook_timeout")
    return {name: getattr(given, name) for name in names if getattr(given, name) is not None}


class _Base(Command):
    auth_required = True

    def _settings(self, method: str, server: str, body: Any = None) -> tuple[tuple[str, ...], tuple[Any, ...]]:
        app: Any = self.app
        client: AssistedSnapshots = app.client_manager.assisted_snapshot
        path = f"/servers/{client.find_server(server)}/os-assisted-snapshot-settings"
        found: Document = client.compute(method, path, body)[KEY]
        return SHOWN, tuple(found[name] for name in SHOWN)


class Show(_Base, ShowOne):
    """Show what a server's assisted snapshots keep to; what is empty is as the deployment has it"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Adds ``<server>``."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("server", metavar="<server>", help="Server (name or ID)")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[tuple[str, ...], tuple[Any, ...]]:
        """Returns the names and the values that are shown. Raises what the service answers."""
        return self._settings("GET", parsed_args.server)


class Set(_Base, ShowOne):
    """Change what a server's assisted snapshots keep to where a request does not say; what is not named stays"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Adds ``<server>``, ``--quiesce`` and ``--default``."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("server", metavar="<server>", help="Server (name or ID)")
        parser.add_argument("--quiesce", choices=("required", "preferred", "never"), help="As for a single set")
        add_options(parser)
        parser.add_argument(
            "--default",
            action="append",
            default=[],
            choices=("quiesce", "allow-unfreezable", "hook-timeout"),
            help="Take this setting back; may be repeated",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[tuple[str, ...], tuple[Any, ...]]:
        """Returns the names and the values that are shown. Raises what the service answers."""
        wanted: Document = {name.replace("-", "_"): None for name in parsed_args.default}
        wanted |= given_options(parsed_args)
        if parsed_args.quiesce:
            wanted["quiesce"] = parsed_args.quiesce
        if not wanted:
            raise BadRequest("nothing to change: name at least one option")
        return self._settings("PUT", parsed_args.server, {KEY: wanted})
