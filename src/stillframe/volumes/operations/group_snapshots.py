"""A snapshot of a group: the files of all its volumes are kept in one operation, which holds all of them.

Nothing is attached, and nobody attaches or changes a volume that an operation holds: what the snapshots have is what all
volumes had at the moment when the operation was submitted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from sqlalchemy import Connection

from stillframe.chain.plan import Plan
from stillframe.chain.steps import Clone, CreateOverlay, Record
from stillframe.chain.tree import Tree
from stillframe.db import group_snapshots
from stillframe.db.group_rows import GroupSnapshotRow
from stillframe.db.rows import VolumeRow
from stillframe.journal.operation import Document, Kind, Operation, Verb
from stillframe.journal.record import Request
from stillframe.journal.typed import Args, Intent, numbered
from stillframe.volumes.operations import snapshots
from stillframe.volumes.operations.executors.intents import about_volume
from stillframe.volumes.operations.executors.offline import CHECK_CLOSED, KEEP, RECORD, CheckClosed
from stillframe.volumes.operations.snapshots import CreateSnapshot, planned


class CreateGroupSnapshot(Intent, frozen=True, kw_only=True):
    """Take the snapshots of a group's volumes; of each member as if it were taken alone."""

    group_snapshot_id: str
    snapshot_ids: tuple[str, ...]
    backend: str  # of the first volume: the operation works in the lane of its share
    share: str
    members: tuple[CreateSnapshot, ...]


class MemberArgs(Protocol):
    """A step of one volume's plan."""

    @property
    def volume_id(self) -> str: ...

    @property
    def step(self) -> Any: ...


class MemberClosed(Args, frozen=True, kw_only=True):
    """Look whether anybody uses the files of a volume of the group."""

    verb = "member_closed"
    volume_id: str
    step: CheckClosed = CheckClosed()


class MemberOverlay(Args, frozen=True, kw_only=True):
    """Give a volume of the group an overlay."""

    verb = "member_overlay"
    volume_id: str
    step: CreateOverlay


class MemberClone(Args, frozen=True, kw_only=True):
    """Keep the content of a volume of the group in a file of its own."""

    verb = "member_clone"
    volume_id: str
    step: Clone


class MemberRecord(Args, frozen=True, kw_only=True):
    """Record which files a volume of the group consists of."""

    verb = "member_record"
    volume_id: str
    step: Record


@dataclass(frozen=True)
class Member:
    """A volume of the group, its tree, the plan for its snapshot, and the id of that."""

    volume: VolumeRow
    before: Tree
    plan: Plan
    snapshot_id: str


def create_request(row: GroupSnapshotRow, members: Sequence[Member], request_id: str) -> Request:
    """Every volume is looked at before the first is changed, and again before the first is recorded as changed: whoever has
    opened one of them meanwhile makes the operation go back."""
    intents = tuple(_intent(member) for member in members)
    closed = [MemberClosed(volume_id=member.volume["id"]) for member in members if _changes_file(member)]
    steps = [(member.volume["id"], each) for member in members for each in member.plan.steps]
    kept = [_wrapped(volume_id, each) for volume_id, each in steps if not isinstance(each, Record)]
    recorded = [_wrapped(volume_id, each) for volume_id, each in steps if isinstance(each, Record)]
    intent = CreateGroupSnapshot(
        group_snapshot_id=row["id"],
        snapshot_ids=tuple(member.snapshot_id for member in members),
        backend=members[0].volume["backend"],
        share=members[0].volume["share"],
        members=intents,
    )
    resources = [f"volume:{member.volume['id']}" for member in members]
    plan = numbered([*closed, *kept, *closed, *recorded])
    return Request("volumes", "create_group_snapshot", intent, plan, resources, request_id).of(row["project_id"])


def _intent(member: Member) -> CreateSnapshot:
    about = about_volume(member.volume)
    return CreateSnapshot(**about, **planned(member.before, member.plan), snapshot_ids=(member.snapshot_id,))


def _changes_file(member: Member) -> bool:
    return member.plan.after.active != member.before.active


def _wrapped(volume_id: str, step: object) -> Args:
    if isinstance(step, CreateOverlay):
        return MemberOverlay(volume_id=volume_id, step=step)
    if isinstance(step, Clone):
        return MemberClone(volume_id=volume_id, step=step)
    assert isinstance(step, Record), f"a snapshot's plan has a step that no group has: {step}"
    return MemberRecord(volume_id=volume_id, step=step)


def _member(operation: Operation[CreateGroupSnapshot], volume_id: str) -> Operation[CreateSnapshot]:
    """Returns the operation as the verbs of one volume see it."""
    (intent,) = (each for each in operation.intent.members if each.volume_id == volume_id)
    return replace(operation, intent=intent)  # type: ignore[arg-type, return-value]


def _of_member(verb: Verb[Any, Any], args: type[Args]) -> Verb[CreateGroupSnapshot, Any]:
    """Returns a verb that does for the volume named in the step what ``verb`` does for the volume of its operation."""

    def done(worker: Any, operation: Operation[CreateGroupSnapshot], told: MemberArgs) -> Document | None:
        found: Document | None = verb.done(worker, _member(operation, told.volume_id), told.step)
        return found

    def do(worker: Any, operation: Operation[CreateGroupSnapshot], told: MemberArgs) -> Document:
        made: Document = verb.do(worker, _member(operation, told.volume_id), told.step)
        return made

    def undo(worker: Any, operation: Operation[CreateGroupSnapshot], told: MemberArgs) -> None:
        assert verb.undo is not None
        verb.undo(worker, _member(operation, told.volume_id), told.step)

    return Verb(done, do, undo if verb.undo is not None else None, verb.no_return, args=args)


def _settle(connection: Connection, operation: Operation[CreateGroupSnapshot], outcome: str, fault: Document | None) -> None:
    for intent in operation.intent.members:
        snapshots.settle_create(connection, _member(operation, intent.volume_id), outcome, fault)
    status = "available" if outcome == "done" else "error"
    group_snapshots.move(connection, operation.intent.group_snapshot_id, ("creating", "error"), status)


CREATE = Kind(
    {
        "member_closed": _of_member(CHECK_CLOSED, MemberClosed),
        "member_overlay": _of_member(KEEP["CreateOverlay"], MemberOverlay),
        "member_clone": _of_member(KEEP["Clone"], MemberClone),
        "member_record": _of_member(RECORD, MemberRecord),
    },
    _settle,
    intent=CreateGroupSnapshot,
    afterwards="The volumes' rows name the files they had before: nothing was written elsewhere. Delete the group snapshot and"
    " take another one.",
)
