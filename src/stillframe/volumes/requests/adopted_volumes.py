"""Requests for volumes that are adopted: a file that a server has open already becomes a volume where it is.

Only compute asks, which has read the server's descriptions. The file is neither moved, renamed nor written.
"""

import os
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from stillframe import trust
from stillframe.chain import names
from stillframe.chain.image import Image
from stillframe.context import Context
from stillframe.db import attachments, deployments, snapshots, volumes
from stillframe.db.rows import VolumeRow
from stillframe.db.tables import now
from stillframe.errors import BadConfiguration, BadImage, BadRequest, Busy, Conflict
from stillframe.host import ancestry, files, inspection, mounts, parents
from stillframe.journal import record
from stillframe.units import GIB
from stillframe.volumes.operations import adopted_volumes as operations
from stillframe.volumes.operations import chain_metadata
from stillframe.volumes.requests import new_volumes
from stillframe.volumes.storage.backends import Pool
from stillframe.volumes.storage.drivers import markers
from stillframe.volumes.worker import lookup
from stillframe.volumes.worker.context import WorkerContext

_IN_MEMORY = ("tmpfs", "ramfs")


def look(worker: WorkerContext, context: Context, wanted: dict[str, Any]) -> dict[str, Any]:
    """Returns what the volume would be, and changes nothing: ``size`` in bytes, ``parent_images`` as paths, ``volume_id`` and
    ``base_file``, which are null. ``wanted`` holds directory, an absolute path, and file and format of what lies in it. A file
    that an adopted volume is active with, which no attachment names, gives that volume's: it is only connected again. Raises
    BadRequest, BadImage, ChainConflict, Conflict, ForeignShare, ShareUnavailable."""
    _pool, image, known = _look(worker, wanted)
    volume_id, base_file = (known["id"], known["base_file"]) if known else (None, None)
    below = [each.path for each in image.parents]
    return {"size": image.size, "parent_images": below, "volume_id": volume_id, "base_file": base_file}


