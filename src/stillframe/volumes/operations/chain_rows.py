"""How rows follow a chain's plan that is done, or that stopped between two of its merges."""

from collections.abc import Iterator, Sequence

from sqlalchemy import Connection

from stillframe.chain import names, plan
from stillframe.db import backups, operations, snapshots, volumes
from stillframe.db.rows import Row
from stillframe.journal import record
from stillframe.journal.operation import Document, Operation, key
from stillframe.volumes.chain import observe
from stillframe.volumes.operations import chain_metadata

_MERGES = ("Commit", "Pull", "MergeLive")
_CHANGES = ("Trash", *_MERGES)


def follow(connection: Connection, operation: Operation) -> None:
    """Changes the rows after a plan is done; the record beside the volume is written afterwards."""
    observe.apply_after(connection, operation.intent["volume_id"], operation.intent["after"])
    record.submit(connection, chain_metadata.request(operation.intent["volume_id"], operation.request_id))


def follow_as_far(connection: Connection, operation: Operation, abandoned: bool = False) -> bool:
    """Changes the rows after a plan of several merges that stopped between two: they follow what was recorded last. If it was
    ``abandoned``, also when the first change after that may have been begun. Returns whether rows were changed."""
    # Steps that were taken back are not among them any more.
    ended = _ended(operation) if abandoned else operation.plan[: operation.step]
    volume = volumes.get(connection, operation.intent["volume_id"], None)
    made = [each["args"] for each in ended if each["verb"] == "Record"]
    if volume is None or not made or not (abandoned or any(each["verb"] in _CHANGES for each in ended)):
        return False
    last, lost = made[-1], _lost_files(ended)
    base_format = _base_format(volume, ended)
    format_ = _format(volume, last["active"], base_format)
    volumes.change(connection, volume["id"], active_file=last["active"], format=format_, base_format=base_format)
    for snapshot_id, file in last["snapshots"].items():
        values = {"backing": file, "backing_format": _format(volume, file, base_format)}
        snapshots.change(connection, snapshot_id, overlay=last["overlays"][snapshot_id], **values)
    _forget(connection, operation, lost, {each["args"]["name"] for each in ended if each["verb"] == "Trash"})
    chain_metadata.submit_once(connection, volume["id"], operation.request_id)
    return True


def _forget(connection: Connection, operation: Operation, lost: set[str], removed: set[str]) -> None:
    """Returns the snapshots to be deleted whose content or overlay is gone, and the holds whose content was merged
    elsewhere."""
    for snapshot_id in operation.intent.get("snapshot_ids", ()):
        row = snapshots.get(connection, snapshot_id, None)
        if row is not None and (row["backing"] in lost or row["overlay"] in removed):
            snapshots.delete(connection, snapshot_id)
    volume = volumes.get(connection, operation.intent["volume_id"], None)
    if volume is not None:
        _move_holds(connection, volume, lost, operation.intent["after"]["holds"])


def follow_abandoned(connection: Connection, operation: Operation, fault: Document | None) -> bool:
    """Handles an abandoned operation that gives the volume another active file, or renames files. Once files are removed, the
    former active file may be gone, and the recorded one is whole. Returns whether rows, files and the server's definition agree
    then, as far as can be known."""
    if not (fault and fault["details"].get("begun")) or operations.BACK in operation.evidence:
        return True
    followed = follow_as_far(connection, operation, abandoned=True)
    if followed and operation.kind in ("revert_volume", "undo_revert"):
        held = operation.intent["after"]["holds"].get(plan.UNDO)
        volumes.change(connection, operation.intent["volume_id"], undo_file=held)
    return _follow_names(connection, operation, fault["details"].get("present"))


def _ended(operation: Operation) -> list[Document]:
    """Returns the steps that are done. If only a document remained to be written, its content is true whether it is written or
    not."""
    following = operation.plan[operation.step : operation.step + 1]
    return [*operation.plan[: operation.step], *(each for each in following if each["verb"] == "Record")]


