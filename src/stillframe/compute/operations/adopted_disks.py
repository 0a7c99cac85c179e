"""Makes volumes of the disks that a server has, where they are, and ends that. The server is not touched."""

from contextlib import suppress
from typing import Any

from sqlalchemy import Connection

from stillframe.compute.libvirt import connector, definitions, server_lock, servers
from stillframe.compute.worker.context import WorkerContext
from stillframe.db import adopted_disks, assisted_snapshots
from stillframe.errors import Busy, Conflict, NotFound, ServiceUnavailable
from stillframe.journal.operation import Document, Kind, NotYet, Operation, Verb
from stillframe.journal.record import Request
from stillframe.journal.typed import Args, Intent, Value, step

LOOK_SECONDS = 0.5


class AdoptedDisk(Value, frozen=True, kw_only=True):
    """One disk and the volume it becomes."""

    target: str
    directory: str
    file: str
    format: str
    volume_id: str
    attachment_id: str
    name: str
    bootable: bool
    ends_chain: bool = False  # its definition said that nothing is behind the file
    base_file: str | None = None  # of a volume that was adopted before, and lost its server: ``file`` may be an overlay

    @property
    def path(self) -> str:
        """The path of the base: what the server's definition names while there is no snapshot."""
        return f"{self.directory}/{self.base_file or self.file}"


class AdoptDisks(Intent, frozen=True, kw_only=True):
    """Make volumes of disks of a server."""

    server_id: str
    project_id: str
    user_id: str
    disks: tuple[AdoptedDisk, ...]


class ReleaseDisks(Intent, frozen=True, kw_only=True):
    """Let disks of a server be plain files again. ``keep_files``: those of their snapshots stay as they are."""

    server_id: str
    volume_ids: tuple[str, ...]
    keep_files: bool
    open_targets: tuple[str, ...]  # disks whose definition did not say what is behind their files


class Adopt(Args, frozen=True, kw_only=True):
    """Tell block storage of each disk."""

    verb = "adopt"


class DeleteSnapshots(Args, frozen=True, kw_only=True):
    """Delete the snapshots of the volumes, one after the other."""

    verb = "delete_snapshots"


class RestoreDefinition(Args, frozen=True, kw_only=True):
    """Take out of the definition what merges left in it."""

    verb = "restore_definition"


class Release(Args, frozen=True, kw_only=True):
    """Tell block storage that the volumes are no more."""

    verb = "release"


def place(server_id: str) -> str:
    """The resource of what adopts and releases a server's disks. Deletions of snapshots need the server itself."""
    return f"adoption:{server_id}"


def adopt_request(asked: AdoptDisks, request_id: str) -> Request:
    """Returns the operation that makes volumes of disks."""
    resources = [f"server:{asked.server_id}", place(asked.server_id)]
    return Request("compute", "adopt_disks", asked, [step(Adopt())], resources, request_id).of(asked.project_id)


def release_request(asked: ReleaseDisks, delete_snapshots: bool, request_id: str) -> Request:
    """Returns the operation that ends it."""
    first = [step(DeleteSnapshots())] if delete_snapshots else []
    plan = [*first, step(Release()), step(RestoreDefinition())]
    return Request("compute", "release_disks", asked, plan, [place(asked.server_id)], request_id)


def _adopted(worker: WorkerContext, operation: Operation[AdoptDisks], _args: Adopt) -> Document | None:
    asked = operation.intent
    known = {each["volume_id"] for each in worker.storage.attachments_of(asked.server_id, asked.project_id)}
    return {} if known.issuperset(disk.volume_id for disk in asked.disks) else None


def _adopt(worker: WorkerContext, operation: Operation[AdoptDisks], _args: Adopt) -> Document:
    asked = operation.intent
    for disk in asked.disks:
        worker.storage.adopt(
            {
                "id": disk.volume_id,
                "attachment_id": disk.attachment_id,
                "server_id": asked.server_id,
                "project_id": asked.project_id,
                "user_id": asked.user_id,
                "directory": disk.directory,
                "file": disk.file,
                "format": disk.format,
                "name": disk.name,
                "bootable": disk.bootable,
                "connector": connector.properties(worker.settings, disk.target),
            }
        )
    return {}


def _take_back(worker: WorkerContext, operation: Operation[AdoptDisks], _args: Adopt) -> None:
    """What was made a volume before one of them failed is released. Block storage ends that by itself. What was one before
    only loses its attachment."""
    for disk in operation.intent.disks:
        if disk.base_file is None:
            worker.storage.release_adopted(disk.volume_id, keep_files=True)
        else:
            worker.storage.release(disk.attachment_id)


