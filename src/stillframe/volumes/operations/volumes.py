"""Create a volume, empty or from another one's content; delete, extend, manage and unmanage a volume."""

import logging
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from stillframe.chain import names
from stillframe.chain.image import Image
from stillframe.chain.steps import CreateOverlay, Resize
from stillframe.db import snapshots, volume_groups, volumes
from stillframe.db.rows import VolumeRow
from stillframe.db.values import VolumeChanges
from stillframe.errors import BadImage, ChainConflict
from stillframe.host.copies import Source
from stillframe.journal import record
from stillframe.journal.operation import Document, Kind, Operation, Verb, is_whole
from stillframe.journal.record import Request
from stillframe.journal.typed import Args, Value, step
from stillframe.volumes.operations import chain_metadata
from stillframe.volumes.operations.executors.exported import GROW, CheckNoSet, GrowExport, TellServer
from stillframe.volumes.operations.executors.intents import OnVolume, about_volume
from stillframe.volumes.operations.executors.live import RESIZE_LIVE
from stillframe.volumes.operations.executors.offline import (
    CHECK,
    CHECK_CLOSED,
    CHECK_SOUND,
    CREATE_OVERLAY,
    RESIZE,
    CheckClosed,
    CheckUnused,
    GrownFile,
    MadeFile,
    MakeFile,
    MoveFile,
    ResizeLive,
    half_published,
    made_sound,
    share_of,
    unmake,
)
from stillframe.volumes.operations.request import Wanted, request
from stillframe.volumes.worker import file_users
from stillframe.volumes.worker.context import WorkerContext

LOG = logging.getLogger(__name__)


class CreateVolume(OnVolume, frozen=True, kw_only=True):
    """Make an empty volume."""


class CopyVolume(OnVolume, frozen=True, kw_only=True):
    """Make a volume with the content of another one, or of a snapshot."""


class LinkVolume(OnVolume, frozen=True, kw_only=True):
    """Make a volume that reads a snapshot's file of another one."""


class DeleteVolume(OnVolume, frozen=True, kw_only=True):
    """Delete a volume and its snapshots."""


class ExtendVolume(OnVolume, frozen=True, kw_only=True):
    """Let a volume grow to ``size`` GiB."""

    size: int


class ManageVolume(OnVolume, frozen=True, kw_only=True):
    """Make a volume of a file that is on the share."""


class UnmanageVolume(OnVolume, frozen=True, kw_only=True):
    """Delete a volume and leave its file."""


class CopySource(Value, frozen=True, kw_only=True):
    """The file that is copied; ``exclusive``: it receives writes, unless nobody has it open. Without ``share`` it lies where
    the copy is made."""

    volume_id: str
    backend: str | None = None
    share: str | None = None
    name: str
    format: str
    exclusive: bool


class PublishBase(MakeFile, frozen=True, kw_only=True):
    """Make an empty file."""

    verb = "publish_base"


class Copy(MakeFile, frozen=True, kw_only=True):
    """Make a file with the content of another one."""

    verb = "copy"
    source: CopySource


class RemoveFiles(Args, frozen=True, kw_only=True):
    """Remove all files of the volume."""

    verb = "remove_files"


class ManageFile(MoveFile, frozen=True, kw_only=True):
    """Make a file of the share one of the volume."""

    verb = "manage_file"


class UnmanageFile(MoveFile, frozen=True, kw_only=True):
    """Leave a file of the volume on the share."""

    verb = "unmanage_file"


def _new(volume: VolumeRow, size: int) -> MadeFile:
    return {"name": volume["active_file"], "size": size, "format": volume["format"]}


def create_request(volume: VolumeRow, size: int, request_id: str) -> Request:
    """An empty volume of ``size`` bytes."""
    plan = [step(PublishBase(**_new(volume, size)))]
    return request(volume, Wanted("create_volume", CreateVolume(**about_volume(volume)), plan), request_id)


def copy_request(volume: VolumeRow, size: int, source: CopySource, request_id: str) -> Request:
    """A full copy of ``size`` bytes."""
    intent, other = CopyVolume(**about_volume(volume)), [source.volume_id]
    plan = [step(Copy(**_new(volume, size), source=source))]
    if not source.exclusive:
        return request(volume, Wanted("copy_volume", intent, plan, reads=other), request_id)
    check = step(CheckClosed(volume_id=source.volume_id, backend=source.backend, share=source.share))
    return request(volume, Wanted("copy_volume", intent, [check, *plan], also=other), request_id)


def link_request(volume: VolumeRow, size: int, request_id: str) -> Request:
    """An empty overlay on a snapshot's file of another volume: a linked clone."""
    linked = volume["linked_to"]
    assert linked is not None  # the request has put it there
    plan = [step(CreateOverlay(volume["active_file"], linked["file"], linked["format"], size))]
    intent = LinkVolume(**about_volume(volume))
    return request(volume, Wanted("link_volume", intent, plan, reads=[linked["volume_id"]]), request_id)


def delete_request(volume: VolumeRow, request_id: str) -> Request:
    plan = [step(CheckUnused()), step(RemoveFiles())]
    return request(volume, Wanted("delete_volume", DeleteVolume(**about_volume(volume)), plan), request_id)


