"""``backup explain create|restore|delete``: what a backup would cost, without making, restoring or deleting it."""

import argparse
from typing import Any

from cliff.show import ShowOne

from stillframe.client.backups import Backups, Document
from stillframe.client.osc.assisted_snapshot import step_lines


class _Explain(ShowOne):
    auth_required = True

    @property
    def _client(self) -> Backups:
        app: Any = self.app
        return Backups(app.client_manager.sdk_connection.block_storage)


def _shown(found: Document) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    shown = {**found, "steps": step_lines(found["steps"])}
    return tuple(shown), tuple(shown.values())


class ExplainCreate(_Explain):
    """Say what a backup would read and store at most, and what room it needs on the way, without making it"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Adds ``<volume>``, ``--snapshot`` and ``--incremental``."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("volume", metavar="<volume>", help="Volume (name or ID)")
        parser.add_argument("--snapshot", metavar="<snapshot>", help="Snapshot of the volume to back up (name or ID)")
        parser.add_argument("--incremental", action="store_true", help="Only what differs from the newest backup")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[tuple[str, ...], tuple[Any, ...]]:
        """Returns the names and the values that are shown. Raises what the service answers."""
        return _shown(self._client.explain_create(parsed_args.volume, parsed_args.snapshot, parsed_args.incremental))


class ExplainRestore(_Explain):
    """Say what restoring a backup would fetch and write at most, and what is free for it, without restoring it"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Adds ``<backup>`` and ``--volume``."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("backup", metavar="<backup>", help="Backup (name or ID)")
        parser.add_argument("--volume", metavar="<volume>", help="Restore over this volume (name or ID); default: a new one")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[tuple[str, ...], tuple[Any, ...]]:
        """Returns the names and the values that are shown. Raises what the service answers."""
        return _shown(self._client.explain_restore(parsed_args.backup, parsed_args.volume))


class ExplainDelete(_Explain):
    """Say what deleting a backup would free, and what is copied after it, without deleting it"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Adds ``<backup>``."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("backup", metavar="<backup>", help="Backup (name or ID)")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[tuple[str, ...], tuple[Any, ...]]:
        """Returns the names and the values that are shown. Raises what the service answers."""
        return _shown(self._client.explain_delete(parsed_args.backup))
