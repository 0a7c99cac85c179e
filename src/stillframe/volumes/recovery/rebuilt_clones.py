"""The rows of a volume whose files stand alone, from what lies on its share: its record, .info, the files' names. Pure.

No header says what a file is for: a file that no document names is taken for a snapshot, which loses nothing. It may be the
clone that an incremental backup was to build on.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from stillframe.chain import names
from stillframe.db.values import NewSnapshot, VolumeOfAnyType
from stillframe.errors import BadImage, ChainConflict
from stillframe.volumes.recovery import rebuilt_rows
from stillframe.volumes.recovery.rebuilt_rows import Given, Rebuilt, Source


def rebuild(source: Source, given: Given) -> Rebuilt:
    """Returns the rows. Raises BadImage or ChainConflict for a volume that is not sound, or whose active file nobody knows."""
    if source.problem is not None:
        raise BadImage(source.problem)
    if not source.images:
        raise ChainConflict(f"volume {source.volume_id} has a record and no file")
    notes: list[str] = []
    if source.record:
        made = rebuilt_rows.from_record(_without_deleted(source, notes), given)
    else:
        made = Rebuilt(rebuilt_rows.volume_row(source, _active(source), given), None, ())
    made = replace(made, notes=[*notes, *made.notes])
    made = _with_unnamed(source, made)
    rebuilt_rows.checked(source, made, None)
    return made


def _without_deleted(source: Source, notes: list[str]) -> Source:
    """A deletion removes the file before the record is written again."""
    kept: list[Mapping[str, Any]] = []
    for each in source.record["snapshots"]:
        if each["backing"] in source.images:
            kept.append(each)
        else:
            notes.append(f"snapshot {each['id']} is in the record and has no file: it was deleted")
    return replace(source, record={**source.record, "snapshots": kept})


def _active(source: Source) -> str:
    base = names.base_name(source.volume_id)
    if source.info:
        return str(source.info["active"])
    if base in source.images:
        return base
    if len(source.images) == 1:
        return next(iter(source.images))
    raise ChainConflict(
        f"volume {source.volume_id} has no record, no .info file and {len(source.images)} files of which none has its own name:"
        " which is active nobody knows"
    )


def _with_unnamed(source: Source, made: Rebuilt) -> Rebuilt:
    known = {row["backing"] for row in made.snapshots} | {made.volume["active_file"]}
    rows, notes = list(made.snapshots), list(made.notes)
    for name in sorted(set(source.images) - known, key=lambda name: (source.times[name], name)):
        snapshot_id = (names.parse(name) or ("", None))[1]
        if snapshot_id is None:
            notes.append(f"{name} is not active and holds no snapshot; it is left where it is")
            continue
        rows.append(_snapshot(source, made.volume, snapshot_id))
        notes.append(f"{name} is in no record: taken as a snapshot, whose name and metadata are not known")
    return replace(made, snapshots=rows, notes=notes)


def _snapshot(source: Source, volume: VolumeOfAnyType, snapshot_id: str) -> NewSnapshot:
    name = names.overlay_name(source.volume_id, snapshot_id)
    return rebuilt_rows.unrecorded_snapshot(source, volume, snapshot_id, (None, name, "raw"))