def extend_request(volume: VolumeRow, size_gib: int, request_id: str, exported: bool = False) -> Request:
    file: GrownFile = {"name": volume["active_file"], "format": volume["format"], "size": size_gib << 30}
    plan = [step(CheckUnused()), step(Resize(**file))]
    if exported:
        plan = [step(CheckNoSet()), step(Resize(**file)), step(GrowExport(**file)), step(TellServer(**file))]
    elif volume["status"] == "in-use":
        plan = [step(ResizeLive(**file))]
    intent = ExtendVolume(**about_volume(volume), size=size_gib)
    return request(volume, Wanted("extend_volume", intent, plan), request_id)


def manage_request(volume: VolumeRow, name: str, request_id: str) -> Request:
    """``name`` is the file on the share that becomes the volume's base."""
    plan = [step(ManageFile(name=name, to=volume["active_file"]))]
    return request(volume, Wanted("manage_volume", ManageVolume(**about_volume(volume)), plan), request_id)


def unmanage_request(volume: VolumeRow, request_id: str) -> Request:
    plan = [step(CheckUnused()), step(UnmanageFile(name=volume["active_file"], to=f"unmanaged-{volume['id']}"))]
    return request(volume, Wanted("unmanage_volume", UnmanageVolume(**about_volume(volume)), plan), request_id)


def _image(args: MakeFile) -> Image:
    return Image(args.name, args.format, args.size)


def made(worker: WorkerContext, operation: Operation[OnVolume], args: MakeFile) -> Document | None:
    """Tells whether the file ``args`` name is there, as wanted."""
    share, volume_id = share_of(worker, operation), operation.intent.volume_id
    if args.name not in share.files(volume_id) or half_published(worker, operation):
        return None
    found = share.image(args.name, args.format)
    if found != _image(args):
        raise BadImage(f"{args.name} exists with {found.size} bytes, not as the {args.size} that were asked for")
    return {}


def _make_base(worker: WorkerContext, operation: Operation[OnVolume], args: PublishBase) -> Document:
    share_of(worker, operation).create(operation.intent.volume_id, _image(args), operation.id)
    return {}


def _copy(worker: WorkerContext, operation: Operation[OnVolume], args: Copy) -> Document:
    wanted, share = args.source, share_of(worker, operation)
    elsewhere = wanted.share is not None and wanted.share != operation.intent.share
    source = Source(wanted.name, wanted.format, 0, _directory(worker, wanted) if elsewhere else None)
    share.copy(operation.intent.volume_id, source, _image(args), operation.id)
    return {"bytes": share.allocated(args.name)}


def _directory(worker: WorkerContext, source: CopySource) -> Path:
    """Returns the directory of another share, which answers and is the one it was. Raises ShareUnavailable."""
    share = worker.share({"backend": source.backend, "share": source.share})
    share.probe()
    return share.path


def _files_gone(worker: WorkerContext, operation: Operation[OnVolume], _args: RemoveFiles) -> Document | None:
    share, volume_id = share_of(worker, operation), operation.intent.volume_id
    beside = [names.info_name(volume_id), names.record_name(volume_id)]
    return None if share.files(volume_id) or any(share.read_document(name) for name in beside) else {}


def _remove_files(worker: WorkerContext, operation: Operation[OnVolume], _args: RemoveFiles) -> Document:
    share, volume_id = share_of(worker, operation), operation.intent.volume_id
    for name in share.files(volume_id):
        # An overlay before what backs it: remove() refuses a file that a header still names.
        _remove_branch(share, volume_id, name)
    for name in (names.info_name(volume_id), names.record_name(volume_id)):
        share.write_document(name, {})
    return {}


def _remove_branch(share: Any, volume_id: str, name: str, below: tuple[str, ...] = ()) -> None:
    if name not in share.files(volume_id):
        return
    if name in below:
        raise ChainConflict(f"volume {volume_id} has a loop in its backing chain at {name}: none of it can go first")
    for above in share.dependants(name):
        if (names.parse(above) or ("",))[0] == volume_id:
            _remove_branch(share, volume_id, above, (*below, name))
    share.remove(volume_id, name)


def _adopted(worker: WorkerContext, operation: Operation[OnVolume], args: MoveFile) -> Document | None:
    found = share_of(worker, operation).listing()
    return {} if args.to in found and args.name not in found else None


def _manage_file(worker: WorkerContext, operation: Operation[OnVolume], args: ManageFile) -> Document:
    file_users.refuse_if_used(worker, share_of(worker, operation), args.name, "taken over")
    LOG.info("volume %s: %s is taken over, with mode 0660", operation.intent.volume_id, args.name)
    share_of(worker, operation).manage_file(operation.intent.volume_id, args.name, args.to)
    return made_sound(worker, operation)


def _undo_manage_file(worker: WorkerContext, operation: Operation[OnVolume], args: ManageFile) -> None:
    share = share_of(worker, operation)
    if args.to in share.listing():
        share.unmanage_file(operation.intent.volume_id, args.to, args.name)