def _open_steps(operation: Operation) -> Iterator[tuple[bool, Document]]:
    """Returns the steps that were begun after the last document was written, and whether each is done."""
    ended = _ended(operation)
    recorded = max((number for number, each in enumerate(ended) if each["verb"] == "Record"), default=-1)
    for number, each in enumerate(operation.plan[: operation.step + 1]):
        begun = each["verb"] == "SwitchFile" or key(each) in operation.evidence
        if number > recorded and (number < operation.step or begun):
            yield number < operation.step, each


def _follow_names(connection: Connection, operation: Operation, present: Sequence[str] | None) -> bool:
    """Returns the files that were removed or renamed since the last document was written. A definition that was switched since,
    or a guest whose active file was merged, agrees only when the rest is done."""
    volume = volumes.get(connection, operation.intent["volume_id"], None)
    fits = True
    for done, each in _open_steps(operation):
        args = each["args"]
        if each["verb"] == "SwitchFile":
            fits = False
        elif each["verb"] == "MergeLive":
            fits = fits and volume is not None and args["info"].get("file_to_merge") != volume["active_file"]
        elif each["verb"] == "Trash" and present is not None and args["name"] not in present:
            _forget(connection, operation, {args["name"]}, {args["name"]})
        elif each["verb"] == "Rename":
            if done or (present is not None and args["name"] not in present and args["to"] in present):
                _rename(connection, operation, args["name"], args["to"])
            else:  # it is not known which name it has, or it has both
                fits = fits and present is not None and args["to"] not in present
    return fits


def _rename(connection: Connection, operation: Operation, old: str, new: str) -> None:
    volume = volumes.get(connection, operation.intent["volume_id"], None)
    if volume is None:
        return
    changed = {name: new for name in ("active_file", "undo_file") if volume[name] == old}
    if new == names.base_name(volume["id"]):
        changed["base_format"] = "qcow2"
    if changed:
        volumes.change(connection, volume["id"], **changed)
    for row in snapshots.of_volume(connection, volume["id"]):
        moved = {name: new for name in ("overlay", "backing") if row[name] == old}
        if moved:
            snapshots.change(connection, row["id"], **moved)
    for row in backups.of_volume(connection, volume["id"]):
        if row["held_file"] == old:
            backups.change(connection, row["id"], held_file=new)


def is_touched(operation: Operation, snapshot_id: str) -> bool:
    """Tells whether a snapshot that was to be deleted may be unusable: the document leaves it out already, or a merge was begun
    and no document was written after it."""
    made = [each["args"] for each in _ended(operation) if each["verb"] == "Record"]
    if made and snapshot_id not in made[-1]["snapshots"]:
        return True
    return any(each["verb"] in _MERGES for _done, each in _open_steps(operation))


def _lost_files(ended: Sequence[Document]) -> set[str]:
    """Returns the files whose former content is not under their name any more: they were removed, or merged into before the
    last record."""
    newest = max(number for number, each in enumerate(ended) if each["verb"] == "Record")
    lost = {each["args"]["name"] for each in ended if each["verb"] == "Trash"}
    lost |= {each["args"]["base"] for each in ended[:newest] if each["verb"] == "Commit"}
    live = [each["args"]["info"]["merge_target_file"] for each in ended[:newest] if each["verb"] == "MergeLive"]
    return lost | {name for name in live if name is not None}


def _move_holds(connection: Connection, volume: Row, lost: set[str], holds: Document) -> None:
    """Moves a hold from a file that was merged away to the file that received its content: a plan moves a hold once at most."""
    if volume["undo_file"] in lost:
        volumes.change(connection, volume["id"], undo_file=holds.get(plan.UNDO))
    for row in backups.of_volume(connection, volume["id"]):
        if row["held_file"] in lost:
            backups.change(connection, row["id"], held_file=holds.get(observe.held_for(row["id"])))


def _base_format(volume: Row, ended: Sequence[Document]) -> str:
    base = names.base_name(volume["id"])
    renamed = any(each["verb"] == "Rename" and each["args"]["to"] == base for each in ended)
    return "qcow2" if renamed else str(volume["base_format"])


def _format(volume: Row, file: str, base_format: str) -> str:
    return base_format if file == names.base_name(volume["id"]) else "qcow2"
