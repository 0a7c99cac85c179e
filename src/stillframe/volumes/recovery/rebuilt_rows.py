"""The rows of a volume from what lies on its share: its record, its .info file, the headers of its files. Pure.

Headers are believed before .info, .info before the record: each is written before the next. What none of them knows
(operations, attachments, when a row was changed) begins anew.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from stillframe import documents
from stillframe.chain import names, plan
from stillframe.chain.image import Image
from stillframe.chain.tree import Tree, check
from stillframe.db.values import NewSnapshot, VolumeOfAnyType
from stillframe.documents import Schema, Shape
from stillframe.errors import BadImage, ChainConflict
from stillframe.host import inspection
from stillframe.host.qcow2 import FORMATS
from stillframe.units import GIB

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Source:
    """What lies on a share of one volume. ``info`` and ``record`` are empty where there is none; ``times`` are the files'
    last changes; ``problem`` is why a header is not believed."""

    volume_id: str
    images: Mapping[str, Image]
    info: Document
    record: Document
    times: Mapping[str, datetime]
    problem: str | None = None


@dataclass(frozen=True)
class Given:
    """What the operator specified, and where the share is in the configuration."""

    backend: str
    share: str
    zone: str
    project_id: str
    user_id: str


@dataclass(frozen=True)
class Rebuilt:
    """The rows of one volume; ``type_name`` None: the default type. ``notes`` say what was decided on the way."""

    volume: VolumeOfAnyType
    type_name: str | None
    snapshots: Sequence[NewSnapshot]
    notes: Sequence[str] = field(default_factory=tuple)


def rebuild(source: Source, given: Given, parent_image: Image | None) -> Rebuilt:
    """Returns the rows. ``parent_image`` is the file a linked clone reads, None where there is none. Raises BadImage or
    ChainConflict for a volume that is not sound."""
    if source.problem is not None:
        raise BadImage(source.problem)
    if not source.images:
        raise ChainConflict(f"volume {source.volume_id} has a record and no file")
    made = from_record(source, given) if source.record else _from_names(source, given)
    made = _with_newer(source, made)
    tree = checked(source, made, parent_image)
    loose = [name for name in tree.images if not tree.reasons(name) and tree.children(name)]
    return replace(made, volume={**made.volume, "needs_cleanup": bool(loose)})


def checked(source: Source, made: Rebuilt, parent_image: Image | None) -> Tree:
    """Returns the tree that the rows and the files make. Raises ChainConflict when they do not fit each other."""
    row = made.volume
    held = {snapshot["id"]: snapshot["backing"] for snapshot in made.snapshots}
    holds = {plan.UNDO: row["undo_file"]} if row["undo_file"] else {}
    tree = check(
        Tree(
            row["id"],
            source.images,
            row["active_file"],
            held,
            holds,
            parent_image=parent_image,
            base_file=row.get("base_file"),
        )
    )
    active = source.images[row["active_file"]]
    if active.format != row["format"]:
        raise ChainConflict(f"{active.name} is recorded as {row['format']!r}, its header says {active.format!r}")
    if -(-active.size // GIB) != row["size"]:
        raise ChainConflict(f"{active.name} has {active.size} bytes, less than the {row['size']} GiB of its volume")
    return tree


def from_record(source: Source, given: Given) -> Rebuilt:
    """Returns the rows as the record has them, where .info does not know better."""
    recorded, notes = source.record["volume"], list[str]()
    active = source.info.get("active", recorded["active_file"])
    if active not in source.images:
        raise ChainConflict(f"{active}, the active file of volume {source.volume_id}, is missing")
    if active != recorded["active_file"]:
        notes.append(f"the record is older than .info: {active} is active, not {recorded['active_file']}")
    snapshots = [row for each in source.record["snapshots"] if (row := _recorded_snapshot(source, each, notes)) is not None]
    known = {row["id"] for row in snapshots}
    for snapshot_id, overlay in source.info.items():
        if snapshot_id != "active" and snapshot_id not in known:
            snapshots.append(_snapshot(source, recorded, snapshot_id, overlay))
            notes.append(f"snapshot {snapshot_id} is newer than the record: its name and metadata are not known")
    volume = _recorded_volume(source, given, active)
    if volume["size"] != recorded["size"]:
        notes.append(f"the volume has {volume['size']} GiB, the record says {recorded['size']}")
    return Rebuilt(volume, recorded["volume_type"], snapshots, notes)


def _recorded_volume(source: Source, given: Given, active: str) -> VolumeOfAnyType:
    recorded, image = source.record["volume"], source.images[active]
    made: VolumeOfAnyType = {
        "id": recorded["id"],
        "project_id": recorded["project_id"],
        "user_id": recorded["user_id"],
        "name": recorded["name"],
        "description": recorded["description"],
        "status": "available",
        "availability_zone": recorded["availability_zone"],
        "metadata": recorded["metadata"],
        "backend": given.backend,
        "share": given.share,
        "active_file": active,
        "format": image.format,
        "base_format": recorded["base_format"],
        "size": max(recorded["size"], -(-image.size // GIB)),  # it grew after the record was written
        "snapshot_id": recorded["snapshot_id"],
        "source_volid": recorded["source_volid"],
        "bootable": recorded["bootable"],
        "image_metadata": recorded["image_metadata"],
        "linked_to": recorded["linked_to"],
        "undo_file": recorded["undo_file"] if recorded["undo_file"] in source.images else None,
        "base_file": base_file(source.record),
        "parent_images": _parent_images(source),
        "created_at": datetime.fromisoformat(recorded["created_at"]),
    }
    if recorded.get("readonly") is not None:
        made["readonly"] = recorded["readonly"]
    return made


def _parent_images(source: Source) -> list[str] | None:
    """What the base reads through is recorded beside the files; a base whose record is lost is refused before."""
    base = source.images.get(base_file(source.record) or "")
    return [each.path for each in base.parents] or None if base is not None else None


def base_file(record: Document) -> str | None:
    """Returns the name of the base that a record has for an adopted volume; None for every other one, and in records from
    before there were any."""
    return record["volume"].get("base_file") if record else None


def _recorded_snapshot(source: Source, each: Document, notes: list[str]) -> NewSnapshot | None:
    """The row of a snapshot in the record; None for one that was deleted after the record was written."""
    overlay = source.info.get(each["id"], each["overlay"])
    if source.info and overlay is not None and each["id"] not in source.info:
        notes.append(f"snapshot {each['id']} is in the record and not in .info: it was deleted")
        return None
    backing, backing_format = each["backing"], each["backing_format"]
    if overlay is not None:
        backing, backing_format = _behind(source, each["id"], overlay)
    elif backing not in source.images:
        raise ChainConflict(f"{backing}, which holds snapshot {each['id']}, is missing")
    return {
        "id": each["id"],
        "project_id": each["project_id"],
        "user_id": each["user_id"],
        "name": each["name"],
        "description": each["description"],
        "volume_id": each["volume_id"],
        "size": each["size"],
        "status": "available",
        "progress": "100%",
        "metadata": each["metadata"],
        "overlay": overlay,
        "backing": backing,
        "backing_format": backing_format,
        "consistency": each["consistency"],
        "server_id": each["server_id"],
        "created_at": datetime.fromisoformat(each["created_at"]),
    }


def _behind(source: Source, snapshot_id: str, overlay: str) -> tuple[str, str]:
    """Returns the file that holds the snapshot's data and its format: it is behind the overlay, as the header says."""
    image = source.images.get(overlay)
    if image is None:
        raise ChainConflict(f"{overlay}, the overlay of snapshot {snapshot_id}, is missing")
    if image.backing is None or image.backing_format is None or image.backing not in source.images:
        raise ChainConflict(f"{overlay} names {image.backing} as its backing file, which is no file of its volume")
    return image.backing, image.backing_format


