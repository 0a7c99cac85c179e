"""Starts outside programs: argument lists only, limits, a deadline, and death together with the worker."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stillframe.errors import HostCommandFailed

OUTPUT_LIMIT = 1 << 20
ENVIRONMENT = {"LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


@dataclass(frozen=True)
class Limits:
    """Limits of one program: wall-clock and CPU seconds, address space in bytes."""

    seconds: float = 60.0
    cpu_seconds: int = 60
    address_space: int = 1 << 30


def run(command: Sequence[str], *, cwd: Path, limits: Limits | None = None) -> str:
    """Runs a program to its end and returns its standard output.

    ``prlimit`` bounds it, ``setpriv --pdeathsig`` makes it die with us (a merge must never go on behind the back of
    the worker that takes over), umask 0117 keeps others out of new files, and its own session takes the whole group
    down at the deadline. Raises HostCommandFailed with the program's own words.
    """
    bounds = limits or Limits()
    guarded = [
        "prlimit",
        "--core=0",
        "--nofile=256",
        f"--cpu={bounds.cpu_seconds}",
        f"--as={bounds.address_space}",
        "--",
        "setpriv",
        "--pdeathsig",
        "KILL",
        "--",
        *command,
    ]
    try:
        done = subprocess.run(
            guarded,
            cwd=cwd,
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=bounds.seconds,
            umask=0o117,
            start_new_session=True,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise HostCommandFailed(f"{command[0]} {command[1]} did not end within {bounds.seconds:g} s") from error
    except OSError as error:
        raise HostCommandFailed(f"{command[0]} cannot be started: {error}") from error
    if done.returncode != 0:
        raise HostCommandFailed(_explain(command, done.returncode, done.stderr))
    return done.stdout[:OUTPUT_LIMIT].decode(errors="replace")


def _explain(command: Sequence[str], code: int, stderr: bytes) -> str:
    words = stderr[:2000].decode(errors="replace").strip()
    printable = "".join(c if c.isprintable() else " " for c in words)
    ending = f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
    return f"{' '.join(command[:2])} {ending}: {printable or 'without a word'}"
