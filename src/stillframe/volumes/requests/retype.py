"""``os-retype``: another volume type for a volume that stays where it is."""

from stillframe.context import Context
from stillframe.db import volume_types, volumes
from stillframe.db.rows import VolumeRow, VolumeTypeRow
from stillframe.errors import BadRequest, NotFound
from stillframe.volumes.operations import chain_metadata
from stillframe.volumes.requests.new_volumes import FORMAT
from stillframe.volumes.requests.volumes import refuse_if_grouped
from stillframe.volumes.worker import lookup
from stillframe.volumes.worker.context import WorkerContext


def retype(worker: WorkerContext, context: Context, volume_id: str, new_type: str) -> None:
    """Gives a volume another type, by name or id; no file is touched. Raises NotFound; BadRequest for the type it has, and for
    one that its place or its format does not fit: this release does not move volumes between shares."""
    with worker.database.write() as connection:
        row = lookup.volume(connection, context, volume_id)
        kind = volume_types.find(connection, new_type)
        if kind is None:
            raise NotFound(f"Volume type {new_type} could not be found.")
        refuse_if_grouped(row)
        lookup.refuse_if_busy(connection, row["id"])
        lookup.refuse_unless(row["status"], ("available", "in-use"), f"volume {row['id']}")
        if kind["id"] == row["volume_type_id"]:
            raise BadRequest(f"Invalid input received: New volume_type same as original: {kind['name']}.")
        _check_fits(worker, row, kind)
        volumes.change(connection, row["id"], volume_type_id=kind["id"])
        chain_metadata.submit_once(connection, row["id"], context.request_id)


def _check_fits(worker: WorkerContext, row: VolumeRow, kind: VolumeTypeRow) -> None:
    if worker.backends.pool(row) not in worker.backends.fitting(kind["extra_specs"]):
        raise BadRequest(
            f"volume type {kind['name']} asks for another backend than {row['backend']}, where volume {row['id']} lies. Create"
            " a volume of that type from it instead ('openstack volume create --source')"
        )
    wanted = kind["extra_specs"].get(FORMAT)
    if wanted not in (None, row["base_format"]):
        raise BadRequest(
            f"volume type {kind['name']} asks for {FORMAT} = {wanted!r}, but volume {row['id']} is {row['base_format']}. Create"
            " a volume of that type from it instead ('openstack volume create --source')"
        )
