"""``snapshot policy create|list|show|set|delete``."""

import argparse
from typing import Any

from cliff.columns import FormattableColumn
from cliff.command import Command
from cliff.lister import Lister
from cliff.show import ShowOne

from stillframe.client.assisted_snapshots import AssistedSnapshots, Document
from stillframe.client.osc.assisted_snapshot import step_lines
from stillframe.client.snapshot_policies import SnapshotPolicies
from stillframe.errors import BadRequest

RULES = ("last", "hourly", "daily", "weekly")
_SHOWN = (
    "id",
    "server_id",
    "name",
    "description",
    "enabled",
    "schedule",
    "timezone",
    "quiesce",
    "keep_last",
    "keep_hourly",
    "keep_daily",
    "keep_weekly",
    "next_run",
    "last_run",
    "last_set_id",
    "last_error",
    "retention_error",
    "retention_note",
    "created_at",
    "updated_at",
)


class _Ids(FormattableColumn):  # type: ignore[type-arg]
    """Ids: one a line for people, a list for programs."""

    def human_readable(self) -> str:
        return "\n".join(self._value)


def _columns(found: Document) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    shown = {key: found[key] for key in _SHOWN}
    shown["volumes"] = found["volumes"] if found["volumes"] == "all" else _Ids(found["volumes"])
    shown["failed_sets"] = step_lines(found["failed_sets"])
    return tuple(shown), tuple(shown.values())


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of sets")
    return int(text)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", metavar="<name>", help="Name of the policy; the names of its sets begin with it")
    parser.add_argument("--description", metavar="<text>")
    schedule = parser.add_mutually_exclusive_group()
    schedule.add_argument("--schedule", metavar="<cron>", help='When sets are taken, in cron\'s five fields, e.g. "0 * * * *"')
    schedule.add_argument("--no-schedule", action="store_true", help="Take no sets, only delete")
    parser.add_argument(
        "--timezone", metavar="<zone>", help="Clock of the schedule and of days and weeks, e.g. Europe/Berlin; default: UTC"
    )
    parser.add_argument("--quiesce", choices=("required", "preferred", "never"), help="As for a single set; default: preferred")
    volumes = parser.add_mutually_exclusive_group()
    volumes.add_argument("--volume", action="append", metavar="<volume>", help="Volume (name or ID); may be repeated")
    volumes.add_argument("--all-volumes", action="store_true", help="Every volume the server has at that time (default)")
    parser.add_argument(
        "--keep-last", type=_count, metavar="<number>", help="Keep that many of the newest sets; 0: no such rule"
    )
    for rule, period in (("hourly", "hours"), ("daily", "days"), ("weekly", "weeks")):
        parser.add_argument(
            f"--keep-{rule}",
            type=_count,
            metavar="<number>",
            help=f"Keep the newest set of each of that many {period} that have one; 0: no such rule",
        )
    enabled = parser.add_mutually_exclusive_group()
    enabled.add_argument("--enable", action="store_true", help="Take and delete by this policy (default)")
    enabled.add_argument("--disable", action="store_true", help="Neither take nor delete until it is enabled")


def _wanted(client: AssistedSnapshots, given: argparse.Namespace) -> Document:
    """Returns what was named on the command line."""
    wanted: Document = {}
    for name in ("name", "description", "schedule", "timezone", "quiesce", *(f"keep_{rule}" for rule in RULES)):
        if getattr(given, name) is not None:
            wanted[name] = getattr(given, name)
    if given.no_schedule:
        wanted["schedule"] = None
    if given.all_volumes:
        wanted["volumes"] = "all"
    if given.volume:
        wanted["volumes"] = [client.find_volume(name) for name in given.volume]
    if given.enable or given.disable:
        wanted["enabled"] = bool(given.enable)
    return wanted


class _Base(Command):
    auth_required = True

    @property
    def _client(self) -> AssistedSnapshots:
        app: Any = self.app
        found: AssistedSnapshots = app.client_manager.assisted_snapshot
        return found


class Create(_Base, ShowOne):
    """Make a snapshot policy for a server: what is taken by itself, when, and how much of it is kept"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Adds ``<server>``."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("server", metavar="<server>", help="Server (name or ID)")
        _add_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[tuple[str, ...], tuple[Any, ...]]:
        """Returns the names and the values that are shown. Raises what the service answers."""
        client = self._client
        wanted = _wanted(client, parsed_args)
        return _columns(SnapshotPolicies(client).create(client.find_server(parsed_args.server), wanted))


class List(_Base, Lister):
    """List snapshot policies"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Adds ``--server``."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("--server", metavar="<server>", help="Only those of this server (name or ID)")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Returns the columns and the rows that are shown. Raises what the service answers."""
        client = self._client
        server = client.find_server(parsed_args.server) if parsed_args.server else None
        rows = [
            (
                found["id"],
                found["name"],
                found["server_id"],
                found["enabled"],
                found["schedule"],
                ", ".join(f"{rule} {found[f'keep_{rule}']}" for rule in RULES if found[f"keep_{rule}"]) or "all",
                found["next_run"],
                found["last_run"],
                found["last_error"] or found["retention_error"],
            )
            for found in SnapshotPolicies(client).list(server)
        ]
        return ("ID", "Name", "Server ID", "Enabled", "Schedule", "Keeps", "Next Run", "Last Run", "Error"), rows


class Show(_Base, ShowOne):
    """Show a snapshot policy: its rules, its next run, and what came of the last one"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Adds ``<policy>``."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("policy", metavar="<policy>", help="Snapshot policy (name or ID)")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[tuple[str, ...], tuple[Any, ...]]:
        """Returns the names and the values that are shown. Raises what the service answers."""
        return _columns(SnapshotPolicies(self._client).show(parsed_args.policy))


class Set(_Base, ShowOne):
    """Change a snapshot policy; what is not named stays as it is"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Adds ``<policy>``."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("policy", metavar="<policy>", help="Snapshot policy (name or ID)")
        _add_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[tuple[str, ...], tuple[Any, ...]]:
        """Returns the names and the values that are shown. Raises what the service answers."""
        client = self._client
        wanted, policies = _wanted(client, parsed_args), SnapshotPolicies(client)
        if not wanted:
            raise BadRequest("nothing to change: name at least one option")
        return _columns(policies.change(policies.show(parsed_args.policy)["id"], wanted))


class Delete(_Base):
    """Delete snapshot policies; the sets they made stay, and nothing deletes them any more"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Adds ``<policy>``."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("policies", metavar="<policy>", nargs="+", help="Snapshot policy (name or ID)")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Carries the command out and prints what came of it. Raises what the service answers."""
        policies = SnapshotPolicies(self._client)
        for name in parsed_args.policies:
            policies.delete(name)
