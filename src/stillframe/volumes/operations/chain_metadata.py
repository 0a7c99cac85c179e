"""Writes what the rows say of a volume to two files beside its images: the ``.info`` file as Cinder's drivers keep it, and the
record, from which the rows can be made again when the database is lost."""

from typing import Any

from sqlalchemy import Connection

from stillframe.chain import names
from stillframe.db import operations, volumes
from stillframe.errors import ChainConflict, NotFound
from stillframe.journal import record as journal
from stillframe.journal.operation import Document, Kind, Operation, Verb
from stillframe.journal.record import Request
from stillframe.volumes.chain import observe
from stillframe.volumes.chain import record as volume_record
from stillframe.volumes.operations.executors.offline import info_document
from stillframe.volumes.worker.context import WorkerContext

PAUSE_SECONDS = 0.5


def request(volume_id: str, request_id: str, pause: float = 0.0) -> Request:
    plan = [{"verb": "write_info", "args": {"volume_id": volume_id}}]
    intent, shared = {"volume_id": volume_id}, (f"volume:{volume_id}",)
    alone = [f"record:{volume_id}"]  # two at once would write one temporary file
    return Request("volumes", "record_chain", intent, plan, alone, request_id, shared=shared, pause=pause)


def submit_once(connection: Connection, volume_id: str, request_id: str) -> None:
    """Several changes before the operation begins are written as one record."""
    if not operations.of_kind_on(connection, f"volume:{volume_id}", "record_chain"):
        journal.submit(connection, request(volume_id, request_id, PAUSE_SECONDS))


def _wanted(world: WorkerContext, volume_id: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Returns the volume's row and both documents."""
    with world.database.read() as connection:
        volume = volumes.get(connection, volume_id, None)
        if volume is None:
            raise NotFound(f"volume {volume_id} has no row any more")
        document = volume_record.document(connection, volume)
        rows = observe.needs(connection, volume)["snapshots"]
    overlays = {row["id"]: row["overlay"] for row in rows if row["status"] != "error"}
    return volume, info_document(volume["active_file"], overlays), document


def _done(world: WorkerContext, _operation: Operation, args: Document) -> Document | None:
    try:
        volume, info, document = _wanted(world, args["volume_id"])
    except NotFound:
        return {}
    share = world.share(volume)
    found = share.read_document(names.info_name(volume["id"])), share.read_document(names.record_name(volume["id"]))
    return {} if found == (info, document) else None


def _do(world: WorkerContext, _operation: Operation, args: Document) -> Document:
    volume, info, document = _wanted(world, args["volume_id"])
    tree = observe.observe(world, volume)
    for key, overlay in info.items():
        if overlay not in tree.images:
            raise ChainConflict(f"{overlay} of volume {volume['id']} ({key}) is missing on the share")
    share = world.share(volume)
    share.write_document(names.info_name(volume["id"]), info)
    share.write_document(names.record_name(volume["id"]), document)
    return {}


def _settle(connection: Connection, operation: Operation, outcome: str, fault: Document | None) -> None:
    volume = volumes.get(connection, operation.intent["volume_id"], None)
    if outcome != "done" and fault:
        volumes.change(connection, operation.intent["volume_id"], fault=fault["message"], untidy=True)
    elif volume is not None and volume["fault"] and volume["status"] in ("available", "in-use"):
        volumes.change(connection, volume["id"], fault=None)  # rows, headers and documents agree


KIND = Kind(
    {"write_info": Verb(_done, _do)},
    _settle,
    afterwards="Block storage writes the documents again by itself, as soon as rows and files agree.",
)
