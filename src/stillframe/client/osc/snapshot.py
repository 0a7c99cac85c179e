"""``snapshot show|explain|delete|cancel``: how far a deletion is, what it would do, doing it under a running server, giving
it up."""

import argparse
from typing import Any

from cliff.command import Command
from cliff.show import ShowOne

from stillframe.client.osc.assisted_snapshot import step_lines
from stillframe.client.osc.waits import Remaining, Waits, add_wait_options, is_to_wait, progress
from stillframe.client.snapshots import Snapshots


class _Base(Command):
    auth_required = True

    @property
    def _client(self) -> Snapshots:
        app: Any = self.app
        return Snapshots(app.client_manager.sdk_connection.block_storage)


class Show(_Base, ShowOne):
    """Show a snapshot with what other clients leave out: progress, the reason of a failure, how consistent it is"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Adds ``<snapshot>``."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("snapshot", metavar="<snapshot>", help="Snapshot (name or ID)")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[tuple[str, ...], tuple[Any, ...]]:
        """Returns the names and the values that are shown. Raises what the service answers."""
        found = self._client.find(parsed_args.snapshot)
        outcome = found["consistency"] or {}
        shown = {key: found[key] for key in ("id", "name", "description", "volume_id", "size", "created_at", "status")}
        shown |= {"progress": found["os-extended-snapshot-attributes:progress"], "fault": found.get("fault")}
        shown["consistency"] = outcome.get("level") or ("exact" if found["status"] == "available" else None)
        shown |= {key: outcome.get(key) for key in ("frozen_ms", "degraded_reason", "set_id")}
        return tuple(shown), tuple(shown.values())


class Explain(_Base, ShowOne):
    """Say what deleting a snapshot would do, how many bytes it would copy and why this way, without doing it"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Adds ``<snapshot>``."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("snapshot", metavar="<snapshot>", help="Snapshot (name or ID)")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[tuple[str, ...], tuple[Any, ...]]:
        """Returns the names and the values that are shown. Raises what the service answers."""
        found = self._client.explain(parsed_args.snapshot)
        shown = {**found, "steps": step_lines(found["steps"])}
        return tuple(shown), tuple(shown.values())


class Delete(Waits, _Base):
    """Delete snapshots; those of one volume with the least copying, under a running server too"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Adds ``<snapshot>`` and ``--bandwidth``."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("snapshots", metavar="<snapshot>", nargs="+", help="Snapshot (name or ID)")
        parser.add_argument(
            "--bandwidth", type=int, default=0, metavar="<MiB/s>", help="Limit of a live merge; 0: as configured"
        )
        add_wait_options(parser, "they are gone")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Carries the command out and prints what came of it. Raises what the service answers."""
        client, remaining = self._client, Remaining(parsed_args.timeout)
        ids = client.delete(parsed_args.snapshots, parsed_args.bandwidth)
        for snapshot_id in ids if is_to_wait(parsed_args) else []:
            with progress(f"snapshot {snapshot_id}") as progressed:
                client.wait_gone(snapshot_id, remaining.seconds(), progressed)


class Cancel(_Base):
    """Cancel the deletion of a snapshot that is merged under a running server"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Adds ``<snapshot>``."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("snapshot", metavar="<snapshot>", help="Snapshot (name or ID)")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Carries the command out and prints what came of it. Raises what the service answers."""
        self._client.cancel(parsed_args.snapshot)
