"""A volume's files as a tree for people and programs: what each holds, who needs it, and why it stays."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stillframe.chain import plan
from stillframe.chain.image import Image
from stillframe.chain.tree import Tree, check
from stillframe.context import Context
from stillframe.db import operations, volumes
from stillframe.db.rows import SnapshotRow, VolumeRow
from stillframe.errors import BadImage, ChainConflict
from stillframe.volumes.chain import observe
from stillframe.volumes.storage.drivers.contract import Share
from stillframe.volumes.worker import lookup
from stillframe.volumes.worker.context import WorkerContext

Document = dict[str, Any]
_BACKUP = "backup "
PATIENCE_SECONDS = 2.0
_PAUSE_SECONDS = 0.1


@dataclass(frozen=True)
class Seen:
    """What the view is made of. ``problems`` maps a file to why its header is not believed; ``foreign`` are linked volumes
    the caller may not see."""

    row: VolumeRow
    snapshots: Sequence[SnapshotRow]
    tree: Tree
    allocated: Mapping[str, int]
    problems: Mapping[str, str] = field(default_factory=dict)
    foreign: frozenset[str] = frozenset()


def show(worker: WorkerContext, context: Context, volume_id: str) -> Document:
    """Returns the document of ``document``, also of a chain that is not valid. Raises NotFound, ShareUnavailable.

    Between two steps of an operation rows and files may differ for a moment; that is waited for. What is still wrong after
    ``PATIENCE_SECONDS`` is shown with the operation that is under way.
    """
    end, before = time.monotonic() + PATIENCE_SECONDS, None
    while True:
        with worker.database.read() as connection:
            row = lookup.volume(connection, context, volume_id)
            working = operations.on_resource(connection, f"volume:{row['id']}")
        at_work = working is not None and working["state"] != "parked"
        found = _look(worker, context, volume_id)
        if found["problem"] is None or (found["problem"] == before and not at_work):
            return found
        if time.monotonic() > end:
            under_way = f"; {working['kind']} is under way, so look again when it has ended" if at_work and working else ""
            return {**found, "problem": found["problem"] + under_way}
        before = found["problem"]
        time.sleep(_PAUSE_SECONDS)


def _look(worker: WorkerContext, context: Context, volume_id: str) -> Document:
    with worker.database.read() as connection:
        row = lookup.volume(connection, context, volume_id)
        known = observe.needs(connection, row)
        linked = volumes.linked_to(connection, row["id"])
    images, problems, allocated = _read(worker.share(row), row)
    held = {
        each["id"]: each["backing"]
        for each in known["snapshots"]
        if each["overlay"] in images or observe.holds_data(each, images)
    }
    parent_image = _parent_image(worker.share(row), row)
    tree = Tree(row["id"], images, row["active_file"], held, known["holds"], known["shared"], parent_image, row["base_file"])
    mine = {clone["id"] for clone in linked if context.sees_all_projects or clone["project_id"] == context.project_id}
    foreign = frozenset(clone["id"] for clone in linked) - mine
    return document(Seen(row, known["snapshots"], tree, allocated, problems, foreign))


def _read(share: Share, row: VolumeRow) -> tuple[dict[str, Image], dict[str, str], dict[str, int]]:
    images: dict[str, Image] = {}
    problems: dict[str, str] = {}
    allocated: dict[str, int] = {}
    for name in share.files(row["id"]):
        format_ = share.format_of(name, row["base_format"])
        try:
            allocated[name] = share.allocated(name)
            images[name] = share.image(name, format_)
        except BadImage as error:
            problems[name] = error.message
        except FileNotFoundError:
            continue
    return images, problems, allocated


def _parent_image(share: Share, row: VolumeRow) -> Image | None:
    try:
        return share.image(row["linked_to"]["file"], row["linked_to"]["format"]) if row["linked_to"] else None
    except (BadImage, FileNotFoundError):
        return None


def document(seen: Seen) -> Document:
    """Returns the chain as a document. Pure; sizes are bytes, ``size`` is GiB.

    ``{"volume_id", "name", "status", "size", "active_file", "depth", "parent_image", "problem", "files": [...]}``, each file
    ``{"name", "format", "virtual_size", "allocated", "backing", "backing_format", "active", "in_active_chain", "snapshots",
    "writes_after", "needed_by", "hidden", "why", "problem"}``; the lowest file first, what backs before what is backed.
    """
    tree = seen.tree
    on_path = {image.name for image in tree.path(tree.active).images} if tree.active in tree.images else set()
    files = [_file(seen, image, image.name in on_path) for image in _ordered(tree)]
    files += [_bad(name, why, seen.allocated[name]) for name, why in seen.problems.items()]
    linked = seen.row["linked_to"]
    parent_image = {**linked, "virtual_size": tree.parent_image.size if tree.parent_image else None} if linked else None
    return {
        "volume_id": tree.volume_id,
        "name": seen.row["name"],
        "status": seen.row["status"],
        "size": seen.row["size"],
        "active_file": tree.active,
        "depth": len(on_path),
        "parent_image": parent_image,
        "problem": _problem(seen),
        "files": files,
    }


def _problem(seen: Seen) -> str | None:
    if seen.row["status"] in ("creating", "downloading", "deleting", "error", "restoring-backup") and not seen.tree.images:
        return None  # no file yet, or not any more
    try:
        check(seen.tree)
    except (ChainConflict, BadImage) as error:
        return error.message
    return None


def _ordered(tree: Tree) -> list[Image]:
    """Orders the files: a backing file before the file that it backs; files of a loop last."""
    found: list[Image] = []
    names_found: set[str] = set()
    pending = [image for image in tree.images.values() if image.backing not in tree.images]
    while pending:
        image = pending.pop()
        found.append(image)
        names_found.add(image.name)
        pending += [tree.images[child] for child in tree.children(image.name)]
    return found + [image for name, image in sorted(tree.images.items()) if name not in names_found]


def _file(seen: Seen, image: Image, on_path: bool) -> Document:
    tree, name = seen.tree, image.name
    held = [
        {key: row[key] for key in ("id", "name", "status")} for row in seen.snapshots if tree.snapshots.get(row["id"]) == name
    ]
    hidden = name != tree.active and not held
    return {
        "name": name,
        "format": image.format,
        "virtual_size": image.size,
        "allocated": seen.allocated[name],
        "backing": image.parents[0].path if image.parents else image.backing,
        "backing_format": image.parents[0].format if image.parents else image.backing_format,
        "active": name == tree.active,
        "in_active_chain": on_path,
        "snapshots": held,
        "writes_after": [row["id"] for row in seen.snapshots if row["overlay"] == name],
        "needed_by": _needed_by(seen, name),
        "hidden": hidden,
        "why": _why(seen, name) if hidden else None,
        "problem": None,
    }


def _bad(name: str, why: str, allocated: int) -> Document:
    unknown = dict.fromkeys(("format", "virtual_size", "backing", "backing_format", "why"))
    flags = {"active": False, "in_active_chain": False, "hidden": False}
    empty: Document = {"snapshots": [], "writes_after": [], "needed_by": _nobody()}
    return {"name": name, **unknown, "allocated": allocated, **flags, **empty, "problem": why}


def _nobody() -> Document:
    return {"files": [], "linked_volumes": [], "foreign_linked_volumes": 0, "backups": [], "undo_of_revert": False}


def _needed_by(seen: Seen, name: str) -> Document:
    tree = seen.tree
    clones = tree.shared.get(name, ())
    held = [reason for reason, file in tree.holds.items() if file == name]
    return {
        "files": tree.children(name),
        "linked_volumes": [clone for clone in clones if clone not in seen.foreign],
        "foreign_linked_volumes": sum(clone in seen.foreign for clone in clones),
        "backups": [reason.removeprefix(_BACKUP) for reason in held if reason.startswith(_BACKUP)],
        "undo_of_revert": plan.UNDO in held,
    }


def _why(seen: Seen, name: str) -> str:
    """Says why a file is kept that has no snapshot and receives no writes."""
    needed, reasons = _needed_by(seen, name), []
    if needed["linked_volumes"] or needed["foreign_linked_volumes"]:
        count = len(needed["linked_volumes"]) + needed["foreign_linked_volumes"]
        reasons.append(f"{count} linked volumes read it" if count > 1 else "a linked volume reads it")
    reasons += [f"backup {backup} is what the next incremental one starts from" for backup in needed["backups"]]
    if needed["undo_of_revert"]:
        reasons.append("the last revert can still be undone")
    if reasons:
        return "; ".join(reasons)
    if len(needed["files"]) > 1:
        return f"{len(needed['files'])} files stand on it"
    if _is_read_above(seen.tree, name):
        return "a file above it is read by a linked volume"
    if needed["files"]:
        return "nobody needs it; it is merged when the volume is cleaned up, with nothing attached"
    return "nobody needs it: 'stillframe doctor' tells more"


def _is_read_above(tree: Tree, name: str) -> bool:
    """Tells whether a linked volume reads a file above this one; ends also where the files form a loop."""
    above = [name]
    for each in above:
        above += [child for child in tree.children(each) if child not in above]
    return any(tree.shared.get(each) for each in above)
