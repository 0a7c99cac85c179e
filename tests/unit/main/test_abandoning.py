"""``operation abandon`` asks first, says what was and what is, and does nothing it was not told to."""

import argparse
import io
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import update

from stillframe.db import operations, volumes
from stillframe.db.engine import Database
from stillframe.db.tables import operations as table
from stillframe.errors import BadRequest, Conflict, NotFound
from stillframe.journal import record
from stillframe.journal.record import Request
from stillframe.journal.typed import Intent, document, step
from stillframe.main import abandoning
from stillframe.volumes.chain.observe import After
from stillframe.volumes.operations import snapshots as snapshot_operations
from stillframe.volumes.operations import volumes as volume_operations
from stillframe.volumes.operations.executors import live
from stillframe.volumes.operations.executors.intents import about_volume
from stillframe.volumes.operations.executors.live import merge_id
from stillframe.volumes.recovery.doctor import holding
from tests.unit import builders
from tests.unit.builders import VOLUME, new_id

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def parked(database: Database) -> str:
    """An extend that was never begun."""
    with database.write() as connection:
        made = record.submit(connection, volume_operations.extend_request(builders.volume_row(connection), 3, "r"))
        volumes.change(connection, VOLUME, status="error_extending")
        fault = {"code": "parked", "message": "a mixture", "details": {}}
        connection.execute(update(table).where(table.c.id == made).values(state="parked", fault=fault))
    return made


@pytest.fixture
def command(database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    monkeypatch.setattr(abandoning, "database_of", lambda _parsed: database)

    def run(operation_id: str, yes: bool = False) -> tuple[int, str]:
        app: Any = SimpleNamespace(stdout=io.StringIO())
        parsed = argparse.Namespace(operation=operation_id, yes=yes, config_file=[], state_dir=str(tmp_path))
        code = abandoning.Abandon(app, None).take_action(parsed)
        return code, app.stdout.getvalue()

    return run


def state(database: Database, operation_id: str) -> str:
    with database.read() as connection:
        row = operations.get(connection, operation_id)
    assert row is not None
    return str(row["state"])


def test_it_says_what_was_and_what_is(database: Database, parked: str, command: Command) -> None:
    extending: Any = {"service": "volumes", "kind": "extend_volume"}
    code, said = command(parked, yes=True)
    assert (code, state(database, parked)) == (0, "undone")
    assert said.splitlines() == [
        f"operation {parked} (volumes, extend_volume) is parked: a mixture",
        f"volume {VOLUME} is error_extending",
        f"operation {parked} was parked and is undone: a person abandoned it: a mixture",
        f"volume {VOLUME} was error_extending and is available",
        f"next: {abandoning._kind(extending).afterwards}",
    ]


@pytest.mark.parametrize(("answer", "wanted"), [("y", (0, "undone")), ("", (1, "parked")), ("n", (1, "parked"))])
def test_on_a_terminal_it_asks(
    database: Database, parked: str, command: Command, monkeypatch: pytest.MonkeyPatch, answer: str, wanted: tuple[int, str]
) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("builtins.input", lambda _question: answer)
    code, said = command(parked)
    assert (code, state(database, parked)) == wanted
    assert ("nothing was done" in said) is (code == 1)


def test_without_a_terminal_it_wants_to_be_told(
    database: Database, parked: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: False))
    with pytest.raises(BadRequest, match="--yes"):
        command(parked)
    assert state(database, parked) == "parked"


def test_what_was_retried_while_it_asked_is_left_alone(
    database: Database, parked: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def retried(_question: str) -> str:
        with database.write() as connection:
            row = operations.get(connection, parked)
            assert row and operations.unpark_one(connection, row)
        return "y"

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("builtins.input", retried)
    with pytest.raises(Conflict, match="meanwhile"):
        command(parked)
    assert state(database, parked) == "running"


def test_what_is_not_there_or_not_known(database: Database, parked: str, command: Command) -> None:
    with pytest.raises(NotFound):
        command(new_id(), yes=True)
    with database.write() as connection:
        connection.execute(update(table).where(table.c.id == parked).values(kind="of_a_later_release"))
    with pytest.raises(Conflict, match="does not know"):
        command(parked, yes=True)
    assert state(database, parked) == "parked"


def test_every_kind_says_what_can_be_done_afterwards() -> None:
    from stillframe.compute import kinds as compute
    from stillframe.volumes import kinds as block_storage

    for table_ in (compute.KINDS, block_storage.KINDS):
        assert [name for name, kind in table_.items() if not kind.afterwards] == []


def test_a_share_that_cannot_be_read_is_nothing_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: Database
) -> None:
    parsed = argparse.Namespace(config_file=[], state_dir=str(tmp_path))
    row: Any = {"intent": {"backend": "local", "share": "/not/there"}}
    assert abandoning._present(parsed, database, row) is None
    row = {"intent": {}}
    assert abandoning._present(parsed, database, row) is None


def test_one_that_is_tried_in_vain_is_ended_though_it_was_tried_once_more(
    database: Database, parked: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person reads for longer than it takes until the next try."""

    def change(**values: Any) -> None:
        with database.write() as connection:
            connection.execute(update(table).where(table.c.id == parked).values(**values))

    def answer(_question: str) -> str:
        change(epoch=table.c.epoch + 1, attempts=21)
        return "y"

    change(state="running", attempts=20)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("builtins.input", answer)
    code, said = command(parked)
    assert (code, state(database, parked)) == (0, "undone")
    assert said.startswith(f"operation {parked} (volumes, extend_volume) is running, and failed 20 times: a mixture")
    assert f"operation {parked} was running and is undone" in said


@pytest.mark.parametrize("merge", ["running", "pending", "parked", "undone"])
def test_what_waits_for_a_merge_that_goes_on_is_not_abandoned(
    database: Database, parked: str, command: Command, merge: str
) -> None:
    """The merge gives the guest another file, and nobody would follow."""
    merged = live.MergeLive(bytes=1, bandwidth_mib=0, info=live.MergedFiles(file_to_merge=None, merge_target_file=None))
    plan = [step(merged, "MergeLive-Pull").document()]
    with database.write() as connection:
        request = Request("compute", "merge_volume", Intent(), [], [], "r", merge_id(parked, "MergeLive-Pull"))
        made = record.submit(connection, request)
        connection.execute(update(table).where(table.c.id == made).values(state=merge))
        volume = volumes.get(connection, VOLUME, None)
        assert volume is not None
        after = After(active="x", format="qcow2", snapshots={}, removed=(), holds={})
        intent = document(snapshot_operations.DeleteSnapshot(**about_volume(volume), info_before={}, after=after))
        values = {"state": "running", "attempts": 20, "plan": plan, "intent": intent, "kind": "delete_snapshot"}
        connection.execute(update(table).where(table.c.id == parked).values(**values))
    if merge in ("running", "pending"):
        with pytest.raises(Conflict, match=f"waits for merge {made}"):
            command(parked, yes=True)
    else:
        command(parked, yes=True)
    assert state(database, parked) == ("running" if merge in ("running", "pending") else "undone")


def test_a_repair_of_the_doctor_is_the_doctors(database: Database, command: Command) -> None:
    with pytest.raises(Conflict, match="'stillframe doctor' offers") as refusal, holding.held(database, "here", [VOLUME], {}):
        with database.read() as connection:
            (row,) = operations.unfinished(connection, "doctor")
        command(row["id"], yes=True)
    assert str(row["owner"]) in refusal.value.message
