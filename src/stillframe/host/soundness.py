"""Tells from its header whether an image file may be built upon, and makes the one repair that is safe. Facts are of QEMU 7.2
(F20, F21).

A writer that counts references lazily sets the dirty bit while it has the file open. When the writer dies, the tables are right
and the counts are wrong: reading is safe, but allocating overwrites clusters in use. QEMU repairs such a file when it opens it
for writing. It does not repair a file that it opens as a backing file and commits into later, and neither does ``qemu-img
commit``. A live commit into such a file overwrites clusters in use, reports success and clears the bit: nothing shows the
damage afterwards. A pull only reads the file.

QEMU marks a file clean that it reopens read-only, such as the old active file after a switch. It crashes when it closes a file
with the dirty bit that it only ever read (F42; all seen).

A bitmap that was in use when its writer died makes ``qemu-img resize`` and every commit fail permanently.
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
_LOOKED_INTO_AT_ONCE = 1 << 20  # clusters; reading their tables takes about a second
_LISTED = 10  # bitmaps that a message names


@dataclass(frozen=True)
class Soundness:
    """``dirty``: the reference counts cannot be trusted, unless the writer that set the bit still runs. ``lazy``: the next
    writer will set it. ``bitmaps``: names of bitmaps that were in use when their writer died."""

    dirty: bool = False
    lazy: bool = False
    bitmaps: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        return not self.dirty and not self.bitmaps


def look(share: Path, name: str, format_: str) -> Soundness:
    """Returns what the header says; a raw file is always sound. Raises BadImage, FileNotFoundError."""
    if format_ != "qcow2":
        return Soundness()
    start, length = files.read_start(share, name, qcow2.HEADER_BYTES)
    qcow2.shape(name, start, length)
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
    """Raises NotSound unless a commit may write into ``name`` or a resize may grow it."""
    found = look(share, name, format_)
    if found.dirty:
        raise NotSound(
            f"{name} was not closed by its last writer (dirty bit), so nobody knows for sure which of its clusters are in use"
        )
    refuse_bitmaps(name, found)


def require_for_live(share: Path, name: str, format_: str) -> None:
    """Like ``require``, for a base that a running QEMU is to commit into. If QEMU writes to the file, it knows the counts; if
    it only reads the file, it takes the counts as they are."""
    if not files.is_written(share, name):
        require(share, name, format_)


def require_for_closing(share: Path, name: str, format_: str) -> None:
    """Raises NotSound for a file with the dirty bit that a running QEMU has open only for reading.

    When QEMU closes such a file it tries to clear the bit, may not write, and crashes (F42). It closes a file that is merged
    away, and every file of a disk that is detached.
    """
    if look(share, name, format_).dirty and files.is_locked(share, name) and not files.is_written(share, name):
        raise NotSound(
            f"{name} was not closed by its last writer (dirty bit), and the server's QEMU reads it: QEMU 7.2 crashes when it"
            " closes such a file, so stop the server first"
        )


def refuse_bitmaps(name: str, found: Soundness) -> None:
    """Raises NotSound that names the bitmaps: a backup program owns them, so only a person may remove them."""
    if found.bitmaps:
        more = len(found.bitmaps) - _LISTED
        listed = ", ".join(found.bitmaps[:_LISTED]) + (f" and {more} more" if more > 0 else "")
        raise NotSound(
            f"{name} holds bitmaps of a backup program that were in use when their writer ended: {listed}. They can only be"
            f" removed, with the server stopped: qemu-img bitmap --remove {name} BITMAP; the content stays, that program's next"
            " backup is a full one"
        )


def unvouched(share: Path, name: str, format_: str) -> Soundness:
    """Like ``look``, but without the flaws that a program which writes to the file will correct by itself."""
    if format_ != "qcow2" or look(share, name, format_).sound or files.is_written(share, name):
        return Soundness()
    return look(share, name, format_)  # read again, because a writer may have closed it in between


def refuse_beyond_repair(share: Path, name: str, format_: str) -> None:
    """Raises NotSound for what ``repair`` would refuse now. A file that a program writes to is left to that program. Only
    ``repair`` checks a huge file, before it changes anything."""
    found = unvouched(share, name, format_)
    refuse_bitmaps(name, found)
    if not found.dirty:
        return
    if files.is_locked(share, name):
        require(share, name, format_)
    if qcow2.clusters(share, name) <= _LOOKED_INTO_AT_ONCE:
        _refuse_damage(share, name)


def check(share: Path, name: str, format_: str, seconds: float = math.inf) -> None:
    """Checks a file that is to become a volume, and its reference counts, for at most ``seconds``, because somebody waits.

    Raises BadImage when it is damaged beyond ``repair``, or when the time was too short for a file with the dirty bit. A file
    that was closed properly is trusted if there was no time to check it.
    """
    found = look(share, name, format_)
    refuse_bitmaps(name, found)
    try:
        if found.dirty:  # while the counts are wrong qemu-img reports those, and not what the repair cannot mend
            _refuse_damage(share, name, seconds)
        else:
            qemu_img.check(share, name, format_, seconds)
    except HostCommandFailed as error:
        if not error.details.get("timed_out"):
            raise
        if found.dirty:
            raise _too_large(name, seconds) from error
        LOG.info("%s was closed by its last writer, and is too large to check in %g s", name, seconds)


def _too_large(name: str, seconds: float) -> NotSound:
    return NotSound(
        f"{name} was not closed by its last writer (dirty bit), and is too large to check while a request waits"
        f" ({seconds:.0f} s were not enough). While no program has it open, copy what it reads into a new file, which changes"
        f" nothing in this one, and take that over: qemu-img convert -f qcow2 -O qcow2 {name} NEW"
    )


def _refuse_damage(share: Path, name: str, seconds: float = math.inf) -> None:
    damage = examination.beyond_repair(share, name, seconds)
    if damage is not None:
        raise NotSound(
            f"{name} was not closed by its last writer (dirty bit), and more is damaged than its reference counts: {damage}"
        )


def repair(share: Path, name: str, format_: str) -> list[str]:
    """Corrects the reference counts and turns off lazy counting; returns what was done. May be repeated.

    Changes no byte that a reader sees. Raises NotSound while a program has the file open, and for damage that the repair does
    not mend.
    """
    refuse_bitmaps(name, look(share, name, format_))
    return _mend(share, name, format_)


def mend_open(share: Path, images: Iterable[Image]) -> list[str]:
    """Before QEMU opens a chain, does what ``repair`` does for each file that nobody has open; the others stay as they are.
    Bitmaps do not matter there."""
    found = [each for each in images if each.format == "qcow2" and look(share, each.name, each.format).dirty]
    return [did for each in found if not files.is_locked(share, each.name) for did in _mend(share, each.name, each.format)]


def _mend(share: Path, name: str, format_: str) -> list[str]:
    found = look(share, name, format_)
    if not found.dirty and not found.lazy:
        return []
    if files.is_locked(share, name):
        if not found.dirty:
            return []  # a program has it open and counts lazily; that can be turned off once the file is closed
        raise NotSound(f"{name} must be repaired before anything is built on it, but a program has it open")
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
