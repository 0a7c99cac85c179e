"""The ``.info`` file beside a volume."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillframe.chain.image import Chain, Image
from stillframe.chain.names import base_name, overlay_name
from stillframe.db import volumes
from stillframe.db.engine import Database
from stillframe.errors import ChainConflict
from stillframe.journal.operation import Operation
from stillframe.volumes.operations import KINDS, chain_record
from stillframe.volumes.operations.chain_record import info_document
from tests.unit import builders
from tests.unit.builders import GIB, OTHER_SNAPSHOT, SNAPSHOT, VOLUME

BASE = base_name(VOLUME)
OVERLAY = overlay_name(VOLUME, SNAPSHOT)
ARGS = {"volume_id": VOLUME}


class Driver:
    """A share with a chain and an ``.info`` file."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.info: dict[str, str] = {}

    def chain(self, volume_id: str, active_file: str) -> Chain:
        assert active_file == self.names[-1]
        backing = (None, *self.names)
        return Chain(
            volume_id, tuple(Image(name, "qcow2", GIB, below) for name, below in zip(self.names, backing, strict=False))
        )

    def read_info(self, _volume_id: str) -> dict[str, str]:
        return self.info

    def write_info(self, _volume_id: str, document: dict[str, str]) -> None:
        self.info = document


def world(database: Database, driver: Driver) -> Any:
    return SimpleNamespace(database=database, driver=driver)


def operation() -> Operation:
    return Operation("op", "record_chain", "running", ARGS, [], 0, {}, 1, 0, "req-1")


def test_a_volume_without_snapshots_has_no_info() -> None:
    assert info_document(BASE, []) == {}


def test_the_active_file_and_each_snapshots_overlay_are_named() -> None:
    rows = [{"id": SNAPSHOT, "overlay": OVERLAY}, {"id": OTHER_SNAPSHOT, "overlay": "o"}]
    assert info_document(OVERLAY, rows) == {"active": OVERLAY, SNAPSHOT: OVERLAY, OTHER_SNAPSHOT: "o"}


@given(st.lists(st.uuids().map(str), unique=True, min_size=1))
def test_every_snapshot_can_be_found_again_from_the_share_alone(snapshots: list[str]) -> None:
    rows = [{"id": each, "overlay": overlay_name(VOLUME, each)} for each in snapshots]
    document = info_document(rows[-1]["overlay"], rows)
    assert {key: value for key, value in document.items() if key != "active"} == {row["id"]: row["overlay"] for row in rows}


def test_only_snapshots_that_were_taken_are_written(database: Database) -> None:
    with database.write() as connection:
        builders.volume_row(connection, active_file=OVERLAY)
        builders.snapshot_row(connection)
        for number, status in enumerate(("creating", "error")):
            builders.snapshot_row(connection, id=f"{number:08d}-0000-4000-8000-000000000000", status=status)
    driver = Driver(BASE, OVERLAY)
    verb = chain_record.KIND.verbs["write_info"]
    assert verb.done(world(database, driver), operation(), ARGS) is None
    assert verb.do(world(database, driver), operation(), ARGS) == {}
    assert driver.info == {"active": OVERLAY, SNAPSHOT: OVERLAY}
    assert verb.done(world(database, driver), operation(), ARGS) == {}


def test_a_chain_that_lacks_a_snapshots_overlay_is_not_written_down(database: Database) -> None:
    with database.write() as connection:
        builders.volume_row(connection)
        builders.snapshot_row(connection)
    driver = Driver(BASE)
    with pytest.raises(ChainConflict, match="lacks"):
        chain_record.KIND.verbs["write_info"].do(world(database, driver), operation(), ARGS)
    assert driver.info == {}


def test_a_chain_that_cannot_be_recorded_is_told_on_the_volume_and_forgotten_when_it_can(database: Database) -> None:
    with database.write() as connection:
        builders.volume_row(connection)
    for outcome, fault, shown in (("undone", {"message": "why"}, "why"), ("done", None, None)):
        with database.write() as connection:
            chain_record.KIND.settle(connection, operation(), outcome, fault)
            row = volumes.get(connection, VOLUME, None)
        assert row is not None
        assert row["fault"] == shown


def test_the_request_holds_the_volume(tmp_path: Path) -> None:
    request = chain_record.request(VOLUME, "req-1")
    assert request.resources == [f"volume:{VOLUME}"]
    assert KINDS[request.kind] is chain_record.KIND
