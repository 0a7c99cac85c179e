"""Calls qemu-img on existing files, one function per verb; ``publish`` makes new files, ``copies`` copies content.

Every file that a verb opens is checked before QEMU opens it (``inspection``), and every call names its formats (I6). Every
change is fsynced here, because qemu-img exits with 0 after some failed syncs (F2). Facts are of qemu 7.2.
"""

import json
import math
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from stillframe.chain.image import ORDINARY, Chain, Image, Recorded
from stillframe.chain.names import check_belongs
from stillframe.errors import BadImage, ChainConflict, StepFailed
from stillframe.host import files, image_command, inspection, pins, qcow2
from stillframe.host.image_command import command, limits
from stillframe.host.run import Outcome, attempt, explain, failure, run

_CORRUPT, _LEAKS = 2, 3


def read_chain(share: Path, volume_id: str, active: str, format_: str = "qcow2", known: Recorded = ORDINARY) -> Chain:
    """Reads the headers from the active file, whose recorded format is ``format_``, down to the volume's lowest file.

    The files of a linked clone end at the other volume's file that its records name; what is below is only checked. Raises
    BadImage, ShareUnavailable, FileNotFoundError.
    """
    images: list[Image] = []
    name: str | None = check_belongs(active, volume_id, known.base_file)
    recorded: str | None = format_
    while name is not None and recorded is not None:
        if name == known.parent_image:
            inspection.chain_of(share, name, recorded)
            break
        if len(images) > inspection.MAX_DEPTH or any(image.name == name for image in images):
            raise BadImage(f"the backing chain of volume {volume_id} does not end")
        image = qcow2.read_as(share, check_belongs(name, volume_id, known.base_file), recorded)
        images.append(image)
        name, recorded = image.backing, image.backing_format
    return Chain(volume_id, tuple(reversed(images)))


def check(share: Path, name: str, format_: str, seconds: float = math.inf) -> None:
    """Raises BadImage when ``qemu-img check`` finds corruption. Leaks are not corruption, and a raw file has nothing to check.
    Raises HostCommandFailed with ``timed_out`` in its details when ``seconds`` were not enough."""
    if format_ == "raw":
        inspection.alone(share, name, format_)
        return
    with pins.alone(share, name, format_) as pinned:
        words = command("check", [format_], [pinned.word])
        _refuse_damage(name, words, attempt(words, cwd=pinned.place, limits=limits(1, seconds=seconds)))


def repair_leaks(share: Path, name: str, format_: str) -> None:
    """Frees clusters that an interrupted commit left unused in its base (F8). Raises BadImage when the file is damaged."""
    check(share, name, format_)
    _repair(share, name, format_, "leaks")


def repair_all(share: Path, name: str, format_: str) -> None:
    """Repairs the file's reference counts too. This is needed after an I/O error in a commit, before the commit is repeated.

    After such an error the base has counts that a repeated commit does not repair (F8). Nobody may have the file open. Raises
    BadImage when damage remains.
    """
    _repair(share, name, format_, "all")


def _repair(share: Path, name: str, format_: str, what: str) -> None:
    if format_ == "raw":
        inspection.alone(share, name, format_)
        return
    _examine(share, name, format_, "-r", what)


def _examine(share: Path, name: str, format_: str, *options: str) -> dict[str, Any]:
    """Checks this file alone, without what backs it, and makes the repairs durable that ``options`` ask for; returns qemu-img's
    report."""
    with pins.alone(share, name, format_) as pinned:
        words = command("check", [format_], [*options, pinned.word])
        with files.durable(pinned.handle(name)) if options else nullcontext():
            outcome = attempt(words, cwd=pinned.place, limits=limits(1))
            _refuse_damage(name, words, outcome)
    # After a repair qemu-img checks once more; this is the report of that last check.
    report: dict[str, Any] = json.loads(outcome.output)
    return report


def _refuse_damage(name: str, words: Sequence[str], outcome: Outcome) -> None:
    if outcome.code == _CORRUPT:
        raise BadImage(f"{name} is damaged: {explain(words, outcome)}")
    if outcome.code not in (0, _LEAKS):
        raise failure(words, outcome, name)


def commit(share: Path, top: str, base: str, depth: int) -> None:
    """Copies everything in (base, top], at most ``depth`` files, down into ``base`` and makes that durable.

    ``base`` is qcow2 or raw; the files above it keep their content (``-d``). This may be repeated after a kill at any point
    (F8); after an I/O error call ``repair_all`` on the base first, if it is damaged. Raises StepFailed when ``base`` does not
    back ``top``.
    """
    with pins.chain(share, top, "qcow2") as pinned:
        if base not in [image.name for image in pinned.images[1:]]:
            raise StepFailed(f"{base} is not behind {top}: there is nothing to commit into it")
        bounds = limits(max(depth, len(pinned.images)))
        # QEMU finds a base by its name, but not above a file whose backing file is called otherwise than its header says.
        words = [[word] for word in pinned.each_onto(base)] if pinned.has_parents else [["-b", base, pinned.word]]
        with files.durable(pinned.handle(base)):
            for each in words:
                run(command("commit", ["qcow2"], each), cwd=pinned.place, limits=bounds)


