"""Create a volume, empty or from another one's content; delete, extend, manage and unmanage a volume."""

import logging
from typing import Any

from sqlalchemy import Connection

from stillframe.chain import names
from stillframe.chain.image import Image
from stillframe.db import snapshots, volumes
from stillframe.db.rows import Row
from stillframe.errors import BadImage, ChainConflict
from stillframe.host.copies import Source
from stillframe.journal import record
from stillframe.journal.operation import Document, Kind, Operation, Verb, is_whole, step
from stillframe.journal.record import Request
from stillframe.volumes.operations import chain_metadata
from stillframe.volumes.operations.executors.live import RESIZE_LIVE
from stillframe.volumes.operations.executors.offline import (
    CHECK,
    CHECK_CLOSED,
    CHECK_SOUND,
    CREATE_OVERLAY,
    RESIZE,
    half_published,
    made_sound,
    share_of,
    unmake,
)
from stillframe.volumes.operations.request import Wanted, request
from stillframe.volumes.worker import file_users
from stillframe.volumes.worker.context import WorkerContext

LOG = logging.getLogger(__name__)


def create_request(volume: Row, size: int, request_id: str) -> Request:
    """An empty volume of ``size`` bytes."""
    plan = [step("publish_base", name=volume["active_file"], size=size, format=volume["format"])]
    return request(volume, Wanted("create_volume", plan), request_id)


def copy_request(volume: Row, size: int, source: Document, request_id: str) -> Request:
    """A full copy; ``source`` is {"volume_id", "name", "format", "exclusive"}: whether the source receives writes."""
    plan = [step("copy", name=volume["active_file"], size=size, format=volume["format"], source=source)]
    other = [source["volume_id"]]
    if not source["exclusive"]:
        return request(volume, Wanted("copy_volume", plan, reads=other), request_id)
    check = step("check_closed", volume_id=source["volume_id"])
    return request(volume, Wanted("copy_volume", [check, *plan], also=other), request_id)


def link_request(volume: Row, size: int, request_id: str) -> Request:
    """An empty overlay on a snapshot's file of another volume: a linked clone."""
    linked = volume["linked_to"]
    args = {"name": volume["active_file"], "size": size, "backing": linked["file"], "backing_format": linked["format"]}
    return request(volume, Wanted("link_volume", [step("CreateOverlay", **args)], reads=[linked["volume_id"]]), request_id)


def delete_request(volume: Row, request_id: str) -> Request:
    return request(volume, Wanted("delete_volume", [step("check_unused"), step("remove_files")]), request_id)


def extend_request(volume: Row, size_gib: int, request_id: str) -> Request:
    args = {"name": volume["active_file"], "format": volume["format"], "size": size_gib << 30}
    plan = [step("check_unused"), step("Resize", **args)]
    if volume["status"] == "in-use":
        plan = [step("ResizeLive", **args)]
    return request(volume, Wanted("extend_volume", plan, {"size": size_gib}), request_id)


def manage_request(volume: Row, name: str, request_id: str) -> Request:
    """``name`` is the file on the share that becomes the volume's base."""
    plan = [step("adopt", name=name, to=volume["active_file"])]
    return request(volume, Wanted("manage_volume", plan), request_id)


def unmanage_request(volume: Row, request_id: str) -> Request:
    plan = [step("check_unused"), step("give_back", name=volume["active_file"], to=f"unmanaged-{volume['id']}")]
    return request(volume, Wanted("unmanage_volume", plan), request_id)


def _image(args: Document) -> Image:
    return Image(args["name"], args["format"], args["size"])


def made(world: WorkerContext, operation: Operation, args: Document) -> Document | None:
    """Tells whether the file ``args`` name is there, as wanted."""
    share, volume_id = share_of(world, operation), operation.intent["volume_id"]
    if args["name"] not in share.files(volume_id) or half_published(world, operation):
        return None
    found = share.image(args["name"], args["format"])
    if found != _image(args):
        raise BadImage(f"{args['name']} exists with {found.size} bytes, not as the {args['size']} that were asked for")
    return {}


def _make_base(world: WorkerContext, operation: Operation, args: Document) -> Document:
    share_of(world, operation).create(operation.intent["volume_id"], _image(args), operation.id)
    return {}


def _copy(world: WorkerContext, operation: Operation, args: Document) -> Document:
    source = Source(args["source"]["name"], args["source"]["format"], 0)
    share = share_of(world, operation)
    share.copy(operation.intent["volume_id"], source, _image(args), operation.id)
    return {"bytes": share.allocated(args["name"])}


def _files_gone(world: WorkerContext, operation: Operation, _args: Document) -> Document | None:
    share, volume_id = share_of(world, operation), operation.intent["volume_id"]
    beside = [names.info_name(volume_id), names.record_name(volume_id)]
    return None if share.files(volume_id) or any(share.read_document(name) for name in beside) else {}


def _remove_files(world: WorkerContext, operation: Operation, _args: Document) -> Document:
    share, volume_id = share_of(world, operation), operation.intent["volume_id"]
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


