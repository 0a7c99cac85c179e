"""Looks at the rows, at every enabled share and at the rows again: what changed meanwhile is not judged."""

import json
import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from sqlalchemy import Connection

from stillframe.chain import names
from stillframe.config import Settings
from stillframe.db import assisted_snapshots, attachments, backups, holds, operations, shares, snapshots, volumes
from stillframe.db.engine import Database
from stillframe.db.queries import Page
from stillframe.db.rows import OperationRow, VolumeRow
from stillframe.db.tables import now
from stillframe.errors import (
    BadConfiguration,
    BadImage,
    HostCommandFailed,
    NotSound,
    ShareUnavailable,
    TargetUnavailable,
    of_os_error,
)
from stillframe.host import entries, examination, files, inspection, parents, qemu_img, soundness, users
from stillframe.host.entries import Entry
from stillframe.journal.record import is_dead
from stillframe.volumes.chain import observe
from stillframe.volumes.chain import record as volume_record
from stillframe.volumes.operations.executors.offline import info_document
from stillframe.volumes.recovery.doctor import leftovers
from stillframe.volumes.recovery.doctor.seen import (
    FileSeen,
    GuestsSeen,
    Known,
    ShareSeen,
    TargetSeen,
    VolumeKnown,
    WorkerContext,
)
from stillframe.volumes.storage.backends import Backends, Pool

_LONGEST_REPAIR = timedelta(days=3)
SERVICE = "doctor"  # of the operations by which a repair holds a volume
_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
_EVERYTHING = Page(limit=1 << 31)
_FAILED = Page(limit=1 << 31, filters={"status": "error"})
Guests = Callable[[frozenset[str]], GuestsSeen]  # takes the ids that operations work on


@dataclass(frozen=True)
class Options:
    """A file older than ``older_than`` seconds counts as left over; ``examine``: qemu-img checks every file, which takes
    long."""

    older_than: float = 3600.0
    examine: bool = True


def look(settings: Settings, database: Database, guests: Guests, options: Options) -> WorkerContext:
    """Returns everything that could be seen; what could not is said in its ``troubles``. Changes nothing."""
    backends = Backends(settings, database)
    before = _known(settings, database)
    seen: list[ShareSeen] = []
    troubles: list[str] = []
    pools = backends.every
    for pool in pools:
        try:
            share = _share(pool, before, options)
            share = _with_targets(pool, share, troubles) if share is not None else None
        except (ShareUnavailable, BadConfiguration) as error:
            troubles.append(error.message)
            continue
        except OSError as error:  # a file that this user may not read: the other shares are still checked
            troubles.append(f"share {pool.export.export}: {of_os_error(error).message}")
            continue
        if share is not None:
            seen.append(share)
    asked = guests(before.busy)
    after = _known(settings, database)
    return WorkerContext(
        seen,
        after,
        asked,
        _unsettled(before, after),
        troubles,
        frozenset(pool.export.export for pool in pools),
        options.older_than,
        time.time(),
        settings.host,
    )


def _unsettled(before: Known, after: Known) -> frozenset[str]:
    ids = set(before.volumes) | set(after.volumes)
    changed = {volume_id for volume_id in ids if before.volumes.get(volume_id) != after.volumes.get(volume_id)}
    return frozenset(changed | before.busy | after.busy)


def _known(settings: Settings, database: Database) -> Known:
    with database.read() as connection:
        under_way = [row for service in ("volumes", "compute", SERVICE) for row in operations.unfinished(connection, service)]
        gone = [row for row in under_way if row["service"] == SERVICE and _is_over(row, settings.host)]
        still = [row for row in under_way if row["state"] == "parked"]
        found = {row["id"]: volume_known(connection, row) for row in volumes.list_all(connection)}
        return Known(
            found,
            backups.list_page(connection, None, _EVERYTHING),
            under_way,
            _with_attached(_mentioned([row for row in under_way if row not in still and row not in gone]), found),
            _with_attached(_mentioned(still), found),
            frozenset(holds.volumes_ever(connection)),
            frozenset(row["id"] for row in gone),
            assisted_snapshots.list_page(connection, None, _FAILED),
            operations.abandoned(connection),
            assisted_snapshots.taken(connection),
        )


