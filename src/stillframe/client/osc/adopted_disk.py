"""``adopt`` and ``release``: disks that a server has already become volumes where they are, and are plain files again."""

import argparse
from collections.abc import Iterator
from typing import Any

from cliff.lister import Lister

from stillframe.client.adopted_disks import AdoptedDisks, Document
from stillframe.client.osc.waits import Remaining
from stillframe.errors import BadRequest

COLUMNS = ("Server", "Device", "File", "Format", "Size", "Result", "Reason", "Volume ID")
_KEYS = ("device", "file", "format", "size", "result", "reason", "volume_id")


class _Base(Lister):
    auth_required = True

    @property
    def _client(self) -> AdoptedDisks:
        app: Any = self.app
        return AdoptedDisks(app.client_manager.sdk_connection.compute)


class Adopt(_Base):
    """Make volumes of the disks that a server has, where they are; the server runs on and no byte of them is copied"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Adds ``<server>``, ``--disk``, ``--all``, ``--dry-run`` and ``--timeout``."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("server", metavar="<server>", nargs="?", help="Server (name or ID)")
        parser.add_argument(
            "--disk", action="append", default=[], metavar="<target>", help="Disk of the server, such as vda; may be repeated"
        )
        parser.add_argument("--all", action="store_true", help="Every server of every project")
        parser.add_argument("--dry-run", action="store_true", help="Only say what would become of each disk")
        parser.add_argument("--timeout", type=float, metavar="<seconds>", help="How long to wait (default: no limit)")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Returns the columns and a row for each disk. Raises what the service answers."""
        if parsed_args.all == bool(parsed_args.server) or (parsed_args.all and parsed_args.disk):
            raise BadRequest("name one server, or --all without --disk")
        client, remaining = self._client, Remaining(parsed_args.timeout)
        named = client.servers() if parsed_args.all else [{"id": client.find_server(parsed_args.server)}]
        rows: list[tuple[Any, ...]] = []
        for server in named:
            found = client.adopt(server["id"], parsed_args.disk, parsed_args.dry_run)
            if found.get("operation_id"):
                found = client.wait(server["id"], found["operation_id"], remaining.seconds())
            rows += _rows(server.get("name") or parsed_args.server, found)
        return COLUMNS, rows


def _rows(server: str, found: Document) -> Iterator[tuple[Any, ...]]:
    return ((server, *(disk[key] for key in _KEYS)) for disk in found["disks"])


class Release(_Base):
    """Let the adopted disks of a server be plain files again; the files stay where they are"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Adds ``<server>``, ``--delete-snapshots``, ``--keep-files`` and ``--timeout``."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("server", metavar="<server>", help="Server (name or ID)")
        group = parser.add_mutually_exclusive_group()
        group.add_argument("--delete-snapshots", action="store_true", help="Delete the snapshots of the disks first")
        group.add_argument("--keep-files", action="store_true", help="Leave the files of the snapshots, and list them")
        parser.add_argument("--timeout", type=float, metavar="<seconds>", help="How long to wait (default: no limit)")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Returns the files that are left, one in each row. Raises what the service answers."""
        client = self._client
        server_id = client.find_server(parsed_args.server)
        found = client.release(server_id, parsed_args.delete_snapshots, parsed_args.keep_files)
        client.wait(server_id, found["operation_id"], parsed_args.timeout)
        return ("File",), [(name,) for name in found["files"]]