def _adopted(world: WorkerContext, operation: Operation, args: Document) -> Document | None:
    found = share_of(world, operation).listing()
    return {} if args["to"] in found and args["name"] not in found else None


def _adopt(world: WorkerContext, operation: Operation, args: Document) -> Document:
    file_users.refuse_if_used(world, share_of(world, operation), args["name"], "taken over")
    LOG.info("volume %s: %s is taken over, with mode 0660", operation.intent["volume_id"], args["name"])
    share_of(world, operation).adopt(operation.intent["volume_id"], args["name"], args["to"])
    return made_sound(world, operation)


def _unadopt(world: WorkerContext, operation: Operation, args: Document) -> None:
    share = share_of(world, operation)
    if args["to"] in share.listing():
        share.give_back(operation.intent["volume_id"], args["to"], args["name"])


def _give_back(world: WorkerContext, operation: Operation, args: Document) -> Document:
    share, volume_id = share_of(world, operation), operation.intent["volume_id"]
    file_users.refuse_if_used(world, share, args["name"], "unmanaged")
    for name in (names.info_name(volume_id), names.record_name(volume_id)):
        share.write_document(name, {})
    share.give_back(volume_id, args["name"], args["to"])
    return {}


def settle_create(connection: Connection, operation: Operation, outcome: str, fault: Document | None) -> None:
    status = "available" if outcome == "done" else "error"
    told = fault["message"] if fault and outcome != "done" else None
    volume_id = operation.intent["volume_id"]
    volumes.move(connection, volume_id, ("creating", "downloading", "error"), status, fault=told)
    if outcome == "done":
        record.submit(connection, chain_metadata.request(volume_id, operation.request_id))


def _settle_delete(connection: Connection, operation: Operation, outcome: str, fault: Document | None) -> None:
    volume_id = operation.intent["volume_id"]
    if outcome == "done":
        row = volumes.get(connection, volume_id, None)
        if row is not None and row["linked_to"]:  # what only it needed may be merged now
            volumes.change(connection, row["linked_to"]["volume_id"], untidy=True)
        volumes.delete(connection, volume_id)
        return
    whole = is_whole(outcome, fault)
    status = operation.intent.get("status_before", "available") if whole else "error_deleting"
    allowed = ("deleting", "error_deleting", "unmanaging")
    volumes.move(connection, volume_id, allowed, status, fault=fault["message"] if fault else None)
    for snapshot in snapshots.of_volume(connection, volume_id):  # those that were to be deleted with it
        snapshots.move(connection, snapshot["id"], ("deleting",), "available" if whole else "error_deleting")


def _settle_extend(connection: Connection, operation: Operation, outcome: str, fault: Document | None) -> None:
    volume_id, before = operation.intent["volume_id"], operation.intent["status_before"]
    status = before if outcome == "done" or is_whole(outcome, fault) else "error_extending"
    size = {"size": operation.intent["size"]} if outcome == "done" else {}
    told = fault["message"] if fault and outcome != "done" else None
    volumes.move(connection, volume_id, ("extending", "error_extending"), status, fault=told, **size)
    if outcome == "done":
        record.submit(connection, chain_metadata.request(volume_id, operation.request_id))


_REMAKE = "Delete the volume, which removes what was made of it, and ask for it again."

CREATE = Kind({"publish_base": Verb(made, _make_base, unmake)}, settle_create, afterwards=_REMAKE)
COPY = Kind({"check_closed": CHECK_CLOSED, "copy": Verb(made, _copy, unmake)}, settle_create, afterwards=_REMAKE)
LINK = Kind({"CreateOverlay": CREATE_OVERLAY}, settle_create, afterwards=_REMAKE)
DELETE = Kind(
    {"check_unused": CHECK, "remove_files": Verb(_files_gone, _remove_files, no_return="start")},
    _settle_delete,
    afterwards="Some of its files may be gone: its content is what backups hold. Delete the volume again.",
)
EXTEND = Kind(
    {"check_unused": CHECK_SOUND, "Resize": RESIZE, "ResizeLive": RESIZE_LIVE},
    _settle_extend,
    afterwards="Growing changes no content. When 'qemu-img info -U' shows the file to be whole, reset the status to what it was"
    " (available or in-use) as an administrator; if it is larger than the volume says, extend the volume again.",
)
MANAGE = Kind(
    {"adopt": Verb(_adopted, _adopt, _unadopt)},
    settle_create,
    afterwards="If the file has the volume's name by now, deleting the volume would delete it. Reset the status to available as"
    " an administrator, then 'openstack volume delete --remote' gives it back as unmanaged-ID. If it kept its own name, delete"
    " the volume: the file stays.",
)
UNMANAGE = Kind(
    {"check_unused": CHECK, "give_back": Verb(_adopted, _give_back, no_return="start")},
    _settle_delete,
    afterwards="If the file is called unmanaged-ID by now, delete the volume: the file stays. If it still has the volume's"
    " name, deleting would remove it: reset the status to available as an administrator, and unmanage the volume again.",
)
