"""Writes the ``.info`` file beside a volume, from its rows, after its chain on the share was seen to be what they say."""

import time
from typing import Any

from sqlalchemy import Connection

from stillframe.chain.image import Chain
from stillframe.db import snapshots, volumes
from stillframe.errors import ChainConflict
from stillframe.journal.operation import Document, Kind, Operation, Verb
from stillframe.journal.record import Request
from stillframe.volumes.world import World

PAUSE_SECONDS = 0.5


def request(volume_id: str, request_id: str) -> Request:
    plan = [{"verb": "write_info", "args": {"volume_id": volume_id}}]
    intent, resources = {"volume_id": volume_id}, [f"volume:{volume_id}"]
    # The rows are right already; the file beside the volume may come after the other volumes of the set are finalized.
    return Request("volumes", "record_chain", intent, plan, resources, request_id, not_before=time.time() + PAUSE_SECONDS)


def info_document(active_file: str, rows: list[dict[str, Any]]) -> dict[str, str]:
    """The ``.info`` document: the active file, and each snapshot's overlay; empty for a volume without snapshots."""
    known = {row["id"]: row["overlay"] for row in rows}
    return {"active": active_file, **known} if known else {}


def _wanted(world: World, volume_id: str) -> tuple[str, dict[str, str]]:
    with world.database.read() as connection:
        volume = volumes.get(connection, volume_id, None)
        rows = snapshots.of_volume(connection, volume_id)
    if volume is None:
        raise ChainConflict(f"volume {volume_id} has no row any more")
    available = [row for row in rows if row["status"] not in ("creating", "error")]
    return volume["active_file"], info_document(volume["active_file"], available)


def _done(world: World, _operation: Operation, args: Document) -> Document | None:
    _active, document = _wanted(world, args["volume_id"])
    return {} if world.driver.read_info(args["volume_id"]) == document else None


def _do(world: World, _operation: Operation, args: Document) -> Document:
    active, document = _wanted(world, args["volume_id"])
    _check_links(world.driver.chain(args["volume_id"], active), document)
    world.driver.write_info(args["volume_id"], document)
    return {}


def _check_links(chain: Chain, document: dict[str, str]) -> None:
    missing = set(document.values()) - {image.name for image in chain.images}
    if missing:
        raise ChainConflict(f"the chain of volume {chain.volume_id} lacks {', '.join(sorted(missing))}")


def _settle(connection: Connection, operation: Operation, outcome: str, fault: Document | None) -> None:
    message = fault["message"] if fault and outcome != "done" else None
    volumes.change(connection, operation.intent["volume_id"], fault=message)


KIND = Kind({"write_info": Verb(_done, _do)}, _settle)
