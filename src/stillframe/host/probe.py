"""Asks a share whether it answers, and never waits longer than its limit.

A hard NFS mount whose server is gone, or a FUSE file system whose process hangs, blocks every thread that touches it, and not
even SIGKILL frees the thread at once. So a child process touches the share, and is left behind when it does not come back.
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
    """Checks one share again and again: whether its file system answers, and what its marker file says.

    ``seconds`` is the longest that ``check`` takes. An answer, good or bad, is believed for ``fresh_for`` seconds. While the
    child of an earlier check is stuck, no other is started: a dead share blocks one process, not one for each request. May be
    used by many threads.
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
        """Returns at most 4096 bytes of the marker ``.share-id``. Raises ShareUnavailable, which names the path and the
        cause."""
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
        """Returns the marker's bytes, or says in words what is wrong."""
        if self._stuck is not None:
            if self._stuck.poll() is None:
                return f"the share {self._path} does not answer: process {self._stuck.pid}, which checked it, still hangs"
            self._stuck = None
        try:
            # statfs always asks the server; a file's content may come from a cache, or be read under a delegation.
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
    """Tells by its mount point whether a file system answers at all.

    An answer is believed for ``fresh_for`` seconds. While the child of an earlier check hangs, no other is started. May be used
    by many threads.
    """

    def __init__(self, seconds: float = 2.0, fresh_for: float = 10.0) -> None:
        self._seconds = seconds
        self._fresh_for = fresh_for
        self._lock = threading.Lock()
        self._stuck: dict[str, subprocess.Popen[bytes]] = {}
        self._fresh: dict[str, float] = {}  # of the mount points that answered

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

    Otherwise a tenant's file or link in it could be taken for one of ours. With root_squash only the file system itself knows
    whether we may write, so it is asked. Takes at most ``seconds``. Raises BadConfiguration that says what to do,
    ShareUnavailable when the share does not answer.
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
    """A child failed: its exit code, and its words without the program's name."""

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
    """Starts a child that dies with us, if it can die at all. Neither its working directory nor its open files are on the
    share."""
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
        raise ShareUnavailable(f"no process can be started to check a share: {error}") from error


def _answer(child: "subprocess.Popen[bytes]", deadline: float) -> bytes:
    """Returns what the child wrote. At the deadline it gets SIGKILL but is not waited for: TimeoutExpired."""
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
    """Leaves a child behind: a thread collects its exit status whenever it ends."""
    for pipe in (child.stdout, child.stderr):
        if pipe is not None:
            pipe.close()
    threading.Thread(target=child.wait, daemon=True).start()
    return child
