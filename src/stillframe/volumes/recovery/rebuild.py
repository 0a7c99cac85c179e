"""The database rebuilt from a share alone, or a share's unknown volumes added to it."""

import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from stillframe.chain import names
from stillframe.chain.image import Image
from stillframe.context import new_request_id
from stillframe.db import deployments, shares, snapshots, volume_types, volumes
from stillframe.db.engine import Database
from stillframe.db.values import NewVolumeType
from stillframe.errors import BadImage, ChainConflict, ShareUnavailable
from stillframe.host import entries, files, inspection
from stillframe.host.entries import Entry
from stillframe.journal import record as journal
from stillframe.volumes.operations import chain_metadata
from stillframe.volumes.recovery import rebuilt_clones, rebuilt_rows
from stillframe.volumes.recovery.rebuilt_rows import Given, Rebuilt, Source
from stillframe.volumes.storage.drivers import markers


@dataclass(frozen=True)
class Formats:
    """What the files of a share are. ``base`` is what ``volume-<id>`` is where neither a record nor a header above it says so;
    without it such volumes are refused, since a format is never guessed (I6). ``chains`` False: every file is raw."""

    base: str | None = None
    chains: bool = True


QCOW2 = Formats()


@dataclass(frozen=True)
class Found:
    """What a share gives: rows, volumes that are not sound with the reason, and those the database has already."""

    rebuilt: Sequence[Rebuilt]
    refused: Mapping[str, str]
    known: Sequence[str] = field(default_factory=tuple)


def find(path: Path, given: Given, formats: Formats = QCOW2, known: frozenset[str] = frozenset()) -> Found:
    """Reads a share and returns what rows it gives. Changes nothing; every header is looked at as hostile input.

    ``known`` are the ids of the database's volumes and
    snapshots: such volumes are not looked at closer.
    """
    listed = entries.look(path)
    ids = sorted({volume_id for name in listed if (volume_id := _owner(name))} - known)
    sources = {volume_id: _source(path, listed, volume_id, formats) for volume_id in ids}
    rebuilt: dict[str, Rebuilt] = {}
    refused: dict[str, str] = {}
    for volume_id, source in sources.items():
        try:
            if formats.chains:
                rebuilt[volume_id] = rebuilt_rows.rebuild(source, given, _parent_image(path, source, sources, known))
            else:
                rebuilt[volume_id] = rebuilt_clones.rebuild(source, given)
        except (BadImage, ChainConflict) as error:
            refused[volume_id] = error.message
    _refuse_twice(rebuilt, refused, known)
    _refuse_unfounded(rebuilt, refused, known)
    ordered = sorted(rebuilt.values(), key=lambda each: (each.volume["created_at"], each.volume["id"]))
    return Found(ordered, refused, sorted(known & {owner for name in listed if (owner := _owner(name))}))


def only_adopted(path: Path) -> bool:
    """Tells whether a directory holds volumes, all of which were adopted in it as far as their records can be read."""
    recorded = [name for name in entries.look(path) if name.endswith(".record") and _owner(name)]
    held = []
    for name in recorded:
        with suppress(BadImage, FileNotFoundError):
            held.append(rebuilt_rows.base_file(_documents(path, str(_owner(name)))[1]))
    return bool(held) and all(held)


def _owner(name: str) -> str | None:
    """The volume a chain file or a record is of. An .info file alone is no volume."""
    parsed = names.parse(name.removesuffix(".record"))
    return parsed[0] if parsed else None


def _source(path: Path, listed: Mapping[str, Entry], volume_id: str, formats: Formats) -> Source:
    own = [name for name in listed if (names.parse(name) or ("",))[0] == volume_id]
    times = {name: _date(listed[name].written) for name in own}
    try:
        info, record = _documents(path, volume_id)
        adopted = rebuilt_rows.base_file(record)
        if adopted is not None and adopted in listed:
            own, times = [*own, adopted], {**times, adopted: _date(listed[adopted].written)}
        recorded = record["volume"]["base_format"] if record else None
        if formats.chains:
            images = _images(path, own, names.base_name(volume_id, adopted), recorded, formats.base)
        else:
            images = {name: inspection.alone(path, name, "raw") for name in own}
    except (BadImage, FileNotFoundError) as error:
        return Source(volume_id, {}, {}, {}, times, getattr(error, "message", str(error)))
    return Source(volume_id, images, info, record, times)


def _date(seconds: float) -> datetime:
    """Whoever owns a file says when it was written, also a time that no date can hold: that counts as the beginning of all."""
    try:
        return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)
    except (ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC).replace(tzinfo=None)


def _documents(path: Path, volume_id: str) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        info = files.read_json(path, names.info_name(volume_id)) or {}
        record = files.read_json(path, names.record_name(volume_id), files.LONGEST_RECORD) or {}
    except ValueError as error:
        raise BadImage(f"the .info or .record file of volume {volume_id} is no JSON document: {error}") from error
    if record:
        rebuilt_rows.check_record(record, volume_id)
    rebuilt_rows.check_info(info, volume_id, rebuilt_rows.base_file(record))
    return info, record


