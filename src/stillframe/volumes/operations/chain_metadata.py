"""Writes what the rows say of a volume to two files beside its images: the ``.info`` file as Cinder's drivers keep it, and the
record, from which the rows can be made again when the database is lost."""

from typing import Any

from sqlalchemy import Connection

from stillframe.chain import names
from stillframe.db import operations, volumes
from stillframe.db.rows import VolumeRow
from stillframe.errors import ChainConflict, NotFound
from stillframe.journal import record as journal
from stillframe.journal.operation import Document, Kind, Operation, Verb
from stillframe.journal.record import Request
from stillframe.journal.typed import Args, Intent, step
from stillframe.volumes.chain import observe
from stillframe.volumes.chain import record as volume_record
from stillframe.volumes.operations.executors.offline import info_document
from stillframe.volumes.worker.context import WorkerContext

PAUSE_SECONDS = 0.5


class RecordChain(Intent, frozen=True, kw_only=True):
    """Write what the rows say of a volume beside its files."""

    volume_id: str


class WriteInfo(Args, frozen=True, kw_only=True):
    """Write both documents of the volume."""

    verb = "write_info"
    volume_id: str


def request(volume_id: str, request_id: str, pause: float = 0.0) -> Request:
    plan = [step(WriteInfo(volume_id=volume_id))]
    intent, shared = RecordChain(volume_id=volume_id), (f"volume:{volume_id}",)
    alone = [f"record:{volume_id}"]  # two at once would write one temporary file
    return Request("volumes", "record_chain", intent, plan, alone, request_id, shared=shared, pause=pause)


def submit_once(connection: Connection, volume_id: str, request_id: str) -> None:
    """Several changes before the operation begins are written as one record."""
    if not operations.of_kind_on(connection, f"volume:{volume_id}", "record_chain"):
        journal.submit(connection, request(volume_id, request_id, PAUSE_SECONDS))


def _wanted(worker: WorkerContext, volume_id: str) -> tuple[VolumeRow, dict[str, Any], dict[str, Any]]:
    """Returns the volume's row and both documents."""
    with worker.database.read() as connection:
        volume = volumes.get(connection, volume_id, None)
        if volume is None:
            raise NotFound(f"volume {volume_id} has no row any more")
        document = volume_record.document(connection, volume)
        rows = observe.needs(connection, volume)["snapshots"]
    overlays = {row["id"]: row["overlay"] for row in rows if row["status"] != "error"}
    return volume, info_document(volume["active_file"], overlays), document


def _done(worker: WorkerContext, _operation: Operation[RecordChain], args: WriteInfo) -> Document | None:
    try:
        volume, info, document = _wanted(worker, args.volume_id)
    except NotFound:
        return {}
    share = worker.share(volume)
    found = share.read_document(names.info_name(volume["id"])), share.read_document(names.record_name(volume["id"]))
    return {} if found == (info, document) else None


def _do(worker: WorkerContext, _operation: Operation[RecordChain], args: WriteInfo) -> Document:
    volume, info, document = _wanted(worker, args.volume_id)
    tree = observe.observe(worker, volume)
    for key, overlay in info.items():
        if overlay not in tree.images:
            raise ChainConflict(f"{overlay} of volume {volume['id']} ({key}) is missing on the share")
    share = worker.share(volume)
    share.write_document(names.info_name(volume["id"]), info)
    share.write_document(names.record_name(volume["id"]), document)
    return {}


def _settle(connection: Connection, operation: Operation[RecordChain], outcome: str, fault: Document | None) -> None:
    volume = volumes.get(connection, operation.intent.volume_id, None)
    if outcome != "done" and fault:
        volumes.change(connection, operation.intent.volume_id, fault=fault["message"], needs_cleanup=True)
    elif volume is not None and volume["fault"] and volume["status"] in ("available", "in-use"):
        volumes.change(connection, volume["id"], fault=None)  # rows, headers and documents agree


KIND = Kind(
    {"write_info": Verb(_done, _do, args=WriteInfo)},
    _settle,
    intent=RecordChain,
    afterwards="Block storage writes the documents again by itself, as soon as rows and files agree.",
)
