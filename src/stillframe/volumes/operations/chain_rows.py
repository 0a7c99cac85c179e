"""How rows follow a chain's plan that is done, or that stopped between two of its merges."""

from collections.abc import Iterator, Mapping, Sequence

from sqlalchemy import Connection

from stillframe.chain import names, plan
from stillframe.chain.steps import Commit, Pull, Record, Rename, Trash
from stillframe.db import backups, operations, snapshots, volumes
from stillframe.db.rows import VolumeRow
from stillframe.db.values import VolumeChanges
from stillframe.journal import record
from stillframe.journal.operation import Document, Operation
from stillframe.journal.typed import Step
from stillframe.volumes.chain import observe
from stillframe.volumes.operations import chain_metadata
from stillframe.volumes.operations.executors.intents import ChangeChain, OnChain, snapshots_of
from stillframe.volumes.operations.executors.live import MergeLive, SwitchFile

_MERGES = (Commit, Pull, MergeLive)
_CHANGES = (Trash, *_MERGES)


def follow(connection: Connection, operation: Operation[ChangeChain]) -> None:
    """Changes the rows after a plan is done; the record beside the volume is written afterwards."""
    observe.apply_after(connection, operation.intent.volume_id, operation.intent.after)
    record.submit(connection, chain_metadata.request(operation.intent.volume_id, operation.request_id))


def follow_as_far(connection: Connection, operation: Operation[OnChain], abandoned: bool = False) -> bool:
    """Changes the rows after a plan of several merges that stopped between two: they follow what was recorded last. If it was
    ``abandoned``, also when the first change after that may have been begun. Returns whether rows were changed."""
    # Steps that were taken back are not among them any more.
    ended = _ended(operation) if abandoned else operation.plan[: operation.step]
    volume = volumes.get(connection, operation.intent.volume_id, None)
    made = [each.args for each in ended if isinstance(each.args, Record)]
    if volume is None or not made or not (abandoned or any(isinstance(each.args, _CHANGES) for each in ended)):
        return False
    last, lost = made[-1], _lost_files(ended)
    base_format = _base_format(operation, volume, ended)
    restored = _restored_file(operation)  # the one file that is raw without having the volume's own name
    format_ = restored.get(last.active) or _format(volume, last.active, base_format)
    volumes.change(connection, volume["id"], active_file=last.active, format=format_, base_format=base_format)
    for snapshot_id, file in last.snapshots.items():
        format_, overlay = _format(volume, file, base_format), last.overlays[snapshot_id]
        snapshots.change(connection, snapshot_id, overlay=overlay, backing=file, backing_format=format_)
    _forget(connection, operation, lost, _trashed(ended))
    chain_metadata.submit_once(connection, volume["id"], operation.request_id)
    return True


def _forget(connection: Connection, operation: Operation[OnChain], lost: set[str], removed: set[str]) -> None:
    """Returns the snapshots to be deleted whose content or overlay is gone, and the holds whose content was merged
    elsewhere."""
    for snapshot_id in snapshots_of(operation.intent):
        row = snapshots.get(connection, snapshot_id, None)
        if row is not None and (row["backing"] in lost or row["overlay"] in removed):
            snapshots.delete(connection, snapshot_id)
    volume = volumes.get(connection, operation.intent.volume_id, None)
    if volume is not None:
        _move_holds(connection, volume, lost, operation.intent.holds)


def follow_abandoned(connection: Connection, operation: Operation[OnChain], fault: Document | None) -> bool:
    """Handles an abandoned operation that gives the volume another active file, or renames files. Once files are removed, the
    former active file may be gone, and the recorded one is whole. Returns whether rows, files and the server's definition agree
    then, as far as can be known."""
    if not (fault and fault["details"].get("begun")) or operations.BACK in operation.evidence:
        return True
    followed = follow_as_far(connection, operation, abandoned=True)
    if followed and operation.kind in ("revert_volume", "undo_revert"):
        held = operation.intent.holds.get(plan.UNDO)
        volumes.change(connection, operation.intent.volume_id, undo_file=held)
    return _follow_names(connection, operation, fault["details"].get("present"))


def _ended(operation: Operation[OnChain]) -> list[Step]:
    """Returns the steps that are done. If only a document remained to be written, its content is true whether it is written or
    not."""
    following = operation.plan[operation.step : operation.step + 1]
    return [*operation.plan[: operation.step], *(each for each in following if isinstance(each.args, Record))]


def _open_steps(operation: Operation[OnChain]) -> Iterator[tuple[bool, Step]]:
    """Returns the steps that were begun after the last document was written, and whether each is done."""
    ended = _ended(operation)
    recorded = max((number for number, each in enumerate(ended) if isinstance(each.args, Record)), default=-1)
    for number, each in enumerate(operation.plan[: operation.step + 1]):
        begun = isinstance(each.args, SwitchFile) or each.key in operation.evidence
        if number > recorded and (number < operation.step or begun):
            yield number < operation.step, each


