"""Requests about qos-specs, as the worker takes them."""

import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from stillframe.context import Context
from stillframe.db import qos_specs, volume_types
from stillframe.db.rows import QosSpecsRow
from stillframe.errors import BadRequest, Conflict, NotFound
from stillframe.volumes.requests import volume_types as volume_type_requests
from stillframe.volumes.worker.context import WorkerContext

MOST = 64  # specs of one


def find(connection: Connection, qos_specs_id: str) -> QosSpecsRow:
    """Returns the row. Raises NotFound."""
    row = qos_specs.get(connection, qos_specs_id)
    if row is None:
        raise NotFound(f"No such qos spec {qos_specs_id}.")
    return row


def create(worker: WorkerContext, context: Context, name: str, consumer: str, specs: dict[str, str]) -> str:
    """Makes qos-specs; returns their id. Raises Conflict for a name that is taken."""
    made = str(uuid.uuid4())
    with worker.database.write() as connection:
        if qos_specs.named(connection, name) is not None:
            raise Conflict(f"QoS Specs {name} already exists.")
        qos_specs.insert(connection, {"id": made, "name": name, "consumer": consumer, "specs": specs})
    return made


def change(worker: WorkerContext, context: Context, qos_specs_id: str, specs: dict[str, str], consumer: str | None) -> None:
    """Adds or changes specs, and the consumer where it is given. Raises NotFound, BadRequest for too many."""
    with worker.database.write() as connection:
        row = find(connection, qos_specs_id)
        merged = {**row["specs"], **specs}
        if len(merged) > MOST:
            raise BadRequest(f"qos-specs {row['name']} would have {len(merged)} keys, at most {MOST} are allowed")
        qos_specs.change(connection, row["id"], specs=merged, consumer=consumer or row["consumer"])


def delete_keys(worker: WorkerContext, context: Context, qos_specs_id: str, keys: Sequence[str]) -> None:
    """Removes specs. Raises NotFound, also when one of them is not there; then none is removed."""
    with worker.database.write() as connection:
        row = find(connection, qos_specs_id)
        missing = [key for key in keys if key not in row["specs"]]
        if missing:
            raise NotFound(f"QoS spec {row['id']} has no spec with key {missing[0]}.")
        qos_specs.change(connection, row["id"], specs={key: text for key, text in row["specs"].items() if key not in keys})


def delete(worker: WorkerContext, context: Context, qos_specs_id: str, force: bool) -> None:
    """Deletes qos-specs. Raises NotFound; BadRequest while a volume type has them, unless ``force`` takes them from it."""
    with worker.database.write() as connection:
        row = find(connection, qos_specs_id)
        used = volume_types.with_qos_specs(connection, row["id"])
        if used and not force:
            raise BadRequest(f"Qos specs still in use: by volume type {used[0]['name']}. Disassociate them first")
        qos_specs.delete(connection, row["id"])


def associate(worker: WorkerContext, context: Context, qos_specs_id: str, type_id: str) -> None:
    """Gives a volume type the qos-specs; may be repeated. Raises NotFound, BadRequest for a type that has others."""
    with worker.database.write() as connection:
        row = find(connection, qos_specs_id)
        kind = volume_type_requests.find(connection, type_id)
        if kind["qos_specs_id"] not in (None, row["id"]):
            raise BadRequest(f"Type {kind['id']} is already associated with another qos specs: {kind['qos_specs_id']}")
        volume_types.change(connection, kind["id"], qos_specs_id=row["id"])


def disassociate(worker: WorkerContext, context: Context, qos_specs_id: str, type_id: str | None) -> None:
    """Takes the qos-specs from one volume type, from all for None. Raises NotFound."""
    with worker.database.write() as connection:
        row = find(connection, qos_specs_id)
        if type_id is None:
            qos_specs.release(connection, row["id"])
            return
        kind: Any = volume_type_requests.find(connection, type_id)
        if kind["qos_specs_id"] == row["id"]:
            volume_types.change(connection, kind["id"], qos_specs_id=None)
