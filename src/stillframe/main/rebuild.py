"""``stillframe rebuild`` and ``manage-share``: make rows from a share, in a new database or beside existing ones."""

import argparse
import json
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cliff.command import Command

from stillframe import config
from stillframe.chain.names import base_name
from stillframe.config import Settings
from stillframe.db import deployments, snapshots, volumes
from stillframe.db.engine import Database
from stillframe.errors import BadConfiguration, BadRequest, ShareUnavailable, StillframeError
from stillframe.host import mounts
from stillframe.host.qcow2 import FORMATS
from stillframe.main import state
from stillframe.main.existing import open_current
from stillframe.volumes.backups.repository import DEFAULT_CONTAINER
from stillframe.volumes.recovery import rebuild, rebuilt_backups
from stillframe.volumes.recovery.doctor.looking import directory
from stillframe.volumes.recovery.rebuild import Formats, Found
from stillframe.volumes.recovery.rebuilt_backups import Listed
from stillframe.volumes.recovery.rebuilt_rows import Given
from stillframe.volumes.storage.backends import ADOPTED, Backends, Pool
from stillframe.volumes.storage.drivers import markers
from stillframe.volumes.worker.context import open_context

DONE, REFUSED, BLIND = 0, 1, 2


@dataclass(frozen=True)
class Taken:
    """What the shares and the backup store yielded; ``new_backups`` are the ids of backups that had no row."""

    volumes: Found
    backups: Listed
    new_backups: Sequence[str]


class _FromShare(Command):
    """The options that both commands have."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Adds ``--config-file``, ``--state-dir``, ``--share``, ``--backend``, ``--project``, ``--user``, ``--base-format``,
        ``--backups``, ``--dry-run`` and ``--format``."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("--config-file", action="append", default=[], metavar="FILE", help="may be repeated")
        parser.add_argument("--state-dir", metavar="DIR")
        parser.add_argument("--share", required=True, metavar="PATH", help="directory of the share, or its export")
        parser.add_argument("--backend", metavar="NAME", help="the backend's section, if several have this share")
        parser.add_argument("--project", metavar="ID", help="project of volumes without a record (default: default_project)")
        parser.add_argument("--user", default="admin", metavar="ID", help="user of volumes without a record")
        parser.add_argument(
            "--base-format", choices=FORMATS, help="format of volume-<id> if neither a record nor a header says it"
        )
        parser.add_argument(
            "--backups",
            nargs="?",
            const=DEFAULT_CONTAINER,
            metavar="CONTAINER",
            help=f"also the backups in this container of the configured store (default: {DEFAULT_CONTAINER})",
        )
        parser.add_argument("--dry-run", action="store_true", help="show what would be done, and do nothing")
        parser.add_argument("-f", "--format", choices=("text", "json"), default="text")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        """Carries the command out; returns its exit code."""
        try:
            settings = config.load(parsed_args.config_file, {(None, "state_dir"): parsed_args.state_dir})
            taken = self.run_over(settings, parsed_args)
        except StillframeError as error:
            self.app.stderr.write(f"{error}\n")
            return BLIND
        shown = json.dumps(_document(taken), indent=1) if parsed_args.format == "json" else _text(taken, parsed_args.dry_run)
        self.app.stdout.write(shown + "\n")
        return REFUSED if taken.volumes.refused or taken.backups.refused else DONE

    @abstractmethod
    def run_over(self, settings: Settings, parsed: argparse.Namespace) -> Taken:
        """"""


class Rebuild(_FromShare):
    """Make a lost database again from a share: from the records beside the volumes, their headers and .info files

    Only for a database that is gone for good: the new one takes its place, and two over one share destroy its volumes. No
    service may run over the state directory, or over the lost database on any host. Ends with 0 when every volume was taken,
    1 when some were refused because they are not sound, 2 when nothing could be done.
    """

    def run_over(self, settings: Settings, parsed: argparse.Namespace) -> Taken:
        unmade = Database(settings.database)  # not opened: nothing is made before the share is found
        _pool(Backends(settings, unmade), parsed)
        if parsed.dry_run:
            return _take(settings, unmade, parsed, frozenset())
        locks = state.Locks(state.secure(settings), state.PARTS)
        database = state.prepare(settings)
        try:
            if _known(database):
                raise BadRequest("the database has volumes; 'stillframe manage-share' adds to them what it does not know")
            _become_what_was_lost(Backends(settings, database), database, parsed)
            return _take(settings, database, parsed, frozenset())
        finally:
            database.close()
            del locks


class ManageShare(_FromShare):
    """Add the volumes of a share that the database does not know, such as those of Cinder's NFS driver

    Works while the services run. Ends as 'stillframe rebuild' does. Whoever managed the volumes before must have stopped.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Adds ``--from-deployment``."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--from-deployment",
            metavar="ID",
            help="take the share over from this deployment of Stillframe, which must have stopped for good",
        )
        return parser

    def run_over(self, settings: Settings, parsed: argparse.Namespace) -> Taken:
        database = open_current(settings)
        try:
            return _take(settings, database, parsed, _known(database))
        finally:
            database.close()


