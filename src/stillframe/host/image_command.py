"""The one place that makes a qemu-img command line; only this room calls it.

A verb cannot be called without as many formats as QEMU opens or makes files (I6, R1): that is how the table below is
read, and nothing else in the tree names the program.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stillframe.errors import BadImage
from stillframe.host.qcow2 import FORMATS
from stillframe.host.run import Limits

_HOURS = 3600
_VERBS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "create": (("create", "-q"), ("-f",)),
    # -u: the backing file may be in use by a guest and the size is given; QEMU need not open it.
    "overlay": (("create", "-q", "-u"), ("-f", "-F")),
    "convert": (("convert", "-q"), ("-f", "-O")),
    "fill": (("convert", "-q", "-n"), ("-f", "-O")),
    "fill above": (("convert", "-q", "-n"), ("-f", "-O", "-F")),
    "commit": (("commit", "-q", "-d"), ("-f",)),
    # writethrough: with the default cache the new header is written before the tables it needs (F2, qemu 7.2).
    "pull": (("rebase", "-q", "-t", "writethrough"), ("-f", "-F")),
    "pull all": (("rebase", "-q", "-t", "writethrough", "-b", ""), ("-f",)),
    # unsafe: the file is made anew after a crash.
    "tell apart": (("rebase", "-q", "-t", "unsafe"), ("-f", "-F")),
    "detach": (("rebase", "-q", "-u", "-b", ""), ("-f",)),
    "repoint": (("rebase", "-q", "-u"), ("-f", "-F")),
    "resize": (("resize", "-q"), ("-f",)),
    "map": (("map", "--output=json"), ("-f",)),
    "check": (("check", "--output=json"), ("-f",)),
    "compare": (("compare", "-q"), ("-f", "-F")),
    "amend": (("amend", "-q"), ("-f",)),
}


def command(verb: str, formats: Sequence[str], arguments: Sequence[str]) -> list[str]:
    """Returns the command line of a verb of the table; ``formats`` in the order of the table's flags.

    Raises BadImage for a format we never use.
    """
    words, flags = _VERBS[verb]
    for format_ in formats:
        if format_ not in FORMATS:
            raise BadImage(f"{format_!r} is no image format of ours")
    named = [word for pair in zip(flags, formats, strict=True) for word in pair]
    return ["qemu-img", *words, *named, *arguments]


def version_command() -> list[str]:
    return ["qemu-img", "--version"]


def limits(depth: int, *, size: int | None = None, seconds: float = math.inf) -> Limits:
    """Limits for a verb that opens ``depth`` files; ``size`` is the most it may write into one file, in bytes. ``seconds``: how
    long somebody waits for it, who is answered that it did not end in time.

    Honest chains need more address space than one layer: 64 MiB a layer, and one descriptor more (F12, qemu 7.2).
    A qcow2 file is larger than its content by its tables: an eighth and 64 MiB is far more than those.
    """
    return Limits(
        seconds=min(seconds, 24 * _HOURS),
        cpu_seconds=12 * _HOURS,
        address_space=(1 << 30) + (64 << 20) * depth,
        open_files=256 + 4 * depth,
        file_size=None if size is None else size + size // 8 + (64 << 20),
        thread_stack=4 << 20,
    )


def chain(named: Sequence[tuple[str, str]]) -> str:
    """Names a file and what backs it, as (path, format), nearest first: QEMU opens these and nothing else, whatever the headers
    say by then. Where a path is the one a header names, ``commit -b`` and ``rebase -b`` find it by that (qemu 7.2)."""
    node: dict[str, Any] | None = None
    for path, format_ in reversed(named):
        above: dict[str, Any] = {"driver": format_, "file": {"driver": "file", "filename": path}}
        node = {**above, "backing": node} if format_ == "qcow2" else above
    return "json:" + json.dumps(node)


def over(scratch: Path, name: str) -> str:
    """Names a qcow2 file so that whatever QEMU writes to it goes into ``scratch``, a qcow2 file of its own: the bytes of the
    file lie behind that, read only and without a lock."""
    bytes_ = {"driver": "file", "filename": name, "locking": "off", "read-only": True}
    below = {"driver": "raw", "read-only": True, "file": bytes_}
    file = {"driver": "qcow2", "file": {"driver": "file", "filename": str(scratch)}, "backing": below}
    return "json:" + json.dumps({"driver": "qcow2", "file": file, "backing": None})


def above_nothing(name: str, size: int) -> str:
    """Names a qcow2 file with a backing file that is never zero, so that every zero written becomes a zero cluster.

    Above no backing file QEMU leaves out what reads as zero anyway, which would be wrong once the file is an overlay.
    Reads of ``null-co`` cost nothing, and with read-zeroes off its content is "data" to qemu-img (qemu 7.2,
    block/null.c; seen with ``qemu-img map``).
    """
    below = {"driver": "null-co", "size": size, "read-zeroes": False}
    node = {"driver": "qcow2", "file": {"driver": "file", "filename": name}, "backing": below}
    return "json:" + json.dumps(node)
