"""The one place that makes a qemu-img command line; only this room calls it.

Each verb takes exactly as many formats as QEMU opens or makes files (I6, R1); the table below says how many. Nothing else in
the tree names the program.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillframe.errors import BadImage
from stillframe.host.qcow2 import FORMATS
from stillframe.host.run import Limits

_HOURS = 3600
_ACCOUNT = "account"  # its name within one command line
_VERBS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "create": (("create", "-q"), ("-f",)),
    # -u: the size is given and a guest may use the backing file, so QEMU need not open it.
    "overlay": (("create", "-q", "-u"), ("-f", "-F")),
    "convert": (("convert", "-q"), ("-f", "-O")),
    "fill": (("convert", "-q", "-n"), ("-f", "-O")),
    "fill above": (("convert", "-q", "-n"), ("-f", "-O", "-F")),
    "commit": (("commit", "-q", "-d"), ("-f",)),
    # writethrough: with the default cache the new header is written before the tables it needs (F2, qemu 7.2).
    "pull": (("rebase", "-q", "-t", "writethrough"), ("-f", "-F")),
    "pull all": (("rebase", "-q", "-t", "writethrough", "-b", ""), ("-f",)),
    # unsafe: after a crash the file is made again.
    "tell apart": (("rebase", "-q", "-t", "unsafe"), ("-f", "-F")),
    "detach": (("rebase", "-q", "-u", "-b", ""), ("-f",)),
    "repoint": (("rebase", "-q", "-u"), ("-f", "-F")),
    "resize": (("resize", "-q"), ("-f",)),
    "info": (("info", "--output=json"), ("-f",)),
    "map": (("map", "--output=json"), ("-f",)),
    "check": (("check", "--output=json"), ("-f",)),
    "compare": (("compare", "-q"), ("-f", "-F")),
    "amend": (("amend", "-q"), ("-f",)),
}


def command(verb: str, formats: Sequence[str], arguments: Sequence[str]) -> list[str]:
    """Returns the command line of a verb in the table; ``formats`` are in the order of the table's flags. Raises BadImage for a
    format that we never use."""
    words, flags = _VERBS[verb]
    for format_ in formats:
        if format_ not in FORMATS:
            raise BadImage(f"{format_!r} is not an image format that Stillframe uses")
    named = [word for pair in zip(flags, formats, strict=True) for word in pair]
    return ["qemu-img", *words, *named, *arguments]


def version_command() -> list[str]:
    return ["qemu-img", "--version"]


def limits(depth: int, *, size: int | None = None, seconds: float = math.inf) -> Limits:
    """Returns the limits for a verb that opens ``depth`` files and writes at most ``size`` bytes into one file.

    ``seconds``: how long somebody waits for it before the answer is that it took too long. An honest chain needs 64 MiB of
    address space and one descriptor for each layer (F12, qemu 7.2). A qcow2 file is larger than its content because of its
    tables: an eighth and 64 MiB is far more than those need.
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
    """Names a file and what backs it, as (path, format), nearest first. QEMU opens these and nothing else, whatever the headers
    say by then. If a path is the one that a header names, ``commit -b`` and ``rebase -b`` find the file by it (qemu 7.2)."""
    node: dict[str, Any] | None = None
    for path, format_ in reversed(named):
        above: dict[str, Any] = {"driver": format_, "file": {"driver": "file", "filename": path}}
        node = {**above, "backing": node} if format_ == "qcow2" else above
    return "json:" + json.dumps(node)


def over(scratch: Path, name: str) -> str:
    """Names a qcow2 file so that whatever QEMU writes to it goes into ``scratch``, a separate qcow2 file. QEMU reads the bytes
    of the file through that, read only and without a lock."""
    bytes_ = {"driver": "file", "filename": name, "locking": "off", "read-only": True}
    below = {"driver": "raw", "read-only": True, "file": bytes_}
    file = {"driver": "qcow2", "file": {"driver": "file", "filename": str(scratch)}, "backing": below}
    return "json:" + json.dumps({"driver": "qcow2", "file": file, "backing": None})


def above_nothing(name: str, size: int) -> str:
    """Names a qcow2 file with a backing file that never reads as zero, so that every zero that is written becomes a zero
    cluster.

    Without a backing file QEMU leaves out what reads as zero anyway, which would be wrong once the file is an overlay. Reads of
    ``null-co`` cost nothing, and with read-zeroes off qemu-img takes its content as "data" (qemu 7.2, block/null.c; seen with
    ``qemu-img map``).
    """
    below = {"driver": "null-co", "size": size, "read-zeroes": False}
    node = {"driver": "qcow2", "file": {"driver": "file", "filename": name}, "backing": below}
    return "json:" + json.dumps(node)


@dataclass(frozen=True)
class Login:
    """A logical unit, and how QEMU's iSCSI initiator logs in there. ``account``: a user, and the path of a file with the
    password."""

    portal: str
    target: str
    lun: int
    initiator: str
    account: tuple[str, str] | None = None

    @property
    def words(self) -> list[str]:
        """Returns the account as arguments that come before the image."""
        return [] if self.account is None else ["--object", f"secret,id={_ACCOUNT},file={self.account[1].replace(',', ',,')}"]

    @property
    def node(self) -> dict[str, Any]:
        """Returns the unit as QEMU names it."""
        where = {"driver": "iscsi", "transport": "tcp", "portal": self.portal, "target": self.target, "lun": self.lun}
        named = {**where, "initiator-name": self.initiator}
        account = {} if self.account is None else {"user": self.account[0], "password-secret": _ACCOUNT}
        return {"driver": "raw", "file": {**named, **account}}


def login(unit: Login) -> list[str]:
    """Returns the command line that opens a logical unit for reading and prints what it is, as JSON."""
    return command("info", ["raw"], [*unit.words, "json:" + json.dumps(unit.node)])


def commit_to_unit(path: Path, unit: Login) -> list[str]:
    """Returns the command line that writes the content of a qcow2 file to the unit below it, whatever unit its header names."""
    above = {"driver": "qcow2", "file": {"driver": "file", "filename": str(path)}, "backing": unit.node}
    return command("commit", ["qcow2"], [*unit.words, "json:" + json.dumps(above)])
