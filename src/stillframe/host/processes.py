"""Starts helper processes of our own that must outlive us."""

import os
import select
import subprocess
import sys
from collections.abc import Sequence

from stillframe.errors import ServiceUnavailable


class Helper:
    """A Python module of ours that runs as its own process. We talk to it in lines over its standard input and output.

    It gets its own session: neither a signal to our group nor our death ends it; it sees the end of its input instead. Raises
    ServiceUnavailable when it cannot be started.
    """

    def __init__(self, module: str, arguments: Sequence[str]) -> None:
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                bufsize=0,
            )
        except OSError as error:
            raise ServiceUnavailable(f"helper process {module} cannot be started: {error.strerror}") from error

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, line: str, seconds: float) -> str:
        """Sends a line and returns the line that answers it. An answer to an earlier question that came too late is not taken
        for the answer to this one. Raises ServiceUnavailable."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            while select.select([self._process.stdout], [], [], 0)[0] and os.read(self._process.stdout.fileno(), 4096):
                pass
            self._process.stdin.write(line.encode() + b"\n")
            answer = b""
            while not answer.endswith(b"\n"):
                ready, _, _ = select.select([self._process.stdout], [], [], seconds)
                piece = os.read(self._process.stdout.fileno(), 4096) if ready else b""
                if not piece:
                    raise ServiceUnavailable(f"helper process {self.pid} did not answer {line.split()[0]!r}")
                answer += piece
        except OSError as error:
            raise ServiceUnavailable(f"helper process {self.pid} is gone: {error}") from error
        return answer.decode().strip()

    def close(self) -> None:
        """Ends its input. It ends by itself when its work is done."""
        if self._process.stdin is not None:
            self._process.stdin.close()
