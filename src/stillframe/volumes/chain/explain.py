"""A plan in words: what would be done, with which files, how many bytes, about how long, and why this way. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from stillframe.chain.plan import Plan
from stillframe.chain.steps import Commit, Pull, Rename, Repoint, Step, Trash, cost
from stillframe.chain.tree import Tree
from stillframe.errors import StillframeError

RATE_MIB = 100  # a guess: the disks are not measured
_NOTHING: Mapping[str, Any] = {
    "possible": False,
    "method": None,
    "steps": [],
    "bytes": 0,
    "seconds": 0,
    "why": "",
    "dependants": [],
    "busy": None,
}


def refused(error: StillframeError, operation_id: str | None = None) -> dict[str, Any]:
    """Returns the answer for a request that would be refused now; it may be possible when ``operation_id`` has ended."""
    found = {"why": error.message, "dependants": error.details.get("dependants", []), "busy": operation_id}
    return {**_NOTHING, **found}


def row_only(snapshot_ids: Sequence[str]) -> dict[str, Any]:
    """Returns the answer for snapshots that failed and have no data."""
    why = f"{', '.join(snapshot_ids)} hold no data: only the row goes"
    return {**_NOTHING, "possible": True, "method": "record only", "why": why}


def document(before: Tree, plan: Plan, snapshot_ids: Sequence[str], running: bool, limit_mib: int = 0) -> dict[str, Any]:
    """See ``explain`` of ``requests/snapshots.py``. ``limit_mib`` is what a live merge may copy in a second; 0: no limit."""
    copied = cost(plan.steps)
    return {
        "possible": True,
        "method": _method(plan, before, running),
        "steps": steps(before, plan),
        "bytes": copied,
        "seconds": seconds(copied, limit_mib if running else 0),
        "why": _why(before, plan, snapshot_ids[0], running) if len(snapshot_ids) == 1 else _why_together(plan, snapshot_ids),
        "dependants": [],
        "busy": None,
    }


def steps(before: Tree, plan: Plan) -> list[dict[str, Any]]:
    """Which file goes where: ``[{"step", "file", "into", "bytes"}]``."""
    return [found for each in plan.steps if (found := _shown(each, before)) is not None]


def seconds(count: int, limit_mib: int = 0) -> float:
    """A guess for copying so many bytes, at RATE_MIB a second or less where that is the limit."""
    return round(count / (min(RATE_MIB, limit_mib or RATE_MIB) << 20), 1)


def _method(plan: Plan, before: Tree, running: bool) -> str:
    for step in plan.steps:
        if isinstance(step, Commit):
            pivots = running and step.top == before.active
            return "active commit and pivot" if pivots else "block commit" if running else "offline commit"
        if isinstance(step, Pull):
            return "block pull" if running else "offline pull"
    return "remove" if any(isinstance(step, Trash) for step in plan.steps) else "record only"


def _shown(step: Step, before: Tree) -> dict[str, Any] | None:
    match step:
        case Commit():
            return {"step": "commit", "file": step.top, "into": step.base, "bytes": step.bytes}
        case Pull():
            return {"step": "pull", "file": before.images[step.name].backing, "into": step.name, "bytes": step.bytes}
        case Repoint():
            return {"step": "repoint", "file": step.name, "into": step.backing, "bytes": 0}
        case Rename():
            return {"step": "rename", "file": step.name, "into": step.to, "bytes": 0}
        case Trash():
            return {"step": "remove", "file": step.name, "into": None, "bytes": 0}
    return None


def _why_together(plan: Plan, snapshot_ids: Sequence[str]) -> str:
    merges = sum(isinstance(each, Commit | Pull) for each in plan.steps)
    return f"{len(snapshot_ids)} snapshots are deleted in one plan (merges: {merges}); {cost(plan.steps)} bytes are copied"


def _why(before: Tree, plan: Plan, snapshot_id: str, running: bool) -> str:
    file = before.snapshots[snapshot_id]
    merges = [step for step in plan.steps if isinstance(step, Commit | Pull)]
    if file in plan.after.images and not merges:
        kept = [*plan.after.reasons(file), *(f"{child} is backed by it" for child in plan.after.children(file))]
        return f"{file} stays, without a snapshot, because {'; '.join(kept) or 'another volume reads above it'}"
    if not merges:
        return f"nothing is backed by {file}, so it is only removed"
    if isinstance(merges[0], Pull):
        return f"{file} holds less than the file above it, so its content goes up: {cost(merges)} bytes are copied"
    deeper = running and merges[0].top != before.active
    reason = "libvirt pulls into the active file only, so this goes down" if deeper else "what lies above it holds no more"
    return f"the content above {file} goes down into {merges[0].base}, because {reason}: {cost(merges)} bytes are copied"
