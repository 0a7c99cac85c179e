"""Starts outside programs: from argument lists only, with limits and a deadline; they die together with the worker."""

import os
import resource
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from stillframe.errors import AccessRefused, HostCommandFailed, ImageLocked
from stillframe.host import wording
from stillframe.host.confinement import Confined
from stillframe.printable import without_directories

OUTPUT_LIMIT = 1 << 20
ENVIRONMENT = {"LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
GRACE_SECONDS = 10.0
_POLL_SECONDS = 0.2
_STDERR_KEPT = 1 << 17  # room for a chain of 200 files, spelled out, and what is wrong with it
_COMPLAINT_KEPT = 2000

Cancelled = Callable[[], bool]


@dataclass(frozen=True)
class Limits:
    """Limits of one program: wall-clock and CPU seconds; address space, printed output and any file it writes, in bytes.

    ``thread_stack`` is for a program that starts a thread for each request it waits for: on a slow share these threads, not its
    work, would exceed its address space (F12). Each thread gets a stack of that many bytes instead of 8 MiB, and all share one
    malloc arena: glibc reserves 64 MiB for each further arena, and makes up to eight per core.
    """

    seconds: float = 60.0
    cpu_seconds: int = 60
    address_space: int = 1 << 30
    open_files: int = 256
    output: int = OUTPUT_LIMIT
    file_size: int | None = None
    thread_stack: int | None = None


@dataclass(frozen=True)
class Place:
    """Where a program runs, and descriptors of ours that it inherits under their numbers. With descriptors, it may open the
    files behind them, what is in the directory, and nothing else of the host (``confinement``)."""

    directory: Path
    descriptors: tuple[int, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """How a program ended: its exit code and what it printed."""

    code: int
    output: str
    complaint: str


def run(command: Sequence[str], *, cwd: Path | Place, limits: Limits | None = None, cancelled: Cancelled | None = None) -> str:
    """Runs a program to its end and returns its standard output. Raises HostCommandFailed or a kind of it, in the program's own
    words."""
    outcome = attempt(command, cwd=cwd, limits=limits, cancelled=cancelled)
    if outcome.code != 0:
        raise failure(command, outcome)
    return outcome.output


def attempt(
    command: Sequence[str], *, cwd: Path | Place, limits: Limits | None = None, cancelled: Cancelled | None = None
) -> Outcome:
    """Like ``run``, for a program whose exit code is an answer. Death by a signal, a limit or the deadline still raises."""
    kept = bytearray()
    return feed(command, kept, cwd=cwd, limits=limits, cancelled=cancelled)


def feed(
    command: Sequence[str],
    taker: "bytearray | Callable[[bytes], None]",
    *,
    cwd: Path | Place,
    limits: Limits | None = None,
    cancelled: Cancelled | None = None,
) -> Outcome:
    """Like ``attempt``, but passes standard output to ``taker`` piece by piece; if that is a function, nothing is kept.

    ``prlimit`` limits the program. ``setpriv --pdeathsig`` makes it die with us, because a merge must never continue without
    the knowledge of the worker that takes over. umask 0117 keeps others out of new files. Its own session lets us kill the
    whole group at the deadline. A program that cannot be killed, because it waits in the kernel for a share, is abandoned after
    ``GRACE_SECONDS``. Output beyond the limit is an error, never cut off.
    """
    bounds = limits or Limits()
    child = _Child(command, bounds, cwd if isinstance(cwd, Place) else Place(cwd))
    try:
        return child.follow(taker, cancelled)
    finally:
        child.end()


class _Child:
    """One running program, its pipes and its deadline."""

    def __init__(self, command: Sequence[str], bounds: Limits, place: Place) -> None:
        self._name = " ".join(command[:2])
        self._bounds = bounds
        self._deadline = time.monotonic() + bounds.seconds
        self._printed = 0
        self._complaint = bytearray()
        self._confined: Confined[subprocess.Popen[bytes]] | None = None
        try:
            if place.descriptors:
                self._confined = Confined(place.directory, place.descriptors, lambda: _started(command, bounds, place))
                self._process = self._confined.made
            else:
                self._process = _started(command, bounds, place)
        except (OSError, RuntimeError) as error:  # RuntimeError: no thread can be started
            raise HostCommandFailed(f"{command[0]} cannot be started: {error}") from error

    def follow(self, taker: "bytearray | Callable[[bytes], None]", cancelled: Cancelled | None) -> Outcome:
        take = taker.extend if isinstance(taker, bytearray) else taker
        assert self._process.stdout is not None and self._process.stderr is not None
        with selectors.DefaultSelector() as pipes:
            pipes.register(self._process.stdout, selectors.EVENT_READ, lambda piece: self._count(piece, take))
            pipes.register(self._process.stderr, selectors.EVENT_READ, self._complain)
            while pipes.get_map():
                for key, _ in pipes.select(self._patience(cancelled)):
                    _read(key, pipes)
        code = self._wait(cancelled)
        output = taker.decode(errors="replace") if isinstance(taker, bytearray) else ""
        outcome = Outcome(code, output, wording.without_chains(_printable(bytes(self._complaint)))[:_COMPLAINT_KEPT])
        if code < 0:
            raise HostCommandFailed(f"{self._name} was killed by signal {-code}: {outcome.complaint}", signal=-code)
        return outcome

    def _patience(self, cancelled: Cancelled | None) -> float:
        """Returns the seconds until the next check; raises when there is no reason to wait longer."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise HostCommandFailed(f"{self._name} did not end within {self._bounds.seconds:g} s", timed_out=True)
        if cancelled is None:
            return left
        if cancelled():
            raise HostCommandFailed(f"{self._name} was stopped because its operation was cancelled", cancelled=True)
        return min(left, _POLL_SECONDS)

    def _wait(self, cancelled: Cancelled | None) -> int:
        while True:
            with suppress(subprocess.TimeoutExpired):
                return self._process.wait(self._patience(cancelled))

    def _count(self, piece: bytes, take: Callable[[bytes], None]) -> None:
        self._printed += len(piece)
        if self._printed > self._bounds.output:
            raise HostCommandFailed(f"{self._name} printed more than {self._bounds.output} bytes")
        take(piece)

    def _complain(self, piece: bytes) -> None:
        self._complaint += piece[: _STDERR_KEPT - len(self._complaint)]

    def end(self) -> None:
        """Kills what still runs of the group and closes the pipes. It waits for the end, but not for ever."""
        try:
            self._end()
        finally:
            if self._confined is not None:
                self._confined.end()

    def _end(self) -> None:
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        for pipe in (self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()
        try:
            self._process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired as error:
            threading.Thread(target=self._process.wait, name="reaper", daemon=True).start()
            raise HostCommandFailed(
                f"{self._name} (process {self._process.pid}) cannot be killed: it waits for its share", pid=self._process.pid
            ) from error


def _started(command: Sequence[str], bounds: Limits, place: Place) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        _guarded(command, bounds),
        cwd=place.directory,
        pass_fds=place.descriptors,
        env=ENVIRONMENT if bounds.thread_stack is None else {**ENVIRONMENT, "MALLOC_ARENA_MAX": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        umask=0o117,
        start_new_session=True,
    )


def _read(key: selectors.SelectorKey, pipes: selectors.BaseSelector) -> None:
    pipe: IO[bytes] = key.fileobj  # type: ignore[assignment]
    piece = os.read(pipe.fileno(), 1 << 16)
    if piece:
        key.data(piece)
    else:
        pipes.unregister(pipe)


def _guarded(command: Sequence[str], bounds: Limits) -> list[str]:
    wanted = {
        "nofile": bounds.open_files,
        "cpu": bounds.cpu_seconds,
        "as": bounds.address_space,
        "fsize": bounds.file_size,
        "stack": bounds.thread_stack,
    }
    return [
        "prlimit",
        "--core=0",
        *[f"--{name}={_allowed(name, most)}" for name, most in wanted.items() if most is not None],
        "--",
        "setpriv",
        "--pdeathsig",
        "KILL",
        "--",
        *command,
    ]


def _allowed(name: str, wanted: int) -> int:
    """Returns the limit that a program gets. Nobody may give it more than the hard limit that was set for this service."""
    hard = resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}"))[1]
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)


def failure(command: Sequence[str], outcome: Outcome, name: str = "") -> HostCommandFailed:
    """Returns the error of a program that ended by itself; ``name`` is the file it worked on, because its words may not name
    it. Only an error about a held lock may be retried."""
    kind = HostCommandFailed
    if wording.is_locked(outcome.complaint):
        kind = ImageLocked
    elif wording.is_forbidden(outcome.complaint):
        kind = AccessRefused
    words = explain(command, outcome)
    return kind(f"{name}: {words}" if name else words, exit_code=outcome.code)


def explain(command: Sequence[str], outcome: Outcome) -> str:
    """Says how a program ended, in its own words. Directories are left out, because only the host's operator may know them."""
    words = without_directories(outcome.complaint)
    ending = f"{' '.join(command[:2])} failed with exit code {outcome.code}"
    return f"{ending}: {words}" if words else f"{ending} and gave no message"


def _printable(words: bytes) -> str:
    text = words.decode(errors="replace").strip()
    return "".join(c if c.isprintable() else " " for c in text)
