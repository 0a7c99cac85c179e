"""``assisted snapshot create|list|show|set|delete``."""

import argparse
from typing import Any

from cliff.columns import FormattableColumn
from cliff.command import Command
from cliff.lister import Lister
from cliff.show import ShowOne

from stillframe.client.assisted_snapshots import AssistedSnapshots, Document
from stillframe.client.osc import assisted_snapshot_settings
from stillframe.client.osc.waits import NOT_AS_REQUIRED, Remaining, Waits, add_wait_options, is_to_wait, progress
from stillframe.client.snapshot_policies import SnapshotPolicies
from stillframe.errors import BadRequest, StepFailed

MOST_SECONDS = 86400  # that a set may wait


class _Lines(FormattableColumn):  # type: ignore[type-arg]
    """A list of mappings: one line each for people, the list itself for programs."""

    def human_readable(self) -> str:
        return "\n".join(", ".join(f"{key}={value}" for key, value in entry.items() if value) for entry in self._value)


class _Disks(FormattableColumn):  # type: ignore[type-arg]
    """A set's volumes in a list: name and device for people, all of it for programs."""

    def human_readable(self) -> str:
        return ", ".join(f"{each.get('name') or each['volume_id']} ({each.get('device') or '?'})" for each in self._value)


class _Pairs(FormattableColumn):  # type: ignore[type-arg]
    """A mapping: key=value for people, the mapping itself for programs."""

    def human_readable(self) -> str:
        return "\n".join(f"{key}={value}" for key, value in sorted(self._value.items()))


class _Sentences(FormattableColumn):  # type: ignore[type-arg]
    """Sentences: one a line for people, a list for programs."""

    def human_readable(self) -> str:
        return "\n".join(self._value)


def step_lines(steps: list[Document]) -> FormattableColumn:  # type: ignore[type-arg]
    """A list of mappings as a column."""
    return _Lines(steps)


def _level(found: Document) -> str | None:
    """How consistent a set is; "exact" when nothing ran, None while that is not known."""
    level = (found["consistency"] or {}).get("level")
    return str(level) if level else ("exact" if found["status"] == "available" else None)


def _columns(found: Document) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    outcome = found["consistency"] or {}
    shown = {
        **{key: found[key] for key in ("id", "server_id", "name", "description", "status", "progress", "created_at")},
        **{key: found.get(key) for key in ("switched_at", "switched_at_uncertainty_ms", "switched_at_note")},
        "quiesce": found["quiesce"],
        "consistency": _level(found),
        "frozen_ms": outcome.get("frozen_ms"),
        "filesystems": outcome.get("filesystems"),
        "flushed": outcome.get("flushed"),
        "degraded_reason": outcome.get("degraded_reason"),
        "volumes": _Lines(found["volumes"]),
        "excluded_disks": _Lines(found["excluded_disks"]),
        "fault": found["fault"],
        "policy_id": found["policy_id"],
        "properties": _Pairs(found["metadata"]),
        "warnings": _Sentences(found["warnings"]),
    }
    return tuple(shown), tuple(shown.values())


class _Base(Command):
    auth_required = True

    @property
    def _client(self) -> AssistedSnapshots:
        app: Any = self.app
        found: AssistedSnapshots = app.client_manager.assisted_snapshot
        return found


