"""Requests about transfers, as the worker takes them: offer a volume to another project, accept one, take the offer back."""

import hashlib
import hmac
import secrets
import uuid
from typing import Any

from sqlalchemy import Connection

from stillframe.chain import names
from stillframe.context import Context
from stillframe.db import backups, snapshots, transfers, volumes
from stillframe.db.rows import SnapshotRow, VolumeRow, VolumeTransferRow
from stillframe.db.values import VolumeChanges
from stillframe.errors import BadRequest, NotFound
from stillframe.journal import record
from stillframe.volumes.operations import chain_metadata
from stillframe.volumes.requests import volumes as volume_requests
from stillframe.volumes.worker import lookup
from stillframe.volumes.worker.context import WorkerContext

OFFERED = "awaiting-transfer"
_KEY_BYTES = 8  # sixteen letters, as Cinder's keys have


def create(worker: WorkerContext, context: Context, volume_id: str, name: str | None, no_snapshots: bool) -> dict[str, str]:
    """Offers an available volume; returns ``{"id", "auth_key"}``. The key is kept as a digest only: nobody is told it again.

    Raises NotFound, BadRequest for a volume that cannot be given away: its files are another volume's too, or it has snapshots
    that are not to go with it.
    """
    key, salt = secrets.token_hex(_KEY_BYTES), secrets.token_hex(16)
    with worker.database.write() as connection:
        row = lookup.volume(connection, context, volume_id)
        volume_requests.refuse_if_grouped(row)
        volume_requests.refuse_if_attached(connection, row)
        record.refuse_if_busy(connection, f"volume:{row['id']}")
        _check_snapshots(row, snapshots.of_volume(connection, row["id"]), no_snapshots)
        _refuse_shared_files(connection, row)
        if not volumes.move(connection, row["id"], ("available",), OFFERED):
            raise BadRequest(f"Invalid volume: the status of volume {row['id']} must be available, but it is {row['status']}")
        transfer_id = str(uuid.uuid4())
        transfers.insert(
            connection,
            {
                "id": transfer_id,
                "project_id": row["project_id"],
                "name": name,
                "volume_id": row["id"],
                "salt": salt,
                "key_digest": _digest(salt, key),
                "no_snapshots": no_snapshots,
            },
        )
    return {"id": transfer_id, "auth_key": key}


def accept(worker: WorkerContext, context: Context, transfer_id: str, auth_key: str) -> dict[str, Any]:
    """Makes the volume, with its snapshots, the asker's; returns ``{"id", "volume_id", "name"}``.

    Whoever has the key may do so, whatever the project. Raises NotFound, for a wrong key too, QuotaExceeded when the
    asker's project may not have so much more, Busy, BadRequest when the volume's project has linked clones to it by now.
    """
    with worker.database.write() as connection:
        offer = _found(connection, transfer_id, None)
        if not hmac.compare_digest(_digest(offer["salt"], auth_key), offer["key_digest"]):
            raise NotFound(f"Transfer {transfer_id} could not be found.")  # as one that is not there
        row = volumes.get(connection, offer["volume_id"], None)
        if row is None:
            raise NotFound(f"Volume {offer['volume_id']} could not be found.")
        record.refuse_if_busy(connection, f"volume:{row['id']}")  # what was begun with a snapshot since the offer ends first
        _refuse_shared_files(connection, row)
        held = snapshots.of_volume(connection, row["id"])
        _check_room(worker, connection, context, (row, held))
        changes: Any = {"project_id": context.project_id, "user_id": context.user_id}
        past = {} if row["project_id"] == context.project_id else _without_past(connection, row)
        if not volumes.move(connection, row["id"], (OFFERED,), "available", **changes, **past):
            raise BadRequest(f"Invalid volume: the status of volume {row['id']} must be {OFFERED}, but it is {row['status']}")
        for each in held:
            snapshots.change(connection, each["id"], **changes)
        transfers.delete(connection, offer["id"])
        chain_metadata.submit_once(connection, row["id"], context.request_id)
    return {"id": offer["id"], "volume_id": offer["volume_id"], "name": offer["name"]}


def delete(worker: WorkerContext, context: Context, transfer_id: str) -> None:
    """Takes the offer back: the volume is available to its project again. Raises NotFound."""
    with worker.database.write() as connection:
        offer = _found(connection, transfer_id, None if context.sees_all_projects else context.project_id)
        transfers.delete(connection, offer["id"])
        volumes.move(connection, offer["volume_id"], (OFFERED,), "available")


def _without_past(connection: Connection, row: VolumeRow) -> VolumeChanges:
    """Returns how the row changes so that the acceptor gets the volume and its snapshots only, not what the volume held before
    its last revert. No file is kept for the other project's backups either. What nobody needs is cleaned up later."""
    for each in backups.of_volume(connection, row["id"]):
        if each["held_file"]:
            backups.change(connection, each["id"], held_file=None)
    return {"undo_file": None, "needs_cleanup": True}


def _found(connection: Connection, transfer_id: str, project_id: str | None) -> VolumeTransferRow:
    row = transfers.get(connection, names.lookup_id(transfer_id), project_id)
    if row is None:
        raise NotFound(f"Transfer {transfer_id} could not be found.")
    return row


def _digest(salt: str, key: str) -> str:
    return hashlib.sha256(f"{salt}:{key}".encode()).hexdigest()


def _check_snapshots(row: VolumeRow, held: list[SnapshotRow], no_snapshots: bool) -> None:
    if held and no_snapshots:
        raise BadRequest(
            f"Invalid volume: volume {row['id']} has {len(held)} snapshots, which lie in its own files and cannot stay behind;"
            " transfer them with it, or delete them first"
        )
    volume_requests.refuse_parts(held)
    for each in held:
        lookup.refuse_unless(each["status"], ("available",), f"snapshot {each['id']}")


def _refuse_shared_files(connection: Connection, row: VolumeRow) -> None:
    """Two projects must not depend on one file: neither could delete what the other's volume reads."""
    copy = "transfer a full copy of it instead ('openstack volume create --source')"
    if row["linked_to"]:
        raise BadRequest(f"Invalid volume: volume {row['id']} is a linked clone, which reads a file of another volume; {copy}")
    linked = volumes.linked_to(connection, row["id"])
    if linked:
        raise BadRequest(f"Invalid volume: volume {row['id']} is read by {len(linked)} linked clones of its project; {copy}")


def _check_room(
    worker: WorkerContext, connection: Connection, context: Context, found: tuple[VolumeRow, list[SnapshotRow]]
) -> None:
    row, held = found
    if row["project_id"] == context.project_id:
        return
    more = {"volumes": 1, "gigabytes": row["size"] + sum(each["size"] for each in held), "snapshots": len(held)}
    lookup.check_quota(worker, connection, context.project_id, more)
