"""Worker processes over one journal whose steps say who is where: two at once on one resource are caught in the act.

A step holds a lock on a file for each of its resources while it works; the kernel frees the locks of a process that is killed.
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
from stillframe.journal.worker import Worker

STEPS = ("first", "second", "third")
LEASE = 600  # seconds: only who is dead loses an operation, however slow the machine is
WORK_SECONDS = 0.01


def work(url: str, directory: Path, number: int) -> None:
    """Runs one worker until it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    database = Database(url)
    verbs = {name: Verb(_done, _do, _undo) for name in STEPS}
    journal = Journal(database, "volumes", this_process("here"), LEASE)
    Worker(journal, {"work": Kind(verbs, _settle)}, directory, Lanes(2), lambda: None).start()
    (directory / f"ready-{number}").touch()
    while True:
        time.sleep(60)


def _fact(directory: Path, operation: Operation, args: Document) -> Path:
    return directory / f"{operation.id}.{args['name']}"


def _done(directory: Path, operation: Operation, args: Document) -> Document | None:
    return {} if _fact(directory, operation, args).exists() else None


def _do(directory: Path, operation: Operation, args: Document) -> Document:
    if args["name"] == "second" and "tried" not in operation.notes("second"):
        raise NotYet(0.02, {"tried": True})
    with _alone(directory, operation):
        time.sleep(WORK_SECONDS)
        fact = _fact(directory, operation, args)
        os.close(os.open(fact, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    return {}


def _undo(directory: Path, operation: Operation, args: Document) -> None:
    _broken(directory, f"{operation.id} was turned round")


@contextmanager
def _alone(directory: Path, operation: Operation) -> Iterator[None]:
    with ExitStack() as until:
        for name, way in ((f"op-{operation.id}", fcntl.LOCK_EX), *_locks(operation)):
            handle = os.open(directory / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
            until.callback(os.close, handle)
            try:
                fcntl.flock(handle, way | fcntl.LOCK_NB)
            except BlockingIOError:
                _broken(directory, f"{operation.id} met another one on {name}")
        yield


def _locks(operation: Operation) -> list[tuple[str, int]]:
    return [(name, fcntl.LOCK_EX) for name in operation.intent["alone"]] + [
        (name, fcntl.LOCK_SH) for name in operation.intent["reads"]
    ]


def _broken(directory: Path, what: str) -> None:
    with (directory / "broken").open("a") as file:
        file.write(f"{what}\n")


def _settle(connection: Connection, operation: Operation, outcome: str, _fault: Any) -> None:
    """One row for each operation, so that one that ends twice shows."""
    known = quotas.limits(connection, operation.id).get(outcome, 0)
    quotas.set_limits(connection, operation.id, {outcome: known + 1})
