"""The repository's own checks. A test, so that others use the second processor meanwhile."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FROM_MAKE = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")  # what a make above us told its own


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("target", ["lint", "docs"])
def test_the_make_targets_pass(target: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in FROM_MAKE}
    command = ["make", "--no-print-directory", target]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


CALLS = """
from stillframe.{service}.rpcapi import worker
from stillframe.web.route import Call

def handle(call: Call) -> None:
    worker(call).{method}(call.context, {right})
    worker(call).{method}x(call.context, {right})  # a method that is none
    worker(call).{method}(call.context, {right}, x=1)  # a parameter that is none
    worker(call).{method}(call.context)  # a parameter is missing
    worker(call).{method}(call.context, {wrong})  # a parameter of another type
    worker(call).{method}({right})  # nobody asks
    call.ask("{method}", {right})  # by name, as it was once
"""
ANSWERS = """
from typing import Any
from stillframe.context import Context
from stillframe.{service}.manager import Manager, answered_by
from stillframe.{service}.rpcapi import {protocol}
from stillframe.{service}.worker.context import WorkerContext

def renamed(world: WorkerContext, context: Context, {parameter}x: str) -> None: ...
def retyped(world: WorkerContext, context: Context, {parameter}: bytes) -> None: ...

class Renamed(Manager):
    {method} = answered_by(renamed)  # takes another name

class Retyped(Manager):
    {method} = answered_by(retyped)  # takes another type

class Lacking:
    def show_chain(self, context: Context, /, *, volume_id: str) -> dict[str, Any]:
        raise NotImplementedError

def answer(manager: Manager, lacking: Lacking) -> list[{protocol}]:
    return [
        manager,
        lacking,  # has not all methods
    ]
"""
ROWS = """
from sqlalchemy import Connection
from stillframe.db import {table}
from stillframe.db.rows import {row}
from stillframe.db.values import New{noun}

def read(row: {row}) -> str:
    print(row["statuss"])  # a column that is none
    print(row["name"].upper())  # it may be null
    return row["created_at"]  # a column of another type

def look(connection: Connection) -> str:
    found = {table}.get(connection, "id", None)
    print(found["status"])  # there may be no row
    return found["status"] if found else "gone"

def write(connection: Connection, row: New{noun}) -> None:
    {table}.insert(connection, row)
    {table}.insert(connection, {{**row, "statuss": "available"}})  # a column that is none
    {table}.insert(connection, {{"id": "x"}})  # columns are missing
    {table}.change(connection, "x", status="available")
    {table}.change(connection, "x", statuss="available")  # a column that is none
    {table}.change(connection, "x", status=None)  # it may not be null
    {table}.change(connection, "x", status=1)  # another type
"""
INTENTS = """
from sqlalchemy import Connection
from stillframe.db.rows import VolumeRow
from stillframe.journal.operation import Document, Kind, Operation, Verb
from stillframe.volumes.operations.executors.live import MergeLive, SwitchFile
from stillframe.volumes.operations.executors.intents import about_volume
from stillframe.volumes.operations.volumes import CopyVolume, ExtendVolume

def ask(row: VolumeRow) -> list[ExtendVolume]:
    return [
        ExtendVolume(**about_volume(row), size=1),
        ExtendVolume(**about_volume(row), {field}=1),  # misspelt
        ExtendVolume(**about_volume(row)),  # is missing
        ExtendVolume(**about_volume(row), size="1"),  # of another type
    ]

def read(operation: Operation[ExtendVolume], args: MergeLive) -> list[object]:
    return [
        operation.intent.size,
        operation.intent.{field},  # misspelt
        operation.intent["size"],  # as if it were a document
        args.info.file_to_merge,
        args.info.{field},  # misspelt, further in
    ]

def done(worker: object, operation: Operation[ExtendVolume], args: MergeLive) -> Document | None: ...
def do(worker: object, operation: Operation[ExtendVolume], args: MergeLive) -> Document:
    raise NotImplementedError

def settle(connection: Connection, operation: Operation[ExtendVolume], outcome: str, fault: Document | None) -> None: ...

RIGHT = Verb(done, do, args=MergeLive)
OTHER = Verb(done, do, args=SwitchFile)  # is told something else
KINDS = [
    Kind(dict(right=RIGHT), settle, intent=ExtendVolume),
    Kind(dict(right=RIGHT), settle, intent=CopyVolume),  # of another kind
]
"""
NOUNS = [
    ("volumes", "Volume"),
    ("snapshots", "Snapshot"),
    ("backups", "Backup"),
    ("assisted_snapshots", "AssistedSnapshot"),
]
SAMPLES = [
    (CALLS, {"service": "volumes", "method": "undo_revert", "right": 'volume_id="v"', "wrong": "volume_id=1"}),
    (CALLS, {"service": "compute", "method": "show_server", "right": 'server_id="s"', "wrong": "server_id=1"}),
    (ANSWERS, {"service": "volumes", "protocol": "VolumesWorker", "method": "undo_revert", "parameter": "volume_id"}),
    (ANSWERS, {"service": "compute", "protocol": "ComputeWorker", "method": "cancel_merge", "parameter": "operation_id"}),
    (INTENTS, {"field": "sise"}),
    *((ROWS, {"table": table, "noun": noun, "row": f"{noun}Row"}) for table, noun in NOUNS),
]


@pytest.mark.timeout(1800)
def test_lint_sees_a_misspelt_method_parameter_column_or_field(tmp_path: Path) -> None:
    """Every line of the samples with a remark is an error, and no other: in an API that asks, in the worker that answers, in
    what reads and writes rows, in what an operation is told."""
    wanted = set()
    for number, (sample, names) in enumerate(SAMPLES):
        path = tmp_path / f"sample_{number}.py"
        path.write_text(sample.format(**names))
        lines = path.read_text().splitlines()
        wanted |= {(path.name, place) for place, line in enumerate(lines, 1) if "  # " in line}
    options = ["--config-file", "pyproject.toml", "--cache-dir", str(tmp_path / "cache"), "--no-error-summary"]
    command = [sys.executable, "-m", "mypy", *options, *map(str, sorted(tmp_path.glob("sample_*.py")))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = {(Path(name).name, int(line)) for name, line in re.findall(r"^(\S+?):(\d+): error:", done.stdout, re.MULTILINE)}
    assert found == wanted, f"{done.stdout}\n{done.stderr}"