def _follow_names(connection: Connection, operation: Operation[OnChain], present: Sequence[str] | None) -> bool:
    """Returns the files that were removed or renamed since the last document was written. A definition that was switched since,
    or a guest whose active file was merged, agrees only when the rest is done."""
    volume = volumes.get(connection, operation.intent.volume_id, None)
    fits = True
    for done, each in _open_steps(operation):
        args = each.args
        if isinstance(args, SwitchFile):
            fits = False
        elif isinstance(args, MergeLive):
            fits = fits and volume is not None and args.info.file_to_merge != volume["active_file"]
        elif isinstance(args, Trash) and present is not None and args.name not in present:
            _forget(connection, operation, {args.name}, {args.name})
        elif isinstance(args, Rename):
            if done or (present is not None and args.name not in present and args.to in present):
                _rename(connection, operation, args.name, args.to)
            else:  # it is not known which name it has, or it has both
                fits = fits and present is not None and args.to not in present
    return fits


def _rename(connection: Connection, operation: Operation[OnChain], old: str, new: str) -> None:
    volume = volumes.get(connection, operation.intent.volume_id, None)
    if volume is None:
        return
    _rename_in_row(connection, volume, old, new, _active_format(operation))
    for row in snapshots.of_volume(connection, volume["id"]):
        if row["overlay"] == old:
            snapshots.change(connection, row["id"], overlay=new)
        if row["backing"] == old:
            snapshots.change(connection, row["id"], backing=new)
    for backup in backups.of_volume(connection, volume["id"]):
        if backup["held_file"] == old:
            backups.change(connection, backup["id"], held_file=new)


def _rename_in_row(connection: Connection, volume: VolumeRow, old: str, new: str, format_: str) -> None:
    changed: VolumeChanges = {}
    if volume["active_file"] == old:
        changed["active_file"] = new
    if volume["undo_file"] == old:
        changed["undo_file"] = new
    if new == names.base_name(volume["id"], volume["base_file"]):
        changed["base_format"] = format_
    if changed:
        volumes.change(connection, volume["id"], **changed)


def is_touched(operation: Operation[OnChain], snapshot_id: str) -> bool:
    """Tells whether a snapshot that was to be deleted may be unusable: the document leaves it out already, or a merge was begun
    and no document was written after it."""
    made = [each.args for each in _ended(operation) if isinstance(each.args, Record)]
    if made and snapshot_id not in made[-1].snapshots:
        return True
    return any(isinstance(each.args, _MERGES) for _done, each in _open_steps(operation))


def _lost_files(ended: Sequence[Step]) -> set[str]:
    """Returns the files whose former content is not under their name any more: they were removed, or merged into before the
    last record."""
    newest = max(number for number, each in enumerate(ended) if isinstance(each.args, Record))
    lost = _trashed(ended)
    for args in (each.args for each in ended[:newest]):
        if isinstance(args, Commit):
            lost.add(args.base)
        elif isinstance(args, MergeLive) and args.info.merge_target_file is not None:
            lost.add(args.info.merge_target_file)
    return lost


def _trashed(ended: Sequence[Step]) -> set[str]:
    return {each.args.name for each in ended if isinstance(each.args, Trash)}


def _move_holds(connection: Connection, volume: VolumeRow, lost: set[str], holds: Mapping[str, str]) -> None:
    """Moves a hold from a file that was merged away to the file that received its content: a plan moves a hold once at most."""
    if volume["undo_file"] in lost:
        volumes.change(connection, volume["id"], undo_file=holds.get(plan.UNDO))
    for row in backups.of_volume(connection, volume["id"]):
        if row["held_file"] in lost:
            backups.change(connection, row["id"], held_file=holds.get(observe.held_for(row["id"])))


def _base_format(operation: Operation[OnChain], volume: VolumeRow, ended: Sequence[Step]) -> str:
    """Only the active file gets the volume's own name: as overlays are, qcow2, or raw after a restore over a raw volume."""
    base = names.base_name(volume["id"], volume["base_file"])
    renamed = any(isinstance(each.args, Rename) and each.args.to == base for each in ended)
    return _active_format(operation) if renamed else str(volume["base_format"])


def _active_format(operation: Operation[OnChain]) -> str:
    return operation.intent.after.format if operation.intent.after is not None else "qcow2"


def _restored_file(operation: Operation[OnChain]) -> dict[str, str]:
    """Returns the format of what a restore has put in place of the active file, by its name before it is renamed."""
    return {each.args.name: each.args.format for each in operation.plan if each.verb == "restore_content"}


def _format(volume: VolumeRow, file: str, base_format: str) -> str:
    return base_format if file == names.base_name(volume["id"], volume["base_file"]) else "qcow2"
