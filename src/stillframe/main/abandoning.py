"""``stillframe operation abandon``: a person ends a stuck operation where it stands, and sees what that leaves."""

import argparse
from collections.abc import Mapping
from typing import Any

from cliff.command import Command
from sqlalchemy import Connection

from stillframe.db import assisted_snapshots, backups, operations, snapshots, volumes
from stillframe.db.engine import Database
from stillframe.db.rows import OperationRow
from stillframe.errors import Conflict, NotFound, StillframeError
from stillframe.journal import abandoning
from stillframe.journal.about import about
from stillframe.journal.operation import Kind, Operation
from stillframe.main import asking
from stillframe.main.operations import add_options, database_of, settings_of

DONE, REFUSED = 0, 1


class Abandon(Command):
    """End an operation that is stuck where it stands: what it holds is released, nothing is put back, no file is touched"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Adds ``ID`` and ``--yes``."""
        parser = add_options(super().get_parser(prog_name))
        parser.add_argument("operation", metavar="ID")
        parser.add_argument("--yes", action="store_true", help="do not ask")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        """Carries the command out; returns its exit code."""
        database = database_of(parsed_args)
        with database.read() as connection:
            row = operations.get(connection, parsed_args.operation)
            if row is None:
                raise NotFound(f"there is no operation {parsed_args.operation}")
            _refuse_repair(row)
            abandoning.refuse_unless_stuck(row)
            _refuse_while_it_merges(connection, row)
            before = _things(connection, row)
        kind = _kind(row)
        met = (row["fault"] or {}).get("message", "no reason was recorded")
        was = row["state"] if row["state"] == "parked" else f"{row['state']}, and failed {row['attempts']} times"
        self._say(f"operation {row['id']} ({row['service']}, {row['kind']}) is {was}: {met}")
        self._say(*(f"{name} is {status}" for name, status in before.items()))
        files = abandoning.fault_of(row, kind).details["files"]
        self._say(*([f"nothing will be put back; the operation has worked on {', '.join(files)}"] if files else []))
        if not asking.may("Abandon it?", parsed_args.yes, self._say):
            return REFUSED
        present = _present(parsed_args, database, row)
        with database.write() as connection:
            row = _as_shown(connection, row)
            _refuse_while_it_merges(connection, row)
            fault = abandoning.abandon(connection, row, kind, present)
            after = _things(connection, row)
        self._say(f"operation {row['id']} was {row['state']} and is undone: {fault.message}")
        self._say(*(f"{name} was {status} and is {after[name]}" for name, status in before.items()))
        self._say(*([f"next: {kind.afterwards}"] if kind.afterwards else []))
        return DONE

    def _say(self, *lines: str) -> None:
        for line in lines:
            self.app.stdout.write(f"{line}\n")


def _refuse_repair(row: OperationRow) -> None:
    """Raises Conflict for an operation that no worker runs: a doctor holds it for as long as it repairs."""
    from stillframe.volumes.recovery.doctor.looking import SERVICE

    if row["service"] == SERVICE and row["state"] in operations.UNFINISHED:
        raise Conflict(
            f"operation {row['id']} is a repair of the doctor {row['owner']} (host, process) and ends with it; 'stillframe"
            " doctor' offers to release it when that process has ended"
        )


def _refuse_while_it_merges(connection: Connection, row: OperationRow) -> None:
    """Raises Conflict for an operation that waits for a live merge which continues: without the operation nothing would record
    what the merge changes."""
    from stillframe.volumes.operations.executors.live import merge_id

    for step in Operation.from_row(row).plan:
        merge = operations.get(connection, merge_id(row["id"], step.key)) if step.verb == "MergeLive" else None
        if merge is not None and merge["state"] in operations.CLAIMABLE:
            raise Conflict(
                f"operation {row['id']} waits for merge {merge['id']}, which is {merge['state']} and continues. Cancel the"
                " deletion instead; abandon a merge that keeps failing first; then this one ends by itself"
            )


def _as_shown(connection: Connection, row: OperationRow) -> OperationRow:
    """Returns the row as it is now if the operation was only retried in vain since it was shown; else as it was shown, so that
    a change is refused."""
    now = operations.get(connection, row["id"])
    same = now is not None and all(now[name] == row[name] for name in ("state", "step", "fault"))
    return now if now is not None and same and abandoning.is_in_vain(now) else row


def _kind(row: OperationRow) -> Kind:
    """Imports the services here, because the other commands do not need them."""
    from stillframe.compute import kinds as compute
    from stillframe.volumes import kinds as block_storage

    tables: Mapping[str, Mapping[str, Kind]] = {"volumes": block_storage.KINDS, "compute": compute.KINDS}
    kind = tables.get(row["service"], {}).get(row["kind"])
    if kind is None:
        raise Conflict(
            f"this release does not know operations of the kind {row['kind']}, so it cannot say what one of them leaves"
        )
    return kind


def _present(parsed: argparse.Namespace, database: Database, row: OperationRow) -> list[str] | None:
    """Names of the files on the operation's share; None when the share does not answer."""
    from stillframe.volumes.storage.backends import Backends

    place = about(row["intent"])
    if place.share is None:
        return None
    try:
        return Backends(settings_of(parsed), database).share({"backend": place.backend, "share": place.share}).listing()
    except (StillframeError, OSError):
        return None


def _things(connection: Connection, row: OperationRow) -> dict[str, str]:
    """What the operation is about, and the status of each."""
    asked = about(row["intent"])
    found = {
        "volume": (volumes, [asked.volume_id]),
        "snapshot": (snapshots, asked.snapshot_ids),
        "set": (assisted_snapshots, [asked.set_id]),
        "backup": (backups, [asked.backup.id if asked.backup else None]),
    }
    return {
        f"{what} {each}": _status(table.get(connection, each, None))
        for what, (table, ids) in found.items()
        for each in ids
        if each
    }


def _status(row: Mapping[str, Any] | None) -> str:
    return str(row["status"]) if row is not None else "gone"
