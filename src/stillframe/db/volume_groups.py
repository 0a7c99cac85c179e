"""Volume groups: rows, which volume types they take, and the volumes that are in them."""

from collections.abc import Sequence
from typing import Unpack

from sqlalchemy import ColumnElement, Connection, func, select, update
from sqlalchemy import delete as sql_delete

from stillframe.db.group_rows import NewVolumeGroup, VolumeGroupChanges, VolumeGroupRow
from stillframe.db.queries import Page, many, one, page, touched
from stillframe.db.rows import VolumeRow
from stillframe.db.tables import group_volume_types, volume_groups, volumes


def insert(connection: Connection, row: NewVolumeGroup, volume_type_ids: Sequence[str]) -> None:
    """Inserts a group, and the volume types of which its volumes may be."""
    connection.execute(volume_groups.insert(), row)
    known = [{"group_id": row["id"], "volume_type_id": each} for each in dict.fromkeys(volume_type_ids)]
    connection.execute(group_volume_types.insert(), known)


def get(connection: Connection, group_id: str, project_id: str | None) -> VolumeGroupRow | None:
    """Returns the row, or None; ``project_id`` None sees every project."""
    return one(VolumeGroupRow, connection, select(volume_groups).where(volume_groups.c.id == group_id, *_mine(project_id)))


def list_page(connection: Connection, project_id: str | None, wanted: Page) -> list[VolumeGroupRow]:
    """Returns one page of the groups of a project, or of all for None. Raises NotFound for an unknown marker."""
    return page(VolumeGroupRow, connection, volume_groups, _mine(project_id), wanted)


def usage(connection: Connection, project_id: str) -> int:
    """Returns how many groups a project has."""
    query = select(func.count()).select_from(volume_groups).where(volume_groups.c.project_id == project_id)
    return int(connection.execute(query).scalar_one())


def change(connection: Connection, group_id: str, /, **values: Unpack[VolumeGroupChanges]) -> None:
    """Changes the columns that are named."""
    connection.execute(update(volume_groups).where(volume_groups.c.id == group_id).values(**values))


def move(connection: Connection, group_id: str, allowed: Sequence[str], status: str) -> bool:
    """Compare-and-swap of the status; False when it was in none of the ``allowed`` ones."""
    query = update(volume_groups).where(volume_groups.c.id == group_id, volume_groups.c.status.in_(allowed))
    return touched(connection, query.values(status=status)) == 1


def delete(connection: Connection, group_id: str) -> None:
    """Deletes a group, which has no volumes any more."""
    connection.execute(sql_delete(group_volume_types).where(group_volume_types.c.group_id == group_id))
    connection.execute(sql_delete(volume_groups).where(volume_groups.c.id == group_id))


def members(connection: Connection, group_id: str) -> list[VolumeRow]:
    """Returns the volumes of a group, oldest first."""
    return many(VolumeRow, connection, select(volumes).where(volumes.c.group_id == group_id).order_by(volumes.c.seq))


def member_ids(connection: Connection, group_ids: Sequence[str]) -> dict[str, list[str]]:
    """Returns the ids of the volumes of several groups, by group."""
    query = select(volumes.c.group_id, volumes.c.id).where(volumes.c.group_id.in_(group_ids)).order_by(volumes.c.seq)
    found: dict[str, list[str]] = {group_id: [] for group_id in group_ids}
    for group_id, volume_id in connection.execute(query):
        found[group_id].append(volume_id)
    return found


def volume_types(connection: Connection, group_ids: Sequence[str]) -> dict[str, list[str]]:
    """Returns the ids of the volume types of several groups, by group."""
    query = select(group_volume_types).where(group_volume_types.c.group_id.in_(group_ids))
    found: dict[str, list[str]] = {group_id: [] for group_id in group_ids}
    for group_id, type_id in connection.execute(query.order_by(group_volume_types.c.volume_type_id)):
        found[group_id].append(type_id)
    return found


def take_type(connection: Connection, volume_type_id: str) -> bool:
    """Tells whether a group takes volumes of the type."""
    query = select(group_volume_types.c.group_id).where(group_volume_types.c.volume_type_id == volume_type_id).limit(1)
    return connection.execute(query).first() is not None


def end_creation(connection: Connection, group_id: str) -> None:
    """After the creation of a volume in a group that is made from a source: the group is available when all its volumes are,
    and in error when they have ended otherwise."""
    row = get(connection, group_id, None)
    if row is None or not (row["group_snapshot_id"] or row["source_group_id"]):
        return
    found = {each["status"] for each in members(connection, group_id)}
    if "creating" not in found:
        move(connection, group_id, ("creating", "error"), "error" if "error" in found else "available")


def end_deletion(connection: Connection, group_id: str | None, whole: bool) -> None:
    """After the deletion of a volume that was in a group: a group that is being deleted goes with its last volume; when a
    volume could not be deleted (``whole`` is false), neither could the group. None: the volume was in no group."""
    if group_id is None:
        return
    if not whole:
        move(connection, group_id, ("deleting",), "error_deleting")
        return
    row = get(connection, group_id, None)
    if row is not None and row["status"] == "deleting" and not members(connection, group_id):
        delete(connection, group_id)


def _mine(project_id: str | None) -> list[ColumnElement[bool]]:
    return [] if project_id is None else [volume_groups.c.project_id == project_id]
