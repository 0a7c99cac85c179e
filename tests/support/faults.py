"""Faults in the changing system calls of qemu-img, and in our own around it.

``Shim`` builds fault_shim.c once; a ``Plan`` says at which call what happens and afterwards which calls there were.
"""

import mmap
import os
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import pytest

from stillframe.host import run
from tests.support.let_in import let_in

_SOURCE = Path(__file__).with_name("fault_shim.c")
_HEAD = struct.Struct("lll")
_NAMES, _NAME = 4096, 16


class Action(IntEnum):
    """What happens at the chosen call. NO_SPACE lasts until the program ends, TORN loses the second half of a write."""

    NOTHING = 0
    KILL = 1
    EIO = 2
    NO_SPACE = 3
    TORN = 4


class Died(BaseException):
    """The worker is killed here."""


@dataclass(frozen=True)
class Shim:
    """The built library and the file it shares with the tests."""

    library: Path
    plan: Path

    @contextmanager
    def injecting(self, at: int, action: Action) -> Iterator[None]:
        """Within the block, programs of the host room count their calls and meet the fault."""
        with self.plan.open("r+b") as file, mmap.mmap(file.fileno(), 0) as plan:
            plan[:] = bytes(len(plan))
            plan[: _HEAD.size] = _HEAD.pack(0, at, action)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(run.ENVIRONMENT, "LD_PRELOAD", str(self.library))
            patch.setitem(run.ENVIRONMENT, "FAULT_PLAN", str(self.plan))
            let_in(patch, self.library, self.plan)
            yield

    def calls(self) -> list[str]:
        """The calls of the last block, in order."""
        found = self.plan.read_bytes()
        count = min(_HEAD.unpack_from(found)[0], _NAMES)
        names = (found[_HEAD.size + _NAME * number :][:_NAME] for number in range(count))
        return [name.rstrip(b"\0").decode() for name in names]


def build_shim(directory: Path) -> Shim:
    library, plan = directory / "fault_shim.so", directory / "plan"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", library, _SOURCE, "-ldl"], check=True)
    plan.write_bytes(bytes(_HEAD.size + _NAMES * _NAME))
    return Shim(library, plan)


# What our own code does to the share, and where it hands over to a program.
_OURS = ("fsync", "link", "unlink", "rename", "fchmod", "ftruncate", "pwrite")


def _subject(name: str, arguments: tuple[Any, ...]) -> str:
    """The name of the file a call is about, where it is about one."""
    if name in ("fsync", "fchmod", "ftruncate", "pwrite"):
        return os.path.basename(os.readlink(f"/proc/self/fd/{arguments[0]}"))
    return "" if name == "program" else os.path.basename(arguments[0])


@contextmanager
def our_calls(at: int, error: int | None) -> Iterator[list[str]]:
    """Kills the worker (``error`` None) before its ``at``-th changing call, or lets that call fail; 0 only
    lists them: a call and the name of the file it is about, "program" for one."""
    made: list[str] = []

    def meeting(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            if more.get("dir_fd") is not None:  # a directory of links outside the share is cleared away
                return real(*arguments, **more)
            made.append(f"{name} {_subject(name, arguments)}".rstrip())
            if len(made) == at:
                raise Died if error is None else OSError(error, os.strerror(error))
            return real(*arguments, **more)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in _OURS:
            patch.setattr(os, name, meeting(name, getattr(os, name)))
        if error is None:
            patch.setattr(run, "_guarded", meeting("program", run._guarded))
        yield made
