"""Finds the parent images of a disk that is to be adopted: what QEMU reads below it, from header to header.

A header is hostile input. It is followed only to regular files of this host, whose formats are written down: nothing is probed
(I6), no address is connected to, and no file is opened whose name QEMU 7.2 would read in another way (block.c,
``bdrv_get_full_backing_filename``).
"""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from stillframe.chain.image import Image, Parent
from stillframe.errors import BadImage, ChainConflict
from stillframe.host import files, inspection, parents, qcow2, writers
from stillframe.host.qcow2 import FORMATS, Shape
from stillframe.host.writers import Writer

_JSON = "json:"
_MOST_JSON = 4096


def look(directory: Path, name: str, format_: str) -> tuple[Parent, ...]:
    """Returns what lies below a file, nearest first; nothing is below a raw file. Changes nothing. Raises BadImage, which names
    the file that is in the way, FileNotFoundError when ``name`` itself does not exist."""
    if format_ != "qcow2":
        return ()
    found = tuple(_below(directory / name))
    above = [directory / name, *(Path(each.path) for each in found)]
    for path, parent in zip(above, found, strict=False):
        _check_size(path, parent)
    return found


def _below(disk: Path) -> Iterator[Parent]:
    above, seen = disk, {_identity(disk)}  # as QEMU names it: a relative name is seen from there, not from where a link leads
    shape: Shape | None = _shape(disk, links=False)
    choosing = writers.of(disk) | writers.of(disk.parent)  # the directories above it are ours or root's
    while shape is not None and shape.backing is not None:
        named_by = above
        above, parent = _parent(above, shape)
        choosing |= writers.of_way(above)
        _refuse_unreadable(named_by, parent, choosing)
        choosing |= writers.of(Path(parent.path))
        identity = _identity(Path(parent.path))
        if identity in seen:
            raise BadImage(f"the backing chain of {disk.name} leads back to {parent.path}")
        seen.add(identity)
        if len(seen) > parents.MOST:
            raise BadImage(f"the backing chain of {disk.name} has more than {parents.MOST} files")
        yield parent
        shape = _shape(Path(parent.path)) if parent.format == "qcow2" else None


def _refuse_unreadable(above: Path, parent: Parent, choosing: Iterable[Writer]) -> None:
    for each in choosing:
        if not each.may_read(Path(parent.path)):
            raise BadImage(
                f"{above.name} is backed by {parent.path}, which {each} may not read but may have chosen: by writing to"
                f" {above.name}, to a directory on the way or to a link. Take that right away, or let {each} read the image"
            )


def _identity(path: Path) -> tuple[int, int]:
    found = os.stat(path, follow_symlinks=False)
    return found.st_dev, found.st_ino


def _shape(path: Path, links: bool = True) -> Shape:
    handle = files.open_regular(path.parent, path.name, links=links)
    try:
        found = qcow2.shape(path.name, os.pread(handle, qcow2.HEADER_BYTES, 0), os.fstat(handle).st_size)
        qcow2.check_tables(handle, path.name)
    finally:
        os.close(handle)
    return found


def _parent(above: Path, shape: Shape) -> tuple[Path, Parent]:
    assert shape.backing is not None
    try:
        text = shape.backing.decode()
    except UnicodeDecodeError as error:
        raise BadImage(f"{above.name} names a backing file that is no text in UTF-8: {shape.backing!r}") from error
    if not text.isprintable():
        raise BadImage(f"{above.name} names {text!r} as its backing file, which holds characters that cannot be printed")
    if inspection.PARENT in text:
        raise BadImage(f"{above.name} is backed by {text}; files with {inspection.PARENT!r} in their names are not supported")
    path, said = _meant(above, text)
    format_ = shape.backing_format or said
    if format_ is None:
        raise BadImage(
            f"{above.name} is backed by {path} and does not say in which format, which is never guessed. While no server that"
            f" uses {above.name} runs, write it down: qemu-img rebase -u -F FORMAT -b {text} {above.name}"
        )
    if format_ not in FORMATS or (said is not None and said != format_):
        raise BadImage(f"{above.name} is backed by {path} as {format_!r}; only qcow2 and raw are supported")
    real = Path(os.path.realpath(path))
    try:
        handle = files.open_regular(real.parent, real.name, links=True)
    except OSError as error:
        raise BadImage(f"{above.name} is backed by {path}, which cannot be opened: {error.strerror}") from error
    except BadImage as error:
        raise BadImage(f"{above.name} is backed by {path}, which cannot be a parent image: {error.message}") from error
    try:
        found = os.fstat(handle)
    finally:
        os.close(handle)
    return path, Parent(text, str(real), format_, found.st_size, found.st_mtime_ns)


def _meant(above: Path, text: str) -> tuple[Path, str | None]:
    """Returns the path that a name in the header of ``above`` means, and the format if the name itself tells it."""
    if text.startswith(_JSON):
        return _in_json(above, text.removeprefix(_JSON))
    if text.startswith("file:/"):
        text = text.removeprefix("file:")
    elif ":" in text.partition("/")[0]:
        raise BadImage(f"{above.name} is backed by {text!r}, which is no file of this host")
    return above.parent / text, None


def _in_json(above: Path, text: str) -> tuple[Path, str | None]:
    wrong = BadImage(
        f"{above.name} is backed by {text[:200]!r}; only a file by its absolute path, with its format, is supported"
    )
    try:
        node = json.loads(text) if len(text) <= _MOST_JSON else None
    except (ValueError, RecursionError) as error:
        raise wrong from error
    if not isinstance(node, dict):
        raise wrong
    flat = _flat(node)
    format_, path = flat.pop("driver", None), flat.pop("file.filename", None)
    if format_ == "file":  # the node of the file itself, whose bytes are the content
        format_, path = "raw", flat.pop("filename", None)
    driver = flat.pop("file.driver", "file")
    if flat or driver != "file" or not isinstance(path, str) or not path.startswith("/") or not path.isprintable():
        raise wrong
    if format_ is not None and format_ not in FORMATS:
        raise wrong
    return Path(path), format_


def _flat(node: dict[str, Any]) -> dict[str, Any]:
    inner = node.get("file")
    if not isinstance(inner, dict):
        return dict(node)
    return {**{key: value for key, value in node.items() if key != "file"}, **{f"file.{key}": inner[key] for key in inner}}


def _check_size(path: Path, parent: Parent) -> None:
    """QEMU cuts off what a longer parent image has behind the end of the disk, and shows it again when the disk grows."""
    size = Image(path.name, "qcow2", _shape(path).size).disk_size
    below = parent.size if parent.format == "raw" else _shape(Path(parent.path)).size
    if Image(parent.path, parent.format, below).disk_size > size:
        raise ChainConflict(f"{path.name} has {size} bytes, less than the {below} of {parent.path}, which backs it")