def _images(path: Path, own: Sequence[str], base: str, recorded: str | None, otherwise: str | None) -> dict[str, Image]:
    """Headers of overlays first: what the base is stands in the header above it, if nowhere else."""
    found = {name: inspection.alone(path, name, "qcow2") for name in own if name != base}
    if base in own:
        above = {str(image.backing_format) for image in found.values() if image.backing == base}
        said = sorted(above | ({recorded} if recorded else set()))
        if len(said) > 1:
            raise BadImage(f"{base} is {' in one place and '.join(said)} in another, by the headers above it and the record")
        format_ = said[0] if said else otherwise
        if format_ is None:
            raise BadImage(f"nothing says whether {base} is raw or qcow2; say so with --base-format, it is never guessed")
        found[base] = inspection.alone(path, base, format_)
    return found


def _parent_image(path: Path, source: Source, sources: Mapping[str, Source], known: frozenset[str]) -> Image | None:
    """The file a linked clone reads: of a volume on the share, which must be one the database has or is given."""
    linked = source.record["volume"]["linked_to"] if source.record else None
    if linked is None:
        return None
    if linked["volume_id"] in known:
        name = names.check_belongs(linked["file"], linked["volume_id"])
        try:
            return inspection.alone(path, name, linked["format"])
        except FileNotFoundError:
            return None
    return sources[linked["volume_id"]].images.get(linked["file"]) if linked["volume_id"] in sources else None


def _refuse_twice(rebuilt: dict[str, Rebuilt], refused: dict[str, str], known: frozenset[str]) -> None:
    """A snapshot's id belongs to one volume, as when somebody copied a volume's files under another name."""
    owners: dict[str, set[str]] = {}
    bases: dict[str, set[str]] = {}
    for volume_id, each in rebuilt.items():
        for row in each.snapshots:
            owners.setdefault(row["id"], set()).add(volume_id)
    for volume_id, each in rebuilt.items():
        if file := each.volume.get("base_file"):
            bases.setdefault(file, set()).add(volume_id)
    for file, volume_ids in bases.items():
        for volume_id in volume_ids if len(volume_ids) > 1 else ():
            del rebuilt[volume_id]
            refused[volume_id] = f"its base {file} is also the base of volume {min(volume_ids - {volume_id})}"
    for snapshot_id, volume_ids in owners.items():
        if len(volume_ids) > 1 or snapshot_id in known:
            for volume_id in volume_ids & set(rebuilt):
                others = sorted(volume_ids - {volume_id}) or ["one of the database"]
                del rebuilt[volume_id]
                refused[volume_id] = f"its snapshot {snapshot_id} is also a snapshot of another volume ({', '.join(others)})"


def _refuse_unfounded(rebuilt: dict[str, Rebuilt], refused: dict[str, str], known: frozenset[str]) -> None:
    """A linked clone needs the volume it reads; if that volume is refused, so is the clone."""
    while True:
        lost = {
            volume_id: linked["volume_id"]
            for volume_id, each in rebuilt.items()
            if (linked := each.volume["linked_to"]) and linked["volume_id"] not in rebuilt and linked["volume_id"] not in known
        }
        if not lost:
            return
        for volume_id, source_id in lost.items():
            del rebuilt[volume_id]
            refused[volume_id] = f"it is linked to volume {source_id}, which was refused or is not there"


def insert(database: Database, path: Path, given: Given, found: Found, taken_from: str | None = None) -> None:
    """Writes the rows in one transaction; what stands beside the files is written anew by the worker afterwards.

    The share's marker names this deployment afterwards; see ``markers.claim`` for one that names another. Raises
    ShareUnavailable when the database knows the share by another id, ForeignShare.
    """
    share_id = markers.claim(path, deployments.own(database), taken_from)
    with database.write() as connection:
        known = shares.known_id(connection, given.share)
        if known is None:
            shares.remember(connection, given.share, share_id)
        elif known != share_id:
            raise ShareUnavailable(f"the database knows {given.share} as share {known}, its marker says {share_id}")
        for each in found.rebuilt:
            _insert(connection, each)


def _insert(connection: Connection, each: Rebuilt) -> None:
    volumes.insert(connection, {**each.volume, "volume_type_id": _type_id(connection, each.type_name)})
    for row in each.snapshots:
        snapshots.insert(connection, row)
    journal.submit(connection, chain_metadata.request(each.volume["id"], new_request_id()))


def _type_id(connection: Connection, name: str | None) -> str:
    """The type of that name, made when it is lost: its extra specs are nowhere but in the database."""
    if name is None:
        row = volume_types.default(connection)
        assert row is not None
        return str(row["id"])
    row = volume_types.find(connection, name)
    if row is None:
        lost = "Rebuilt; its extra specs are lost"
        type_id = str(uuid.uuid4())
        made: NewVolumeType = {"id": type_id, "name": name, "description": lost, "extra_specs": {}, "is_public": True}
        volume_types.insert(connection, made)
        return type_id
    return row["id"]
