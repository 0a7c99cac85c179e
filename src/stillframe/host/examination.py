"""Examines an image file without standing in anybody's way: no lock is taken, nothing is changed."""

import json
from dataclasses import dataclass
from pathlib import Path

from stillframe.host import files, image_command, inspection
from stillframe.host.image_command import command, limits
from stillframe.host.run import attempt, failure

_CORRUPT, _LEAKS = 2, 3


@dataclass(frozen=True)
class Examination:
    """``leaks`` are clusters that nothing refers to; ``damage`` says in qemu-img's words what is wrong, None for nothing."""

    leaks: int = 0
    damage: str | None = None


def examine(share: Path, name: str, format_: str) -> Examination | None:
    """Returns what ``qemu-img check`` says of this file alone; None when somebody writes to it, so that nobody can say.

    A plain check would lock the file and let a guest that starts meanwhile fail; so it is done with ``-U``, and believed
    only if the file did not change meanwhile (qemu 7.2). Raises BadImage for a file QEMU must not see, HostCommandFailed.
    """
    if format_ == "raw":
        return Examination()
    before = _state(share, name)
    if files.is_written(share, name):
        return None
    inspection.alone(share, name, format_)
    words = command("check", [format_], ["-U", image_command.alone(name, format_)])
    outcome = attempt(words, cwd=share, limits=limits(1))
    if files.is_written(share, name) or _state(share, name) != before:
        return None
    if outcome.code == _CORRUPT:
        return Examination(damage=_damage(outcome.output, outcome.complaint))
    if outcome.code not in (0, _LEAKS):
        raise failure(words, outcome, name)
    return Examination(int(json.loads(outcome.output).get("leaks", 0)))


def _state(share: Path, name: str) -> tuple[int, int, int]:
    found = (share / name).stat(follow_symlinks=False)
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size


def _damage(output: str, complaint: str) -> str:
    try:
        count = json.loads(output)["corruptions"]
    except (ValueError, KeyError):
        return complaint or "qemu-img check finds corruption"
    return f"qemu-img check finds {count} corruptions: {complaint[:300]}"
