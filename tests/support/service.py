"""``stillframe serve`` as a process: the command an operator types, or a copy of a process that has read its modules.

Reading modules is two thirds of a start, and tests start services some hundred times; what is done after it is the same.
"""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

PROGRAM = [sys.executable, "-m", "stillframe.main.shell"]
_COPIES = multiprocessing.get_context("forkserver")
_COPIES.set_forkserver_preload(["stillframe.main.shell", "stillframe.main.services", "stillframe.main.workers"])


class Service(Protocol):
    """A running process."""

    @property
    def pid(self) -> int: ...

    def line(self) -> str:
        """The next line it prints; empty when it has ended."""

    def code(self) -> int | None:
        """Its exit code, a signal's number negated, or None as long as it runs."""

    def wait(self, seconds: float) -> int | None:
        """Returns its exit code; None when it still runs after that time."""

    def signal(self, number: int) -> None: ...

    def forget(self) -> None:
        """Closes what connects us to it."""


Begin = Callable[[Sequence[str], Path, Mapping[str, str]], Service]


class Command:
    """The command itself."""

    def __init__(self, arguments: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        with log.open("a") as complaints:
            self._process = subprocess.Popen(
                [*PROGRAM, *arguments],
                stdout=subprocess.PIPE,
                stderr=complaints,
                text=True,
                env={**os.environ, **environment},
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def code(self) -> int | None:
        return self._process.poll()

    def wait(self, seconds: float) -> int | None:
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def forget(self) -> None:
        assert self._process.stdout is not None
        self._process.stdout.close()


class Copy:
    """A copy."""

    def __init__(self, arguments: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        log.touch()
        ours, theirs = _COPIES.Pipe(duplex=False)
        settings = {**os.environ, **environment}
        # Ended with us, if we end before the test could end it.
        self._process = _COPIES.Process(target=_run, args=(list(arguments), theirs, log, settings), daemon=True)
        self._process.start()
        theirs.close()
        with ours:
            self._said = os.fdopen(os.dup(ours.fileno()))

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def line(self) -> str:
        return self._said.readline()

    def code(self) -> int | None:
        return self._process.exitcode

    def wait(self, seconds: float) -> int | None:
        self._process.join(seconds)
        return self._process.exitcode

    def signal(self, number: int) -> None:
        with suppress(ProcessLookupError):  # it has ended, and is waited for by the process it is a copy of
            os.kill(self.pid, number)

    def forget(self) -> None:
        self._said.close()


def _run(arguments: Sequence[str], out: Connection, log: Path, environment: Mapping[str, str]) -> None:
    from stillframe.main.shell import main
    from stillframe.web import auth

    auth.ROUNDS = 4  # the least bcrypt knows: passwords are hashed and checked with each new state, and each start
    os.dup2(out.fileno(), 1)
    out.close()
    with log.open("a") as complaints:
        os.dup2(complaints.fileno(), 2)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["stillframe", *arguments]
    sys.exit(main(arguments))