class Create(Waits, _Base, ShowOne):
    """Snapshot the volumes of a server, all at one instant"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Adds ``<server>``, ``--name``, ``--description``, ``--id``, ``--wait-for-server``, ``--volume``, ``--quiesce``,
        ``--property`` and ``--require``."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("server", metavar="<server>", help="Server (name or ID)")
        parser.add_argument("--name", metavar="<name>", help="Name of the set and of each of its snapshots")
        parser.add_argument("--description", metavar="<text>")
        parser.add_argument(
            "--id", metavar="<uuid>", help="ID of the set; the same command with the same ID again makes no second set"
        )
        parser.add_argument(
            "--wait-for-server",
            type=_seconds,
            metavar="<seconds>",
            help="How long the set may wait for other work on the server, such as a merge or a backup; default: it is refused",
        )
        parser.add_argument(
            "--volume", action="append", metavar="<volume>", help="Volume (name or ID); may be repeated; default: all"
        )
        parser.add_argument(
            "--quiesce",
            choices=("required", "preferred", "never"),
            help="required: refuse without a frozen guest; preferred: say so when it was not; never: do not freeze;"
            " default: as the server's settings have it",
        )
        assisted_snapshot_settings.add_options(parser)
        parser.add_argument("--property", action="append", default=[], metavar="<key=value>", help="may be repeated")
        parser.add_argument(
            "--require",
            choices=("filesystem",),
            help=f"End with code {NOT_AS_REQUIRED} if the set was taken but is only crash-consistent. Implies --wait",
        )
        add_wait_options(parser, "the set is available")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[tuple[str, ...], tuple[Any, ...]]:
        """Returns the names and the values that are shown. Raises what the service answers."""
        client = self._client
        volumes = [client.find_volume(name) for name in parsed_args.volume or []]
        wanted = {
            "name": parsed_args.name,
            "description": parsed_args.description,
            "metadata": dict(_property(text) for text in parsed_args.property),
            "volumes": volumes or "all",
            **({"quiesce": parsed_args.quiesce} if parsed_args.quiesce else {}),
            **assisted_snapshot_settings.given_options(parsed_args),
            **({"id": parsed_args.id} if parsed_args.id else {}),
            **({"wait": parsed_args.wait_for_server} if parsed_args.wait_for_server else {}),
        }
        found = client.create(client.find_server(parsed_args.server), wanted)
        if is_to_wait(parsed_args) or parsed_args.require:
            with progress("assisted snapshot") as progressed:
                found = client.wait(found["id"], parsed_args.timeout, progressed)
            if found["status"] != "available":
                raise StepFailed(f"assisted snapshot {found['id']} is {found['status']}: {found['fault']}")
        if parsed_args.require and _level(found) == "crash":
            self.exit_code = NOT_AS_REQUIRED
        return _columns(found)


def _seconds(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) > MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to {MOST_SECONDS}")
    return int(text)


def _property(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is not key=value")
    return key, value


class List(_Base, Lister):
    """List assisted snapshots"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Adds ``--server`` and ``--policy``."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("--server", metavar="<server>", help="Only those of this server (name or ID)")
        parser.add_argument("--policy", metavar="<policy>", help="Only those this snapshot policy made (name or ID)")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Returns the columns and the rows that are shown. Raises what the service answers."""
        client = self._client
        server = client.find_server(parsed_args.server) if parsed_args.server else None
        policy = SnapshotPolicies(client).show(parsed_args.policy)["id"] if parsed_args.policy else None
        rows = [
            (
                found["id"],
                found["name"],
                found["server_id"],
                found["status"],
                (found["consistency"] or {}).get("level"),
                (found["consistency"] or {}).get("frozen_ms"),
                _Disks(found["volumes"]),
                found["created_at"],
            )
            for found in client.list(server, policy)
        ]
        return ("ID", "Name", "Server ID", "Status", "Consistency", "Frozen ms", "Volumes", "Created At"), rows


class Show(_Base, ShowOne):
    """Show an assisted snapshot"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Adds ``<assisted-snapshot>``."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("set", metavar="<assisted-snapshot>", help="Assisted snapshot (name or ID)")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[tuple[str, ...], tuple[Any, ...]]:
        """Returns the names and the values that are shown. Raises what the service answers."""
        return _columns(self._client.show(parsed_args.set))


class Set(_Base, ShowOne):
    """Name, describe and label an assisted snapshot; its snapshots keep their own names"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Adds ``<assisted-snapshot>``, ``--name``, ``--description``, ``--property``, ``--keep`` and ``--no-keep``."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("set", metavar="<assisted-snapshot>", help="Assisted snapshot (name or ID)")
        parser.add_argument("--name", metavar="<name>")
        parser.add_argument("--description", metavar="<text>")
        parser.add_argument("--property", action="append", default=[], metavar="<key=value>", help="may be repeated")
        keep = parser.add_mutually_exclusive_group()
        keep.add_argument("--keep", action="store_true", help="No snapshot policy may delete it")
        keep.add_argument("--no-keep", action="store_true", help="The policy that made it may delete it")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[tuple[str, ...], tuple[Any, ...]]:
        """Returns the names and the values that are shown. Raises what the service answers."""
        changes: Document = {
            key: getattr(parsed_args, key) for key in ("name", "description") if getattr(parsed_args, key) is not None
        }
        client = self._client
        found = client.show(parsed_args.set)
        metadata = {**found["metadata"], **dict(_property(text) for text in parsed_args.property)}
        if parsed_args.keep:
            metadata["keep"] = "true"
        if parsed_args.no_keep:
            metadata.pop("keep", None)
        if metadata != found["metadata"]:
            changes["metadata"] = metadata
        if not changes and not (parsed_args.property or parsed_args.keep or parsed_args.no_keep):
            raise BadRequest("nothing to change: name at least one option")
        return _columns(client.change(found["id"], changes) if changes else found)


class Explain(_Base, ShowOne):
    """Say what deleting an assisted snapshot would do and copy, volume by volume, without doing it"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Adds ``<assisted-snapshot>``."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("set", metavar="<assisted-snapshot>", help="Assisted snapshot (name or ID)")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[tuple[str, ...], tuple[Any, ...]]:
        """Returns the names and the values that are shown. Raises what the service answers."""
        found = self._client.explain_deletion(parsed_args.set)
        kept = ("volume_id", "snapshot_id", "possible", "method", "bytes", "seconds")
        volumes = [{key: each[key] for key in kept} for each in found["volumes"]]
        shown = {**found, "volumes": step_lines(volumes)}
        return tuple(shown), tuple(shown.values())


class Delete(Waits, _Base):
    """Delete assisted snapshots, with every snapshot of each set"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Adds ``<assisted-snapshot>``."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("sets", metavar="<assisted-snapshot>", nargs="+", help="Assisted snapshot (name or ID)")
        add_wait_options(parser, "they are gone")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Carries the command out and prints what came of it. Raises what the service answers."""
        client, remaining = self._client, Remaining(parsed_args.timeout)
        for name in parsed_args.sets:
            set_id = client.delete(name)
            if is_to_wait(parsed_args):
                with progress(f"deletion of {set_id}") as progressed:
                    client.wait_gone(set_id, remaining.seconds(), progressed)