def _snapshot(source: Source, volume: Mapping[str, Any], snapshot_id: str, overlay: str) -> NewSnapshot:
    name, backing_format = _behind(source, snapshot_id, overlay)
    return unrecorded_snapshot(source, volume, snapshot_id, (overlay, name, backing_format))


def unrecorded_snapshot(
    source: Source, volume: Mapping[str, Any], snapshot_id: str, files: tuple[str | None, str, str]
) -> NewSnapshot:
    """Returns the row of a snapshot that is only known from a file's name. ``files``: its overlay, if it has one, the file that
    holds its data, and the format of that."""
    overlay, name, backing_format = files
    return {
        "id": snapshot_id,
        "project_id": volume["project_id"],
        "user_id": volume["user_id"],
        "name": None,
        "description": None,
        "volume_id": source.volume_id,
        "size": -(-source.images[name].size // GIB),
        "status": "available",
        "progress": "100%",
        "metadata": {},
        "overlay": overlay,
        "backing": name,
        "backing_format": backing_format,
        "consistency": None,
        "server_id": None,
        "created_at": source.times[name],  # nothing was written to it afterwards
    }


def _from_names(source: Source, given: Given) -> Rebuilt:
    """A volume of Cinder's file drivers: .info if there are snapshots, else one file; or overlays in one straight line."""
    info = source.info or _straight(source)
    active = info["active"]
    volume = volume_row(source, active, given)
    made = {key: _snapshot(source, volume, key, overlay) for key, overlay in info.items() if key != "active"}
    depth = {name: number for number, name in enumerate(_path(source, active))}
    snapshots = sorted(made.values(), key=lambda row: -depth.get(row["backing"], len(depth)))
    return Rebuilt(volume, None, snapshots)


def volume_row(source: Source, active: str, given: Given) -> VolumeOfAnyType:
    """Returns the row of a volume of which no record tells. Raises ChainConflict when the active file is missing."""
    if active not in source.images:
        raise ChainConflict(f"{active}, the active file of volume {source.volume_id}, is missing")
    image, base = source.images[active], source.images.get(names.base_name(source.volume_id))
    return {
        "id": source.volume_id,
        "project_id": given.project_id,
        "user_id": given.user_id,
        "name": None,
        "description": None,
        "size": -(-image.size // GIB),
        "availability_zone": given.zone,
        "metadata": {},
        "active_file": active,
        "format": image.format,
        "base_format": base.format if base else image.format,
        "snapshot_id": None,
        "source_volid": None,
        "bootable": False,
        "image_metadata": None,
        "linked_to": None,
        "undo_file": None,
        "created_at": min(source.times.values()),
        "backend": given.backend,
        "share": given.share,
        "status": "available",
    }


def _path(source: Source, name: str) -> list[str]:
    """A file and those below it."""
    found = [name]
    while (below := source.images[found[-1]].backing) in source.images and below not in found:
        found.append(str(below))
    return found


def _straight(source: Source) -> dict[str, str]:
    """What .info would say, from the names alone: every overlay is the one of the snapshot in its name."""
    backed = {image.backing for image in source.images.values()}
    tips = [name for name in source.images if name not in backed]
    if len(tips) != 1:
        raise ChainConflict(
            f"volume {source.volume_id} has no .info file and {len(tips)} files nothing stands on: which is active nobody knows"
        )
    overlays = {snapshot_id: name for name in source.images if (snapshot_id := (names.parse(name) or ("", None))[1])}
    return {"active": tips[0], **overlays}


def _with_newer(source: Source, made: Rebuilt) -> Rebuilt:
    """Finds overlays above the active file that no document names: a snapshot was taken and the service died. A guest may have
    written into them, and reading through an empty one changes nothing: so the last of them is active.
    """
    volume, snapshots, notes = made.volume.copy(), list(made.snapshots), list(made.notes)
    known = {row["overlay"] for row in snapshots} | {volume["active_file"], volume["undo_file"]}
    while True:
        active = volume["active_file"]
        above = [image for image in source.images.values() if image.backing == active and image.name not in known]
        if not above:
            return Rebuilt(volume, made.type_name, snapshots, notes)
        if len(above) > 1:
            raise ChainConflict(f"{len(above)} files nobody wrote down stand on {active}: which is active nobody knows")
        snapshot_id = (names.parse(above[0].name) or ("", None))[1]
        if snapshot_id is None or snapshot_id in {row["id"] for row in snapshots}:
            raise ChainConflict(f"{above[0].name} stands on the active file {active}, and nothing says why")
        snapshots.append(_snapshot(source, volume, snapshot_id, above[0].name))
        volume["active_file"], volume["format"] = above[0].name, above[0].format
        known.add(above[0].name)
        notes.append(f"{above[0].name} stands on {active} and is in no record: taken as the newest snapshot's overlay")


_MOST_DEPTH = 20
_TEXT = documents.text(1024)  # a share's column is the widest
_MAYBE_TEXT = documents.optional(_TEXT)
_PAIRS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
_MAYBE_OBJECT: Schema = {"type": ["object", "null"]}


# Of a volume; records of earlier releases lack these.
_NEWER: Mapping[str, Schema] = {"readonly": {"type": ["boolean", "null"]}, "base_file": _MAYBE_TEXT}


def _row(fields: Mapping[str, Schema]) -> Schema:
    """Of where a row lay a record may speak, and is not asked: that is where it lies now."""
    exact = documents.record(fields)
    return {**exact, "properties": {**exact["properties"], "backend": {}, "share": {}}}


_COMMON: Mapping[str, Schema] = {
    "id": _TEXT,
    "project_id": _TEXT,
    "user_id": _TEXT,
    "name": _MAYBE_TEXT,
    "description": {"type": ["string", "null"]},
    "size": documents.number(1, 1 << 26),  # GiB; 2^56 bytes are the most a header may say
    "metadata": _PAIRS,
    "created_at": _TEXT,
}
_VOLUME = {
    **_COMMON,
    "availability_zone": _TEXT,
    "active_file": _TEXT,
    "format": _TEXT,
    "base_format": {"enum": sorted(FORMATS)},
    "snapshot_id": _MAYBE_TEXT,
    "source_volid": _MAYBE_TEXT,
    "bootable": {"type": "boolean"},
    "image_metadata": {**_PAIRS, "type": ["object", "null"]},
    "linked_to": {"anyOf": [{"type": "null"}, _row({"volume_id": _TEXT, "file": _TEXT, "format": _TEXT})]},
    "undo_file": _MAYBE_TEXT,
    "volume_type": _TEXT,
}
_SNAPSHOT = {
    **_COMMON,
    "volume_id": _TEXT,
    "overlay": _MAYBE_TEXT,
    "backing": _TEXT,
    "backing_format": _TEXT,
    "consistency": _MAYBE_OBJECT,
    "server_id": _MAYBE_TEXT,
}
_RECORD = Shape(
    {
        "type": "object",
        "required": ["version", "volume", "snapshots"],
        "properties": {
            "version": {"type": "integer", "const": 1},
            "volume": {**_row({**_VOLUME, **_NEWER}), "required": sorted(_VOLUME)},
            "snapshots": {"type": "array", "items": _row(_SNAPSHOT)},
        },
    }
)


def check_record(record: Any, volume_id: str) -> None:
    """Raises BadImage for a record that is not a valid one of this volume: other programs may write to the share too."""
    name = names.record_name(volume_id)
    _check_texts(record, name)
    flaw = _RECORD.flaw(record)
    if flaw is not None:
        raise BadImage(f"{name} is damaged, or no record of version 1: {flaw}")
    if record["volume"]["id"] != volume_id:
        raise BadImage(f"{name} is the record of another volume")
    adopted = base_file(record)
    if adopted is not None and names.is_reserved(inspection.plain_name(adopted)):
        raise BadImage(f"{name} names {adopted} as the adopted disk, which is a file of a volume or of the share")
    for each in record["snapshots"]:
        if each["volume_id"] != volume_id or names.parse(names.overlay_name(volume_id, each["id"])) is None:
            raise BadImage(f"{name} holds a snapshot of another volume, or one without an id")
    for each in (record["volume"], *record["snapshots"]):
        _check_time(each["created_at"], name)


def _check_time(text: str, name: str) -> None:
    try:
        when = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadImage(f"{name} has a time that cannot be read") from error
    if when.tzinfo is not None:
        raise BadImage(f"{name} holds a time with a zone; times are UTC without one")


def _check_texts(found: Any, name: str, depth: int = 0) -> None:
    """Refuses what no database stores: a NUL, half a surrogate pair, and documents that are nested too deeply."""
    if depth > _MOST_DEPTH:
        raise BadImage(f"{name} is nested too deeply")
    if isinstance(found, str) and any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in found):
        raise BadImage(f"{name} holds a text that cannot be stored: {found:.60}")
    inner = [*found, *found.values()] if isinstance(found, dict) else found if isinstance(found, list) else []
    for each in inner:
        _check_texts(each, name, depth + 1)


def check_info(info: Any, volume_id: str, base: str | None = None) -> None:
    """Raises BadImage for an .info document that is not one of this volume, whose base is ``base`` if it was adopted."""
    name = names.info_name(volume_id)
    if not isinstance(info, dict) or (info and "active" not in info):
        raise BadImage(f"{name} names no active file")
    for key, file in info.items():
        if key != "active" and names.parse(names.overlay_name(volume_id, key)) is None:
            raise BadImage(f"{name} holds the key {key!r:.60}, which is no snapshot's id")
        names.check_belongs(str(file), volume_id, base)