def adopt(worker: WorkerContext, context: Context, wanted: dict[str, Any]) -> str:
    """Makes a volume of a file that a server has, attached to it from the beginning; returns its id. ``wanted`` as for
    ``look``, and id, server_id, project_id, user_id, name, bootable. The same id again: the same volume. With the id that
    ``look`` tells, the volume that the file is already is attached.

    The directory becomes a share of this host: a marker, and a directory for work, are made in it. Raises as ``look``, and
    QuotaExceeded."""
    volume_id = names.canonical_id(wanted["id"])
    with worker.database.read() as connection:
        if _is_same(connection, volume_id, wanted):
            return volume_id
    pool, image, known = _look(worker, wanted)
    if known is not None:
        return _connect_again(worker, volume_id, wanted)
    pool.share().probe_for_writing()
    parents.record(Path(wanted["directory"]), image.name, image.parents)  # what it reads is believed from here on
    with worker.database.write() as connection:
        if _is_same(connection, volume_id, wanted):
            return volume_id
        if _known(connection, pool, image.name) is not None:
            raise Conflict(f"{image.name} has become a volume meanwhile")
        record.refuse_if_busy(connection, operations.place(pool.export.export))
        size = -(-image.size // GIB)
        lookup.check_quota(worker, connection, wanted["project_id"], {"volumes": 1, "gigabytes": size})
        _insert(worker, connection, pool, image, wanted)
        record.submit(connection, chain_metadata.request(volume_id, context.request_id))
    return volume_id


def _connect_again(worker: WorkerContext, volume_id: str, wanted: dict[str, Any]) -> str:
    """The volume is there, as after a rebuild, which knows no attachments. Raises Busy, Conflict."""
    with worker.database.write() as connection:
        known = volumes.get(connection, volume_id, None)
        if known is None or (known["share"], known["active_file"]) != (wanted["directory"], wanted["file"]):
            raise Conflict(f"{wanted['file']} is another volume than {volume_id} by now")
        if known["project_id"] != wanted["project_id"]:
            raise Conflict(
                f"volume {volume_id} belongs to another project than server {wanted['server_id']}, which has its file: take the"
                " disk out of the server's definition"
            )
        _refuse_unless_free(connection, known, wanted["format"], wanted["file"])
        lookup.refuse_if_busy(connection, volume_id, shared=True)
        if not volumes.move(connection, volume_id, ("available",), "in-use"):
            raise Conflict(f"volume {volume_id} is {known['status']}, not available")
        _attach(connection, wanted)
    return volume_id


def _look(worker: WorkerContext, wanted: dict[str, Any]) -> tuple[Pool, Image, VolumeRow | None]:
    """Returns where the file lies, what it is, and the adopted volume that it is already."""
    pool = worker.backends.adopted(wanted["directory"])
    place = Path(wanted["directory"])
    _check_directory(worker, place)
    markers.refuse_foreign(place, markers.marker_of(place), deployments.own(worker.database))
    with files.share_errors(place):
        try:
            inspection.plain_name(wanted["file"])
            with worker.database.read() as connection:
                known = _known(connection, pool, wanted["file"])
            if known is not None:
                return pool, _free(worker, place, known, wanted), known
            found = ancestry.look(place, wanted["file"], wanted["format"])
            image = inspection.alone(place, wanted["file"], wanted["format"], found)
        except FileNotFoundError as error:
            raise BadImage(f"{place} has no file {wanted['file']!r}") from error
    if not image.size:
        raise BadImage(f"{image.name} is empty")
    if names.is_reserved(image.name):
        raise BadImage(f"{image.name} has the name of a volume's file; 'stillframe rebuild' takes such files in")
    with worker.database.read() as connection:
        _refuse_parents(connection, place, image)
    return pool, image, None


def _free(worker: WorkerContext, place: Path, known: VolumeRow, wanted: dict[str, Any]) -> Image:
    with worker.database.read() as connection:
        _refuse_unless_free(connection, known, wanted["format"], wanted["file"])
    return inspection.alone(place, wanted["file"], wanted["format"])


def _refuse_parents(connection: Connection, place: Path, image: Image) -> None:
    """A parent image is never written, so it is no volume, and no volume's file is one."""
    readers = volumes.readers_of_parent_image(connection, str(place / image.name))
    if readers:
        raise Conflict(f"{image.name} is the parent image of volume {readers[0]}, which would change with it")
    for parent in map(Path, (each.path for each in image.parents)):
        volume_id = volumes.adopted_bases(connection, str(parent.parent)).get(parent.name)
        if volume_id is not None or names.parse(parent.name) is not None:
            raise Conflict(f"{image.name} is backed by {parent}, which is a file of volume {volume_id or parent.name}")


def _check_directory(worker: WorkerContext, place: Path) -> None:
    """Raises BadRequest for a directory that cannot be a share, or that nobody should make one."""
    if not place.is_absolute() or Path(os.path.normpath(place)) != place:
        raise BadRequest(f"the directory {str(place)[:200]!r} must be an absolute path without '..'")
    if place.resolve() != place:
        raise BadRequest(f"{place} leads through a symbolic link to {place.resolve()}; name that in the server's definition")
    state = worker.settings.state_dir.resolve()
    if place == Path("/") or place in (state, *state.parents) or (state in place.parents and not _is_share(worker, place)):
        raise BadRequest(f"{place} cannot be a share: it is the root directory, or holds Stillframe's own state")
    mounted = mounts.holding(place)
    if mounted is not None and mounted.fstype in _IN_MEMORY:
        raise BadRequest(f"{place} is on {mounted.fstype}, which loses everything when the host stops; move the disk elsewhere")
    if mounted is not None and "ro" in mounted.options:
        raise BadRequest(f"{place} is on a file system that is mounted read-only, so no overlay can be made beside the disk")
    try:
        trust.require_place(place, "the directory of the disk")
    except BadConfiguration as error:
        raise BadRequest(error.message) from error


def _is_share(worker: WorkerContext, place: Path) -> bool:
    return any(pool.export.export == str(place) for pool in worker.backends.pools)


def _is_same(connection: Connection, volume_id: str, wanted: dict[str, Any]) -> bool:
    """Tells whether the request was carried out already. Raises Conflict for an id that is another volume's."""
    row = volumes.get(connection, volume_id, None)
    if row is None:
        return False
    if row["share"] != wanted["directory"] or wanted["file"] not in (row["base_file"], row["active_file"]):
        raise Conflict(f"the id {row['id']} is that of another volume")
    return attachments.get(connection, wanted["attachment_id"], None) is not None


def _known(connection: Connection, pool: Pool, file: str) -> VolumeRow | None:
    """Returns the volume one of whose files this is, None where there is none."""
    parsed = names.parse(file)
    volume_id = parsed[0] if parsed else volumes.adopted_bases(connection, pool.export.export).get(file)
    row = volumes.get(connection, volume_id, None) if volume_id else None
    return row if row is not None and row["share"] == pool.export.export else None


def _refuse_unless_free(connection: Connection, known: VolumeRow, format_: str, file: str) -> None:
    """Raises Conflict for a volume that cannot be connected to a server that has its file: it was not adopted, it is some
    server's, or the file is not the one that it is active with."""
    held = attachments.of_volumes(connection, [known["id"]])[known["id"]]
    why = None
    if known["base_file"] is None:
        why = "which was not adopted. Take the disk out of the server's definition, and attach the volume"
    elif held:
        why = f"which is attached to server {held[0]['instance_id']}"
    elif (known["active_file"], known["format"]) != (file, format_):
        why = f"whose active file is {known['active_file']} as {known['format']}. Correct the definition (virsh edit)"
    elif known["status"] != "available":
        why = f"which is {known['status']}, not available"
    if why is not None:
        raise Conflict(f"{file} is a file of volume {known['id']} already, {why}", volume_id=known["id"])


def _insert(worker: WorkerContext, connection: Connection, pool: Pool, image: Image, wanted: dict[str, Any]) -> None:
    volumes.insert(
        connection,
        {
            "id": wanted["id"],
            "project_id": wanted["project_id"],
            "user_id": wanted["user_id"],
            "name": wanted.get("name"),
            "size": -(-image.size // GIB),
            "status": "in-use",
            "volume_type_id": new_volumes.find_type(worker, {})["id"],
            "availability_zone": worker.settings.availability_zone,
            "metadata": {},
            "active_file": image.name,
            "format": image.format,
            "base_format": image.format,
            "base_file": image.name,
            "parent_images": [each.path for each in image.parents] or None,
            "backend": pool.backend,
            "share": pool.export.export,
            "bootable": bool(wanted.get("bootable")),
            "created_at": now(),
        },
    )
    _attach(connection, wanted)


def _attach(connection: Connection, wanted: dict[str, Any]) -> None:
    attachments.insert(
        connection,
        {
            "id": wanted["attachment_id"],
            "project_id": wanted["project_id"],
            "volume_id": wanted["id"],
            "instance_id": wanted["server_id"],
            "status": "attached",
            "mode": "rw",
            "connector": wanted["connector"],
            "attached_at": now(),
        },
    )


def release(worker: WorkerContext, context: Context, volume_id: str, keep_files: bool) -> str:
    """Ends what ``adopt`` began: the volume and its snapshots are no more, the files stay. Without ``keep_files`` the volume
    must be one file again, under its first name. Returns the id of the operation. Raises NotFound, Busy, Conflict."""
    with worker.database.write() as connection:
        row = lookup.volume(connection, context, volume_id)
        if row["base_file"] is None:
            raise Conflict(f"volume {row['id']} was not adopted; 'openstack volume delete --remote' unmanages it")
        lookup.refuse_if_being_taken(connection, row["id"])
        lookup.refuse_if_busy(connection, row["id"])
        if not keep_files:
            _refuse_unless_alone(connection, row)
        linked = volumes.linked_to(connection, row["id"])
        if linked:
            raise Conflict(f"volume {row['id']} cannot be released: volume {linked[0]['id']} is linked to it")
        return record.submit(connection, operations.release_request(row, context.request_id))


def _refuse_unless_alone(connection: Connection, row: VolumeRow) -> None:
    held = snapshots.of_volume(connection, row["id"])
    if held:
        raise Conflict(f"volume {row['id']} has {len(held)} snapshots; delete them first, or ask to keep their files")
    if row["active_file"] != row["base_file"]:
        raise Busy(
            f"the server writes to {row['active_file']}, which gets its first name {row['base_file']} back when nobody has it"
            " open: stop the server, and repeat some seconds later"
        )
