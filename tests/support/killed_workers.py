"""Worker processes over one journal whose steps lock what they use: two at once on one resource are caught in the act.

A step locks a file for each of its resources while it works; the kernel frees the locks of a process that is killed.
"""

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from stillframe.db import quotas
from stillframe.db.engine import Database
from stillframe.journal.operation import Document, Kind, NotYet, Operation, Verb
from stillframe.journal.record import Journal, this_process
from stillframe.journal.slots import Lanes
from stillframe.journal.typed import Args, Intent
from stillframe.journal.worker import Worker


class Work(Intent, frozen=True, kw_only=True):
    """What is held alone, and what is only read."""

    alone: tuple[str, ...]
    shared: tuple[str, ...]


class First(Args, frozen=True, kw_only=True):
    verb = "first"


class Second(Args, frozen=True, kw_only=True):
    """It waits once."""

    verb = "second"


class Third(Args, frozen=True, kw_only=True):
    verb = "third"


STEPS = (First, Second, Third)
LEASE = 600  # seconds; long, so that only a dead worker loses an operation, however slow the machine is
WORK_SECONDS = 0.01


def work(url: str, directory: Path, number: int) -> None:
    """Runs one worker until it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    database = Database(url)
    verbs = {each.verb: Verb(_done, _do, _undo, args=each) for each in STEPS}
    kinds = {"work": Kind(verbs, _settle, intent=Work)}
    journal = Journal(database, "volumes", this_process("here"), LEASE, kinds)
    Worker(journal, kinds, directory, Lanes(2), lambda: None).start()
    (directory / f"ready-{number}").touch()
    while True:
        time.sleep(60)


def _fact(directory: Path, operation: Operation[Work]) -> Path:
    return directory / f"{operation.id}.{operation.at}"


def _done(directory: Path, operation: Operation[Work], _args: Args) -> Document | None:
    return {} if _fact(directory, operation).exists() else None


def _do(directory: Path, operation: Operation[Work], _args: Args) -> Document:
    if operation.at == "second" and "tried" not in operation.notes("second"):
        raise NotYet(0.02, {"tried": True})
    with _alone(directory, operation):
        time.sleep(WORK_SECONDS)
        fact = _fact(directory, operation)
        os.close(os.open(fact, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    return {}


def _undo(directory: Path, operation: Operation[Work], _args: Args) -> None:
    _broken(directory, f"{operation.id} was undone")


@contextmanager
def _alone(directory: Path, operation: Operation[Work]) -> Iterator[None]:
    with ExitStack() as until:
        for name, way in ((f"op-{operation.id}", fcntl.LOCK_EX), *_locks(operation)):
            handle = os.open(directory / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
            until.callback(os.close, handle)
            try:
                fcntl.flock(handle, way | fcntl.LOCK_NB)
            except BlockingIOError:
                _broken(directory, f"{operation.id} met another one on {name}")
        yield


def _locks(operation: Operation[Work]) -> list[tuple[str, int]]:
    return [(name, fcntl.LOCK_EX) for name in operation.intent.alone] + [
        (name, fcntl.LOCK_SH) for name in operation.intent.shared
    ]


def _broken(directory: Path, what: str) -> None:
    with (directory / "broken").open("a") as file:
        file.write(f"{what}\n")


def _settle(connection: Connection, operation: Operation, outcome: str, _fault: Any) -> None:
    """One row for each operation, so that one that ends twice shows."""
    known = quotas.limits(connection, operation.id).get(outcome, 0)
    quotas.set_limits(connection, operation.id, {outcome: known + 1})
