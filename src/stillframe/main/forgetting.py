"""``stillframe volume forget``: a person removes the rows of a volume whose share is gone for good."""

import argparse

from cliff.command import Command

from stillframe.chain.names import base_name, canonical_id
from stillframe.config import Settings
from stillframe.db import adopted_disks
from stillframe.db.engine import Database
from stillframe.errors import Conflict, HypervisorUnavailable
from stillframe.main import asking, guests_seen
from stillframe.main.operations import add_options, database_of, settings_of
from stillframe.volumes.recovery import forgetting
from stillframe.volumes.recovery.forgetting import Lost
from stillframe.volumes.storage.backends import Backends
from stillframe.volumes.worker import lookup

DONE, REFUSED = 0, 1


class Forget(Command):
    """Remove the rows of a volume whose share is gone for good: its snapshots and attachments too, no backup and no file

    Works while the services run. Refused while the share answers, while a server's description names the volume, and while an
    operation is at work on it ('stillframe operation abandon' ends one). Ends with 0 when it was done, or could be with
    --dry-run.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Adds ``ID``, ``--dry-run`` and ``--yes``."""
        parser = add_options(super().get_parser(prog_name))
        parser.add_argument("volume", metavar="ID")
        parser.add_argument("--dry-run", action="store_true", help="show what would be removed, and do nothing")
        parser.add_argument("--yes", action="store_true", help="do not ask")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        """Carries the command out; returns its exit code."""
        settings, database = settings_of(parsed_args), database_of(parsed_args)
        volume_id = canonical_id(parsed_args.volume, "volume id")
        with database.read() as connection:
            lost = forgetting.read(connection, volume_id)
        why = forgetting.why_lost(Backends(settings, database), lost.volume)
        _refuse_if_described(settings, database, volume_id)
        self._say(*_account(lost, why))
        if parsed_args.dry_run:
            self._say("nothing was done: this is a dry run")
            return DONE
        if not asking.may("Is the share gone for good, and should the volume be forgotten?", parsed_args.yes, self._say):
            return REFUSED
        _refuse_if_described(settings, database, volume_id)  # the answer may have taken a long time
        with database.write() as connection:
            forgetting.forget(connection, lost)
            left = lookup.used(connection, lost.volume["project_id"])
        self._say(
            f"volume {volume_id} is forgotten; no file was touched. Project {lost.volume['project_id']} uses"
            f" {left['volumes']} volumes, {left['gigabytes']} GiB and {left['snapshots']} snapshots now",
            f"if the share comes back: 'stillframe manage-share --share {lost.volume['share']}' takes the volume back",
        )
        return DONE

    def _say(self, *lines: str) -> None:
        for line in lines:
            self.app.stdout.write(f"{line}\n")


def _refuse_if_described(settings: Settings, database: Database, volume_id: str) -> None:
    """Raises Conflict when a description of a server, live, inactive or saved, names the volume; HypervisorUnavailable when
    nobody can tell."""
    with database.read() as connection:
        adopted = adopted_disks.by_server(connection)
    seen = guests_seen.look(settings, frozenset(), adopted)
    naming = sorted(name for name in seen.mentioned if name.startswith(base_name(volume_id)))
    having = [
        f"{server.name} ({server.id})"
        for server in seen.servers
        if any(disk.volume_id == volume_id for disk in (*server.disks, *(server.inactive or ()), *(server.saved or ())))
    ]
    if naming or having:
        raise Conflict(
            f"a server still has volume {volume_id}: {', '.join(having) or 'its description names ' + naming[0]}. Take the disk"
            " out of the server first ('virsh detach-disk SERVER DISK --config' for a stopped one), then repeat"
        )
    if not seen.complete:
        raise HypervisorUnavailable(f"it is not known whether a server still has volume {volume_id}: {seen.why}")


def _account(lost: Lost, why: str) -> list[str]:
    row = lost.volume
    named = f" {row['name']!r}" if row["name"] else ""
    goes = [("snapshot", [each["id"] for each in lost.snapshots])]
    goes += [("attachment to server", [str(each["instance_id"]) for each in lost.attachments])]
    stays = [each["id"] for each in lost.backups]
    return [
        f"volume {row['id']}{named}, {row['size']} GiB, project {row['project_id']}, is {row['status']}: {why}",
        *(f"this also removes {what} {each}" for what, ids in goes for each in ids),
        *([f"its backups stay and can be restored: {', '.join(stays)}"] if stays else []),
    ]
