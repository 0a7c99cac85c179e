"""Requests about files on a share that are no volumes of ours yet, as the worker takes them."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from stillframe.chain import names
from stillframe.chain.image import Image
from stillframe.context import Context
from stillframe.db import volumes
from stillframe.db.rows import VolumeRow
from stillframe.db.values import VolumeChanges
from stillframe.errors import BadImage, BadRequest, FileInUse, HostCommandFailed, NotFound
from stillframe.journal.record import Request
from stillframe.units import GIB
from stillframe.volumes.operations import volumes as operations
from stillframe.volumes.requests import new_volumes
from stillframe.volumes.requests.new_volumes import Making
from stillframe.volumes.storage.backends import Pool
from stillframe.volumes.storage.drivers.contract import Share
from stillframe.volumes.worker import file_users
from stillframe.volumes.worker.context import WorkerContext

LOOK_SECONDS = 15.0


def manage(worker: WorkerContext, context: Context, wanted: dict[str, Any]) -> str:
    """Takes over a file on a share as a new volume. ``wanted`` holds host (``HOST@BACKEND#EXPORT``), source_name, format
    ("qcow2" where it is missing, "raw" on a share that holds only that), name, description, volume_type, metadata,
    bootable, availability_zone.

    A file of a whole volume with snapshots is taken over with ``stillframe rebuild``. Raises BadImage for a file that is
    no sound image standing alone.
    """
    pool = find_pool(worker, wanted["host"])
    type_row = new_volumes.find_type(worker, wanted)
    if wanted.get("volume_type") and pool not in worker.backends.of_type(type_row["extra_specs"]):
        raise BadRequest(
            f"volume type {type_row['name']} asks for another backend than {pool.backend}, where the file lies; name a type"
            " of that backend"
        )
    name, share = wanted["source_name"], pool.share()
    if "/" in name or name.startswith(".") or name not in share.listing():
        raise NotFound(f"the share {pool.export.export} has no file {name!r}")
    _refuse_ours(worker, name)
    image = share.image(name, _format(share, wanted.get("format")))
    _refuse_unfit(share, image, file_users.users(share, [name], file_users.described(worker, share)), LOOK_SECONDS)
    whole = {**wanted, "size": image.size // GIB}
    columns: VolumeChanges = {"format": image.format, "base_format": image.format, "bootable": bool(wanted.get("bootable"))}

    def operation(row: VolumeRow) -> Request:
        return operations.manage_request(row, name, context.request_id)

    making = Making(pool, columns, operation, promises=False)
    return new_volumes.insert(worker, context, whole, type_row, making)


def _format(share: Share, asked: str | None = None) -> str:
    """Returns the format in which a file is taken over. Raises BadRequest for one that the share's volumes cannot have."""
    if share.capabilities.chains:
        return asked or "qcow2"
    if asked not in (None, "raw"):
        raise BadRequest(f"the share {share.path} holds raw files only; convert it with 'qemu-img convert -f {asked} -O raw'")
    return "raw"


def _refuse_unfit(share: Share, image: Image, used: Mapping[str, Sequence[str]], seconds: float) -> None:
    """Decides for both the request and the list; ``seconds`` bound the inspection of the file. Raises BadImage, FileInUse."""
    name = image.name
    if image.backing is not None:
        raise BadImage(f"{name} is backed by {image.backing}; only a file that stands alone can be taken over")
    file_users.refuse_users(name, used, "taken over")
    if image.size % GIB:
        raise BadImage(
            f"{name} has {image.size} bytes, which are no whole GiB; while nobody has it open, grow it with"
            f" 'qemu-img resize -f {image.format} {name} {-(-image.size // GIB)}G'"
        )
    share.check_whole(name, image.format, seconds)


def _refuse_ours(worker: WorkerContext, name: str) -> None:
    parsed = names.parse(name)
    with worker.database.read() as connection:
        if parsed is not None and volumes.get(connection, parsed[0], None) is not None:
            raise BadRequest(f"{name} is a file of volume {parsed[0]} already")


def find_pool(worker: WorkerContext, host: str) -> Pool:
    """Returns the pool a client means by ``HOST@BACKEND#EXPORT`` or ``HOST@BACKEND``. Raises BadRequest."""
    place = host.partition("@")[2]
    for pool in worker.backends.pools:
        if place in (pool.name, pool.backend):
            return pool
    raise BadRequest(f"no enabled backend is {host!r}; GET /scheduler-stats/get_pools lists them")


def manageable(worker: WorkerContext, context: Context, host: str, offset: int = 0, limit: int = 1000) -> list[dict[str, Any]]:
    """Returns the image files on a share, with whether and why not each can be taken over: ``limit`` of them in the order of
    their names, after the first ``offset``. The users of all of them are looked up once."""
    share = find_pool(worker, host).share()
    listed = [name for name in share.listing() if not (name.startswith(".") or name.endswith((".info", ".record")))]
    page = listed[offset : offset + limit]
    used = file_users.users(share, page, file_users.described(worker, share))
    until = time.monotonic() + LOOK_SECONDS  # for all together
    return [_entry(worker, share, name, used, until) for name in page]


def _entry(worker: WorkerContext, share: Share, name: str, used: Mapping[str, Sequence[str]], until: float) -> dict[str, Any]:
    entry: dict[str, Any] = {"reference": {"source-name": name}, "size": None, "safe_to_manage": False}
    entry |= {"reason_not_safe": None, "cinder_id": None, "extra_info": None}
    try:
        image = share.image(name, _format(share))
        entry["size"] = -(-image.size // GIB)
        _refuse_ours(worker, name)
        _refuse_unfit(share, image, used, max(0.0, until - time.monotonic()))
        return {**entry, "safe_to_manage": True}
    except (BadImage, FileInUse, HostCommandFailed) as error:
        return {**entry, "reason_not_safe": error.message}
    except FileNotFoundError:
        return {**entry, "reason_not_safe": f"{name} is not there any more"}
    except BadRequest:
        parsed = names.parse(name)
        return {**entry, "reason_not_safe": "already managed", "cinder_id": parsed[0] if parsed else None}
