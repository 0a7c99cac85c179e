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
def test_they_hold(target: str) -> None:
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
SAMPLES = [
    (CALLS, {"service": "volumes", "method": "undo_revert", "right": 'volume_id="v"', "wrong": "volume_id=1"}),
    (CALLS, {"service": "compute", "method": "show_server", "right": 'server_id="s"', "wrong": "server_id=1"}),
    (ANSWERS, {"service": "volumes", "protocol": "VolumesWorker", "method": "undo_revert", "parameter": "volume_id"}),
    (ANSWERS, {"service": "compute", "protocol": "ComputeWorker", "method": "cancel_merge", "parameter": "operation_id"}),
]


@pytest.mark.timeout(1800)
def test_lint_sees_a_misspelt_method_or_parameter_of_a_worker(tmp_path: Path) -> None:
    """In an API that asks as in the worker that answers: every line of the samples with a remark is an error, and no other."""
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
