"""Whether an image file may be built upon: what its header says about refcounts and bitmaps; and the one repair there is.

Facts are of QEMU 7.2 (F20, F21). A writer that counts references lazily sets the dirty bit while it has the file open. When the
writer dies, the tables are right and the counts are wrong: reading is safe, but allocating overwrites clusters in use. QEMU
repairs such a file when it opens it for writing. It does not repair a file that it opens as a backing file and commits into
later; ``qemu-img commit`` does not either. A live commit into such a file overwrites clusters in use, reports success and
clears the bit: nothing shows the damage afterwards. A pull only reads the file. A file that QEMU reopens for reading only, such
as the old active file after a switch, is marked clean; closing one that it only ever read makes it crash (F42; all seen). A
bitmap that was in use when its writer died makes ``qemu-img resize`` and a commit fail permanently.
"""

import logging
import math
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from stillframe.chain.image import Image
from stillframe.errors import HostCommandFailed, NotSound
from stillframe.host import examination, files, pins, qcow2, qemu_img
from stillframe.host.image_command import command, limits
from stillframe.host.run import run

LOG = logging.getLogger(__name__)
_FEATURES = struct.Struct(">QQQ")  # incompatible, compatible, autoclear: byte 72 of a version 3 header
_BITMAPS = struct.Struct(">IIQQ")
_BITMAP = struct.Struct(">QIIBBHI")
_BITMAPS_EXTENSION = 0x23852875
_IN_USE = 1
_MAX_DIRECTORY = 1 << 20
_LOOKED_INTO_AT_ONCE = 1 << 20  # clusters: about a second
_LISTED = 10  # bitmaps in a message


@dataclass(frozen=True)
class Soundness:
    """``dirty``: the reference counts cannot be trusted, unless the writer that set this still runs; ``lazy``: the next writer
    will set it; ``bitmaps``: names of bitmaps that were in use when their writer died."""

    dirty: bool = False
    lazy: bool = False
    bitmaps: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        return not self.dirty and not self.bitmaps


def look(share: Path, name: str, format_: str) -> Soundness:
    """Reads what the header says; a raw file is always sound. Raises BadImage, FileNotFoundError."""
    if format_ != "qcow2":
        return Soundness()
    start, length = files.read_start(share, name, qcow2.HEADER_BYTES)
    qcow2.parse(name, start, length)
    if start[7] != 3:
        return Soundness()
    incompatible, compatible, autoclear = _FEATURES.unpack_from(start, 72)
    bitmaps = _in_use(share, name, start) if autoclear & 1 else ()
    return Soundness(bool(incompatible & qcow2.DIRTY), bool(compatible & 1), bitmaps)


def _in_use(share: Path, name: str, start: bytes) -> tuple[str, ...]:
    body = qcow2.extension(start, _BITMAPS_EXTENSION)
    if body is None or len(body) < _BITMAPS.size:
        return ()
    count, _, size, at = _BITMAPS.unpack_from(body)
    handle = files.open_regular(share, name)
    try:
        if at + size > os.fstat(handle).st_size:
            raise NotSound(f"{name} has a directory of bitmaps that lies outside it")
        directory = os.pread(handle, min(size, _MAX_DIRECTORY), at)
    finally:
        os.close(handle)
    found, place = [], 0
    for _each in range(count):
        if place + _BITMAP.size > len(directory):
            raise NotSound(f"{name} has a directory of bitmaps that is cut off")
        _, _, flags, _, _, name_size, extra = _BITMAP.unpack_from(directory, place)
        begin = place + _BITMAP.size + extra
        if flags & _IN_USE:
            found.append(directory[begin : begin + name_size].decode(errors="replace"))
        place = (begin + name_size + 7) // 8 * 8
    return tuple(found)


def require(share: Path, name: str, format_: str) -> None:
    """Raises NotSound unless ``name`` may be written into by a commit or be grown."""
    found = look(share, name, format_)
    if found.dirty:
        raise NotSound(f"{name} was not closed by its last writer (dirty bit): which of its clusters are in use is not certain")
    refuse_bitmaps(name, found)


def require_for_live(share: Path, name: str, format_: str) -> None:
    """As ``require``, of a base that a running QEMU is to commit into. If it writes to the file it knows the counts; with a
    file that it only reads it uses the counts as they are."""
    if not files.is_written(share, name):
        require(share, name, format_)


def require_for_closing(share: Path, name: str, format_: str) -> None:
    """Raises NotSound for a file with the dirty bit that a running QEMU has open for reading only. It would clear the bit when
    it closes the file, which it may not write to, and dies of that (F42).
    It closes a file that is merged away, and every file of a disk that is detached."""
    if look(share, name, format_).dirty and files.is_locked(share, name) and not files.is_written(share, name):
        raise NotSound(
            f"{name} was not closed by its last writer (dirty bit), and the server's QEMU reads it: QEMU 7.2 crashes when it"
            " closes such a file, so the server is stopped first"
        )