def pull(share: Path, name: str, backing: str | None, backing_format: str | None, depth: int) -> None:
    """Copies into ``name`` what its chain holds above ``backing``, then names ``backing`` in its header (None: no backing
    file).

    A reader sees the same content at every instant, also after a kill or an I/O error at any point, and a repeat completes the
    pull: QEMU's safe mode with write-through (F2). Raises StepFailed when ``backing`` is not behind ``name``, or when the
    header names something else afterwards.
    """
    with pins.chain(share, name, "qcow2") as pinned:
        behind = {image.name: image.format for image in pinned.images[1:]}
        if backing is not None and behind.get(backing) != backing_format:
            raise StepFailed(f"{backing} ({backing_format}) is not behind {name}: nothing can be pulled down to it")
        if backing is None:
            words = command("pull all", ["qcow2"], [pinned.word])
        else:
            words = command("pull", ["qcow2", str(backing_format)], ["-b", backing, pinned.rebasable])
        with files.durable(pinned.handle(name)):
            if pinned.images[0].backing != backing:
                run(words, cwd=pinned.place, limits=limits(max(depth, len(pinned.images))))
    _expect_backing(share, name, backing, backing_format)


def repoint(share: Path, name: str, backing: str, backing_format: str) -> None:
    """Names another backing file in the header of ``name`` and changes nothing else (``rebase -u``).

    This is right only when both backing files read the same wherever ``name`` holds nothing: after a complete commit, or after
    a pull that did not end. May be repeated. Raises StepFailed when the header does not name it afterwards.
    """
    inspection.plain_name(backing)
    with pins.alone(share, name, "qcow2") as pinned, files.durable(pinned.handle(name)):
        run(command("repoint", ["qcow2", backing_format], ["-b", backing, pinned.word]), cwd=pinned.place, limits=limits(1))
    _expect_backing(share, name, backing, backing_format)


def _expect_backing(share: Path, name: str, backing: str | None, backing_format: str | None) -> None:
    found = qcow2.read(share, name)
    if (found.backing, found.backing_format) != (backing, backing_format):
        raise StepFailed(f"{name} names {found.backing!r} ({found.backing_format}) afterwards, not {backing!r}")


def resize(share: Path, name: str, format_: str, size: int) -> None:
    """Grows a file's virtual size to ``size`` bytes; the new part reads as zeros. May be repeated.

    A kill leaves the old or the new size and at most one leaked cluster (F16). Raises ChainConflict, before anything is done,
    when the file is larger already, or shorter than what backs it: QEMU 7.2 then writes the new size before the zeros, and a
    kill in between shows old data. Raises StepFailed when the size is another one afterwards.
    """
    images = inspection.chain_of(share, name, format_)
    longer = next((image.name for image in images[1:] if image.size > images[0].size), None)
    if longer is not None and images[0].size < size:
        raise ChainConflict(f"{name} is shorter than {longer}, which backs it: growing it could show old data")
    grow(share, name, format_, size)


def grow(share: Path, name: str, format_: str, size: int, behind: Path | None = None) -> None:
    """Like ``resize``, for a file that does not yet have the name under which others read it: what backs it may be longer.
    ``behind`` is the directory of that backing file, if it is another one."""
    with pins.chain(share, name, format_, behind) as pinned:
        now = pinned.images[0].size
        if now > size:
            raise ChainConflict(f"{name} has {now} bytes; making it {size} would cut off content")
        with files.durable(pinned.handle(name)):
            if now < size:
                words = command("resize", [format_], [pinned.word, str(size)])
                run(words, cwd=pinned.place, limits=limits(len(pinned.images)))
    found = qcow2.read_as(share, name, format_).size
    if found != size:
        raise StepFailed(f"{name} has {found} bytes after it was grown to {size}")


def version() -> str:
    """Returns qemu-img's version line."""
    return run(image_command.version_command(), cwd=Path("/")).splitlines()[0]


def backing_of(share: Path, name: str) -> str | None:
    """Returns what a file names as its backing file. None: nothing, the file is gone, or it is not an image of ours."""
    try:
        return qcow2.read(share, name).backing
    except (BadImage, FileNotFoundError):
        return None