def volume_known(connection: Connection, row: VolumeRow) -> VolumeKnown:
    """What the rows know of one volume, and what should stand beside its files."""
    needs = observe.needs(connection, row)
    overlays = {each["id"]: each["overlay"] for each in needs["snapshots"] if each["status"] != "error"}
    document = volume_record.document(connection, row)
    return VolumeKnown(
        row,
        snapshots.of_volume(connection, row["id"]),
        needs["holds"],
        needs["shared"],
        attachments.of_volumes(connection, [row["id"]])[row["id"]],
        info_document(row["active_file"], overlays),
        json.loads(json.dumps(document)),
    )


def _is_over(row: OperationRow, host: str) -> bool:
    """Tells whether the doctor that has locked a volume does not run any more. For another host that cannot be known, except by
    time, should that host be lost or renamed: a repair lasts as long as one or two programs may (a day each)."""
    owner = row["owner"] or ""
    if is_dead(owner, host):
        return True
    return not owner.startswith(f"{host}:") and now() - row["created_at"] > _LONGEST_REPAIR


def _mentioned(rows: list[OperationRow]) -> set[str]:
    """Every id an operation's intent or plan names: volumes, snapshots, servers, sets."""
    return {found for row in rows for found in (row["id"], *_UUID.findall(json.dumps([row["intent"], row["plan"]])))}


def _with_attached(ids: set[str], found: dict[str, VolumeKnown]) -> frozenset[str]:
    """An operation on a server may be one on every volume it has."""
    more = {key for key, known in found.items() if any(row["instance_id"] in ids for row in known.attachments)}
    return frozenset(ids | more)


def mentions(row: OperationRow, volume_id: str) -> bool:
    """Tells whether an operation may be one on the volume."""
    return volume_id in _mentioned([row])


def _share(pool: Pool, known: Known, options: Options) -> ShareSeen | None:
    """Returns the share; None for one that was never used and is not there yet. Raises ShareUnavailable, BadConfiguration."""
    path = directory(pool)
    with pool.database.read() as connection:
        share_id = shares.known_id(connection, pool.export.export)
    if path is None:
        if share_id is None:
            return None
        raise ShareUnavailable(f"the directory of share {pool.export.export} does not exist")
    marker_id = marker(path)
    mode = entries.directory_mode(path)
    export, rows = pool.export.export, [each.row for each in known.volumes.values()]
    adopted = {row["base_file"]: row["id"] for row in rows if row["share"] == export and row["base_file"]}
    chains = pool.capabilities.chains
    seen = ShareSeen(export, pool.backend, path, share_id, marker_id, mode, chains=chains, adopted=adopted)
    return _with_files(seen, known, options) if seen.is_itself else seen


def _with_targets(pool: Pool, share: ShareSeen, troubles: list[str]) -> ShareSeen:
    if pool.targets is None:
        return share
    try:
        given = pool.targets.given(share.path)
    except TargetUnavailable as error:
        troubles.append(error.message)
        return share
    seen = {
        volume_id: TargetSeen(each.name, Path(each.path or "").name, each.initiators, each.sessions)
        for volume_id, each in given.items()
    }
    return replace(share, targets=seen)


def directory(pool: Pool) -> Path | None:
    """The share's directory, mounted where it has to be; a local one is never made here."""
    if not pool.capabilities.here:
        return pool.kind.prepare(pool.export, pool.mount_point_base)
    path = Path(pool.export.export)
    return path if path.is_dir() else None


