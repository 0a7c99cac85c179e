"""Real database servers for the tests: Debian's programs in a private directory, on a Unix socket, as a user without rights.

A server is made for speed, not for power failures; it ends with the process that started it, however that ends.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import create_engine, make_url
from sqlalchemy.exc import DBAPIError

NOBODY = 65534
SECONDS = 90  # for what takes one or two on an idle machine


class MissingServer(Exception):
    """A program is not installed; the message says what to do."""


def program(package: str, *places: str) -> str:
    """Returns the first of the paths that exists."""
    for place in places:
        if os.access(place, os.X_OK):
            return place
    raise MissingServer(f"none of {', '.join(places)} is there: 'make packages' installs {package}")


def as_nobody(command: Sequence[str]) -> list[str]:
    """The command, run without rights; both servers refuse to run as root. It is killed when its parent ends."""
    user = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"] if os.getuid() == 0 else []
    return ["setpriv", "--pdeathsig", "KILL", *user, "--", *command]


def own_directory(kind: str) -> Path:
    """A directory that the server's user may use; its name leaves room for a socket's (108 bytes with the path)."""
    made = Path(tempfile.mkdtemp(prefix=f"stillframe-{kind}-"))
    if os.getuid() == 0:
        os.chown(made, NOBODY, NOBODY)
    return made


def run(command: Sequence[str], directory: Path) -> None:
    """Runs a program of the server's to its end. Raises RuntimeError with what it said."""
    done = subprocess.run(as_nobody(command), cwd=directory, capture_output=True, text=True, timeout=SECONDS, check=False)
    if done.returncode:
        logs = "".join(path.read_text(errors="replace")[-2000:] for path in directory.glob("data/*.err"))
        raise RuntimeError(f"{command[0]} failed ({done.returncode}): {logs}{done.stdout[-1000:]}{done.stderr[-1000:]}")


@dataclass
class Server:
    """A running server. ``address`` is the URL of a database, with ``{}`` for its name."""

    kind: str
    directory: Path
    process: subprocess.Popen[bytes]
    address: str
    maintenance: str  # the database to be connected to while others are made
    made: list[str] = field(default_factory=list)

    def url(self, name: str) -> str:
        return self.address.format(name)

    def create(self, name: str) -> str:
        """Makes an empty database; returns its URL."""
        self.execute(f"CREATE DATABASE {name}")
        self.made.append(name)
        return self.url(name)

    def execute(self, statement: str) -> None:
        engine = create_engine(self.url(self.maintenance), isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                connection.exec_driver_sql(statement)
        finally:
            engine.dispose()

    def stop(self) -> None:
        """Kills the server: its content is discarded, so it need not be written."""
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


def begin(kind: str, prepare: Callable[[Path], tuple[list[str], str, str]]) -> Server:
    """Starts a server in a directory of its own. ``prepare`` makes its files there, and returns the command, the address and
    the name of a database that is there from the beginning."""
    directory = own_directory(kind)
    try:
        command, address, maintenance = prepare(directory)
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(as_nobody(command), cwd=directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        server = Server(kind, directory, process, address, maintenance)
        _wait_for(server)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    return server


def _wait_for(server: Server) -> None:
    assert make_url(server.url("x")).database == "x"
    until = time.monotonic() + SECONDS
    while True:
        try:
            if any(each.is_socket() for each in server.directory.iterdir()):
                server.execute("SELECT 1")
                return
            raise MissingServer("no socket yet")
        except (DBAPIError, MissingServer) as error:
            if server.process.poll() is not None or time.monotonic() > until:
                server.stop()
                raise RuntimeError(f"{server.kind} does not answer: {error}") from error
            time.sleep(0.05)
