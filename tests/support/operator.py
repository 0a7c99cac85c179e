"""What an operator does: the ``stillframe`` command line and the offline operations over a running service without a guest."""

import io
import json
import subprocess
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillframe.chain.names import overlay_name
from stillframe.db.engine import Database
from stillframe.main import shell
from tests.support.lab import Lab
from tests.support.service import PROGRAM
from tests.support.stack import Api, wait_for


@dataclass(frozen=True)
class Said:
    """How a command ended and what it printed."""

    code: int
    out: str
    complaint: str


def stillframe(*arguments: str) -> Said:
    """Runs a command of ``stillframe`` in this process."""
    out, complaint = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(complaint):
        code = shell.main(arguments)
    return Said(code, out.getvalue(), complaint.getvalue())


def stillframe_apart(*arguments: str) -> Said:
    """Runs a command of ``stillframe`` as a process of its own, for those that lock a state directory until they end."""
    done = subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True, check=False, timeout=120)
    return Said(done.returncode, done.stdout, done.stderr)


class Operator:
    """Services over a state directory, and what is done with them from the command line."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    @property
    def api(self) -> Api:
        return self.lab.api

    @property
    def share(self) -> Path:
        return self.lab.stack.share

    @property
    def state(self) -> Path:
        return self.lab.stack.state_dir

    def database(self) -> Database:
        return Database(f"sqlite:///{self.state}/stillframe.sqlite")

    def run(self, command: Sequence[str], *arguments: str) -> Said:
        return stillframe(*command, "--state-dir", str(self.state), *arguments)

    def snapshot(self, volume_id: str, name: str = "s") -> str:
        """Takes an offline snapshot and waits for it and for what is written beside the files."""
        body = {"snapshot": {"volume_id": volume_id, "name": name}}
        made = self.api.ok("volume", "POST", "/snapshots", body)["snapshot"]["id"]
        wait_for(lambda: self.api.snapshot(made)["status"] == "available", "the snapshot")
        self.settle()
        return str(made)

    def volume(self, name: str = "v") -> str:
        made = self.api.create_volume(name)
        self.settle()
        return made

    def settle(self) -> None:
        """Waits until no operation is under way."""
        wait_for(lambda: json.loads(self.run(["operation", "list"], "-f", "json").out or "[]") == [], "the operations")

    def overlay(self, volume_id: str, snapshot_id: str) -> Path:
        return self.share / overlay_name(volume_id, snapshot_id)

    def document(self, *arguments: str) -> Any:
        """Runs ``doctor`` and returns its document."""
        return json.loads(self.run(["doctor"], "-f", "json", *arguments).out)