def _left(worker: WorkerContext, operation: Operation[ReleaseDisks]) -> list[Document]:
    return [each for volume_id in operation.intent.volume_ids for each in worker.storage.snapshots_of(volume_id)]


def _snapshots_gone(worker: WorkerContext, operation: Operation[ReleaseDisks], _args: DeleteSnapshots) -> Document | None:
    return None if _left(worker, operation) else {}


def _delete_snapshots(worker: WorkerContext, operation: Operation[ReleaseDisks], _args: DeleteSnapshots) -> Document:
    """One after the other of each volume: a merge changes what the next one merges."""
    failed = next((each for each in _left(worker, operation) if each["status"] == "error_deleting"), None)
    if failed is not None:
        raise Conflict(f"snapshot {failed['id']} could not be deleted: {failed.get('fault') or 'see its volume'}")
    by_volume: dict[str, list[Document]] = {}
    for each in _left(worker, operation):
        by_volume.setdefault(each["volume_id"], []).append(each)
    for found in by_volume.values():
        if not any(each["status"] == "deleting" for each in found):
            _ask(worker, found[-1]["id"])
    raise NotYet(LOOK_SECONDS, {}, None)


def _ask(worker: WorkerContext, snapshot_id: str) -> None:
    try:
        worker.storage.delete_snapshot(snapshot_id)
    except Busy as busy:
        raise NotYet(LOOK_SECONDS, {}, busy) from busy


def _released(worker: WorkerContext, operation: Operation[ReleaseDisks], _args: Release) -> Document | None:
    return {} if all(is_gone(worker, volume_id) for volume_id in operation.intent.volume_ids) else None


def is_gone(worker: WorkerContext, volume_id: str) -> bool:
    """Tells whether block storage has no such volume any more."""
    try:
        worker.storage.volume(volume_id)
    except NotFound:
        return True
    return False


def _release(worker: WorkerContext, operation: Operation[ReleaseDisks], _args: Release) -> Document:
    asked, waits = operation.intent, []
    for volume_id in asked.volume_ids:
        try:
            if not is_gone(worker, volume_id) and worker.storage.release_adopted(volume_id, asked.keep_files):
                waits.append(volume_id)
        except Busy as busy:
            raise NotYet(LOOK_SECONDS, {}, ServiceUnavailable(busy.message)) from busy
    if waits:
        raise NotYet(LOOK_SECONDS, {}, None)
    return {}


def _restore_definition(worker: WorkerContext, operation: Operation[ReleaseDisks], _args: RestoreDefinition) -> Document:
    asked = operation.intent
    with suppress(NotFound), server_lock.at_once(worker, asked.server_id) as ours:
        if not ours:
            raise NotYet(LOOK_SECONDS, {}, None)
        definitions.forget_ends(worker, servers.look(worker, asked.server_id), asked.open_targets)
    return {}


def _settle_adopt(connection: Connection, operation: Operation[AdoptDisks], outcome: str, _fault: Document | None) -> None:
    asked = operation.intent
    for disk in asked.disks if outcome == "done" else ():
        adopted_disks.put(
            connection,
            {
                "server_id": asked.server_id,
                "target": disk.target,
                "file": disk.path,
                "volume_id": disk.volume_id,
                "ends_chain": disk.ends_chain,
            },
        )


def _settle_release(connection: Connection, operation: Operation[ReleaseDisks], outcome: str, _fault: Document | None) -> None:
    if outcome != "done":
        return
    gone = set(operation.intent.volume_ids)
    for volume_id in gone:
        adopted_disks.forget(connection, volume_id)
    for row in assisted_snapshots.of_server(connection, operation.intent.server_id):
        if gone.issuperset(entry["volume_id"] for entry in row["volumes"]):
            assisted_snapshots.delete(connection, row["id"])


def _never(_worker: WorkerContext, _operation: Operation[Any], _args: object) -> None:
    return None


ADOPT = Kind(
    {"adopt": Verb(_adopted, _adopt, _take_back, args=Adopt)},
    _settle_adopt,
    intent=AdoptDisks,
    afterwards="No file was changed. Adopt the disks of the server again.",
)
RELEASE = Kind(
    {
        "delete_snapshots": Verb(_snapshots_gone, _delete_snapshots, no_return="start", args=DeleteSnapshots),
        "release": Verb(_released, _release, no_return="start", args=Release),
        "restore_definition": Verb(_never, _restore_definition, args=RestoreDefinition),
    },
    _settle_release,
    intent=ReleaseDisks,
    afterwards="No file was changed. Release the disks of the server again.",
)