def refuse_bitmaps(name: str, found: Soundness) -> None:
    """Raises NotSound that names the bitmaps: they are somebody's, so nobody but a person removes them."""
    if found.bitmaps:
        more = len(found.bitmaps) - _LISTED
        listed = ", ".join(found.bitmaps[:_LISTED]) + (f" and {more} more" if more > 0 else "")
        raise NotSound(
            f"{name} holds bitmaps of a backup program that were in use when their writer ended: {listed}. They can only be"
            f" removed, with the server stopped: qemu-img bitmap --remove {name} BITMAP; the content stays, that program's next"
            " backup is a full one"
        )


def unvouched(share: Path, name: str, format_: str) -> Soundness:
    """As ``look``, of what is wrong with the file itself: what a program that writes to it will put right is not."""
    if format_ != "qcow2" or look(share, name, format_).sound or files.is_written(share, name):
        return Soundness()
    return look(share, name, format_)  # again: a writer may have closed it in between


def refuse_beyond_repair(share: Path, name: str, format_: str) -> None:
    """Raises NotSound for what ``repair`` would refuse now. A file that somebody writes to is its writer's to keep sound; into
    a huge one ``repair`` alone looks, before it changes anything."""
    found = unvouched(share, name, format_)
    refuse_bitmaps(name, found)
    if not found.dirty:
        return
    if files.is_locked(share, name):
        require(share, name, format_)
    if qcow2.clusters(share, name) <= _LOOKED_INTO_AT_ONCE:
        _refuse_damage(share, name)


def check(share: Path, name: str, format_: str, seconds: float = math.inf) -> None:
    """Looks at a file that is to become a volume, its counts too, for ``seconds`` at most: somebody waits. Raises BadImage when
    it is damaged beyond ``repair``, and when that was not enough for one with the dirty bit. Of one that was closed as it
    should be, its last writer vouches for what there was no time to look at."""
    found = look(share, name, format_)
    refuse_bitmaps(name, found)
    try:
        if found.dirty:  # with wrong counts qemu-img finds what the repair is for, and says no more of what it is not for
            _refuse_damage(share, name, seconds)
        else:
            qemu_img.check(share, name, format_, seconds)
    except HostCommandFailed as error:
        if not error.details.get("timed_out"):
            raise
        if found.dirty:
            raise _too_large(name, seconds) from error
        LOG.info("%s was closed by its last writer, and too large to be looked into in %g s", name, seconds)


def _too_large(name: str, seconds: float) -> NotSound:
    return NotSound(
        f"{name} was not closed by its last writer (dirty bit), and is too large to be looked into while a request waits"
        f" ({seconds:.0f} s were not enough). While no program has it open, copy what it reads into a new file, which changes"
        f" nothing in this one, and take that over: qemu-img convert -f qcow2 -O qcow2 {name} NEW"
    )


def _refuse_damage(share: Path, name: str, seconds: float = math.inf) -> None:
    told = examination.beyond_repair(share, name, seconds)
    if told is not None:
        raise NotSound(
            f"{name} was not closed by its last writer (dirty bit), and more is damaged than its reference counts: {told}"
        )


def repair(share: Path, name: str, format_: str) -> list[str]:
    """Makes counts right and has later writers keep them so; returns what was done. May be repeated.

    Changes no byte that a reader sees. Raises NotSound while a program has the file open, and for what no repair helps.
    """
    refuse_bitmaps(name, look(share, name, format_))
    return _mend(share, name, format_)


def mend_open(share: Path, images: Iterable[Image]) -> list[str]:
    """Before QEMU opens a chain: as ``repair`` for each file that nobody has open; the others are as they are. A bitmap is in
    nobody's way there."""
    found = [each for each in images if each.format == "qcow2" and look(share, each.name, each.format).dirty]
    return [did for each in found if not files.is_locked(share, each.name) for did in _mend(share, each.name, each.format)]


def _mend(share: Path, name: str, format_: str) -> list[str]:
    found = look(share, name, format_)
    if not found.dirty and not found.lazy:
        return []
    if files.is_locked(share, name):
        if not found.dirty:
            return []  # who has it open counts lazily; once it is closed there is time for that
        raise NotSound(f"{name} must be repaired before it is built upon, and a program has it open")
    done = []
    if found.dirty:
        _refuse_damage(share, name)
        qemu_img.repair_all(share, name, format_)
        done.append(f"repaired the reference counts of {name}, whose last writer had died")
    if found.lazy:
        with pins.alone(share, name, format_) as pinned, files.durable(pinned.handle(name)):
            words = ["-o", "lazy_refcounts=off", pinned.word]
            run(command("amend", [format_], words), cwd=pinned.place, limits=limits(1))
        done.append(f"switched off lazy reference counts of {name}")
    after = look(share, name, format_)
    if after.dirty or after.lazy:
        raise NotSound(f"{name} is not sound after its repair")
    return done