def _become_what_was_lost(backends: Backends, database: Database, parsed: argparse.Namespace) -> None:
    """The new database is that of the deployment whose share this is: its other shares know it then."""
    _pool_found, path = _pool(backends, parsed)
    marker = markers.marker_of(path)
    if isinstance(marker, dict) and isinstance(marker.get("deployment"), str):
        deployments.become(database, marker["deployment"][:36])


def _known(database: Database) -> frozenset[str]:
    """The ids of its volumes and snapshots."""
    with database.read() as connection:
        return frozenset((*volumes.ids(connection), *snapshots.ids(connection)))


def _take(settings: Settings, database: Database, parsed: argparse.Namespace, known: frozenset[str]) -> Taken:
    """Finds what is to be taken and, unless it is a dry run, takes it."""
    pool, path = _pool(Backends(settings, database), parsed)
    project = parsed.project or settings.default_project
    given = Given(pool.backend, pool.export.export, settings.availability_zone, project, parsed.user)
    found = rebuild.find(path, given, Formats(parsed.base_format, pool.capabilities.chains), known)
    listed = _backups(settings, database, parsed)
    if parsed.dry_run:
        return Taken(found, listed, list(listed.found))
    rebuild.insert(database, path, given, found, getattr(parsed, "from_deployment", None))
    return Taken(found, listed, rebuilt_backups.insert(database, listed, parsed.backups or "", given))


def _backups(settings: Settings, database: Database, parsed: argparse.Namespace) -> Listed:
    if not parsed.backups:
        return Listed({}, {})
    if parsed.dry_run:
        raise BadRequest(
            "--dry-run and --backups cannot be given together: to look at a backup store is recorded in the database"
        )
    return rebuilt_backups.find(open_context(settings, database).repository(parsed.backups))


def _pool(backends: Backends, parsed: argparse.Namespace) -> tuple[Pool, Path]:
    """Returns the enabled backend's pool that has the share, and the share's directory."""
    wanted = str(Path(parsed.share).absolute())
    for pool in backends.pools:
        if parsed.backend not in (None, pool.backend):
            continue
        mounted = mounts.mount_point(pool.mount_point_base, pool.export.export)
        if pool.export.export in (parsed.share, wanted) or str(mounted) == wanted:
            path = directory(pool)
            if path is None:
                raise ShareUnavailable(f"there is no directory {wanted}")
            return pool, path
    if parsed.backend in (None, ADOPTED) and _has_adopted(Path(wanted)):
        return backends.adopted(wanted), Path(wanted)
    raise BadConfiguration(
        f"no enabled backend has the share {parsed.share}: its volumes could not be used. Name it in the configuration first,"
        f" such as 'share_dir = {wanted}' below [{parsed.backend or 'local'}], and give that with --config-file"
    )


def _has_adopted(path: Path) -> bool:
    """Tells whether a directory of no backend is a share because disks in it were adopted."""
    return markers.marker_of(path) is not None and rebuild.only_adopted(path)


def _document(taken: Taken) -> dict[str, Any]:
    shown = [
        {
            "id": each.volume["id"],
            "name": each.volume["name"],
            "project_id": each.volume["project_id"],
            "size": each.volume["size"],
            "active_file": each.volume["active_file"],
            "snapshots": [row["id"] for row in each.snapshots],
            "notes": list(each.notes),
        }
        for each in taken.volumes.rebuilt
    ]
    refused = {"refused": dict(taken.volumes.refused), "refused_backups": dict(taken.backups.refused)}
    return {"volumes": shown, "known": list(taken.volumes.known), "backups": list(taken.new_backups), **refused}


def _text(taken: Taken, dry: bool) -> str:
    lines, found = list[str](), taken.volumes
    for each in found.rebuilt:
        row = each.volume
        named = f" {row['name']!r}" if row["name"] else ""
        lines.append(f"{row['id']}{named}: {row['size']} GiB, project {row['project_id']}, {len(each.snapshots)} snapshots")
        lines += [f"   {note}" for note in each.notes]
    lines += [f"refused: {base_name(volume_id)}: {why}" for volume_id, why in found.refused.items()]
    lines += [f"refused: backup {backup_id}: {why}" for backup_id, why in taken.backups.refused.items()]
    verb = "would be taken" if dry else "taken"
    lines.append(f"volumes: {len(found.rebuilt)} {verb}, {len(found.refused)} refused, {len(found.known)} known already")
    if taken.backups.found or taken.backups.refused:
        lines.append(f"backups: {len(taken.new_backups)} {verb}, {len(taken.backups.refused)} refused")
    return "\n".join(lines)
