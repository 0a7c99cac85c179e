"""What repairs did, line by line in JSON, each with what reverses it; and the reversing.

A repair is written down before it is made and again when it has ended, so a crash leaves a line too many, never one too few.
Before something is reversed it is checked: it must be as the repair left it.
"""

import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stillframe.config import Settings
from stillframe.db import shares
from stillframe.db.engine import Database
from stillframe.errors import BadRequest, ChainConflict, NotFound, ShareUnavailable, StillframeError
from stillframe.host import entries, files
from stillframe.volumes.recovery.doctor import holding
from stillframe.volumes.recovery.doctor.looking import directory, marker
from stillframe.volumes.recovery.doctor.repairs import Repair
from stillframe.volumes.recovery.doctor.seen import ShareSeen
from stillframe.volumes.storage.backends import Backends

Document = dict[str, Any]
_FOR_GOOD = {
    "remove": "nothing referred to it: it cannot be put back",
    "repair_counts": "no content changed: there is nothing to put back",
    "free_leaks": "no content changed: there is nothing to put back",
}


def as_text(document: Mapping[str, Any]) -> str:
    """A document as it stands beside the files."""
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


class UndoLog:
    """One log, made with its first line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._number = 0

    def begin(self, repair: Repair, share: ShareSeen) -> int:
        """Writes down what is about to be done; returns the line's number."""
        self._number += 1
        name = str(repair.finding.file)
        reverse = _reverse(repair, name)
        line: Document = {
            "n": self._number,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "did": repair.says,
            "verb": repair.verb,
            "why": repair.finding.what,
            "share": share.export,
            "volumes": list(repair.volumes),
            "file": name,
            "reverse": reverse,
            "command": self._command(share.path, name, reverse, self._number),
        }
        if reverse is None:
            line["note"] = _FOR_GOOD[repair.verb]
        entries.append_line(self.path, json.dumps(line))
        return self._number

    def _command(self, path: Path, name: str, reverse: Document | None, number: int) -> str | None:
        """Returns the command that reverses this one line. It follows no symbolic link: whoever may write to the share may
        have put one there. ``chmod`` follows one, and so do tools that look first."""
        if reverse is None:
            return None
        if reverse["verb"] == "rename":
            return f"mv -n -T -- {shlex.quote(str(path / reverse['from']))} {shlex.quote(str(path / name))}"
        return shlex.join(["stillframe", "doctor", "--undo", str(self.path), "--line", str(number)])

    def end(self, number: int, outcome: str) -> None:
        """Writes down how the repair of that line ended: "done", or why not."""
        entries.append_line(self.path, json.dumps({"n": number, "ended": outcome}))


def _reverse(repair: Repair, name: str) -> Document | None:
    if repair.verb == "quarantine":
        return {"verb": "rename", "from": repair.args["to"]}
    if repair.verb == "set_mode":
        return {"verb": "set_mode", "mode": repair.args["was"], "now": repair.args["mode"]}
    if repair.verb == "write_document":
        now = as_text(repair.args["document"]) if repair.args["document"] else None
        return {"verb": "restore_text", "text": repair.args["was"], "now": now}
    return None


@dataclass(frozen=True)
class Undone:
    """How the reversing of one line ended: ``trouble`` None when it is as it was before the repair."""

    line: Document
    trouble: str | None = None


def read(path: Path, only: int | None = None) -> list[Document]:
    """Returns the lines that can still be reversed, the last first, or ``only`` that one. Raises NotFound, BadRequest."""
    begun: dict[int, Document] = {}
    try:
        text = path.read_text()
    except OSError as error:
        raise NotFound(f"the undo log {path} cannot be read: {error.strerror}") from error
    try:
        for line in text.splitlines():
            found = files.document_of(line)
            if "did" in found:
                begun[found["n"]] = found
            elif "undone" in found or found["ended"] != "done":
                begun.pop(found["n"], None)
    except (ValueError, KeyError, TypeError) as error:
        raise BadRequest(f"{path} is no undo log of the doctor: {error}") from error
    return [begun[number] for number in sorted(begun, reverse=True) if only in (None, number)]


def undo(settings: Settings, database: Database, path: Path, only: int | None = None) -> Iterator[Undone]:
    """Reverses what the log says, the last line first, or ``only`` that line; what was reversed is not reversed again."""
    backends = Backends(settings, database)
    for line in read(path, only):
        if line["reverse"] is None:
            yield Undone(line, line["note"])
            continue
        try:
            place = _place(backends, database, line["share"])
            with holding.held(database, settings.host, line["volumes"], {"says": f"undo: {line['did']}"}):
                _REVERSE[line["reverse"]["verb"]](place, line["file"], line["reverse"])
                entries.append_line(path, json.dumps({"n": line["n"], "undone": datetime.now(UTC).isoformat()}))
        except StillframeError as error:
            yield Undone(line, error.message)
        else:
            yield Undone(line)


def _place(backends: Backends, database: Database, export: str) -> Path:
    path = directory(backends.pool({"share": export, "backend": "any"}))
    with database.read() as connection:
        known = shares.known_id(connection, export)
    if path is None or marker(path) != known:
        raise ShareUnavailable(f"{export} does not show that it is the share the repairs were made on")
    return path


def _rename(place: Path, name: str, reverse: Document) -> None:
    if not files.exists(place, reverse["from"]):
        raise ChainConflict(f"{reverse['from']} is not there any more")
    try:
        files.rename_new(place, reverse["from"], name)
    except FileExistsError as error:
        raise ChainConflict(f"there is another {name} now") from error


def _set_mode(place: Path, name: str, reverse: Document) -> None:
    entry = entries.look(place).get(name)
    if entry is None or entry.mode not in (reverse["now"], reverse["mode"]):
        raise ChainConflict(f"{name} is gone or has another mode now")
    entries.set_mode(place, name, reverse["mode"])


def _restore_text(place: Path, name: str, reverse: Document) -> None:
    with files.seen(place, name) as handle:
        found = entries.read_text(place, name)
        if found not in (reverse["now"], reverse["text"]):
            raise ChainConflict(f"{name} was written anew since")
        if reverse["text"] is None:
            files.remove(place, name, handle)
        else:
            entries.write_text(place, name, reverse["text"])


_REVERSE: Mapping[str, Callable[[Path, str, Document], None]] = {
    "rename": _rename,
    "set_mode": _set_mode,
    "restore_text": _restore_text,
}
