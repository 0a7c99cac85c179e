"""Asks a share whether it answers, without ever waiting longer than told.

A hard NFS mount whose server is gone, or a FUSE file system whose process hangs, holds every thread that touches it, and
not even SIGKILL frees it at once. So a child process touches it, and is left behind when it does not come back.
"""

import os
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from stillframe.errors import BadConfiguration, ShareUnavailable
from stillframe.host.run import ENVIRONMENT

MARKER = ".share-id"
_MARKER_BYTES = 4096


class Prober:
    """Looks at one share again and again: that its file system answers, and what its marker file says.

    ``seconds`` is the longest ``check`` takes; an answer, good or bad, is believed for ``fresh_for`` seconds. While the
    child of a former look is stuck, no other is started: a dead share holds one process, not one for each request.
    May be used by many threads.
    """

    def __init__(self, path: Path, seconds: float = 5.0, fresh_for: float = 2.0) -> None:
        self._path = path
        self._seconds = seconds
        self._fresh_for = fresh_for
        self._turn = threading.Lock()
        self._stuck: subprocess.Popen[bytes] | None = None
        self._known: bytes | str | None = None
        self._known_until = 0.0

    def check(self) -> bytes:
        """Returns the bytes of the marker ``.share-id``, the first 4096. Raises ShareUnavailable naming path and cause."""
        deadline = time.monotonic() + self._seconds
        if not self._turn.acquire(timeout=self._seconds):
            raise ShareUnavailable(_silent(self._path, self._seconds))
        try:
            if self._known is None or time.monotonic() >= self._known_until:
                self._known = self._look(deadline)
                self._known_until = time.monotonic() + self._fresh_for
            known = self._known
        finally:
            self._turn.release()
        if isinstance(known, str):
            raise ShareUnavailable(known)
        return known

    def _look(self, deadline: float) -> bytes | str:
        """Returns the marker's bytes, or what is wrong in words."""
        if self._stuck is not None:
            if self._stuck.poll() is None:
                return f"the share {self._path} does not answer: process {self._stuck.pid}, which looked at it, still hangs"
            self._stuck = None
        try:
            # statfs always asks the server; a file's content may come from a cache, or be served under a delegation.
            self._ask(["stat", "--file-system", "--format=%i", "--", str(self._path)], deadline)
            return self._ask(_read_marker(self._path), deadline)
        except _SaidNo as error:
            return f"the share {self._path} does not work: {error}"
        except subprocess.TimeoutExpired:
            return _silent(self._path, self._seconds)

    def _ask(self, command: Sequence[str], deadline: float) -> bytes:
        child = _start(command)
        try:
            return _answer(child, deadline)
        except subprocess.TimeoutExpired:
            self._stuck = _leave(child)
            raise


class Answering:
    """Whether a file system answers at all, by its mount point. An answer is believed for ``fresh_for`` seconds; while the
    child of a former look hangs, no other is started. May be used by many threads."""

    def __init__(self, seconds: float = 2.0, fresh_for: float = 10.0) -> None:
        self._seconds = seconds
        self._fresh_for = fresh_for
        self._lock = threading.Lock()
        self._stuck: dict[str, subprocess.Popen[bytes]] = {}
        self._fresh: dict[str, float] = {}  # of those that answered

    def __call__(self, point: str) -> bool:
        """Takes at most ``seconds`` for each mount point that hangs. Raises ShareUnavailable when no child can be started."""
        with self._lock:
            stuck = self._stuck.get(point)
            if stuck is not None and stuck.poll() is None:
                return False
            self._stuck.pop(point, None)
            if time.monotonic() < self._fresh.get(point, 0.0):
                return True
            child = _start(["stat", "--file-system", "--format=%i", "--", point])
            try:
                _answer(child, time.monotonic() + self._seconds)
            except _SaidNo:
                pass  # an error is an answer
            except subprocess.TimeoutExpired:
                self._stuck[point] = _leave(child)
                return False
            self._fresh[point] = time.monotonic() + self._fresh_for
            return True


def refuse_if_open(path: Path, seconds: float = 10.0) -> None:
    """Refuses a share's directory that everybody may write to, or that this process may not write to.

    A tenant's file or link in there could be taken for one of ours; and with root_squash only the file system itself
    knows whether we may write, so it is asked. Takes at most ``seconds``. Raises BadConfiguration that says what to
    do, ShareUnavailable when the share does not answer.
    """
    deadline = time.monotonic() + seconds
    try:
        mode, _, owner = _once(["stat", "--format=%f %U:%G", "--", str(path)], deadline).decode().strip().partition(" ")
        rights = f"{path}, which belongs to {owner} with mode {int(mode, 16) & 0o7777:04o}"
        if int(mode, 16) & 0o002:
            raise BadConfiguration(f"everybody may write to the share's directory {rights}: chmod 2770 it")
        if not all(_allowed(right, path, deadline) for right in ("-w", "-x")):
            raise BadConfiguration(
                f"this process (uid {os.geteuid()}, gid {os.getegid()}) may not write to the share's directory {rights}: give"
                " it to a group the service's user is in, and chmod 2770 it (with root_squash even root counts as nobody)"
            )
    except _SaidNo as error:
        raise ShareUnavailable(f"the share {path} does not work: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise ShareUnavailable(_silent(path, seconds)) from error


class _SaidNo(Exception):
    """A child said no: its exit code, and its words without the program's name."""

    def __init__(self, code: int, stderr: bytes) -> None:
        words = stderr[:500].decode(errors="replace").strip().partition(": ")[2]
        super().__init__(
            "".join(c if c.isprintable() else " " for c in words) or f"the process that checked it failed with exit code {code}"
        )
        self.code = code


def _allowed(right: str, path: Path, deadline: float) -> bool:
    try:
        _once(["test", right, str(path)], deadline)
    except _SaidNo as error:
        if error.code == 1:
            return False
        raise
    return True


def _once(command: Sequence[str], deadline: float) -> bytes:
    child = _start(command)
    try:
        return _answer(child, deadline)
    except subprocess.TimeoutExpired:
        _leave(child)
        raise


def _start(command: Sequence[str]) -> "subprocess.Popen[bytes]":
    """Starts a child that dies with us, if it can die at all; neither its directory nor its files are on the share."""
    try:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *command],
            cwd="/",
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise ShareUnavailable(f"no process can be started to look at a share: {error}") from error


def _answer(child: "subprocess.Popen[bytes]", deadline: float) -> bytes:
    """Returns what the child wrote. At the deadline it is sent SIGKILL, but not waited for: TimeoutExpired."""
    try:
        output, words = child.communicate(timeout=max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        child.kill()
        raise
    if child.returncode != 0:
        raise _SaidNo(child.returncode, words)
    return output


def _read_marker(path: Path) -> list[str]:
    return ["dd", f"if={path / MARKER}", "iflag=nofollow,nonblock", f"bs={_MARKER_BYTES}", "count=1", "status=none"]


def _silent(path: Path, seconds: float) -> str:
    return f"the share {path} does not answer within {seconds:g} s"


def _leave(child: "subprocess.Popen[bytes]") -> "subprocess.Popen[bytes]":
    """Leaves a child behind: a thread takes its exit status whenever it comes."""
    for pipe in (child.stdout, child.stderr):
        if pipe is not None:
            pipe.close()
    threading.Thread(target=child.wait, daemon=True).start()
    return child
