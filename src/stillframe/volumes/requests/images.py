"""Requests about images, as the worker takes them."""

import uuid
from typing import Any

from stillframe.context import Context
from stillframe.db import volume_types, volumes
from stillframe.db.values import VolumeChanges
from stillframe.errors import BadRequest, ImageNotUsable
from stillframe.host import staging
from stillframe.journal import record
from stillframe.units import GIB
from stillframe.volumes.clients.glance import ImageFacts
from stillframe.volumes.operations import images as operations
from stillframe.volumes.requests import new_volumes
from stillframe.volumes.requests import volumes as volume_requests
from stillframe.volumes.requests.new_volumes import Making
from stillframe.volumes.storage import scheduler
from stillframe.volumes.worker import lookup
from stillframe.volumes.worker.context import WorkerContext

FORMATS = ("raw", "qcow2")


def create_volume(worker: WorkerContext, context: Context, wanted: dict[str, Any]) -> str:
    """A new volume with an image's content; ``wanted`` as ``volume_making.create`` has it, with imageRef.

    What the image's description shows is checked at once; its content is checked after the download.
    """
    if wanted.get("size") is None:
        raise BadRequest("size is missing: a volume from an image needs one")
    facts = worker.images.show(wanted["imageRef"], context.project_id)
    _check_image(facts, wanted["size"])
    type_row = new_volumes.find_type(worker, wanted)
    new_volumes.check_allowed(worker, context, wanted)
    needed = facts.size or 0
    pool = scheduler.choose(worker.backends, type_row, wanted["size"], needed)
    staging.require_room(worker.settings.staging_dir, needed)
    about = {"image_id": facts.id, "image_name": facts.name or "", "disk_format": str(facts.disk_format)}
    about |= {"container_format": str(facts.container_format), "size": str(facts.size), "min_disk": str(facts.min_disk)}
    # An image's properties are its owner's words, in any number: they count as if the caller had set them here.
    metadata = lookup.with_more(context, None, {**facts.properties, **about, "min_ram": str(facts.min_ram)})
    columns: VolumeChanges = {"bootable": True, "image_metadata": metadata}
    size = wanted["size"] * GIB
    making = Making(pool, columns, lambda row: operations.import_request(row, size, facts.id, context.request_id))
    return new_volumes.insert(worker, context, wanted, type_row, making)


def _check_image(facts: ImageFacts, size: int) -> None:
    if facts.status != "active":
        raise BadRequest(f"image {facts.id} is {facts.status}, not active")
    if facts.disk_format not in FORMATS or facts.container_format != "bare":
        raise ImageNotUsable(
            f"image {facts.id} is {facts.disk_format} in {facts.container_format}; only raw and qcow2 in bare are taken"
        )
    smallest = max(facts.size or 0, facts.virtual_size or 0)
    if smallest > size * GIB or facts.min_disk > size:
        raise BadRequest(
            f"image {facts.id} needs {max(-(-smallest // GIB), facts.min_disk)} GiB; a volume of {size} GiB cannot hold it"
        )


def upload(worker: WorkerContext, context: Context, volume_id: str, wanted: dict[str, Any]) -> dict[str, Any]:
    """``os-volume_upload_image``: a new image with the volume's content, read through its chain. Returns the answer's
    document as Cinder has it."""
    worker.images.check_configured()
    with worker.database.read() as connection:
        row = lookup.volume(connection, context, volume_id)
        type_name = {each["id"]: each["name"] for each in volume_types.list_all(connection)}[row["volume_type_id"]]
    if row["status"] != "available":
        raise BadRequest(
            f"Invalid volume: the status of volume {row['id']} must be available, but it is {row['status']}; take a snapshot"
            " of an attached one, create a volume from it, and upload that"
        )
    disk_format = wanted.get("disk_format") or "raw"
    if disk_format not in FORMATS or (wanted.get("container_format") or "bare") != "bare":
        raise BadRequest("only disk_format raw or qcow2 in container_format bare can be uploaded")
    share = worker.share(row)
    content = scheduler.content_bytes(share, row["active_file"], row["format"])
    staging.require_room(worker.settings.staging_dir, content)
    about = {key: value for key, value in (row["image_metadata"] or {}).items() if not key.startswith("image_")}
    image = operations.CreateImage(
        id=str(uuid.uuid4()),
        name=wanted["image_name"],
        disk_format=disk_format,
        container_format="bare",
        project_id=row["project_id"],
        visibility=wanted.get("visibility") or "shared",
        protected=bool(wanted.get("protected")),
        properties={key: value for key, value in about.items() if key not in ("size", "disk_format", "container_format")},
    )
    with worker.database.write() as connection:
        volume_requests.unchanged(connection, row)
        volumes.change(connection, row["id"], status="uploading")
        record.submit(connection, operations.upload_request(row, image, context.request_id))
    shown = {key: getattr(image, key) for key in ("disk_format", "container_format", "visibility", "protected")}
    return {"image_id": image.id, "image_name": image.name, "volume_type": type_name, **shown}
