"""Finds where a file's content is in its chain: what a commit or a pull would copy, and what an overlay holds."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from stillframe.errors import StepFailed
from stillframe.host import pins
from stillframe.host.image_command import command, limits
from stillframe.host.run import failure, feed

MOST_EXTENTS = 4_000_000
_MOST_OUTPUT = 4 << 30


@dataclass(frozen=True, slots=True)
class Extent:
    """A range of the disk, in bytes. ``depth`` is the layer it is read from; 0 is the file itself.

    ``data``: it may hold something other than zeros. ``zero``: it reads as zeros. ``present``: some layer of the chain holds
    it. (A zero cluster is present, has no data, and hides older data.)
    """

    start: int
    length: int
    depth: int
    data: bool
    zero: bool
    present: bool


def extents(share: Path, name: str, format_: str, depth: int, shared: bool = False) -> tuple[Extent, ...]:
    """Returns the whole disk of ``name`` as extents in order, with neighbours of the same kind joined.

    ``shared`` also reads a file that a guest has open (-U); the result is then only roughly true, but good enough for a cost.
    The output of qemu-img is read as it comes and is never cut off. Raises StepFailed for more than ``MOST_EXTENTS`` extents.
    """
    reader = _Reader(name)
    with pins.chain(share, name, format_) as pinned:
        words = command("map", [format_], ["-U", pinned.word] if shared else [pinned.word])
        bounds = replace(limits(max(depth, len(pinned.images))), output=_MOST_OUTPUT)
        outcome = feed(words, reader.take, cwd=pinned.place, limits=bounds)
    if outcome.code != 0:
        raise failure(words, outcome)
    return reader.end()


class _Reader:
    """Reads qemu-img's JSON array, one object per line, without ever holding the whole text."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._rest = b""
        self._ended = False
        self._found: list[Extent] = []

    def take(self, piece: bytes) -> None:
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            self._line(line)

    def end(self) -> tuple[Extent, ...]:
        self._line(self._rest)
        if not self._ended:
            raise StepFailed(f"the map of {self._name} is cut off")
        return tuple(self._found)

    def _line(self, line: bytes) -> None:
        text = line.strip().removeprefix(b"[")
        self._ended = self._ended or text.endswith(b"]")
        text = text.rstrip(b",]")
        if text:
            self._join(json.loads(text))

    def _join(self, entry: dict[str, int]) -> None:
        if not entry["length"]:
            return  # qemu-img maps an empty disk as one empty extent
        kind = (entry["depth"], bool(entry["data"]), bool(entry["zero"]), bool(entry["present"]))
        if self._found:
            last = self._found[-1]
            if (last.depth, last.data, last.zero, last.present) == kind and last.start + last.length == entry["start"]:
                self._found[-1] = Extent(last.start, last.length + entry["length"], *kind)
                return
        if len(self._found) >= MOST_EXTENTS:
            raise StepFailed(f"{self._name} is in more than {MOST_EXTENTS} pieces")
        self._found.append(Extent(entry["start"], entry["length"], *kind))
