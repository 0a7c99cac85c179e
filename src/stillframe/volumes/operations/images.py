"""A volume from an image, and an image from a volume."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from sqlalchemy import Connection

from stillframe.chain.image import Image
from stillframe.db import volumes
from stillframe.db.rows import VolumeRow
from stillframe.host import imports, staging
from stillframe.host.copies import Source
from stillframe.journal.operation import Document, Kind, Operation, Verb
from stillframe.journal.record import Request
from stillframe.journal.typed import Args, step
from stillframe.volumes.clients.glance import NewImage
from stillframe.volumes.operations.executors.intents import OnVolume, about_volume
from stillframe.volumes.operations.executors.offline import CHECK_CLOSED, CheckClosed, MakeFile, share_of, unmake
from stillframe.volumes.operations.request import Wanted, request
from stillframe.volumes.operations.volumes import made, settle_create
from stillframe.volumes.worker.context import WorkerContext


class ImageToVolume(OnVolume, frozen=True, kw_only=True):
    """Make a volume with an image's content."""


class VolumeToImage(OnVolume, frozen=True, kw_only=True):
    """Make an image with the volume's content."""


class ImportContent(MakeFile, frozen=True, kw_only=True):
    """Make a file with the image's content; the image is read for the project."""

    verb = "import_content"
    image_id: str
    project_id: str


@dataclass(frozen=True)
class CreateImage(NewImage):
    """Make the image, without its content."""

    verb: ClassVar[str] = "create_image"


class PutContent(Args, frozen=True, kw_only=True):
    """Send the image's content."""

    verb = "put_content"
    image_id: str
    disk_format: str


def import_request(volume: VolumeRow, size: int, image_id: str, request_id: str) -> Request:
    """A volume of ``size`` bytes with the image's content; the image is read for the volume's project."""
    args = ImportContent(
        name=volume["active_file"],
        size=size,
        format=volume["format"],
        image_id=image_id,
        project_id=volume["project_id"],
    )
    return request(volume, Wanted("image_to_volume", ImageToVolume(**about_volume(volume)), [step(args)]), request_id)


def upload_request(volume: VolumeRow, image: CreateImage, request_id: str) -> Request:
    content = PutContent(image_id=image.id, disk_format=image.disk_format)
    plan = [step(CheckClosed()), step(image), step(content)]
    return request(volume, Wanted("volume_to_image", VolumeToImage(**about_volume(volume)), plan), request_id)


def staged(worker: WorkerContext, operation: Operation) -> Path:
    return staging.make(worker.settings.staging_dir, operation.id)


def unstage(worker: WorkerContext, operation: Operation) -> None:
    staging.remove(worker.settings.staging_dir, operation.id)


def _import(worker: WorkerContext, operation: Operation[OnVolume], args: ImportContent) -> Document:
    share, size = share_of(worker, operation), args.size
    directory = staged(worker, operation)
    staging.require_room(directory, 0)
    facts = worker.images.download(args.image_id, args.project_id, directory / "image", size + (64 << 20))
    found = imports.inspect_import(directory / "image", facts.disk_format or "", size)
    source = Source(found.name, found.format, 1, directory)
    share.copy(operation.intent.volume_id, source, Image(args.name, args.format, size), operation.id)
    unstage(worker, operation)
    return {"bytes": share.allocated(args.name)}


def _unimport(worker: WorkerContext, operation: Operation[OnVolume], args: ImportContent) -> None:
    unstage(worker, operation)
    unmake(worker, operation, args)


def _image_made(_worker: WorkerContext, operation: Operation[OnVolume], args: CreateImage) -> Document | None:
    return {} if operation.at in operation.evidence else None


def _make_image(worker: WorkerContext, _operation: Operation[OnVolume], args: CreateImage) -> Document:
    worker.images.create(args)
    return {}


def _unmake_image(worker: WorkerContext, _operation: Operation[OnVolume], args: CreateImage) -> None:
    worker.images.delete(args.id)


def _content_put(worker: WorkerContext, operation: Operation[OnVolume], args: PutContent) -> Document | None:
    known = operation.evidence.get(operation.at, {})
    if "sha512" in known and worker.images.is_complete(args.image_id, known["sha512"]):
        return known
    return None


def _put_content(worker: WorkerContext, operation: Operation[OnVolume], args: PutContent) -> Document:
    share, active = share_of(worker, operation), operation.intent.active_before
    directory = staged(worker, operation)
    # Reads through the whole chain: the uploaded image needs no other file.
    share.copy_out(Source(active, operation.intent.format, 0), directory / "image", args.disk_format, compress=False)
    sent = worker.images.upload(args.image_id, directory / "image")
    unstage(worker, operation)
    return {"bytes": sent.size, "sha512": sent.sha512}


def _unput(worker: WorkerContext, operation: Operation[OnVolume], _args: PutContent) -> None:
    unstage(worker, operation)


def _settle_upload(connection: Connection, operation: Operation[OnVolume], outcome: str, fault: Document | None) -> None:
    message = fault["message"] if fault and outcome != "done" else None
    volumes.move(connection, operation.intent.volume_id, ("uploading",), operation.intent.status_before, fault=message)


IMPORT = Kind(
    {"import_content": Verb(made, _import, _unimport, args=ImportContent)},
    settle_create,
    intent=ImageToVolume,
    afterwards="Delete the volume and ask for it again.",
)
UPLOAD = Kind(
    {
        "check_closed": CHECK_CLOSED,
        "create_image": Verb(_image_made, _make_image, _unmake_image, args=CreateImage),
        "put_content": Verb(_content_put, _put_content, _unput, args=PutContent),
    },
    _settle_upload,
    intent=VolumeToImage,
    afterwards="The volume was only read. Delete the image that was begun from the image service.",
)
