"""Reads and writes disks through QEMU's own block layer, with one ``qemu-io`` for hundreds of files; and looks into qcow2
files without it, to know that nothing lies where no block was written."""

import hashlib
import os
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.oracle import BLOCK, BLOCKS_PER_GIB, Disk

_PROMPT = b"qemu-io> "
_CLUSTER = 1 << 16
_OFFSET = 0x00FFFFFFFFFFFE00
_COMPRESSED, _ZERO = 1 << 62, 1
_NOTHING = bytes(512)
_STILL_NS = 20_000_000


@dataclass(frozen=True)
class Layer:
    """One file: what backs it, which clusters hold data in it, and a digest of all its bytes."""

    name: str
    format: str
    backing: str | None
    backing_format: str | None
    clusters: frozenset[int]
    digest: bytes


class Reader:
    """Compares disks. What was compared once is not read again as long as no byte of its files changes."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], list[str]] = {}
        self._looked: dict[Path, Layer] = {}
        self._layers: dict[Path, tuple[tuple[object, ...], Layer]] = {}
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", "qemu-io"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._answer()

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def forget(self) -> None:
        """Forgets everything, so that all is read again."""
        self._known.clear()
        self._layers.clear()

    def look_again(self) -> None:
        """Files are looked at anew: something may have changed them."""
        self._looked.clear()

    def look(self, path: Path, format_: str) -> Layer:
        """A file that has not changed since is not looked into again. A write within the same tick of the kernel's clock as
        the one before leaves the time as it was (4 ms), so only what has been still for some ticks is remembered."""
        if path not in self._looked:
            seen, now = path.stat(), time.time_ns()
            mark = (seen.st_ino, seen.st_size, seen.st_ctime_ns, format_)
            known = self._layers.get(path)
            found = known[1] if known is not None and known[0] == mark else look(path, format_)
            if now - seen.st_ctime_ns > _STILL_NS:
                self._layers[path] = (mark, found)
            self._looked[path] = found
        return self._looked[path]

    def write(self, path: Path, format_: str, before: Disk, pieces: Sequence[tuple[int, int, int]]) -> Disk:
        """Writes pieces (place, count, byte) as a guest would, zeros by ``write -z``; returns the disk afterwards."""
        disk = before
        said = self._ask(f"open {_node(path, format_)}")
        for place, count, value in pieces:
            disk = disk.written(place, count, value)
            first = disk.places()[place % len(disk.places())]
            length = min(count, disk.gib * BLOCKS_PER_GIB - first) * BLOCK
            what = f"-P {value}" if value else ("-z -u" if place % 2 else "-z")
            said += self._ask(f"write -q {what} {first * BLOCK} {length}")
        said += self._ask("flush") + self._ask("close")
        assert not said, f"qemu-io could not write to {path.name}: {said}"
        return disk

    @contextmanager
    def held_open(self, path: Path, format_: str) -> Iterator[None]:
        """Within the block the file is open for writing, as it is by a guest."""
        said = self._ask(f"open {_node(path, format_)}")
        assert not said, said
        try:
            yield
        finally:
            self._ask("close")

    def differences(self, path: Path, format_: str, disk: Disk) -> list[str]:
        """Compares the whole disk that a reader of ``path`` sees; returns what is wrong in words."""
        layers = chain(path, format_, self.look)
        key = (path, disk.gib, tuple(sorted(disk.blocks.items())), tuple((each.name, each.digest) for each in layers))
        if key not in self._known:
            self._known[key] = self._compare(path, format_, disk, layers)
        return self._known[key]

    def _compare(self, path: Path, format_: str, disk: Disk, layers: Sequence[Layer]) -> list[str]:
        said = self._ask(f"open -r {_node(path, format_)}")
        if said:
            return [f"{path.name} cannot be opened: {said}"]
        wrong = []
        for first, count, value in _runs(disk, layers):
            said = self._ask(f"read -q -P {value} {first * BLOCK} {count * BLOCK}")
            if said:
                wrong.append(f"{path.name}: {count} blocks at {first} are not {value}: {said.splitlines()[0]}")
        length = self._ask("length")
        if length.strip() != _size(disk.gib << 30):
            wrong.append(f"{path.name} has {length.strip()}, not {disk.gib} GiB")
        self._ask("close")
        return wrong

    def _ask(self, command: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(command.encode() + b"\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        said = b""
        while not said.endswith(_PROMPT):
            piece = os.read(self._process.stdout.fileno(), 1 << 16)
            assert piece, f"qemu-io ended: {said.decode()}"
            said += piece
        return said.removesuffix(_PROMPT).decode().strip()


def _node(path: Path, format_: str) -> str:
    return f"-o driver={format_},file.driver=file,file.filename={path}"


def _size(length: int) -> str:
    return f"{length >> 30} GiB"


def _runs(disk: Disk, layers: Sequence[Layer]) -> Iterator[tuple[int, int, int]]:
    """Stretches of blocks of one byte: every block that any file may hold, and every one that was written."""
    blocks = {2 * cluster + half for layer in layers for cluster in layer.clusters for half in (0, 1)}
    wanted = sorted(block for block in blocks | set(disk.blocks) if block < disk.gib * BLOCKS_PER_GIB)
    start = 0
    for end in range(1, len(wanted) + 1):
        value = disk.blocks.get(wanted[start], 0)
        if end < len(wanted) and wanted[end] == wanted[end - 1] + 1 and disk.blocks.get(wanted[end], 0) == value:
            continue
        yield wanted[start], end - start, value
        start = end


def look(path: Path, format_: str) -> Layer:
    """Looks into one file."""
    handle = os.open(path, os.O_RDONLY)
    try:
        extents = list(_extents(handle))
        digest = hashlib.sha256()
        for start, length in extents:
            digest.update(b"%d " % start)
            digest.update(os.pread(handle, length, start))
        if format_ == "raw":
            clusters = {at // _CLUSTER for start, length in extents for at in range(start, start + length, 4096)}
            return Layer(path.name, format_, None, None, frozenset(clusters), digest.digest())
        backing = _backing(handle)
        return Layer(path.name, format_, *backing, frozenset(_clusters(handle)), digest.digest())
    finally:
        os.close(handle)


Look = Callable[[Path, str], Layer]


def chain(path: Path, format_: str, look: Look = look) -> list[Layer]:
    """The file and those behind it, nearest first."""
    found = [look(path, format_)]
    while (below := found[-1].backing) is not None:
        assert below not in [layer.name for layer in found], f"{path} has a loop in its chain"
        found.append(look(path.parent / below, str(found[-1].backing_format)))
    return found


def _extents(handle: int) -> Iterator[tuple[int, int]]:
    """Where a sparse file holds anything."""
    at, end = 0, os.fstat(handle).st_size
    while at < end:
        try:
            at = os.lseek(handle, at, os.SEEK_DATA)
        except OSError:
            return
        hole = os.lseek(handle, at, os.SEEK_HOLE)
        yield at, hole - at
        at = hole


def _backing(handle: int) -> tuple[str | None, str | None]:
    """The name and the format of the backing file: fields and the extension 0xe2792aca of the header (qcow2.txt)."""
    start = os.pread(handle, 1 << 16, 0)
    at, length = struct.unpack_from(">QI", start, 8)
    if not at:
        return None, None
    place = struct.unpack_from(">I", start, 100)[0]
    while True:
        kind, size = struct.unpack_from(">II", start, place)
        if kind == 0xE2792ACA:
            return start[at : at + length].decode(), start[place + 8 : place + 8 + size].decode()
        assert kind, "a backing file without its format"
        place += 8 + (size + 7) // 8 * 8


def _clusters(handle: int) -> Iterator[int]:
    """Numbers of the guest's clusters that this file holds data for; zero clusters are none."""
    bits, _, _, entries, table = struct.unpack_from(">IQIIQ", os.pread(handle, 64, 0), 20)
    assert 1 << bits == _CLUSTER, f"clusters of {1 << bits} bytes"
    for number, (entry,) in enumerate(struct.iter_unpack(">Q", os.pread(handle, entries * 8, table))):
        if entry & _OFFSET:
            yield from (number * 8192 + each for each in _in_table(os.pread(handle, _CLUSTER, entry & _OFFSET)))


def _in_table(table: bytes) -> Iterator[int]:
    for at in range(0, len(table), len(_NOTHING)):
        piece = table[at : at + len(_NOTHING)]
        if piece == _NOTHING:
            continue
        for number, (entry,) in enumerate(struct.iter_unpack(">Q", piece)):
            if entry & _COMPRESSED or (entry & _OFFSET and not entry & _ZERO):
                yield at // 8 + number
