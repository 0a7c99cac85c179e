"""Releases a volume that was adopted: its files stay, and nothing of ours is left beside them."""

import hashlib
from pathlib import Path

from sqlalchemy import Connection

from stillframe.chain import names
from stillframe.db import shares, volumes
from stillframe.db.rows import VolumeRow
from stillframe.host import parents
from stillframe.journal.operation import Document, Kind, Operation, Verb
from stillframe.journal.record import Request
from stillframe.journal.typed import Args, step
from stillframe.volumes.operations.executors.intents import OnVolume, about_volume
from stillframe.volumes.operations.executors.offline import share_of
from stillframe.volumes.storage.backends import ADOPTED
from stillframe.volumes.worker.context import WorkerContext


class ReleaseVolume(OnVolume, frozen=True, kw_only=True):
    """Delete an adopted volume and leave its files."""


class LeaveFiles(Args, frozen=True, kw_only=True):
    """Remove the documents beside the volume's files, and the marker of a directory that holds no other volume."""

    verb = "leave_files"


def place(share: str) -> str:
    """The resource of operations that make a directory a share, or end that."""
    return f"share:{hashlib.sha256(share.encode()).hexdigest()[:32]}"


def release_request(volume: VolumeRow, request_id: str) -> Request:
    """Returns the operation that deletes the volume and leaves its files."""
    resources = [f"volume:{volume['id']}", place(volume["share"])]
    intent, plan = ReleaseVolume(**about_volume(volume)), [step(LeaveFiles())]
    return Request("volumes", "release_volume", intent, plan, resources, request_id).of(volume["project_id"])


def _is_last(worker: WorkerContext, operation: Operation[ReleaseVolume]) -> bool:
    """Tells whether the directory is a share only for this volume. Nobody adopts another one there while this operation has the
    place."""
    asked = operation.intent
    with worker.database.read() as connection:
        return asked.backend == ADOPTED and not volumes.others_on(connection, asked.share, asked.volume_id)


def _left(worker: WorkerContext, operation: Operation[ReleaseVolume], _args: LeaveFiles) -> Document | None:
    asked = operation.intent
    if _is_last(worker, operation):
        return None if worker.backends.is_claimed(asked.share) else {"unclaimed": True}
    share = share_of(worker, operation)
    beside = (names.info_name(asked.volume_id), names.record_name(asked.volume_id))
    left = any(share.read_document(name) for name in beside) or parents.is_recorded(Path(asked.share), _base(worker, asked))
    return None if left else {"unclaimed": False}


def _base(worker: WorkerContext, asked: ReleaseVolume) -> str:
    with worker.database.read() as connection:
        return volumes.base_file(connection, asked.volume_id) or asked.active_before


def _leave(worker: WorkerContext, operation: Operation[ReleaseVolume], _args: LeaveFiles) -> Document:
    asked, share = operation.intent, share_of(worker, operation)
    for name in (names.info_name(asked.volume_id), names.record_name(asked.volume_id)):
        share.write_document(name, {})
    parents.forget(Path(asked.share), _base(worker, asked))
    last = _is_last(worker, operation)
    if last:
        worker.backends.unclaim(asked.share)
    return {"unclaimed": last}


def _settle(connection: Connection, operation: Operation[ReleaseVolume], outcome: str, fault: Document | None) -> None:
    asked = operation.intent
    if outcome != "done":
        volumes.change(connection, asked.volume_id, fault=fault["message"] if fault else None, needs_cleanup=True)
        volumes.move(connection, asked.volume_id, ("unmanaging",), asked.status_before)
        return
    volumes.delete(connection, asked.volume_id)
    if operation.evidence["leave_files"]["unclaimed"]:
        shares.forget(connection, asked.share)


RELEASE = Kind(
    {"leave_files": Verb(_left, _leave, no_return="start", args=LeaveFiles)},
    _settle,
    intent=ReleaseVolume,
    afterwards="The files are as they were. Release the disks of the server again.",
)
