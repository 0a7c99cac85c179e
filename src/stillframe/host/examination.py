"""Examines an image file without a lock and without changing anything, so nobody else has to wait."""

import json
import math
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from stillframe.host import files, image_command, pins, references
from stillframe.host.image_command import command, limits
from stillframe.host.run import Place, attempt, failure, run

_CORRUPT, _LEAKS = 2, 3
_ROOM = 64 << 20


@dataclass(frozen=True)
class Examination:
    """``leaks`` counts clusters that nothing refers to. ``damage`` says in qemu-img's words what is wrong; None: nothing is."""

    leaks: int = 0
    damage: str | None = None


def examine(share: Path, name: str, format_: str) -> Examination | None:
    """Returns what ``qemu-img check`` says of this file alone; None when somebody writes to it, because nobody can tell then.

    A plain check would lock the file and make a guest fail that starts meanwhile. So this checks with ``-U`` and trusts the
    result only if the file did not change meanwhile (qemu 7.2). Raises BadImage for a file QEMU must not see,
    HostCommandFailed.
    """
    if format_ == "raw":
        return Examination()
    if files.is_written(share, name):
        return None
    with pins.alone(share, name, format_) as pinned:
        handle = pinned.handle(name)
        before = _state(handle)
        if files.is_written_open(handle):
            return None
        words = command("check", [format_], ["-U", pinned.word])
        outcome = attempt(words, cwd=pinned.place, limits=limits(1))
        if files.is_written_open(handle) or _state(handle) != before:
            return None
    if outcome.code == _CORRUPT:
        return Examination(damage=_damage(outcome.output, outcome.complaint))
    if outcome.code not in (0, _LEAKS):
        raise failure(words, outcome, name)
    return Examination(int(json.loads(outcome.output).get("leaks", 0)))


def beyond_repair(share: Path, name: str, seconds: float = math.inf) -> str | None:
    """Returns what a repair of the reference counts of a qcow2 file would leave wrong; None for nothing.

    Nothing is changed and no lock is taken: it is a trial repair whose writes go into a scratch file. It reads every table of
    the file, three times. Raises BadImage for a file QEMU must not see; HostCommandFailed, with ``timed_out`` in its details
    when ``seconds`` were not enough.
    """
    until = time.monotonic() + seconds
    with pins.alone(share, name, "qcow2") as pinned:
        flaw = references.contradiction_of(pinned.handle(name), name, until)
        if flaw is not None:
            return flaw
        length = os.fstat(pinned.handle(name)).st_size
        with tempfile.TemporaryDirectory() as directory:
            scratch = Path(directory) / "scratch"
            # The repair may put new counts behind the end of the file.
            size = (length + length // 8 + _ROOM) // 512 * 512
            run(command("create", ["qcow2"], [str(scratch), str(size)]), cwd=scratch.parent)
            words = command("check", ["qcow2"], ["-r", "all", image_command.over(scratch, str(pinned.directory / name))])
            there = Place(scratch.parent, pinned.descriptors)  # the one file that it may write to
            outcome = attempt(words, cwd=there, limits=limits(2, seconds=until - time.monotonic()))
    if outcome.code == _CORRUPT:
        return _damage(outcome.output, outcome.complaint)
    if outcome.code not in (0, _LEAKS):
        raise failure(words, outcome, name)
    return None


def _state(handle: int) -> tuple[int, int, int]:
    found = os.fstat(handle)
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size


def _damage(output: str, complaint: str) -> str:
    try:
        count = json.loads(output)["corruptions"]
    except (ValueError, KeyError):
        return complaint or "qemu-img check finds corruption"
    return f"qemu-img check finds {count} corruptions: {complaint[:300]}"