def marker(path: Path) -> str | None:
    try:
        found = files.read_json(path, ".share-id")
    except (ValueError, BadImage):
        return None
    return str(found["share_id"]) if isinstance(found, dict) and "share_id" in found else None


def _with_files(share: ShareSeen, known: Known, options: Options) -> ShareSeen:
    listed = entries.look(share.path)
    seen: dict[str, FileSeen] = {}
    documents: dict[str, str] = {}
    with files.share_errors(share.path):
        for name, entry in listed.items():
            try:
                if share.volume_of(name) is not None:
                    seen[name] = _file(share, entry, known, options)
                elif leftovers.is_document(name):
                    documents[name] = _text(share.path, name)
            except FileNotFoundError:
                continue
    opened = _opened(share.path, seen)
    seen = {name: replace(each, locked=True) if name in opened else each for name, each in seen.items()}
    return replace(share, entries=listed, files=seen, documents=documents, readers=_readers(share, listed, known))


def _opened(path: Path, seen: Collection[str]) -> set[str]:
    """A program that only reads a file takes no lock as QEMU does, but needs the file too."""
    found = {name: users.identity(path / name) for name in seen}
    open_ = users.programs({each for each in found.values() if each})
    return {name for name, each in found.items() if each in open_}


def _readers(share: ShareSeen, listed: Collection[str], known: Known) -> Mapping[str, Sequence[str]]:
    """What a guest writes into a raw disk of ours is never taken for a header: no file of a known volume is read here, and of a
    share without chains no volume's file at all."""
    chain = {name for name in listed if share.volume_of(name) is not None}
    apart = {name for name in listed if names.is_ours_apart(name)}
    closed = {name for name in chain if not share.chains or share.volume_of(name) in known.volumes}
    return users.readers(share.path, chain | apart, apart | closed)


def _text(path: Path, name: str) -> str:
    try:
        return entries.read_text(path, name) or ""
    except BadImage as error:
        return error.message  # no JSON: told as such


def _file(share: ShareSeen, entry: Entry, known: Known, options: Options) -> FileSeen:
    path = share.path
    if not entry.regular or entry.links != 1:
        return FileSeen(problem="it is no plain file with one name")
    volume_id, snapshot_id = names.parse(entry.name) or (share.volume_of(entry.name) or "", None)
    row = known.volumes[volume_id].row if volume_id in known.volumes else None
    format_ = "qcow2" if snapshot_id else row["base_format"] if row else None
    if not share.chains:
        format_ = "raw"
    locked = files.is_locked(path, entry.name)
    if format_ is None:  # its format is not recorded: only the files that it might name are read, to protect those
        return FileSeen(names=qemu_img.backing_of(path, entry.name), locked=locked)
    try:
        image = inspection.alone(path, entry.name, format_)
        sound = soundness.unvouched(path, entry.name, format_)
    except NotSound as error:
        return FileSeen(unsound=error.message, names=None, locked=locked)
    except BadImage as error:
        return FileSeen(problem=error.message, names=None, locked=locked)
    why = f"{entry.name} was not closed by its last writer (dirty bit)" if sound.dirty else None
    parent = next(filter(None, (parents.flaw(each, entry.name) for each in image.parents)), None)
    found = FileSeen(image, None, image.backing, locked, unsound=why, dirty=sound.dirty, bitmaps=sound.bitmaps, parent=parent)
    return _examined(path, found) if options.examine and row is not None else found


def _examined(path: Path, found: FileSeen) -> FileSeen:
    assert found.image is not None
    try:
        if found.dirty:  # its counts are wrong, which does not count as damage
            return replace(found, damage=examination.beyond_repair(path, found.image.name))
        result = examination.examine(path, found.image.name, found.image.format)
    except HostCommandFailed:
        return found  # somebody opened or removed it meanwhile
    except BadImage as error:
        return replace(found, image=None, problem=error.message)
    return found if result is None else replace(found, examined=True, leaks=result.leaks, damage=result.damage)
