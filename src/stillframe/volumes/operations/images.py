"""A volume from an image, and an image from a volume."""

from pathlib import Path

from sqlalchemy import Connection

from stillframe.chain.image import Image
from stillframe.db import volumes
from stillframe.db.rows import Row
from stillframe.host import imports, staging
from stillframe.host.copies import Source
from stillframe.journal.operation import Document, Kind, Operation, Verb, step
from stillframe.journal.record import Request
from stillframe.volumes.clients.glance import NewImage
from stillframe.volumes.operations.executors.offline import CHECK_CLOSED, share_of, unmake
from stillframe.volumes.operations.request import Wanted, request
from stillframe.volumes.operations.volumes import made, settle_create
from stillframe.volumes.worker.context import WorkerContext


def import_request(volume: Row, size: int, image_id: str, request_id: str) -> Request:
    """A volume of ``size`` bytes with the image's content; the image is read for the volume's project."""
    args = {"name": volume["active_file"], "size": size, "format": volume["format"], "image_id": image_id}
    plan = [step("import_content", **args, project_id=volume["project_id"])]
    return request(volume, Wanted("image_to_volume", plan), request_id)


def upload_request(volume: Row, wanted: Document, request_id: str) -> Request:
    """``wanted`` are the fields of ``NewImage``."""
    plan = [
        step("check_closed"),
        step("create_image", **wanted),
        step("put_content", image_id=wanted["id"], disk_format=wanted["disk_format"]),
    ]
    return request(volume, Wanted("volume_to_image", plan), request_id)


def staged(world: WorkerContext, operation: Operation) -> Path:
    return staging.make(world.settings.staging_dir, operation.id)


def unstage(world: WorkerContext, operation: Operation) -> None:
    staging.remove(world.settings.staging_dir, operation.id)


def _import(world: WorkerContext, operation: Operation, args: Document) -> Document:
    share, size = share_of(world, operation), args["size"]
    directory = staged(world, operation)
    staging.require_room(directory, 0)
    facts = world.images.download(args["image_id"], args["project_id"], directory / "image", size + (64 << 20))
    found = imports.inspect_import(directory / "image", facts.disk_format or "", size)
    source = Source(found.name, found.format, 1, directory)
    share.copy(operation.intent["volume_id"], source, Image(args["name"], args["format"], size), operation.id)
    unstage(world, operation)
    return {"bytes": share.allocated(args["name"])}


def _unimport(world: WorkerContext, operation: Operation, args: Document) -> None:
    unstage(world, operation)
    unmake(world, operation, args)


def _image_made(_world: WorkerContext, operation: Operation, args: Document) -> Document | None:
    return {} if args["key"] in operation.evidence else None


def _make_image(world: WorkerContext, _operation: Operation, args: Document) -> Document:
    world.images.create(NewImage(**{name: value for name, value in args.items() if name != "key"}))
    return {}


def _unmake_image(world: WorkerContext, _operation: Operation, args: Document) -> None:
    world.images.delete(args["id"])


def _content_put(world: WorkerContext, operation: Operation, args: Document) -> Document | None:
    known = operation.evidence.get(args["key"], {})
    if "sha512" in known and world.images.is_complete(args["image_id"], known["sha512"]):
        return known
    return None


def _put_content(world: WorkerContext, operation: Operation, args: Document) -> Document:
    share, active = share_of(world, operation), operation.intent["active_before"]
    directory = staged(world, operation)
    # Reads through the whole chain: the uploaded image needs no other file.
    share.copy_out(Source(active, operation.intent["format"], 0), directory / "image", args["disk_format"], compress=False)
    sent = world.images.upload(args["image_id"], directory / "image")
    unstage(world, operation)
    return {"bytes": sent.size, "sha512": sent.sha512}


def _unput(world: WorkerContext, operation: Operation, _args: Document) -> None:
    unstage(world, operation)


def _settle_upload(connection: Connection, operation: Operation, outcome: str, fault: Document | None) -> None:
    told = fault["message"] if fault and outcome != "done" else None
    volumes.move(connection, operation.intent["volume_id"], ("uploading",), operation.intent["status_before"], fault=told)


IMPORT = Kind(
    {"import_content": Verb(made, _import, _unimport)}, settle_create, afterwards="Delete the volume and ask for it again."
)
UPLOAD = Kind(
    {
        "check_closed": CHECK_CLOSED,
        "create_image": Verb(_image_made, _make_image, _unmake_image),
        "put_content": Verb(_content_put, _put_content, _unput),
    },
    _settle_upload,
    afterwards="The volume was only read. Delete the image that was begun from the image service.",
)