def _unmanage_file(worker: WorkerContext, operation: Operation[OnVolume], args: UnmanageFile) -> Document:
    share, volume_id = share_of(worker, operation), operation.intent.volume_id
    file_users.refuse_if_used(worker, share, args.name, "unmanaged")
    for name in (names.info_name(volume_id), names.record_name(volume_id)):
        share.write_document(name, {})
    share.unmanage_file(volume_id, args.name, args.to)
    return {}


def settle_create(connection: Connection, operation: Operation[OnVolume], outcome: str, fault: Document | None) -> None:
    status = "available" if outcome == "done" else "error"
    message = fault["message"] if fault and outcome != "done" else None
    volume_id = operation.intent.volume_id
    volumes.move(connection, volume_id, ("creating", "downloading", "error"), status, fault=message)
    if outcome == "done":
        record.submit(connection, chain_metadata.request(volume_id, operation.request_id))
    row = volumes.get(connection, volume_id, None)
    if row is not None and row["group_id"] is not None:
        volume_groups.end_creation(connection, row["group_id"])


def _settle_delete(connection: Connection, operation: Operation[OnVolume], outcome: str, fault: Document | None) -> None:
    volume_id = operation.intent.volume_id
    if outcome == "done":
        row = volumes.get(connection, volume_id, None)
        if row is not None and row["linked_to"]:  # what only it needed may be merged now
            volumes.change(connection, row["linked_to"]["volume_id"], needs_cleanup=True)
        volumes.delete(connection, volume_id)
        volume_groups.end_deletion(connection, row["group_id"] if row is not None else None, whole=True)
        return
    whole = is_whole(outcome, fault)
    status = operation.intent.status_before if whole else "error_deleting"
    allowed = ("deleting", "error_deleting", "unmanaging")
    volumes.move(connection, volume_id, allowed, status, fault=fault["message"] if fault else None)
    for snapshot in snapshots.of_volume(connection, volume_id):  # those that were to be deleted with it
        snapshots.move(connection, snapshot["id"], ("deleting",), "available" if whole else "error_deleting")
    row = volumes.get(connection, volume_id, None)
    volume_groups.end_deletion(connection, row["group_id"] if row is not None else None, whole=False)


def _settle_extend(connection: Connection, operation: Operation[ExtendVolume], outcome: str, fault: Document | None) -> None:
    volume_id, before = operation.intent.volume_id, operation.intent.status_before
    status = before if outcome == "done" or is_whole(outcome, fault) else "error_extending"
    changed: VolumeChanges = {"fault": fault["message"] if fault and outcome != "done" else None}
    if outcome == "done":
        changed["size"] = operation.intent.size
    volumes.move(connection, volume_id, ("extending", "error_extending"), status, **changed)
    if outcome == "done":
        record.submit(connection, chain_metadata.request(volume_id, operation.request_id))


_REMAKE = "Delete the volume, which removes what was made of it, and ask for it again."

CREATE = Kind(
    {"publish_base": Verb(made, _make_base, unmake, args=PublishBase)},
    settle_create,
    intent=CreateVolume,
    afterwards=_REMAKE,
)
COPY = Kind(
    {"check_closed": CHECK_CLOSED, "copy": Verb(made, _copy, unmake, args=Copy)},
    settle_create,
    intent=CopyVolume,
    afterwards=_REMAKE,
)
LINK = Kind({"CreateOverlay": CREATE_OVERLAY}, settle_create, intent=LinkVolume, afterwards=_REMAKE)
DELETE = Kind(
    {"check_unused": CHECK, "remove_files": Verb(_files_gone, _remove_files, no_return="start", args=RemoveFiles)},
    _settle_delete,
    intent=DeleteVolume,
    afterwards="Some of its files may be gone: its content is what backups hold. Delete the volume again.",
)
EXTEND = Kind(
    {"check_unused": CHECK_SOUND, "Resize": RESIZE, "ResizeLive": RESIZE_LIVE, **GROW},
    _settle_extend,
    intent=ExtendVolume,
    afterwards="Growing changes no content. When 'qemu-img info -U' shows the file to be whole, reset the status to what it was"
    " (available or in-use) as an administrator; if it is larger than the volume says, extend the volume again.",
)
MANAGE = Kind(
    {"manage_file": Verb(_adopted, _manage_file, _undo_manage_file, args=ManageFile)},
    settle_create,
    intent=ManageVolume,
    afterwards="If the file has the volume's name by now, deleting the volume would delete it. Reset the status to available as"
    " an administrator, then 'openstack volume delete --remote' gives it back as unmanaged-ID. If it kept its own name, delete"
    " the volume: the file stays.",
)
UNMANAGE = Kind(
    {"check_unused": CHECK, "unmanage_file": Verb(_adopted, _unmanage_file, no_return="start", args=UnmanageFile)},
    _settle_delete,
    intent=UnmanageVolume,
    afterwards="If the file is called unmanaged-ID by now, delete the volume: the file stays. If it still has the volume's"
    " name, deleting would remove it: reset the status to available as an administrator, and unmanage the volume again.",
)
