"""Ends an operation where it stands: a person decided that it is neither to be finished nor to be undone."""

from collections.abc import Collection, Iterator
from typing import Any

from sqlalchemy import Connection

from stillframe.db import finished, operations
from stillframe.db.rows import OperationRow
from stillframe.errors import Abandoned, Conflict
from stillframe.journal import typed
from stillframe.journal.about import about
from stillframe.journal.operation import Kind, Operation
from stillframe.journal.runner import MOST_ATTEMPTS
from stillframe.journal.typed import Step

_FILES = ("name", "to", "top", "base", "overlay", "file_to_merge", "merge_target_file")
_ENDED = ("done", "undone")
_UNDER_WAY = ("running", "undoing")


def is_in_vain(row: OperationRow) -> bool:
    """Tells whether an operation was tried so often that what it waits for, such as a share, may never come back. It is still
    being tried."""
    tried = int(row["attempts"]) >= MOST_ATTEMPTS and row["fault"] is not None  # without one, the last attempt continues
    return row["state"] in _UNDER_WAY and tried


def refuse_unless_stuck(row: OperationRow) -> None:
    """Raises Conflict saying what can be done instead."""
    if row["state"] == "parked" or (is_in_vain(row) and row["owner"] is None):
        return
    if row["state"] in _ENDED:
        reason = "it has ended already, and holds nothing"
    elif is_in_vain(row):
        reason = "a worker tries it at this moment; repeat in a few seconds, or stop the worker first if that lasts"
    else:
        reason = "it is retried automatically; 'stillframe operation show' shows what it waits for"
    raise Conflict(
        f"operation {row['id']} is {row['state']}, and only one that is parked, or that failed {MOST_ATTEMPTS}"
        f" times, can be abandoned: {reason}"
    )


def abandon(connection: Connection, row: OperationRow, kind: Kind, present: Collection[str] | None = None) -> Abandoned:
    """Ends the operation that ``row`` shows, releases its resources and changes the rows it is about, all in the caller's
    transaction. Nothing on a share or in libvirt is touched. ``present`` are the names of all files on its share, None when
    nobody could tell. Returns the fault it ends with. Raises Conflict when it is neither parked nor tried in vain, or was
    retried, taken by a worker or abandoned since it was read."""
    refuse_unless_stuck(row)
    fault = fault_of(row, kind, present)
    document = fault.to_document()
    if not operations.abandon(connection, row, document):
        raise Conflict(f"operation {row['id']} changed meanwhile: it was tried, retried or abandoned; look at it again")
    finished.ended(connection, row["id"])
    fresh = operations.get(connection, row["id"])
    assert fresh is not None
    kind.settle(connection, Operation.from_row(fresh, kind), "abandoned", document)
    return fault


def fault_of(row: OperationRow, kind: Kind, present: Collection[str] | None = None) -> Abandoned:
    """What the operation would end with, see ``abandon``. ``details`` are for the kind's ``settle`` and for the doctor. Raises
    Conflict for one that another release planned: this one cannot tell what it leaves, so the rows could not follow."""
    operation = Operation.from_row(row, kind)
    if operation.not_understood:
        raise Conflict(
            f"this release does not understand the {row['kind']} operation {row['id']} ({operation.not_understood}), so it"
            " cannot say what it leaves: abandon it with the release that began it"
        )
    met = (row["fault"] or {}).get("message") or "it was parked, and no reason was recorded"
    files = files_of(operation, kind)
    left = f"; nothing was put back: look at {', '.join(files)}" if files else ""
    details = {"kind": row["kind"], "begun": begun(operation, kind), "files": files, "next": kind.afterwards}
    details["present"] = None if present is None else sorted(name for name in files if name in present)
    return Abandoned(f"a person abandoned it: {met}{left}", **details)


def begun(operation: Operation, kind: Kind) -> bool:
    """Tells whether a step that cannot be put back may have begun."""
    steps = operation.plan[: operation.step + 1]  # what comes later cannot have begun
    return any(_no_return(step, kind) and _may_have_begun(operation, step, kind) for step in steps)


def _no_return(step: Step, kind: Kind) -> bool:
    """A step that another release planned may be anything."""
    verb = kind.verbs.get(step.verb)
    return verb is None or verb.no_return != "never"


def _may_have_begun(operation: Operation, step: Step, kind: Kind) -> bool:
    verb = kind.verbs.get(step.verb)
    return verb is None or operation.may_have_begun(step.key, verb)


def files_of(operation: Operation, kind: Kind) -> list[str]:
    """Names of the files that the steps which may have begun were about, in their order."""
    found: dict[str, None] = {}
    for step in operation.plan[: operation.step + 1]:
        if _may_have_begun(operation, step, kind):
            found |= dict.fromkeys(_names(step.args))
    overlays = [disk.overlay for disk in about(operation.intent).disks if disk.overlay] if operation.step else []
    return [*found, *(overlay for overlay in overlays if overlay not in found)]


def _names(args: object) -> Iterator[str]:
    named = typed.document(args)
    given: dict[str, Any] = {**named, **(named.get("info") or {}), **(named.get("step") or {})}
    yield from (given[each] for each in _FILES if isinstance(given.get(each), str))
